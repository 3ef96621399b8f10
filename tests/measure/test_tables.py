"""Tables of tables, against values worked out beside them."""

from __future__ import annotations

import doctest
import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import longrope_lab as lab
from longrope_lab.measure import scaling_tables, tables
from longrope_lab.measure.stats import accuracy_summary, paired_comparison, perplexity_summary
from longrope_lab.rope.methods import rope_scaling
from longrope_lab.rope.spec import RopeSpec
from longrope_lab.searches import SearchResult

SPEC = RopeSpec(rotary_dim=64, window=512, base=10000.0)


def losses(table):
    """A perplexity table of {(scaling, length): {document: loss}}."""
    rows = [
        (scaling, length, document, length - 1, loss, math.exp(loss))
        for (scaling, length), of in table.items()
        for document, loss in of.items()
    ]
    columns = ["scaling", "length", "document", "tokens", "loss", "perplexity"]
    return pd.DataFrame(rows, columns=columns)


MEASURED = losses(
    {
        ("none", 512): {"a": 3.0, "b": 4.0, "c": 5.0},
        ("none", 1024): {"a": 6.0, "b": 6.0, "c": 6.0},
        ("yarn", 512): {"a": 3.1, "b": 4.1, "c": 5.1},
        ("yarn", 1024): {"a": 2.9, "b": 3.9, "c": 5.2},
    }
)


def test_examples():
    assert doctest.testmod(tables).failed == 0


# --- stacked --------------------------------------------------------------------------------------


def test_stack_under_several_names():
    parts = {("kjv", 2): pd.DataFrame({"x": [1, 2]}), ("python", 4): pd.DataFrame({"x": [3]})}
    stacked = tables.stack(parts, "corpus", "ratio")
    expected = {"corpus": ["kjv", "kjv", "python"], "ratio": [2, 2, 4], "x": [1, 2, 3]}
    pd.testing.assert_frame_equal(stacked, pd.DataFrame(expected))


@pytest.mark.parametrize(
    ("parts", "names", "message"),
    [
        ({}, ("corpus",), "nothing to stack: give at least one table"),
        ({"kjv": MEASURED}, (), "nothing to stack"),
        ({"kjv": MEASURED}, ("corpus", "ratio"), "the key 'kjv' has 1 parts"),
        ({("kjv", 2): MEASURED}, ("corpus",), "has 2 parts"),
    ],
)
def test_what_cannot_be_stacked(parts, names, message):
    with pytest.raises(ValueError, match=message):
        tables.stack(parts, *names)


def test_intervals_in_words():
    rows = [
        ("pi", 512, 3.14, 3.0, 3.26),
        ("pi", 1024, 2.0, 1.96, 2.04),
        ("ntk", 512, 7.0, math.nan, math.nan),
    ]
    summary = pd.DataFrame(rows, columns=["scaling", "length", "perplexity", "low", "high"])
    shown = tables.with_interval(summary, "perplexity", "scaling", "length")
    assert shown.loc["pi"].tolist() == ["3.1 (3.0 to 3.3)", "2.0 (2.0 to 2.0)"]
    assert list(shown.index) == ["pi", "ntk"] and shown.loc["ntk", 512] == "7.0"
    exact = tables.with_interval(summary, "perplexity", ["scaling"], "length", digits=2)
    assert exact.loc["pi", 1024] == "2.00 (1.96 to 2.04)"
    assert summary["perplexity"].dtype == float  # as it was


# --- in pairs -------------------------------------------------------------------------------------


def test_one_length_over_another():
    row = tables.ratio_between(MEASURED, ("yarn", 1024), ("none", 512)).iloc[0]
    differences = np.array([-0.1, -0.1, 0.2])
    assert row["ratio"] == pytest.approx(math.exp(differences.mean()))
    assert (row["length"], row["documents"], row["wins"]) == (1024, 3, 2)
    assert row["low"] == pytest.approx(math.exp(-0.1)) and row["high"] == pytest.approx(
        math.exp(0.2)
    )


def test_at_one_length_it_is_the_paired_comparison():
    ours = tables.ratio_between(MEASURED, ("yarn", 512), ("none", 512))
    theirs = paired_comparison(MEASURED[MEASURED["length"] == 512], "yarn", "none")
    pd.testing.assert_frame_equal(ours.drop(columns="baseline"), theirs.drop(columns="baseline"))


@pytest.mark.parametrize("second", [("none", 2048), ("pi", 512)])
def test_what_was_not_measured_has_no_ratio(second):
    with pytest.raises(ValueError, match="were not measured on the same documents"):
        tables.ratio_between(MEASURED, ("yarn", 512), second)


