"""Needle documents to train on: what they hold, what of them counts, and how often they come."""

from __future__ import annotations

import dataclasses
import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import VOCABULARY, tiny_model
from finetuning import DOCS, LENGTH, RECIPE, TOKENIZER, scaling_of, tune
from hypothesis import given, settings
from hypothesis import strategies as st

from longrope_lab.extend import needle_segments as module
from longrope_lab.extend.finetune import finetune
from longrope_lab.extend.needle_segments import needle_segments
from longrope_lab.extend.plan import Plan
from longrope_lab.extend.progressive import progressive
from longrope_lab.extend.recipe import Recipe
from longrope_lab.extend.segments import TrainingOrder
from longrope_lab.extend.stages import FineTune, Formula, Search
from longrope_lab.models.forward import token_losses
from longrope_lab.models.rotary import apply_scaling
from longrope_lab.texts.needle_documents import needle_documents
from longrope_lab.texts.needle_practice import NAMES, OPENED, QUESTIONS, TOLD
from longrope_lab.texts.needle_wordings import ASKED, BEGUN, FILLER, KEY, TASK
from longrope_lab.texts.tokens import Document


def made(tokenizer, length=700, count=40, seed=0):
    """Needle segments in stretches of a document of random tokens, and their texts."""
    ids = np.random.default_rng(1).integers(300, 4000, 3000)
    rng = np.random.default_rng(seed)
    rows, answers = needle_segments([Document("book", ids)], length, count, tokenizer, rng)
    return rows, answers, [tokenizer.decode(row) for row in rows]


def test_a_segment_is_as_long_as_asked_for_and_its_answers_are_what_was_told(tokenizer):
    rows, answers, texts = made(tokenizer)
    assert rows.shape == answers.shape == (40, 700)
    end = tokenizer.eos_token_id
    whole = 0
    for row, marks, text in zip(rows, answers, texts, strict=True):
        documents = text.strip(tokenizer.eos_token).split(2 * tokenizer.eos_token)
        whole += len(documents) == 1
        told = [re.search(r"\d+", document)[0] for document in documents]
        said = [
            re.fullmatch(r" (\d+)\.", tokenizer.decode(part[part != end]))[1]
            for part in np.split(row, np.flatnonzero(np.diff(marks.astype(int))) + 1)[1::2]
        ]
        assert said == told
        assert row[0] == tokenizer.bos_token_id and row[-1] == end and marks[-1]
    assert 15 <= whole <= 33  # three of five


def test_they_are_not_what_is_reported_on(tokenizer):
    """Other names, wordings, fillers and numbers than those of `passkey`."""
    _, _, texts = made(tokenizer, count=80)
    measured = {
        sentence.strip().lower()
        for text in (TASK, FILLER, KEY, ASKED, BEGUN)
        for sentence in re.split(r"[.?\n]", text)
        if len(sentence.split()) > 2
    }
    for text in texts:
        assert "pass key" not in text.lower()
        assert not any(sentence in text.lower() for sentence in measured)
        assert not re.search(r"(?<!\d)\d{5}(?!\d)", text)
    assert not any("pass" in name or "key" in name for name in NAMES)


def test_the_number_stands_at_any_depth(tokenizer):
    _, answers, texts = made(tokenizer, length=400, count=60)
    one = [text for text, marks in zip(texts, answers, strict=True) if np.diff(marks).sum() == 1]
    places = np.array([re.search(r"\d{4,7}", text).start() / len(text) for text in one])
    assert len(one) > 20 and places.min() < 0.3 and places.max() > 0.6


def test_the_same_seed_gives_the_same_needles(tokenizer):
    one, other, third = (made(tokenizer, seed=seed)[0] for seed in (0, 0, 1))
    assert (one == other).all() and (one != third).any()


def test_what_has_no_room_or_no_book_is_refused(tokenizer):
    with pytest.raises(ValueError, match=r"none of the 1 documents has 5,000 tokens"):
        made(tokenizer, length=5000)
    with pytest.raises(ValueError, match="a needle document of 40 tokens has no room"):
        made(tokenizer, length=40)


@settings(max_examples=60, deadline=None)
@given(
    short=st.sampled_from([0.0, 0.25, 0.5, 0.29]),
    needle=st.sampled_from([0.0, 0.1, 0.3, 0.5]),
    count=st.integers(1, 60),
)
def test_shares_are_kept_and_never_overlap(short, needle, count):
    recipe = Recipe(steps=count, batch=1, warmup=0, short_share=short, needle_share=needle)
    rows = np.arange(8 * 12).reshape(8, 12)
    needles = np.full((recipe.needles_of(count), 12), -1), np.zeros((count, 12), bool)
    order = TrainingOrder(rows, recipe, 0, 4, needles if needle else None)
    items = [order[i] for i in range(count)]
    shorts = [bool(item["short"]) if short else False for item in items]
    found = [bool((item["input_ids"] == -1).all()) for item in items]
    assert sum(shorts) == int(short * count + 1e-9)
    assert sum(found) == recipe.needles_of(count)
    assert abs(sum(found) - needle * count) <= 1
    assert not any(a and b for a, b in zip(shorts, found, strict=True))


def test_without_a_share_a_training_is_what_it_was():
    rows = np.arange(48).reshape(4, 12)
    plain, zero = Recipe(steps=9, batch=1, warmup=0), Recipe(9, 1, warmup=0, needle_share=0.0)
    for index in range(9):
        one, other = (TrainingOrder(rows, r, 3, 4)[index] for r in (plain, zero))
        assert one.keys() == other.keys() == {"input_ids", "labels"}
        assert torch.equal(one["input_ids"], other["input_ids"])


