"""Needle tasks: prompts to the token, RULER's rule, and what a reader of the prompt finds."""

from __future__ import annotations

import math
import re

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import tiny_model
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import GenerationConfig

import longrope_lab as lab_package
from longrope_lab.measure.needle_prompts import answer_room, needle_prompt
from longrope_lab.measure.needles import passkey
from longrope_lab.measure.retrieval import COLUMNS, found_share, needle_summary, needles, trade_off
from longrope_lab.texts.needle_tasks import NEEDLES, NeedleTask
from longrope_lab.texts.needle_wordings import FILLER, MAGIC, listed, reported, words_of
from longrope_lab.texts.tokens import Document

BOOK = Document("book", np.random.default_rng(1).integers(300, 4000, 9000))


class Reader:
    """A model that answers with `say(text of the prompt)`."""

    device = torch.device("cpu")

    def __init__(self, tokenizer, say):
        self.tokenizer, self.say, self.sizes = tokenizer, say, []
        self.generation_config = GenerationConfig()

    def get_input_embeddings(self):
        return torch.nn.Embedding(len(self.tokenizer), 1)

    def generate(self, ids, attention_mask, max_new_tokens):
        self.sizes.append((*ids.shape, max_new_tokens))
        end = self.tokenizer.eos_token_id
        rows = []
        for row in ids.tolist():
            answer = self.tokenizer(self.say(self.tokenizer.decode(row)))["input_ids"]
            rows.append(row + (answer + [end] * max_new_tokens)[:max_new_tokens])
        return torch.tensor(rows)


def numbers_of(text):
    """What a careful reader answers to a retrieval prompt."""
    told = re.findall(r"magic \w+ for (\S+) is: (\S+)\.\n", text)
    question = text.rsplit("\nWhat ", 1)[1]
    named = [key for name, key in told if name in question]
    return f" {', '.join(named)}."


RETRIEVAL = [name for name, task in NEEDLES.items() if task.kind == "retrieval"]


@settings(max_examples=60, deadline=None)
@given(
    name=st.sampled_from([*NEEDLES]),
    length=st.integers(1000, 3000),
    depth=st.floats(0, 1),
    seed=st.integers(0, 99),
)
def test_prompts_to_the_token_and_answers_with_room(tokenizer, name, length, depth, seed):
    filler = [BOOK] if name.endswith("documents") else None
    ids, expected = needle_prompt(tokenizer, name, length, depth, 0, filler, seed)
    room = answer_room(tokenizer, NEEDLES[name])
    assert len(ids) == length - room
    assert len(expected) == NEEDLES[name].needles == len(set(expected))
    answer = f" {listed(expected)}."
    assert len(tokenizer(answer)["input_ids"]) <= room


@pytest.mark.parametrize("name", RETRIEVAL)
def test_a_careful_reader_finds_everything(tokenizer, name):
    reader = Reader(tokenizer, numbers_of)
    filler = [BOOK] if name.endswith("documents") else None
    table = needles(reader, tokenizer, name, [1500], [0.0, 1.0], 2, filler=filler)
    assert table["found"].eq(1).all() and table["task"].eq(name).all()
    assert {rows * (size + room) for rows, size, room in reader.sizes} == {4 * 1500}


def test_one_row_per_prompt(tokenizer):
    tasks = ["single", NeedleTask("words", values=4)]
    reader = Reader(tokenizer, numbers_of)
    reader.say = lambda text: numbers_of(text) if "magic" in text else " none."
    table = needles(reader, tokenizer, tasks, [600, 700], [0.0, 0.5], 3, {"a": None, "b": None})
    assert table.columns.tolist() == COLUMNS
    assert table["scaling"].value_counts().to_dict() == {"a": 18, "b": 18}
    one, words = (table[table["task"] == name] for name in ("single", "the 4 most frequent words"))
    assert len(one) == 24 and sorted(one["depth"].unique()) == [0.0, 0.5]
    assert len(words) == 12 and words["depth"].isna().all()
    assert one["found"].eq(1).all() and words["found"].eq(0).all()
    a, b = (table[table["scaling"] == name].drop(columns="scaling") for name in ("a", "b"))
    assert a.reset_index(drop=True).equals(b.reset_index(drop=True))
    assert not one[one["scaling"] == "a"]["expected"].duplicated().any()


def test_the_needle_stands_at_its_depth(tokenizer):
    """A needle of those asked for; the others stand anywhere."""
    for depth in (0.0, 0.5, 1.0):
        ids, (key,) = needle_prompt(tokenizer, "single", 2000, depth)
        text = tokenizer.decode(ids)
        assert abs(text.index(f"is: {key}.") / len(text) - (0.1 + 0.82 * depth)) < 0.08
    places = []
    for trial in range(40):
        ids, expected = needle_prompt(tokenizer, "multivalue", 2000, 0.0, trial)
        text = tokenizer.decode(ids)
        shares = sorted(text.index(f"is: {key}.") / len(text) for key in expected)
        assert shares[0] < 0.2
        places += shares[1:]
    assert min(places) < 0.3 and max(places) > 0.8