def test_other_documents_have_no_ratio():
    other = MEASURED.assign(document=MEASURED["document"] + MEASURED["length"].astype(str))
    with pytest.raises(ValueError, match="were not measured on the same documents"):
        tables.ratio_between(other, ("yarn", 1024), ("yarn", 512))


def test_against_the_window():
    found = tables.against_window(MEASURED, [512, 1024], 512)
    assert list(found)[:3] == ["scaling", "baseline", "length"]
    assert found["scaling"].tolist() == ["none", "none", "yarn", "yarn"]
    assert found["length"].tolist() == [512, 1024] * 2 and set(found["baseline"]) == {"window"}
    expected = [1, math.exp(2), math.exp(0.1), 1]
    np.testing.assert_allclose(found["ratio"], expected, rtol=1e-12)
    (own,) = tables.against_window(MEASURED, [1024], 512, "yarn").query("scaling == 'yarn'")[
        "ratio"
    ]
    assert own == pytest.approx(math.exp((-0.2 - 0.2 + 0.1) / 3))


def test_each_over_one_baseline():
    three = pd.concat([MEASURED, MEASURED[:6].assign(scaling="pi", loss=MEASURED["loss"] + 1)])
    found = tables.against_baseline(three, "none")
    assert list(found)[-1] == "scaling" and set(found["baseline"]) == {"none"}
    assert found["scaling"].tolist() == ["yarn", "yarn", "pi", "pi"]
    np.testing.assert_allclose(found.query("scaling == 'pi'")["ratio"], math.e)
    assert tables.against_baseline(three, "none", ["pi"])["scaling"].tolist() == ["pi", "pi"]
    with pytest.raises(ValueError, match="unknown scaling of this table 'pj'"):
        tables.against_baseline(three, "none", ["pj"])


# --- in one number --------------------------------------------------------------------------------


def shares(table):
    """An accuracy summary of {scaling: {length: (right of ten)}}."""
    rows = [
        (scaling, length, 0.5, trial, trial < right)
        for scaling, of in table.items()
        for length, right in of.items()
        for trial in range(10)
    ]
    columns = ["scaling", "length", "depth", "trial", "correct"]
    return accuracy_summary(pd.DataFrame(rows, columns=columns))


def test_effective_window():
    summary = shares(
        {
            "to 1024": {512: 10, 1024: 9, 2048: 8, 4096: 10},  # what comes back does not count
            "all": {4096: 10, 512: 9, 1024: 9},  # in any order
            "none": {512: 8, 1024: 10},
        }
    )
    found = tables.effective_window(summary)
    assert list(found) == ["scaling", "effective window"]
    assert found.to_numpy().tolist() == [["to 1024", 1024], ["all", 4096], ["none", 0]]
    assert tables.effective_window(summary, share=0.8)["effective window"].tolist()[2] == 1024


def summary_of(perplexities, lengths):
    table = {("x", n): {"a": math.log(p)} for n, p in zip(lengths, perplexities, strict=True)}
    return perplexity_summary(losses(table))


@pytest.mark.parametrize(
    ("perplexities", "end"),
    [
        ([40, 30, 32, 31], 4096),
        ([40, 30, 34, 20], 1024),
        ([40, 43, 43, 45], 2048),
        ([40, 50, 20, 20], 512),
    ],
)
def test_perplexity_holds_to(perplexities, end):
    found = tables.holds_to(summary_of(perplexities, [512, 1024, 2048, 4096]), 512)
    assert list(found) == ["scaling", "holds to", "times the window"]
    assert found.to_numpy().tolist() == [["x", end, end / 512]]


@settings(deadline=None, max_examples=50)
@given(st.lists(st.floats(1, 100), min_size=1, max_size=6))
def test_perplexity_holds_to_by_brute_force(perplexities):
    lengths = [2**k for k in range(len(perplexities))]
    end = 0
    for k, value in enumerate(perplexities):
        if math.exp(math.log(value)) > 1.5 * min(
            math.exp(math.log(p)) for p in perplexities[: k + 1]
        ):
            break
        end = lengths[k]
    assert tables.holds_to(summary_of(perplexities, lengths), 1, rise=1.5)["holds to"].item() == end


def test_questions_for_one_point():
    row = {"scaling": "pi", "task": "arc", "questions": 60, "better": 9, "worse": 15}
    paired = pd.DataFrame([row | {"baseline": "none", "difference": -0.1}])
    (row,) = tables.questions_for_one_point(paired).to_dict("records")
    assert row["changed"] == 0.4 and list(row)[:3] == ["scaling", "task", "questions"]
    assert 1.96 * math.sqrt(row["changed"] / row["for_one_point"]) == pytest.approx(0.01)


