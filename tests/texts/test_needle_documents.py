"""Needle documents of every task: what is told, asked and answered, and what is refused."""

from __future__ import annotations

import re
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from longrope_lab.texts.needle_documents import needle_documents
from longrope_lab.texts.needle_practice import NAMES, practice
from longrope_lab.texts.needle_tasks import NEEDLES, NeedleTask
from longrope_lab.texts.needle_wordings import reported, words_of
from longrope_lab.texts.tokens import Document

BOOK = Document("book", np.random.default_rng(1).integers(300, 4000, 5000))


def made(tokenizer, task, length=1500, seed=0):
    """A document of a task: its text before the answer, and the answer."""
    (doc,) = needle_documents([BOOK], length, 1, tokenizer, tasks=task, seed=seed)
    assert len(doc) == length
    end = tokenizer.eos_token
    text, answer = (tokenizer.decode(doc.ids[mask]) for mask in (~doc.answers, doc.answers))
    assert np.diff(doc.answers.astype(int)).sum() == 1 and answer.endswith(f".{end}")
    return text, re.split(", | and ", answer.removesuffix(f".{end}").removeprefix(" "))


@settings(max_examples=60, deadline=None)
@given(name=st.sampled_from([*NEEDLES]), length=st.integers(800, 3000), seed=st.integers(0, 99))
def test_documents_to_the_token(tokenizer, name, length, seed):
    made(tokenizer, name, length, seed)


