"""Curves of searches: they begin where the search did, and nothing of their fall is cut off."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from longrope_lab import plots
from longrope_lab.plots.style import STYLES


def history(search, rows):
    """Rows of (round, kind, perplexity); a measurement costs 2, a step 4."""
    table = pd.DataFrame(rows, columns=["round", "kind", "perplexity"])
    table["loss"] = np.log(table["perplexity"])
    whole = table["perplexity"].where(table["kind"] != "step")
    table["best_perplexity"] = whole.cummin().ffill()
    table["forwards"] = np.where(table["kind"] == "step", 4, 2).cumsum()
    return table.assign(search=search, dropped=False).drop(columns="perplexity")


EVOLUTION = history(
    "evolution",
    [(0, "initial", 300.0), (0, "initial", 130.0), (0, "initial", 71.0), (0, "mutation", 90.0),
     (1, "mutation", 70.8), (1, "crossover", 71.2)],
)  # fmt: skip
GRADIENT = history(
    "gradient",
    [(0, "validation", 71.1), (1, "step", 127.0), (2, "step", 40.0), (2, "validation", 69.0),
     (3, "step", 120.0), (3, "validation", 69.5)],
)  # fmt: skip


@pytest.fixture
def ax():
    (ax,) = plots.search_curves(pd.concat([EVOLUTION, GRADIENT], ignore_index=True)).axes
    return ax


def curve(ax, label):
    (line,) = [line for line in ax.lines if line.get_label() == label]
    return line


def test_measurements_of_a_gradient_search_are_joined_dots(ax):
    """At what it measured on all documents, also where that is no better than before."""
    line = curve(ax, "gradient")
    np.testing.assert_allclose(line.get_xydata(), [(2, 71.1), (12, 69.0), (18, 69.5)])
    assert line.get_marker() == STYLES["gradient"].marker
    assert line.get_drawstyle() == "default"


def test_an_evolution_is_steps_from_the_best_of_its_start(ax):
    line = curve(ax, "evolution")
    assert line.get_drawstyle() == "steps-post"
    np.testing.assert_allclose(line.get_xydata()[[0, -1]], [(6, 71.0), (12, 70.8)])


def test_the_limits_hold_the_curves_and_little_more(ax):
    low, high = ax.get_ylim()
    assert 68 < low < 69.0 and 71.1 < high < 72
    (dots,) = ax.collections
    np.testing.assert_allclose(dots.get_offsets(), [(10, 70.8), (12, 71.2)])
    (above,) = [line for line in ax.lines if line.get_marker() == "^"]
    np.testing.assert_allclose(above.get_xydata(), [(8, high)])  # 90, at the edge


def test_a_search_without_formulas_begins_with_its_first_candidate():
    random = history("random", [(0, "random", 400.0), (0, "random", 200.0), (0, "random", 300.0)])
    (ax,) = plots.search_curves(random).axes
    np.testing.assert_allclose(curve(ax, "random").get_ydata(), [400, 200, 200])


def test_a_search_that_stood_still_has_limits():
    (ax,) = plots.search_curves(history("evolution", [(0, "initial", 70.0)])).axes
    low, high = ax.get_ylim()
    assert low < 70 < high


def test_panels_have_limits_of_their_own():
    far = EVOLUTION.assign(best_perplexity=10 * EVOLUTION["best_perplexity"])
    both = pd.concat({"near": EVOLUTION, "far": far}, names=["to"]).reset_index(level=0)
    near, other = plots.search_curves(both, panels="to").axes
    assert near.get_title() == "to near" and near.get_ylim()[1] < 100 < other.get_ylim()[0]
