"""Answers by choice: one reading against a forward pass per choice, examples, books, refusals."""

from __future__ import annotations

import math
import re

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import tiny_model

from longrope_lab.measure.book_questions import KEPT, book_prompt, book_questions
from longrope_lab.measure.book_summaries import LEAD, book_summaries, names_checked
from longrope_lab.measure.choices import (
    COLUMNS,
    Asked,
    choice_losses,
    choice_summary,
)
from longrope_lab.measure.many_examples import (
    EXAMPLES,
    ExampleTask,
    examples_prompt,
    many_examples,
)
from longrope_lab.measure.needle_prompts import lengths_asked
from longrope_lab.models.read_config import scaling_from_config
from longrope_lab.models.rotary import apply_scaling, rope_spec
from longrope_lab.rope.methods import rope_scaling
from longrope_lab.texts.corpora import load_corpus
from longrope_lab.texts.tokens import Document


@pytest.fixture(scope="module")
def model():
    return tiny_model(vocab_size=4096, max_position_embeddings=128, initializer_range=0.3)


@torch.no_grad()
def by_brute_force(model, ids, scored):
    """Minus the log-likelihood of the last tokens, from all logits of one forward pass."""
    logs = model(torch.tensor([ids])).logits[0].double().log_softmax(-1)
    return -sum(logs[t - 1, ids[t]].item() for t in range(len(ids) - scored, len(ids)))


@pytest.mark.parametrize("method", ["none", "yarn", "dynamic_ntk"])
def test_one_reading_gives_what_a_pass_per_choice_gives(model, method):
    rng = np.random.default_rng(0)
    draw = lambda count: rng.integers(1, 4096, count).tolist()  # noqa: E731
    read = draw(200)
    choices = (draw(1), draw(1), draw(3)), (draw(2), draw(4))
    asked = [Asked(draw(n + 1), each, ("a",) * len(each), 0) for n, each in enumerate(choices)]
    scaling = rope_scaling(rope_spec(model), method, 256)
    losses = choice_losses(model, read, asked, scaling)
    longest = max(len(read) + question.tokens for question in asked)
    with apply_scaling(model, scaling, length=longest):
        for question, found in zip(asked, losses, strict=True):
            wanted = [
                by_brute_force(model, [*read, *question.lead, *choice], len(choice))
                for choice in question.choices
            ]
            np.testing.assert_allclose(found, wanted, rtol=1e-4)


def test_a_model_whose_factors_follow_the_length_takes_a_scaling(model):
    long = tiny_model(
        vocab_size=4096,
        max_position_embeddings=256,
        rope_parameters={
            "rope_type": "longrope",
            "rope_theta": 10_000.0,
            "short_factor": [1.0] * 8,
            "long_factor": [2.0] * 8,
            "original_max_position_embeddings": 128,
        },
    )
    asked = [Asked([1], ([2], [3]), ("a", "b"), 0)]
    with pytest.raises(ValueError, match=r"longrope\) depend on the length: pass scalings="):
        choice_losses(long, [1, 2], asked, None)
    choice_losses(long, [1, 2], asked, scaling_from_config(long.config))
    choice_losses(model, [1, 2], asked, None)


def test_a_row_weighs_the_choices_alone():
    asked = Asked([1], ([2], [3], [4]), ("a", "b", "c"), 1)
    shares = np.array([0.2, 0.1, 0.1])
    count, expected, answer, loss, correct = asked.row(-np.log(shares))
    assert (count, expected, answer, correct) == (3, "b", "a", False)
    assert loss == pytest.approx(math.log(4))


@pytest.mark.parametrize("name", [*EXAMPLES])
@pytest.mark.parametrize("length", [256, 1000])
def test_prompts_fill_their_length_and_follow_the_rule(tokenizer, name, length):
    task = EXAMPLES[name]
    prompt = examples_prompt(tokenizer, task, length, questions=5)
    longest = max(len(each) for each in prompt.ids)
    room = length - max(question.tokens for question in prompt.questions)
    assert room - longest < len(prompt.read) <= room
    rules = []
    for (word, label), ids in zip(prompt.shown, prompt.ids, strict=True):
        line = task.line.format(input=word, label=task.labels[label])
        assert tokenizer.decode(ids) == line
        rules.append((kind_of(task, word), label))
    asked = [(kind_of(task, word), label) for word, label in prompt.asked]
    assert len(dict(rules + asked)) == len(set(rules + asked))  # one label for each kind or word
    if task.kinds:
        assert not {word for word, _ in prompt.asked} & {word for word, _ in prompt.shown}
    for (word, label), question in zip(prompt.asked, prompt.questions, strict=True):
        line = task.line.format(input=word, label=task.labels[label])
        assert tokenizer.decode(question.lead + question.choices[question.right]) == line.rstrip()


def kind_of(task, word):
    """What decides about a word's label: its kind, or in a mapping the word."""
    return next((n for n, kind in enumerate(task.kinds) if word in kind), word)


