"""Intervals and comparisons against closed forms and tables made by hand."""

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from longrope_lab.measure.stats import (
    accuracy_summary,
    bootstrap_interval,
    groups_of,
    paired_comparison,
    perplexity_summary,
    share_interval,
    wilson_interval,
)

finite = st.floats(-100, 100)


def table(losses, length=512, titles=None):
    """A perplexity table of {scaling: losses by document}."""
    return pd.DataFrame(
        [
            (name, length, (titles or "abcdefgh")[i], 100, loss, math.exp(loss))
            for name, values in losses.items()
            for i, loss in enumerate(values)
        ],
        columns=["scaling", "length", "document", "tokens", "loss", "perplexity"],
    )


# --- bootstrap ------------------------------------------------------------------------------------


def test_bootstrap_against_all_resamples():
    """Four values have 256 equally likely resamples: their means' quantiles need no chance."""
    values = np.array([1.0, 2.0, 4.0, 9.0])
    means = values[np.indices((4,) * 4).reshape(4, -1)].mean(0)
    for confidence in (0.5, 0.8, 0.95):
        exact = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
        np.testing.assert_allclose(
            bootstrap_interval(values, confidence=confidence), exact, atol=0.3
        )


def test_bootstrap_against_the_normal_limit():
    values = np.random.default_rng(5).normal(3, 2, 400)
    reach = 1.959964 * values.std() / math.sqrt(400)
    low, high = bootstrap_interval(values)
    assert low == pytest.approx(values.mean() - reach, abs=0.03)
    assert high == pytest.approx(values.mean() + reach, abs=0.03)


@settings(deadline=None, max_examples=15)
@given(values=st.lists(finite, min_size=2, max_size=20), shift=finite, seed=st.integers(0, 9))
def test_bootstrap_properties(values, shift, seed):
    low, high = bootstrap_interval(values, seed=seed)
    assert min(values) - 1e-9 <= low <= high <= max(values) + 1e-9
    assert bootstrap_interval(values, seed=seed) == (low, high)
    moved = bootstrap_interval(np.array(values) + shift, seed=seed)
    np.testing.assert_allclose(moved, (low + shift, high + shift), atol=1e-9)
    narrow = bootstrap_interval(values, seed=seed, confidence=0.5)
    assert low <= narrow[0] <= narrow[1] <= high


def test_seeds_differ():
    values = [1.0, 2.0, 4.0, 9.0, 3.0, 8.0]
    assert bootstrap_interval(values, seed=0) != bootstrap_interval(values, seed=1)


def test_equal_values_have_no_spread():
    assert bootstrap_interval([2.5] * 5) == (2.5, 2.5)


@pytest.mark.parametrize("values", [[], [3.0]])
def test_one_value_says_nothing_of_its_spread(values):
    assert all(math.isnan(end) for end in bootstrap_interval(values))


@pytest.mark.parametrize(
    ("values", "confidence", "message"),
    [
        ([[1.0, 2.0]], 0.95, r"values have shape \(1, 2\)"),
        ([1.0, 2.0], 95, "confidence is 95: it is a share"),
        ([1.0, 2.0], 0.0, "confidence is 0.0"),
    ],
)
def test_bootstrap_errors(values, confidence, message):
    with pytest.raises(ValueError, match=message):
        bootstrap_interval(values, confidence=confidence)


# --- Wilson ---------------------------------------------------------------------------------------


@given(trials=st.integers(1, 500), data=st.data())
def test_wilson_ends_are_where_the_score_test_turns(trials, data):
    """It holds the shares p from which right/trials is less than z standard errors *of p* away."""
    right = data.draw(st.integers(0, trials))
    low, high = wilson_interval(right, trials)
    assert 0 <= low <= right / trials <= high <= 1
    for p in (low, high):
        if 0 < p < 1:
            score = abs(right / trials - p) / math.sqrt(p * (1 - p) / trials)
            assert score == pytest.approx(1.9599639845, rel=1e-5)
    mirrored = wilson_interval(trials - right, trials)
    assert (1 - mirrored[1], 1 - mirrored[0]) == pytest.approx((low, high), abs=1e-12)


