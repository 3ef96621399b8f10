"""Figures of needle tasks: what is drawn, in which rows, and what is refused."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

from longrope_lab import plots


def found(tasks=("single", "words"), scalings=("none", "yarn")):
    """A needles table: "single" is found at 512 alone, and "words" has no depth."""
    rows = [
        (scaling, task, length, depth, trial, float(length == 512 and task != "words"))
        for scaling in scalings
        for task in tasks
        for length in (512, 1024)
        for depth in ((math.nan,) if task == "words" else (0.0, 1.0))
        for trial in range(3)
    ]
    return pd.DataFrame(rows, columns=["scaling", "task", "length", "depth", "trial", "found"])


def words_in(ax):
    return [text.get_text() for text in ax.texts]


def test_a_heatmap_of_tasks():
    figure = plots.needle_heatmap(found(), window=512)
    none, yarn, bar = figure.axes
    assert [ax.get_title() for ax in (none, yarn)] == ["no scaling", "YaRN"]
    assert words_in(none) == words_in(yarn) == ["6/6", "0/6", "0/3", "0/3"]
    assert [label.get_text() for label in none.get_yticklabels()] == ["single", "words"]
    assert none.get_lines()[0].get_xdata()[0] == 0.5  # after the last length inside the window
    assert bar.get_ylabel() == "found" and "6 prompts per cell" in figure.get_supxlabel()


def test_a_heatmap_of_depths_leaves_out_what_has_none():
    none, *_ = plots.needle_heatmap(found(), rows="depth").axes
    assert [label.get_text() for label in none.get_yticklabels()] == ["0%", "100%"]
    assert words_in(none) == ["3/3", "0/3"] * 2
    with pytest.raises(ValueError, match="no task of the table has a depth"):
        plots.needle_heatmap(found(tasks=("words",)), rows="depth")
    with pytest.raises(ValueError, match="unknown rows 'tasks': did you mean 'task'"):
        plots.needle_heatmap(found(), rows="tasks")


def test_cells_in_words_of_shares():
    table = found(tasks=("single",), scalings=("none",))
    (ax, _) = plots.needle_heatmap(pd.concat([table] * 5)).axes
    assert words_in(ax) == ["100%", "0%"]


def trades():
    rows = [
        (value, task, perplexity, perplexity - 1, perplexity + 1, share, share / 2, 1.0)
        for value, perplexity, shares in ((1.0, 30.0, (0.2, 0.1)), (1.2, 35.0, (0.9, 0.4)))
        for task, share in zip(("single", "words"), shares, strict=True)
    ]
    columns = ["value", "task", "perplexity", "low", "high", "found", "found_low", "found_high"]
    return pd.DataFrame(rows, columns=columns)


def test_a_trade_off_is_drawn_with_its_best_points():
    figure = plots.trade_off_curves(trades(), "weight")
    left, right = figure.axes
    curve, best = left.get_lines()
    np.testing.assert_allclose(curve.get_xydata(), [[1, 30], [1.2, 35]])
    assert best.get_xydata().tolist() == [[1, 30]]
    curves = {line.get_label(): line for line in right.get_lines() if line.get_label()[0] != "_"}
    assert list(curves) == ["single", "words", "lowest perplexity"]
    np.testing.assert_allclose(curves["words"].get_xydata(), [[1, 0.1], [1.2, 0.4]])
    assert set(curves["lowest perplexity"].get_xdata()) == {1.0}
    assert {ax.get_xlabel() for ax in (left, right)} == {"weight"}
    assert len(left.collections) == 1 and len(right.collections) == 2


@pytest.mark.parametrize("draw", [plots.needle_heatmap, plots.trade_off_curves])
def test_a_table_that_there_is_nothing_to_draw_of(draw):
    table = found() if draw is plots.needle_heatmap else trades()
    made_by = "needles" if draw is plots.needle_heatmap else "trade_off"
    with pytest.raises(ValueError, match=f"has no rows.*pass one that {made_by} returns"):
        draw(table[:0])
    with pytest.raises(ValueError, match=rf"has no column 'task': pass one that {made_by}"):
        draw(table.drop(columns="task"))