def test_a_window_holds_the_last_examples_and_the_same_questions(tokenizer):
    task = EXAMPLES["256 words"]
    whole = examples_prompt(tokenizer, task, 2000, questions=6)
    part = whole.within(300)
    assert whole.shown[-len(part.shown) :] == part.shown and whole.asked == part.asked
    assert len(part.read) <= 300 - max(q.tokens for q in part.questions)
    words = {word for word, _ in part.shown}
    assert [part.in_sight(word) for word, _ in part.asked] == [w in words for w, _ in part.asked]
    assert examples_prompt(tokenizer, task, 2000, 1).shown != whole.shown


def looked_up(monkeypatch, module, answer):
    """Let `answer(text, lead, choice)` give the loss of each choice, in words."""

    def losses(model, read, asked, scaling):
        say = lambda ids: model.tokenizer.decode(ids)  # noqa: E731
        return [
            np.array([answer(say(read), say(q.lead), say(c)) for c in q.choices]) for q in asked
        ]

    monkeypatch.setattr(f"longrope_lab.measure.{module}.choice_losses", losses)


class Named:
    """All that a measurement asks of a model whose losses are looked up."""

    device, dtype, config = torch.device("cpu"), torch.float32, None

    def __init__(self, tokenizer):
        self.tokenizer = tokenizer


def test_a_careful_reader_knows_what_is_in_sight(monkeypatch, tokenizer):
    looked_up(
        monkeypatch, "many_examples", lambda t, lead, c: float(f"{lead}{c}\n" not in t + "\n")
    )
    options = {"trials": 3, "questions": 6}
    reader = Named(tokenizer)
    table = many_examples(reader, tokenizer, "256 words", [300, 3000], window=600, **options)
    assert list(table.columns) == COLUMNS and len(table) == 2 * 3 * 6
    assert table[table["in_sight"]]["correct"].all()
    far = table[~table["in_sight"]]
    assert len(far) and np.allclose(far["loss"], math.log(2))
    assert table.groupby("length")["read"].max().max() <= 600
    summary = choice_summary(table).set_index("length")
    assert summary.loc[300, "examples"] < summary.loc[3000, "examples"]
    share = table[table["length"] == 300]["in_sight"].mean()
    assert summary.loc[300, "possible"] == pytest.approx(share + (1 - share) / 2)
    assert (summary["chance"] == 0.5).all() and np.allclose(summary["even"], math.log(2))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"labels": ("red",)}, "labels are .*: give two or more"),
        ({"labels": ("red", "red")}, "labels are .*: give two or more, each once"),
        ({"kinds": (("a", "b"),)}, "1 kinds for 2 labels"),
        ({"labels": ("x", "y"), "kinds": (("a", "b"), ("b", "c"))}, "each input once"),
        ({"labels": ("x", "y"), "kinds": (("a", "b"), ("c",))}, "a kind has one input or none"),
        ({"inputs": 1}, "inputs is 1"),
        ({"inputs": 10**6}, "inputs is 1000000: a mapping has 2 to"),
        ({"line": "{input}"}, "has {input} and {label}, each once"),
        ({"line": "{label} {input}"}, "the label comes after the input"),
    ],
)
def test_a_task_that_makes_no_sense(change, words):
    with pytest.raises(ValueError, match=words):
        ExampleTask("mine", **change)


def test_examples_that_cannot_be_asked(tokenizer, model):
    with pytest.raises(ValueError, match="label 'the' as the beginning of 'the end'"):
        many_examples(model, tokenizer, ExampleTask("begins", ("the", "the end")))
    with pytest.raises(ValueError, match=r"16 tokens have room for \d examples of '16 words'.*"):
        many_examples(model, tokenizer, "16 words", [16])
    with pytest.raises(ValueError, match="unknown task '16 wrds': did you mean '16 words'"):
        many_examples(model, tokenizer, "16 wrds")
    with pytest.raises(ValueError, match=r"tasks are .*: name at least one, and each once"):
        many_examples(model, tokenizer, ["16 words", "16 words"])
    for wrong in ({"trials": 0}, {"questions": 0}, {"window": 0}, {"lengths": [0]}):
        with pytest.raises(ValueError, match=f"{next(iter(wrong)).rstrip('s')}s? is 0"):
            many_examples(model, tokenizer, **wrong)


@pytest.fixture(scope="module")
def books(tokenizer):
    return load_corpus("kjv", tokenizer, min_tokens=8000, max_tokens=8000, limit=3)


def test_questions_about_books_are_true(tokenizer, books):
    for trial in range(4):
        asked, text = book_prompt(tokenizer, books, ["line", "name", "order"], 2000, trial)
        assert len(text.ids) == 2000 - KEPT and text.here == tokenizer.decode(text.ids)
        assert {(task, number) for task, number, *_ in asked} >= {("line", 3), ("name", 0)}
        assert max(number for _, number, *_ in asked) == 3
        for task, _, choice, question in asked:
            right = tokenizer.decode(question.choices[question.right])
            assert question.tokens <= KEPT and right == choice.right
            assert set(map(tokenizer.decode, question.choices)) == {choice.right, choice.wrong}
            if task == "order":
                first, second = re.fullmatch(r'(.+)" And after that: "(.+)', right).groups()
                assert text.here.index(first) < text.here.index(second)
                assert choice.wrong.startswith(second) and choice.wrong.endswith(first)
            else:
                assert choice.right.strip() in text.here and choice.wrong.strip() in text.elsewhere
                assert choice.wrong.strip() not in text.here