def test_wilson_against_published_values():
    """Newcombe 1998, Table I, method 3: 81/263, 15/148, 0/20, 1/29."""
    for right, trials, low, high in [
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ]:
        assert wilson_interval(right, trials) == pytest.approx((low, high), abs=5e-5)
    assert wilson_interval(10, 10)[1] == 1
    assert wilson_interval(5, 10, confidence=0.5)[0] > wilson_interval(5, 10)[0]


@pytest.mark.parametrize(("right", "trials"), [(0, 0), (3, 2), (-1, 5)])
def test_wilson_errors(right, trials):
    with pytest.raises(ValueError, match=f"{right} right of {trials} trials"):
        wilson_interval(right, trials)


# --- tables ---------------------------------------------------------------------------------------


def test_perplexity_summary():
    both = pd.concat(
        [table({"b": [1.0, 2.0, 3.0]}, 1024), table({"b": [1.0, 1.0], "a": [4.0]}, 512)]
    )
    summary = perplexity_summary(both)
    assert list(summary) == ["scaling", "length", "documents", "loss", "perplexity", "low", "high"]
    assert list(zip(summary["scaling"], summary["length"], summary["documents"], strict=True)) == [
        ("b", 1024, 3),
        ("b", 512, 2),
        ("a", 512, 1),
    ]
    np.testing.assert_allclose(summary["loss"], [2, 1, 4])
    np.testing.assert_allclose(
        summary["perplexity"], np.exp([2, 1, 4])
    )  # of the mean loss, not the mean of each
    low, high = bootstrap_interval([1.0, 2.0, 3.0])
    assert summary["low"].tolist()[:2] == [np.exp(low), np.exp(1.0)]
    assert summary["high"].tolist()[:2] == [np.exp(high), np.exp(1.0)]
    assert summary[["low", "high"]].iloc[2].isna().all()


def test_paired_comparison_sees_what_means_hide():
    """Documents differ by 3 nats, the methods by a tenth: paired, the difference is certain."""
    base = np.array([1.0, 2.0, 3.0, 4.0])
    gain = np.array([0.1, 0.12, 0.08, 0.1])
    losses = table({"yarn": base - gain, "pi": base})
    (row,) = paired_comparison(losses, "yarn", "pi").itertuples()
    assert (row.length, row.documents, row.wins) == (512, 4, 4)
    assert row.ratio == pytest.approx(math.exp(-0.1))
    assert math.exp(-0.12) <= row.low < row.ratio < row.high <= math.exp(-0.08)
    low, high = bootstrap_interval(-gain)
    assert (row.low, row.high) == pytest.approx((math.exp(low), math.exp(high)))
    (back,) = paired_comparison(losses, "pi", "yarn").itertuples()
    assert (back.ratio, back.wins) == (pytest.approx(math.exp(0.1)), 0)
    alone = perplexity_summary(losses)
    assert alone["low"].max() < alone["high"].min()  # the intervals of the means overlap


def test_wins_are_documents_where_it_is_better():
    (row,) = paired_comparison(
        table({"a": [1.0, 2.0, 3.0], "b": [1.0, 2.5, 2.0]}), "a", "b"
    ).itertuples()
    assert (row.documents, row.wins) == (3, 1)  # a draw is no win


def test_rows_are_paired_by_document_not_by_place():
    losses = table({"a": [1.0, 2.0, 3.0], "b": [1.5, 2.5, 3.5]})
    shuffled = losses.iloc[[2, 0, 1, 3, 5, 4]]
    for ours in (losses, shuffled):
        (row,) = paired_comparison(ours, "a", "b").itertuples()
        assert (row.ratio, row.low, row.high, row.wins) == pytest.approx((*[math.exp(-0.5)] * 3, 3))