@pytest.mark.parametrize("haystack", ["sentences", "documents"])
@pytest.mark.parametrize("keys", [1, 3, 6])
@pytest.mark.parametrize("values", [1, 3])
def test_values_are_those_told_under_the_names_asked_for(tokenizer, keys, values, haystack):
    task = NeedleTask(keys=keys, values=values, queries=(keys + 1) // 2, haystack=haystack)
    text, answer = made(tokenizer, task)
    told = re.findall(
        r"\n(?:The|Note that the|Here is the|One|Note this|Here is another)"
        r" ([a-z ]+?)(?: is|:) (\d+)",
        text,
    )
    assert len(told) == keys * values == len({key for _, key in told})
    asked = text.rsplit("\n", 1)[1]
    named = sorted({name for name, _ in told if name in asked}, key=asked.index)
    assert len(named) == task.queries
    # Each name's values stand in the answer in the order in which the text tells them.
    assert answer == [key for name in named for other, key in told if other == name]


def test_uuids_hide_among_uuids(tokenizer):
    task = NEEDLES["multikey in uuids"]
    text, answer = made(tokenizer, task, 3000)
    entries = dict(re.findall(r"(?:^|\n)Entry (\S{36}) holds (\S{36})\.(?=\n)", text))
    asked = re.search(r"What is held by (\S{36})\?", text)[1]
    assert answer == [entries[asked]] and len(entries) > 20


def test_variables_follow_their_chain(tokenizer):
    text, answer = made(tokenizer, NeedleTask("variables", keys=2, values=4))
    holds = {}
    for name, value in re.findall(r"\nLet (\w+) be (?:the same as )?(\w+)\.", text):
        holds[name] = holds.get(value, value)  # each name stands after the one before it
    asked = re.search(r"stand for (\d+)\?", text)[1]
    assert [name for name, value in holds.items() if value == asked] == answer
    assert len(holds) == 8 and set(holds.values()) > {asked}


@pytest.mark.parametrize("length", [500, 501, 502, 503, 504, 2000, 9000])
def test_the_common_words_are_the_most_frequent(tokenizer, length):
    text, answer = made(tokenizer, NeedleTask("words", values=6), length)
    listed = re.findall(r" (\w+),", text.split("\n")[1])
    counts = Counter(listed)
    assert {word for word, _ in counts.most_common(6)} == set(answer)
    least = min(counts[word] for word in answer)
    assert least >= 2 * max(count for word, count in counts.items() if word not in answer)
    assert [word for word in counts if word in answer] == answer  # in the order of the text


def test_a_very_long_list_repeats_its_common_words_more_often(tokenizer):
    text, answer = made(tokenizer, NeedleTask("words", values=2), 60_000)
    counts = Counter(re.findall(r" (\w+),", text.split("\n")[1]))
    assert {word for word, _ in counts.most_common(2)} == set(answer)
    assert min(counts[word] for word in answer) > 60


def test_nothing_of_a_practice_quiz_is_reported_on():
    """Neither names, numbers, words and variables, nor any five words in a row."""
    rng = np.random.default_rng(0)
    texts = {"reported": [], "practice": []}
    for _ in range(30):
        for task in NEEDLES.values():
            for kind, draw in (("reported", reported), ("practice", practice)):
                quiz = draw(task, rng)
                told = " ".join(needle for group in quiz.told for needle in group)
                text = f"{quiz.announced} {told} {quiz.question} {quiz.answer}"
                texts[kind].append(re.sub(r"[0-9a-f-]{36}", "", text))
    seen, own = (
        {
            tuple(words[i : i + 5])
            for text in texts[kind]
            for words in [re.findall(r"[a-z]+", text.lower())]
            for i in range(len(words) - 4)
        }
        for kind in texts
    )
    assert not seen & own
    lengths = [
        {len(n) for text in texts[kind] for n in re.findall(r"(?<![\w-])\d+(?![\w-])", text)}
        - {1, 2}
        for kind in texts
    ]
    assert lengths == [{5}, {4, 6, 7}]
    assert not set(words_of(0)) & set(words_of(1))
    assert not any(word in name for name in NAMES for word in ("pass", "key", "magic"))


def test_tasks_take_turns_and_a_seed_repeats_them(tokenizer):
    options = {"tasks": ["single", "multikey in documents"], "seed": 5}
    docs, again = (needle_documents([BOOK], 600, 4, tokenizer, **options) for _ in range(2))
    assert [doc.title for doc in docs] == [
        f"needle {n}, {'multikey in documents' if n % 2 else 'single'}" for n in range(4)
    ]
    assert all((one.ids == other.ids).all() for one, other in zip(docs, again, strict=True))
    assert np.isin(docs[1].ids, BOOK.ids[BOOK.ids > 3700]).any()


def test_no_documents_are_needed_where_none_are_hidden_in(tokenizer):
    assert len(needle_documents([], 600, 2, tokenizer, tasks="single")) == 2
    with pytest.raises(ValueError, match="none of the 0 documents has 600 tokens"):
        needle_documents([], 600, 2, tokenizer, tasks=["single", "single in documents"])


@pytest.mark.parametrize(
    ("task", "length", "message"),
    [
        ("singel", 600, "unknown needle task 'singel': did you mean 'single'"),
        ([], 600, "no needle task is named"),
        (NeedleTask(keys=29), 3000, "keys is 29: there are 28 names"),
        (NeedleTask(keys=20), 300, r"300 tokens has no room for .*, which takes \d+ with this"),
        ("words", 120, "a list of 20 words is too short for 10 that come often"),
        ("words", 30, r"30 tokens has no room for 'words'"),
    ],
)
def test_documents_that_cannot_be_made(tokenizer, task, length, message):
    with pytest.raises(ValueError, match=message):
        needle_documents([BOOK], length, 1, tokenizer, tasks=task)


def test_a_document_that_says_it_takes_so_many_tokens_can_be_made_with_them(tokenizer):
    task = NeedleTask(keys=12, values=2)
    with pytest.raises(ValueError, match="no room") as refused:
        needle_documents([], 300, 1, tokenizer, tasks=task, seed=2)
    needed = int(re.search(r"which takes (\d+)", str(refused.value))[1])
    (doc,) = needle_documents([], needed, 1, tokenizer, tasks=task, seed=2)
    assert len(doc) == needed


def test_a_tokenizer_that_cannot_write_a_key(tokenizer):
    """One that knows no digits."""
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers

    letters = Tokenizer(models.WordLevel({"?": 0} | {chr(n): n for n in range(97, 123)}, "?"))
    letters.pre_tokenizer = pre_tokenizers.Split(Regex(""), "isolated")
    none = PreTrainedTokenizerFast(tokenizer_object=letters, unk_token="?")
    with pytest.raises(ValueError, match=r"the tokenizer cannot write '\d+': it comes back as"):
        needle_documents([], 2000, 1, none, tasks="multikey")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"kind": "retreival"}, "unknown kind of needle task 'retreival': did you mean"),
        ({"haystack": "books"}, "unknown haystack 'books'"),
        ({"keys": 0}, "keys is 0: it must be a whole number from 1"),
        ({"queries": 2}, "queries is 2 and keys is 1: only a key that is told can"),
        ({"kind": "passkey", "keys": 2}, "keys is 2: a task of kind 'passkey' takes 1"),
        ({"kind": "passkey", "values": 2}, "values is 2: a task of kind 'passkey' takes 1"),
        ({"kind": "variables", "keys": 2, "queries": 2}, "queries is 2: a task of kind 'var"),
        ({"kind": "words", "values": 101}, "keys times values is 101: .* takes at most 100"),
        ({"keys": 100, "values": 51}, "keys times values is 5,100: .* takes at most 5,000"),
        ({"kind": "words", "haystack": "documents"}, "takes sentences"),
        ({"kind": "variables", "haystack": "uuids"}, "takes sentences or documents"),
    ],
)
def test_tasks_that_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        NeedleTask(**fields)


def test_names_of_tasks():
    assert all(task.name == name for name, task in NEEDLES.items())
    assert NeedleTask(keys=8, queries=2).name == "retrieval of 2 of 8 keys"
    assert NeedleTask(values=2, haystack="uuids").name == (
        "retrieval of 1 of 1 keys with 2 values in uuids"
    )
    assert NeedleTask("variables", keys=2, values=3).name == "variables, 2 chains of 3"
    assert NeedleTask("words", values=4).name == "the 4 most frequent words"
    assert len({task.name for task in NEEDLES.values()}) == len(NEEDLES) == 17
