"""The first tokens left alone: sweeps on a tiny model, and what is made of their tables."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from conftest import VOCABULARY, WINDOW, tiny_model

from longrope_lab.measure import start_tokens as module
from longrope_lab.measure.perplexity import perplexity
from longrope_lab.measure.tables import stack
from longrope_lab.models.forward import token_losses
from longrope_lab.models.rotary import apply_scaling, rope_spec
from longrope_lab.rope.methods import rope_scaling
from longrope_lab.texts.tokens import Document

TARGETS = (2 * WINDOW, 3 * WINDOW)
COUNTS = (0, 4, 16)


@pytest.fixture(scope="module")
def model():
    return tiny_model()


@pytest.fixture(scope="module")
def docs():
    """Two of them have one title."""
    rng = np.random.default_rng(0)
    return [Document(t, rng.integers(3, VOCABULARY, max(TARGETS))) for t in ("a", "a", "b")]


@pytest.fixture(scope="module")
def sweep(model, docs):
    return module.start_token_sweep(model, docs, ("pi", "dynamic_ntk"), TARGETS, COUNTS)


def variant(model, method, target, count):
    scaling = rope_scaling(rope_spec(model), method, target).at(target)
    return module.start_token_variants(scaling, [count])[str(count)]


def test_variants_differ_in_the_start_tokens_alone(model):
    scaling = rope_scaling(rope_spec(model), "yarn", TARGETS[0])
    variants = module.start_token_variants(scaling, (0, 8))
    assert variants["0"] == scaling and variants["8"].start_tokens == 8
    assert (variants["8"].factors == scaling.factors).all()
    assert variants["8"].attention_factor == scaling.attention_factor


def test_a_sweep_measures_each_formula_at_each_target(model, docs, sweep):
    assert list(sweep)[:4] == ["method", "target", "scaling", "length"]
    assert len(sweep) == 2 * len(TARGETS) * len(COUNTS) * 2 * len(docs)
    assert set(sweep["length"]) == {max(COUNTS), *TARGETS}
    for method in ("pi", "dynamic_ntk"):
        scaling = {"x": variant(model, method, TARGETS[1], 4)}
        alone = perplexity(model, docs, [max(COUNTS), TARGETS[1]], scaling)
        rows = sweep.query("method == @method and target == @TARGETS[1] and scaling == '4'")
        np.testing.assert_allclose(rows["loss"], alone["loss"], rtol=1e-6)


def test_losses_after_are_those_of_the_later_tokens(model, docs, sweep):
    after = module.losses_after(sweep, max(COUNTS))
    assert list(after) == list(sweep) and set(after["length"]) == set(TARGETS)
    picked = after.query("method == 'pi' and target == @TARGETS[0] and scaling == '16'")
    with apply_scaling(model, variant(model, "pi", TARGETS[0], 16)):
        ours = [token_losses(model, doc.ids[: TARGETS[0]]).double() for doc in docs]
    # Of the first 16 tokens, 15 are predicted.
    np.testing.assert_allclose(picked["loss"], [float(x[15:].mean()) for x in ours], rtol=1e-6)
    assert picked["tokens"].tolist() == [TARGETS[0] - 16] * 3
    np.testing.assert_allclose(picked["perplexity"], np.exp(picked["loss"]))


def test_losses_after_need_both_lengths(sweep):
    with pytest.raises(ValueError, match="rows have no row of 8 tokens beside them: measure perpl"):
        module.losses_after(sweep, 8)
    with pytest.raises(ValueError, match=r"^1 rows have no row of 16 tokens"):
        module.losses_after(sweep.drop(sweep[sweep["length"] == 16].index[0]), 16)


def test_ratios_are_over_none():
    rows = [
        ("pi", 1024, str(count), 1024, document, 1023, loss + shift)
        for count, shift in ((0, 0.0), (8, -0.1), (64, 0.3))
        for document, loss in (("a", 3.0), ("b", 4.0))
    ]
    columns = ["method", "target", "scaling", "length", "document", "tokens", "loss"]
    table = pd.DataFrame(rows, columns=columns)
    ratios = module.start_token_ratios(table)
    assert ratios["start_tokens"].tolist() == [8, 64] and set(ratios["baseline"]) == {"0"}
    assert list(ratios)[:3] == ["method", "target", "start_tokens"]
    np.testing.assert_allclose(ratios["ratio"], np.exp([-0.1, 0.3]))
    assert ratios["wins"].tolist() == [2, 0]
    with pytest.raises(ValueError, match="unknown scaling of this table '0'"):
        module.start_token_ratios(table[table["scaling"] != "0"])


def test_the_best_of_each_count():
    history = pd.DataFrame({"start_tokens": [0, 4, 4, 0], "loss": [3.0, 2.5, 2.7, 2.9]})
    both = stack({1024: history, 2048: history.assign(loss=history["loss"] - 1)}, "target")
    best = module.best_by_start_tokens(both, "target")
    assert best["target"].tolist() == [1024, 1024, 2048, 2048]
    assert best["best_loss"].tolist() == [2.9, 2.5, 1.9, 1.5]
    np.testing.assert_allclose(best["ratio"], [math.exp(0.4), 1] * 2)
