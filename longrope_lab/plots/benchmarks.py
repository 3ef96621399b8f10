"""Figures of benchmarks: accuracy under each scaling, and what it differs by from a baseline's, a panel a task."""

from __future__ import annotations

from collections.abc import Mapping

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ..common.files import Json
from .style import RC, WINDOW_STYLE, styles_of, subplots


def benchmark_scores(
    summary: pd.DataFrame,
    paired: pd.DataFrame | None = None,
    chance: Mapping[str, float] | None = None,
) -> Figure:
    """Accuracy a scaling with its 95 % interval, and below it the paired difference from a baseline
    with its own.

    Args:
        summary: as `benchmark_summary` returns it.
        paired: as `paired_scores` returns it for the same table; None or empty: accuracies alone.
        chance: task -> accuracy of guessing, marked by a dashed line.
    """
    tasks, names = list(summary["task"].unique()), list(summary["scaling"].unique())
    styles = styles_of(names)
    others = [] if paired is None else list(paired["scaling"].unique())
    heights = [len(part) + 1.6 for part in (names, others) if part]
    with mpl.rc_context(RC):
        figure, axes = subplots(
            len(heights),
            len(tasks),
            width=3.4,
            height=0.36 * sum(heights) / len(heights) + 0.5,
            height_ratios=heights,
            sharey="row",
        )
        for task, ax in zip(tasks, axes, strict=False):
            group = summary[summary["task"] == task]
            _points(ax, group, "accuracy", names, styles, sign="")
            if chance and task in chance:
                ax.axvline(100 * chance[task], **WINDOW_STYLE)
                ax.annotate("guessing", (100 * chance[task], 1), xycoords=("data", "axes fraction"), xytext=(3, -3),
                            textcoords="offset points", va="top", fontsize=8, color="#777777")  # fmt: skip
            metric, shots, count = group.iloc[0][["metric", "shots", "questions"]]
            ax.set_title(f"{task} ({shots}-shot, {metric}), {count:,} questions", fontsize=9.5)
            ax.set_xlabel("accuracy (%)")
        if paired is not None and others:
            for task, ax in zip(tasks, axes[len(tasks) :], strict=True):
                _points(ax, paired[paired["task"] == task], "difference", others, styles, sign="+")
                ax.axvline(0, color="#777777", lw=1.2, zorder=1)
                ax.set_xlabel("difference (points)")
            baseline = styles[str(paired["baseline"].iloc[0])][3]
            figure.supxlabel(
                f"below: accuracy minus that with {baseline}, on the same questions", fontsize=9
            )
    return figure


def _points(
    ax: Axes, group: pd.DataFrame, value: str, names: list[str], styles: Json, sign: str
) -> None:
    """A row a scaling, in per cent: a point, its interval as a bar, and both in words above it."""
    form = sign + (
        ".1f" if group["questions"].max() > 1000 else ".0f"
    )  # a thousand questions tell tenths of a point
    for _, line in group.iterrows():
        row = names.index(line["scaling"])
        colour, _, marker, _ = styles[str(line["scaling"])]
        at, low, high = (100 * line[key] for key in (value, "low", "high"))
        ax.plot([low, high], [row, row], color=colour, lw=2.5, alpha=0.45)
        ax.plot(at, row, marker, color=colour, ms=6)
        words = f"{at:{form}}" + (f" ({low:{form}} to {high:{form}})" if np.isfinite(low) else "")
        ax.annotate(words.replace("-", "−"), (at, row), xytext=(0, 6), textcoords="offset points", ha="center",
                    fontsize=7.5)  # fmt: skip
    ax.set_yticks(range(len(names)), [styles[str(name)][3] for name in names])
    ax.set_ylim(len(names) - 0.5, -0.8)
    ax.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    ax.margins(x=0.15)