# --- searches and scalings ------------------------------------------------------------------------


def test_search_summary():
    best = rope_scaling(SPEC, "yarn", 4096)
    history = pd.DataFrame(
        {"forwards": [2, 4, 6], "tokens": [8192, 16384, 24576], "best_perplexity": [9.0, 8.0, 7.5]}
    )
    result = SearchResult(best, math.log(7.5), history, [best] * 3, 1.0, True)
    table = tables.search_summary({("kjv", 4096): result, ("python", 4096): result}, "corpus", "to")
    assert table["corpus"].tolist() == ["kjv", "python"] and table["to"].tolist() == [4096] * 2
    row = table.iloc[1]
    assert (row["candidates"], row["forward passes"], row["tokens"]) == (3, 6, 24576)
    assert (row["first perplexity"], row["best perplexity"]) == (9, 7.5)
    assert (row["start tokens"], row["lowest factor"], row["highest factor"]) == (0, 1, 8)
    assert row["attention factor"] == best.attention_factor


def test_factors_side_by_side():
    scalings = {name: rope_scaling(SPEC, name, 4096) for name in ("pi", "ntk")}
    table = scaling_tables.factor_table(scalings)
    assert list(table) == ["pair", "pi", "ntk"] and table["pair"].tolist() == list(range(32))
    assert (table["pi"] == 8).all() and table["ntk"].iloc[[0, -1]].tolist() == pytest.approx([1, 8])


def test_what_scalings_do_in_three_numbers():
    names = ("none", "pi", "ntk", "yarn")
    scalings = {name: rope_scaling(SPEC, name, 4096) for name in names}
    degrees, beyond, m = list(scaling_tables.scaling_summary(scalings).set_index("method"))
    table = scaling_tables.scaling_summary(scalings).set_index("method")
    a_radian = 180 / math.pi
    np.testing.assert_allclose(table[degrees], [a_radian, a_radian / 8, a_radian, a_radian])
    # 16 of the 32 pairs never finish a turn inside the window; NTK brings the last one back.
    assert table[beyond].tolist() == [16, 0, 15, 0]
    np.testing.assert_allclose(table[m], [1, 1, 1, 0.1 * math.log(8) + 1])


SUMMARY = pd.DataFrame(
    [("none", 64, 8.0, 7.0, 9.0, 0.5)],
    columns=["scaling", "length", "perplexity", "low", "high", "accuracy"],
)


@pytest.mark.parametrize(
    ("ask", "words"),
    [
        (lambda: lab.effective_window(SUMMARY, share=-1), "share is -1: it is a share of the keys"),
        (lambda: lab.effective_window(SUMMARY, share=1.1), r"share is 1\.1: it is a share"),
        (lambda: lab.effective_window(SUMMARY[["scaling"]]), "no column 'length', 'accuracy'"),
        (lambda: lab.holds_to(SUMMARY, 0), "window is 0: it must be a whole number from 1"),
        (lambda: lab.holds_to(SUMMARY, 64, rise=math.nan), "rise is nan: perplexity over"),
        (lambda: lab.holds_to(SUMMARY, 64, rise=0.5), r"rise is 0\.5: perplexity over"),
        (lambda: lab.holds_to(SUMMARY[["length"]], 64), "no column 'scaling', 'perplexity'"),
        (lambda: lab.with_interval(SUMMARY, "loss", "length", "scaling"), "no column 'loss'"),
        (lambda: lab.with_interval(SUMMARY, "accuracy", ["length", "x"], "scaling"), "column 'x'"),
        (
            lambda: lab.with_interval(SUMMARY, "accuracy", "length", "scaling", digits=-1),
            "digits is -1",
        ),
        (lambda: lab.questions_for_one_point(SUMMARY), "no column 'task', 'questions', 'better'"),
        (lambda: lab.start_token_ratios(SUMMARY), "no column 'method', 'target'"),
        (lambda: lab.best_by_start_tokens(SUMMARY, "target"), "no column 'target', 'start_tok"),
        (lambda: lab.factor_table({}), "scalings is empty"),
        (lambda: lab.scaling_summary({}), "scalings is empty"),
        (
            lambda: lab.perplexity_summary(SUMMARY.assign(loss="x")),
            "the table's loss holds no numbers",
        ),
    ],
)
def test_what_no_number_can_be_read_off(ask, words):
    with pytest.raises(ValueError, match=words):
        ask()