def test_rulers_own_words(tokenizer):
    ids, (key,) = needle_prompt(tokenizer, "single", 500, 0.5)
    text = tokenizer.decode(ids)
    assert text.startswith(MAGIC.format(what="number"))
    name = re.search(rf"One of the special magic numbers for (\S+-\S+) is: {key}\.", text)[1]
    asked = f"What is the special magic number for {name} mentioned in the provided text? The "
    assert f"\n{asked}" in text
    assert text.endswith(f"special magic number for {name} mentioned in the provided text is")
    assert FILLER in text


def test_variables_and_words_can_be_told_from_the_prompt(tokenizer):
    ids, expected = needle_prompt(tokenizer, NeedleTask("variables", keys=3, values=3), 1500)
    text, holds = tokenizer.decode(ids), {}
    for name, value in re.findall(r"\nVAR ([A-Z]{5}) = (?:VAR )?(\w+)\n", text):
        holds[name] = holds.get(value, value)
    asked = re.search(r"assigned the value (\d{5}) in the text", text)[1]
    assert [name for name, value in holds.items() if value == asked] == [*expected]
    assert len(holds) == 9
    ids, expected = needle_prompt(tokenizer, "words", 4000)
    counts = pd.Series(re.findall(r"\d\. (\w+)", tokenizer.decode(ids))).value_counts()
    assert set(counts.index[:10]) == set(expected) <= set(words_of(0))
    assert counts.iloc[9] >= 10 * counts.iloc[10]


def test_passkeys_are_those_of_passkey(tokenizer):
    reader = Reader(tokenizer, lambda text: " 12345.")
    filler = [BOOK]
    for name, options in (("passkey", {}), ("passkey in documents", {"filler": filler})):
        ours = needles(reader, tokenizer, name, [300, 400], [0.0, 0.7], 2, seed=3, **options)
        theirs = passkey(reader, tokenizer, [300, 400], [0.0, 0.7], 2, seed=3, **options)
        same = ["length", "depth", "trial", "expected", "answer"]
        assert ours[same].equals(theirs[same])


@pytest.mark.parametrize(
    ("answer", "share"),
    [("12345, 67890", 1), ("it is 12345", 0.5), ("", 0), ("1234567890", 1), ("123 45", 0)],
)
def test_what_is_found_is_the_share_of_what_is_expected(answer, share):
    assert found_share(answer, ("12345", "67890")) == share
    assert found_share("the KETTLE", ("kettle",)) == 1


def test_the_rule_is_the_harness_own():
    """RULER's tasks of EleutherAI's harness judge a hundred answers as we do."""
    ruler = pytest.importorskip("lm_eval.tasks.ruler.common_utils")
    rng, judged = np.random.default_rng(0), 0
    for task in [*NEEDLES.values()] * 6:
        expected = reported(task, rng).expected
        kept = [text for text in expected if rng.random() < 0.6]
        changes = [str.upper, str.title, lambda text: text[:-1], lambda text: f"{text} 7", str]
        said = [changes[int(rng.integers(5))](text) for text in rng.permutation(kept).tolist()]
        answer = rng.choice([", ", " and\n", "\t", ""]).join(said)
        doc = {"outputs": [*expected], "max_length": 4096}
        assert found_share(answer, expected) == ruler.process_results(doc, [answer])["4096"]
        judged += 1
    assert judged >= 100


