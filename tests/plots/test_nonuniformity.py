"""Figures of the two non-uniformities: what is drawn where, and what is written."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from longrope_lab import plots


@pytest.fixture
def paired():
    rows = [
        ("kjv, 2x", "pi", 0.5, 0.45, 0.55),
        ("kjv, 2x", "yarn", 1.01, 0.99, 1.03),
        ("kjv, 4x", "pi", 0.25, 0.2, 0.3),
        ("kjv, 4x", "yarn", 0.9, np.nan, np.nan),
    ]
    return pd.DataFrame(rows, columns=["on", "baseline", "ratio", "low", "high"])


def points_of(ax):
    """Where the points of a panel stand: (ratio, row), without the line at 1 and the intervals."""
    return [
        tuple(map(float, (x, y)))
        for line in ax.get_lines()
        if line.get_marker() not in ("None", "", None)
        for x, y in zip(line.get_xdata(), line.get_ydata(), strict=True)
    ]


def test_paired_ratios_draw_each_ratio_and_its_interval(paired):
    figure = plots.paired_ratios(paired, "search", panels="on")
    assert [ax.get_title() for ax in figure.axes] == ["kjv, 2x", "kjv, 4x"]
    first, second = figure.axes
    assert points_of(first) == [(0.5, 0), (1.01, 1)] and points_of(second) == [(0.25, 0), (0.9, 1)]
    intervals = [
        tuple(line.get_xdata()) for line in first.get_lines() if len(line.get_xdata()) == 2
    ]
    assert (0.45, 0.55) in intervals and (0.99, 1.03) in intervals
    assert [t.get_text() for t in first.get_yticklabels()] == ["against PI", "against YaRN"]
    assert [t.get_text() for t in first.texts] == [
        "0.500 (0.450 to 0.550)",
        "1.010 (0.990 to 1.030)",
    ]
    assert [t.get_text() for t in second.texts][1] == "0.900"  # one document has no interval
    assert first.get_ylim()[0] > first.get_ylim()[1]  # in reading order from above
    assert "left of the line, search is better" in figure.get_supxlabel()


def test_the_words_of_paired_ratios_are_under_nothing(paired):
    """They stand on the right of their panel, inside the figure and left of the next panel."""
    near = paired.assign(ratio=[0.998, 1.001, 0.999, 1.0], low=0.99, high=1.01)
    for table in (paired, near):
        figure = plots.paired_ratios(table, "search", panels="on")
        figure.draw_without_rendering()
        one, other = figure.axes
        ends = (other.get_window_extent().x0, figure.bbox.x1)
        for ax, end in zip((one, other), ends, strict=True):
            for words in ax.texts:
                extent = words.get_window_extent()
                assert ax.get_window_extent().x1 < extent.x0 and extent.x1 <= end


def test_four_panels_of_ratios_are_two_rows(paired):
    twice = pd.concat([paired, paired.assign(on=paired["on"].str.replace("kjv", "python"))])
    figure = plots.paired_ratios(twice, "search", panels="on")
    places = [ax.get_subplotspec().rowspan.start for ax in figure.axes]
    assert places == [0, 0, 1, 1]


@pytest.fixture
def sweep():
    rows = [
        (part, method, target, n, 1 + n / 1000 * (k + 1), 1.0, 1.2)
        for part in ("all", "after 64")
        for k, (method, target) in enumerate([("pi", "2x"), ("pi", "4x"), ("dynamic_ntk", "2x")])
        for n in (0, 8, 64)
    ]
    return pd.DataFrame(
        rows, columns=["part", "method", "target", "start_tokens", "ratio", "low", "high"]
    )


def test_start_token_curves_draw_the_ratios_without_the_reference(sweep):
    figure = plots.start_token_curves(sweep, panels="part")
    assert [ax.get_title() for ax in figure.axes] == ["all", "after 64"]
    for ax in figure.axes:
        curves = {
            line.get_label(): line
            for line in ax.get_lines()
            if not line.get_label().startswith("_")
        }
        assert list(curves) == ["PI, 2x", "PI, 4x", "Dynamic NTK, 2x"]
        np.testing.assert_allclose(
            curves["PI, 4x"].get_xdata(), [8, 64]
        )  # the middle one of the three
        np.testing.assert_allclose(curves["PI, 4x"].get_ydata(), [1.016, 1.128])
        assert curves["PI, 2x"].get_linestyle() == "-" and curves["PI, 4x"].get_linestyle() == "--"
        assert {curves[name].get_color() for name in ("PI, 2x", "PI, 4x")} == {
            plots.STYLES["pi"][0]
        }
        assert len(ax.collections) == 3  # an interval each
        assert not ax.texts
    assert figure.axes[0].get_ylim() == figure.axes[1].get_ylim()


def test_what_is_above_the_axis_is_written_at_its_edge(sweep):
    sweep.loc[
        (sweep["part"] == "all") & (sweep["target"] == "4x") & (sweep["start_tokens"] == 64),
        "ratio",
    ] = 3.906
    all_tokens, after = plots.start_token_curves(sweep, panels="part", top=1.25).axes
    assert [t.get_text() for t in all_tokens.texts] == ["↑ 3.91"] and not after.texts
    assert all_tokens.get_ylim()[1] <= 1.25


def test_figures_without_panels(paired, sweep):
    assert len(plots.paired_ratios(paired[paired["on"] == "kjv, 2x"], "search").axes) == 1
    without_intervals = sweep[sweep["part"] == "all"].assign(low=np.nan, high=np.nan)
    (ax,) = plots.start_token_curves(without_intervals).axes
    assert ax.get_title() == ""