def test_right_answers_stand_in_either_place(tokenizer, books):
    rights = {
        question.right
        for trial in range(3)
        for *_, question in book_prompt(tokenizer, books, ["line"], 1000, trial)[0]
    }
    assert rights == {0, 1}


def test_a_careful_reader_of_books(monkeypatch, tokenizer, books):
    looked_up(monkeypatch, "book_questions", lambda text, _, choice: -float(choice in text))
    options = {"tasks": ["line", "name"], "lengths": [2000], "trials": 3}
    all_of_it = book_questions(Named(tokenizer), tokenizer, books, **options)
    assert list(all_of_it.columns) == COLUMNS and set(all_of_it["task"]) == {"line", "name"}
    assert all_of_it["in_sight"].all() and all_of_it["correct"].all()
    end = book_questions(Named(tokenizer), tokenizer, books, **options, window=512)
    assert (end["read"] == 512 - KEPT).all() and end["expected"].equals(all_of_it["expected"])
    assert end["in_sight"].mean() < 0.5 and end.loc[end["in_sight"], "correct"].all()
    assert np.allclose(end.loc[~end["in_sight"], "loss"], math.log(2))


def test_what_the_text_does_not_raise_does_not_count(tokenizer, books, model):
    """The loss without the text is taken away: both by brute force."""
    table = book_questions(model, tokenizer, books, ["line"], [600], 1, questions=2)
    asked, text = book_prompt(tokenizer, books, ["line"], 600, questions=2)
    for row, (*_, question) in zip(table.itertuples(), asked, strict=True):
        raised = []
        for choice in question.choices:
            end = [*question.lead, *choice]
            alone = by_brute_force(model, [tokenizer.bos_token_id, *end], len(choice))
            raised.append(by_brute_force(model, [*text.ids, *end], len(choice)) - alone)
        shares = np.exp(-np.array(raised)) / np.exp(-np.array(raised)).sum()
        assert row.loss == pytest.approx(-math.log(shares[question.right]), rel=1e-3)


def test_books_that_cannot_be_asked_about(tokenizer, books, model):
    short = [books[0], Document("short", books[1].ids[:3500])]
    with pytest.raises(ValueError, match="'short' has 3,500 tokens, 500 too few: half of it"):
        book_questions(model, tokenizer, short, lengths=[2000])
    marked = Document("made", books[0].ids, np.ones(len(books[0]), dtype=bool))
    with pytest.raises(ValueError, match="'made' marks answers, so it is made to search on"):
        book_questions(model, tokenizer, [marked])
    with pytest.raises(ValueError, match="documents is empty"):
        book_questions(model, tokenizer, [])
    with pytest.raises(ValueError, match="length is 200: 128 tokens of it are kept"):
        book_questions(model, tokenizer, books, lengths=[200])
    with pytest.raises(ValueError, match="window is 200: 128 tokens of it are kept"):
        book_questions(model, tokenizer, books, window=200)
    with pytest.raises(ValueError, match="unknown task 'lines': did you mean 'line'"):
        book_questions(model, tokenizer, books, ["lines"])
    no_lines = [Document("a list", np.full(9000, tokenizer(" the")["input_ids"][0]))]
    with pytest.raises(ValueError, match="'a list' give no question of line, order: take longer"):
        book_questions(model, tokenizer, no_lines, ["line", "order"])


def test_names_of_a_summary_are_checked(monkeypatch, tokenizer, books):
    assert names_checked("of Moses, and Aaron, and Noah", "by Aaron and then Moses", "to Noah") == (
        3, 2, 1, 0.0,
    )  # fmt: skip
    asked = []

    def say(model, tokenizer, prompts, scaling, room):
        asked.append((len(prompts[0]) + room, tokenizer.decode(prompts[0])))
        return ["of Moses"]

    monkeypatch.setattr("longrope_lab.measure.book_summaries.answers_to", say)
    options = {"lengths": [600, 2000], "trials": 2, "window": 700, "answer_tokens": 20}
    table = book_summaries(Named(tokenizer), tokenizer, books, **options)
    assert [size for size, _ in asked] == [600, 600, 700, 700]
    assert all(text.endswith(LEAD) for _, text in asked)
    assert (table["names"] == 1).all() and table["ordered"].isna().all()
    with pytest.raises(
        ValueError, match=r"length is 30: \d+ tokens of it are kept for the summary"
    ):
        book_summaries(Named(tokenizer), tokenizer, books, [30])


def test_lengths_are_given():
    with pytest.raises(ValueError, match="lengths is empty: give at least one"):
        lengths_asked([])
    assert lengths_asked([512.0, 256, 512]) == [512, 256]


def test_a_summary_needs_answers():
    with pytest.raises(ValueError, match="pass one that many_examples or book_questions returns"):
        choice_summary(pd.DataFrame({"scaling": ["none"]}))
