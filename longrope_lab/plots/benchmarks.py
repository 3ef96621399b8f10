"""Figures of benchmarks: accuracy under each scaling, and its difference from a baseline's."""

from __future__ import annotations

from collections.abc import Mapping

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from .style import RC, REFERENCE_STYLE, WINDOW_STYLE, Style, styles_of, subplots


def benchmark_scores(
    summary: pd.DataFrame,
    paired: pd.DataFrame | None = None,
    chance: Mapping[str, float] | None = None,
) -> Figure:
    """Accuracy of each scaling, and below it the paired difference from a baseline.

    There is one panel per task; bars are 95 % intervals.

    Args:
        summary: as `benchmark_summary` returns it.
        paired: as `paired_scores` returns it for the same table; None or empty: accuracies alone.
        chance: task -> accuracy of guessing, marked by a dashed line.
    """
    tasks, names = list(summary["task"].unique()), list(summary["scaling"].unique())
    styles = styles_of(names)
    others = [] if paired is None else list(paired["scaling"].unique())
    heights = [len(part) + 1.6 for part in (names, others) if part]
    height = 0.36 * sum(heights) / len(heights) + 0.5
    with mpl.rc_context(RC):
        figure, axes = subplots(len(heights), len(tasks), width=3.4, height=height,
                                height_ratios=heights, sharey="row")  # fmt: skip
        for task, ax in zip(tasks, axes, strict=False):
            _accuracies(ax, summary[summary["task"] == task], names, styles)
            _mark_chance(ax, (chance or {}).get(task))
        if paired is not None and others:
            for task, ax in zip(tasks, axes[len(tasks) :], strict=True):
                _points(ax, paired[paired["task"] == task], "difference", others, styles, sign="+")
                ax.axvline(0, **REFERENCE_STYLE)
                ax.set_xlabel("difference (points)")
            baseline = styles[str(paired["baseline"].iloc[0])].label
            words = f"below: accuracy minus that with {baseline}, on the same questions"
            figure.supxlabel(words, fontsize=9)
    return figure


def _accuracies(
    ax: Axes, group: pd.DataFrame, names: list[str], styles: Mapping[str, Style]
) -> None:
    _points(ax, group, "accuracy", names, styles, sign="")
    task, metric, shots, count = group.iloc[0][["task", "metric", "shots", "questions"]]
    ax.set_title(f"{task} ({shots}-shot, {metric}), {count:,} questions", fontsize=9.5)
    ax.set_xlabel("accuracy (%)")


def _mark_chance(ax: Axes, chance: float | None) -> None:
    if chance is not None:
        ax.axvline(100 * chance, **WINDOW_STYLE)
        ax.annotate("guessing", (100 * chance, 1), xycoords=("data", "axes fraction"),
                    xytext=(3, -3), textcoords="offset points", va="top", fontsize=8,
                    color="#777777")  # fmt: skip


def _points(
    ax: Axes,
    group: pd.DataFrame,
    value: str,
    names: list[str],
    styles: Mapping[str, Style],
    sign: str,
) -> None:
    """One row per scaling, in per cent: a point, its interval as a bar, and both in words above."""
    # A thousand questions tell tenths of a point.
    form = sign + (".1f" if group["questions"].max() > 1000 else ".0f")
    for _, line in group.iterrows():
        row, style = names.index(line["scaling"]), styles[str(line["scaling"])]
        at, low, high = (100 * line[key] for key in (value, "low", "high"))
        ax.plot([low, high], [row, row], color=style.colour, lw=2.5, alpha=0.45)
        ax.plot(at, row, style.marker, color=style.colour, ms=6)
        words = f"{at:{form}}" + (f" ({low:{form}} to {high:{form}})" if np.isfinite(low) else "")
        ax.annotate(words.replace("-", "−"), (at, row), xytext=(0, 6), ha="center", fontsize=7.5,
                    textcoords="offset points")  # fmt: skip
    ax.set_yticks(range(len(names)), [styles[str(name)].label for name in names])
    ax.set_ylim(len(names) - 0.5, -0.8)
    ax.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    ax.margins(x=0.15)
