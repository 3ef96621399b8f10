"""The table of searches that minimised different things."""

import math

import numpy as np
import pytest
from conftest import VOCABULARY, WINDOW, tiny_model

import longrope_lab as lab
from longrope_lab.texts.tokens import Document

LENGTH = 2 * WINDOW
RNG = np.random.default_rng(3)
TEXT = Document("text", RNG.integers(3, VOCABULARY, LENGTH))
NEEDLE = Document(
    "needle", RNG.integers(3, VOCABULARY, LENGTH), answers=np.arange(LENGTH) > LENGTH - 4
)


def test_a_row_per_search():
    model = tiny_model()
    found = {
        weight: lab.search(model, [TEXT, NEEDLE], LENGTH, lab.Random(3), objective=lab.Both(weight))
        for weight in (0.0, 0.7)
    }
    table = lab.objective_summary(found, "weight")
    assert table["weight"].tolist() == [0.0, 0.7]
    assert table["objective"].tolist() == ["Both(weight=0.0)", "Both(weight=0.7)"]
    assert table["forward passes"].tolist() == [3, 6]
    for row, result in zip(table.to_dict("records"), found.values(), strict=True):
        assert row["perplexity of the texts"] == pytest.approx(math.exp(result.text_loss))
        assert row["answers' loss"] == result.needle_loss
        assert row["attention factor"] == result.best.attention_factor
        assert row["told nothing"] == result.at_floor
    first = found[0.7].history["needle_loss"].iloc[0]
    assert table["answers' loss at the start"].iloc[1] == first
    assert math.isnan(table["answers' loss at the start"].iloc[0])  # it did not count


def test_without_needles_their_columns_are_empty():
    found = lab.search(tiny_model(), [TEXT], LENGTH, lab.Random(1), objective=lab.Perplexity())
    row = lab.objective_summary({"plain": found}, "search").iloc[0]
    assert row["objective"] == "Perplexity()" and math.isnan(row["answers' loss"])