def test_a_summary_has_the_interval_of_its_kind():
    rows = [("yarn", "single", 512, found) for found in (1, 1, 0, 1)]
    rows += [("yarn", "multivalue", 512, found) for found in (0.25, 0.75, 1, 0.5)]
    table = needle_summary(pd.DataFrame(rows, columns=["scaling", "task", "length", "found"]))
    assert table["prompts"].tolist() == [4, 4]
    assert table["found"].tolist() == [0.75, 0.625]
    # Wilson (1927) for 3 of 4, by its formula.
    z, n, p = 1.959964, 4, 0.75
    half = z * math.sqrt(p * (1 - p) / n + z**2 / (4 * n**2)) / (1 + z**2 / n)
    middle = (p + z**2 / (2 * n)) / (1 + z**2 / n)
    assert table.loc[0, ["low", "high"]].tolist() == pytest.approx([middle - half, middle + half])
    assert 0.25 <= table["low"][1] < 0.625 < table["high"][1] <= 1
    with pytest.raises(ValueError, match="no column 'found'"):
        needle_summary(pd.DataFrame({"scaling": ["a"], "task": ["b"], "length": [1]}))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tasks": "multikeys"}, "unknown needle task 'multikeys': did you mean 'multikey'"),
        ({"tasks": []}, "no needle task is named"),
        ({"lengths": []}, "needles needs at least one length"),
        ({"depths": [1.5]}, "depth is 1.5: it is a share"),
        ({"trials": 0}, "trials is 0"),
        ({"answer_tokens": 0}, "answer_tokens is 0"),
        ({"lengths": [60]}, r"length 60 has no room for a multikey prompt: .* at least \d+"),
        ({"tasks": NeedleTask(keys=99)}, r"no room for a retrieval of 1 of 99 keys prompt"),
        ({"tasks": "words", "lengths": [150]}, "too short for 10 that come often"),
        ({"tasks": "single in documents"}, "hides its needles in documents, and filler is None"),
        ({"filler": [BOOK]}, r"none of the tasks \(multikey\) hides its needles in documents"),
        ({"tasks": "single in documents", "filler": []}, "filler is an empty list"),
        (
            {"tasks": "single in documents", "filler": [Document("short", BOOK.ids[:99])]},
            "'short' has 99 tokens and a prompt may need 500",
        ),
        (
            {"tasks": "single in documents", "filler": [Document("n", BOOK.ids, BOOK.ids > 400)]},
            "'n' marks answers, so it is made to search on",
        ),
        (
            {
                "tasks": "single in documents",
                "filler": [BOOK],
                "searched_on": [Document("other", BOOK.ids[5:700])],
            },
            "'book' shares text with 'other', which was searched on",
        ),
        ({"scalings": {}}, "scalings is empty"),
        ({"chat": True}, "no chat template"),
    ],
)
def test_what_cannot_be_measured(tokenizer, options, message):
    asked = {"tasks": "multikey", "lengths": [500], "depths": [0.5], "trials": 1} | options
    with pytest.raises(ValueError, match=message):
        needles(None, tokenizer, **asked)


def test_documents_that_were_not_searched_on_are_taken(tokenizer):
    other = Document("other", np.random.default_rng(9).integers(300, 4000, 9000))
    reader = Reader(tokenizer, numbers_of)
    options = {"filler": [BOOK], "searched_on": [other]}
    table = needles(reader, tokenizer, "single in documents", [400], [0.5], 1, **options)
    assert table["found"].tolist() == [1]


def test_a_chat_asks_through_its_template(tokenizer):
    import copy

    chatting = copy.deepcopy(tokenizer)
    chatting.chat_template = "<u>{{ messages[0].content }}</u><a>"
    ids, (key,) = needle_prompt(chatting, "single", 600, 0.5, chat=True)
    text = chatting.decode(ids)
    assert len(ids) == 600 - answer_room(chatting, NEEDLES["single"])
    assert text.startswith("<u>A special magic number") and f"is: {key}." in text
    assert re.search(r"provided text\?</u><a>The special magic number for \S+ mentioned", text)


def test_a_filler_of_another_vocabulary(tokenizer):
    model = tiny_model(vocab_size=len(tokenizer))
    book = Document("book", np.full(900, len(tokenizer)))
    with pytest.raises(ValueError, match=rf"token id {len(tokenizer)} is outside the model's"):
        needles(model, tokenizer, "single in documents", [400], [0.5], 1, filler=[book])


def test_the_lab_model_finds_a_passkey_in_its_window_and_not_beyond(lab):
    table = lab_package.needles(*lab, "passkey", [256, 1024], [0.25], 1)
    assert table["found"].tolist() == [1, 0]


def losses_of(scalings, length=512):
    """A perplexity table: the loss of each scaling, on two documents."""
    rows = [(n, length, f"book {k}", loss + k / 10) for n, loss in scalings.items() for k in (0, 1)]
    return pd.DataFrame(rows, columns=["scaling", "length", "document", "loss"])


def found_of(scalings, length=512):
    rows = [
        (name, task, length, 0.5, found)
        for name, shares in scalings.items()
        for task, share in zip("ab", shares, strict=True)
        for found in (share, share)
    ]
    return pd.DataFrame(rows, columns=["scaling", "task", "length", "depth", "found"])


def test_a_trade_off_sets_both_side_by_side():
    losses, found = losses_of({"x": 2.0, "y": 3.0}), found_of({"x": (0, 1), "y": (0.5, 1)})
    table = trade_off(losses, found, {"y": 1.0, "x": 1.2})
    assert table[["scaling", "value", "task"]].to_numpy().tolist() == [
        ["y", 1.0, "a"],
        ["y", 1.0, "b"],
        ["x", 1.2, "a"],
        ["x", 1.2, "b"],
    ]
    assert table["perplexity"].tolist() == pytest.approx(np.exp([3.05, 3.05, 2.05, 2.05]))
    assert table["found"].tolist() == [0.5, 1, 0, 1]
    assert trade_off(losses, found, {"x": 1.2})["scaling"].tolist() == ["x", "x"]
    with pytest.raises(ValueError, match="unknown scaling of the table of perplexity 'z'"):
        trade_off(losses, found, {"z": 1.0})
    two = pd.concat([losses, losses_of({"x": 2.0}, 1024)])
    with pytest.raises(ValueError, match="the table of perplexity has 2 lengths"):
        trade_off(two, found, {"x": 1.0})