@pytest.mark.parametrize(("needle", "short"), [(-0.1, 0), (1.1, 0), (0.6, 0.5), (float("nan"), 0)])
def test_shares_outside_their_rule(needle, short):
    with pytest.raises(ValueError, match=f"needle_share is {needle} and short_share {short}"):
        Recipe(needle_share=needle, short_share=short)


def test_an_unknown_loss_of_needles():
    with pytest.raises(ValueError, match="needle_loss 'some'"):
        Recipe(needle_share=0.1, needle_loss="some")


class Letters(SimpleNamespace):
    """A tokenizer of the tiny models: one token per character."""

    def __call__(self, text, add_special_tokens=True):
        return {"input_ids": [3 + ord(letter) % (VOCABULARY - 3) for letter in text]}


@pytest.mark.parametrize("counted", ["answers", "all"])
def test_a_training_reads_them_and_counts_what_the_recipe_says(counted, tmp_path, monkeypatch):
    """The loss that a step logs is the mean over its segments, of needles over what counts."""
    book = Document("book", np.random.default_rng(0).integers(3, VOCABULARY, 3000))
    seen = []
    stock = module.needle_segments

    def kept(*args):
        seen.append(stock(*args))
        return seen[-1]

    monkeypatch.setattr("longrope_lab.extend.finetune.needle_segments", kept)
    model, tokenizer = tiny_model(), Letters(**vars(TOKENIZER))
    only = {"needle_share": 1.0, "needle_loss": counted}
    recipe = dataclasses.replace(RECIPE, steps=1, batch=2, learning_rate=1e-9, **only)
    scaling = dataclasses.replace(scaling_of(model, "pi"), target_length=512)
    table = finetune(model, tokenizer, [book], scaling, tmp_path, length=512, recipe=recipe)
    _, (rows, answers) = seen  # the first was a trial
    with apply_scaling(model, scaling):
        losses = [
            token_losses(model, ids)[torch.from_numpy(marks[1:] | (counted == "all"))].mean().item()
            for ids, marks in zip(rows, answers, strict=True)
        ]
    assert table["loss"].iloc[0] == pytest.approx(np.mean(losses), abs=1e-4)


def test_texts_too_short_for_needles_are_refused_before_anything_is_written(tmp_path):
    with pytest.raises(ValueError, match="to hide needles in"):
        tune(
            tiny_model(), tmp_path / "run", docs=[*DOCS, *DOCS], length=4 * LENGTH, needle_share=0.5
        )
    assert not (tmp_path / "run").exists()


def test_a_plan_sees_that_needles_have_no_room_before_anything_runs(tmp_path):
    """The formula, the first stage, leaves no folder."""
    book = Document("book", np.random.default_rng(0).integers(3, VOCABULARY, 3000))
    tokenizer = Letters(**vars(TOKENIZER))
    recipe = dataclasses.replace(RECIPE, needle_share=0.5)
    for stage in (FineTune(LENGTH, recipe), Search(LENGTH + 1, documents=1, needles=1)):
        plan = Plan((Formula(LENGTH), stage))
        with pytest.raises(ValueError, match=r"at 12[89] tokens: a needle document of 12[89] tok"):
            progressive(
                tiny_model(), tokenizer, plan, tmp_path / "p", train_docs=[book], search_docs=[book]
            )
    assert not (tmp_path / "p").exists()


def test_whether_there_is_room_does_not_depend_on_what_is_drawn(tokenizer):
    """The shortest length that is taken holds every one of many documents."""
    book = Document("book", np.arange(300, 3300))
    refused = [n for n in range(30, 130) if not _room(book, n, tokenizer)]
    least = refused[-1] + 1
    assert refused == [*range(30, least)]
    rng = np.random.default_rng(3)
    assert needle_segments([book], least, 500, tokenizer, rng)[0].shape == (500, least)


def _room(book, length, tokenizer):
    try:
        needle_documents([book], length, 1, tokenizer)
    except ValueError as error:
        assert "which takes up to" in str(error)
        return False
    return True


def test_wordings_say_the_name_and_the_number():
    assert all("{name}" in text and "{key}" in text for text in TOLD)
    assert all("{name}" in text for text in (*QUESTIONS, OPENED)) and OPENED.endswith("is")


def test_documents_to_search_on_hide_one_number_each(tokenizer):
    """Of the length asked for, half of them in the book, their answers what was told."""
    book = Document("book", np.random.default_rng(1).integers(300, 4000, 3000))
    docs = needle_documents([book], 700, 6, tokenizer, seed=3)
    assert [len(doc) for doc in docs] == [700] * 6
    for number, doc in enumerate(docs):
        told = re.search(r"\d{4,7}", tokenizer.decode(doc.ids))[0]
        assert tokenizer.decode(doc.ids[doc.answers]).startswith(f" {told}.")
        assert np.isin(doc.ids, book.ids[book.ids > 3990]).any() == (number % 2 == 0)
    again = needle_documents([book], 700, 6, tokenizer, seed=3)
    assert all((one.ids == other.ids).all() for one, other in zip(docs, again, strict=True))


@pytest.mark.parametrize(
    ("length", "count", "seed", "message"),
    [
        (5000, 1, 0, "none of the 1 documents has 5,000 tokens to hide needles in"),
        (20, 1, 0, "a needle document of 20 tokens has no room for its text"),
        (700, 0, 0, "count is 0"),
        (700, 1, -1, "seed is -1"),
    ],
)
def test_needle_documents_that_cannot_be_made(tokenizer, length, count, seed, message):
    book = Document("book", np.arange(300, 3300))
    with pytest.raises(ValueError, match=message):
        needle_documents([book], length, count, tokenizer, seed=seed)