def test_documents_of_the_same_title_stay_apart():
    losses = table(
        {"a": [1.0, 2.0, 3.0], "b": [2.0, 3.0, 2.0]}, titles=["Poems", "Poems", "Letters"]
    )
    for ours in (losses, losses.iloc[[0, 1, 2, 5, 3, 4]]):
        (row,) = paired_comparison(ours, "a", "b").itertuples()
        assert (row.documents, row.wins) == (3, 2)
        assert row.ratio == pytest.approx(math.exp(-1 / 3))


def test_a_row_for_each_length_whatever_the_other_scalings_were_measured_on():
    losses = pd.concat(
        [
            table({"a": [1.0, 2.0], "b": [1.5, 2.5]}, 1024),
            table({"a": [1.0], "b": [0.5]}, 512),
            table({"c": [1.0]}, 9),
        ]
    )
    compared = paired_comparison(losses, "a", "b")
    assert compared["length"].tolist() == [1024, 512]
    np.testing.assert_allclose(compared["ratio"], np.exp([-0.5, 0.5]))
    assert compared["low"].isna().tolist() == [False, True]  # one document has no interval


@pytest.mark.parametrize(
    ("losses", "message"),
    [
        (table({"yarn": [1.0]}), "unknown scaling of this table 'pi': .*Known: yarn"),
        (table({"pi": [1.0]}), "unknown scaling of this table 'yarn'"),
        (
            table({"yarn": [1.0, 2.0], "pi": [1.0]}),
            "'yarn' and 'pi' were not measured on the same documents",
        ),
        (
            pd.concat([table({"yarn": [1.0]}, 512), table({"pi": [1.0]}, 1024)]),
            "not measured on the same documents and lengths",
        ),
        (
            table({"yarn": [1.0, math.nan], "pi": [1.0, 2.0]}),
            "a loss of 'yarn' or 'pi' is not a number",
        ),
    ],
)
def test_paired_comparison_errors(losses, message):
    with pytest.raises(ValueError, match=message):
        paired_comparison(losses, "yarn", "pi")


def test_accuracy_summary():
    trials = pd.DataFrame(
        [("yarn", 512, 0.5, True)] * 3
        + [("yarn", 512, 1.0, False)]
        + [("none", 512, 0.5, False)] * 2,
        columns=["scaling", "length", "depth", "correct"],
    )
    summary = accuracy_summary(trials)
    assert list(summary) == ["scaling", "length", "trials", "accuracy", "low", "high"]
    assert summary.iloc[:, :4].to_numpy().tolist() == [
        ["yarn", 512, 4, 0.75],
        ["none", 512, 2, 0.0],
    ]
    assert (summary["low"][0], summary["high"][0]) == wilson_interval(3, 4)
    by_cell = accuracy_summary(trials, by=("scaling", "length", "depth"))
    assert by_cell[["depth", "trials", "accuracy"]].to_numpy().tolist() == [
        [0.5, 3, 1],
        [1, 1, 0],
        [0.5, 2, 0],
    ]
    assert accuracy_summary(trials, by=("scaling",))["trials"].tolist() == [4, 2]


def test_paired_comparison_with_every_other():
    losses = table({"a": [1.0, 2.0], "b": [1.5, 2.5], "c": [0.5, 1.5]})
    rows = paired_comparison(losses, "a")
    assert rows["baseline"].tolist() == ["b", "c"] and rows["wins"].tolist() == [2, 0]
    alone = losses[losses["scaling"] == "a"]
    assert paired_comparison(alone, "a").empty


@pytest.mark.parametrize("score", [5.0, -1.0, float("nan")])
def test_a_score_that_is_no_share(score):
    with pytest.raises(ValueError, match=r"a score is .*: it goes from 0"):
        share_interval(pd.Series([1.0, score]))


def test_groups_by_no_column():
    with pytest.raises(ValueError, match="by is empty: name at least one column"):
        next(groups_of(pd.DataFrame({"a": [1]}), (), "needles"))


def test_rows_without_a_name_are_a_group():
    table = pd.DataFrame({"scaling": ["a", None], "length": [64, 64], "correct": [True, False]})
    assert accuracy_summary(table)["accuracy"].tolist() == [1.0, 0.0]
