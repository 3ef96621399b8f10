"""Figures of benchmarks: accuracy under each scaling, and its difference from a baseline's."""

from __future__ import annotations

from collections.abc import Mapping

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from .axes import beside, check_drawable, subplots
from .style import RC, REFERENCE_STYLE, WINDOW_STYLE, Style, styles_of


def benchmark_scores(
    summary: pd.DataFrame,
    paired: pd.DataFrame | None = None,
    chance: Mapping[str, float] | None = None,
) -> Figure:
    """Accuracy of each scaling, and beside it the paired difference from a baseline.

    There is one row of panels per task; bars are 95 % intervals, in words on the right.

    Args:
        summary: as `benchmark_summary` returns it.
        paired: as `paired_scores` returns it for the same table; None or empty: accuracies alone.
        chance: task -> accuracy of guessing, marked by a dashed line.
    """
    check_drawable(summary, "benchmark_summary", "task", "scaling", "accuracy", "low", "high")
    tasks, names = list(summary["task"].unique()), list(summary["scaling"].unique())
    styles = styles_of(names)
    columns = 1 if paired is None or paired.empty else 2
    height = 0.3 * len(names) + 1.1
    with mpl.rc_context(RC):
        figure, axes = subplots(len(tasks), columns, height=height, sharex="col", sharey=True)
        for row, task in enumerate(tasks):
            ax, *others = axes[columns * row : columns * (row + 1)]
            _accuracies(ax, summary[summary["task"] == task], names, styles)
            _mark_chance(ax, (chance or {}).get(task))
            for other in others:
                assert paired is not None
                _differences(other, paired[paired["task"] == task], names, styles)
        axes[0].set_yticks(range(len(names)), [styles[str(name)].label for name in names])
        axes[0].set_ylim(len(names) - 0.5, -0.5)
        axes[-columns].set_xlabel("accuracy (%)")
        if columns == 2:
            axes[-1].set_xlabel("difference (points)")
    return figure


def _accuracies(
    ax: Axes, group: pd.DataFrame, names: list[str], styles: Mapping[str, Style]
) -> None:
    _points(ax, group, "accuracy", names, styles, sign="")
    task, metric, shots, count = group.iloc[0][["task", "metric", "shots", "questions"]]
    ax.set_title(f"{task}\n{shots}-shot, {metric}, {count:,} questions", fontsize=9.5)


def _differences(
    ax: Axes, group: pd.DataFrame, names: list[str], styles: Mapping[str, Style]
) -> None:
    _points(ax, group, "difference", names, styles, sign="+")
    ax.axvline(0, **REFERENCE_STYLE)
    baseline = styles[str(group["baseline"].iloc[0])].label
    ax.set_title(f"minus the accuracy with {baseline},\non the same questions", fontsize=9.5)


def _mark_chance(ax: Axes, chance: float | None) -> None:
    if chance is not None:
        ax.axvline(100 * chance, **WINDOW_STYLE)
        ax.annotate("guessing", (100 * chance, 0), xycoords=("data", "axes fraction"),
                    xytext=(3, 3), textcoords="offset points", fontsize=8,
                    color="#666666")  # fmt: skip


def _points(
    ax: Axes,
    group: pd.DataFrame,
    value: str,
    names: list[str],
    styles: Mapping[str, Style],
    sign: str,
) -> None:
    """One row per scaling, in per cent: a point, its interval as a bar, and both in words."""
    # A thousand questions tell tenths of a point.
    form = sign + (".1f" if group["questions"].max() > 1000 else ".0f")
    for _, line in group.iterrows():
        row, style = names.index(line["scaling"]), styles[str(line["scaling"])]
        at, low, high = (100 * line[key] for key in (value, "low", "high"))
        ax.plot([low, high], [row, row], color=style.colour, lw=4, alpha=0.4,
                solid_capstyle="butt")  # fmt: skip
        ax.plot(at, row, style.marker, color=style.colour, ms=6)
        words = f"{at:{form}}" + (f" ({low:{form}} to {high:{form}})" if np.isfinite(low) else "")
        beside(ax, row, words.replace("-", "−"))
    ax.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    ax.margins(x=0.15)
