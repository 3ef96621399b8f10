"""Figures of answers by choice: accuracy against chance, and the loss of the right answer."""

from __future__ import annotations

from collections.abc import Mapping

import matplotlib as mpl
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, PercentFormatter

from ..common.checks import unknown
from .axes import (
    ABOVE_WINDOW,
    check_drawable,
    legend_below,
    length_axis,
    mark_window,
    small_multiples,
)
from .style import BLACK, RC, REFERENCE_STYLE, LineStyle, Style, styles_of, tokens

GUESSING: LineStyle = {**REFERENCE_STYLE, "linestyle": (0, (2, 2))}
POSSIBLE: LineStyle = {"linestyle": "-.", "linewidth": 1.0, "zorder": 2}


# (columns of the value and its interval, of guessing; the axis; what guessing is called)
VALUES = {
    "accuracy": (("accuracy", "low", "high", "chance"), "right answers", "guessing"),
    "loss": (
        ("loss", "loss_low", "loss_high", "even"),
        "loss of the right answer (nats)",
        "no preference",
    ),
}


def choice_curves(
    summary: pd.DataFrame, window: int | None = None, *, value: str = "accuracy"
) -> Figure:
    """Answers by choice against the length, a panel per task, one curve per scaling.

    Bands are 95 % intervals, and a grey dashed line is guessing. Beside accuracies, thin lines are
    what a perfect reader of the same tokens scores, who guesses where the answer is out of sight.
    Under each length stands how many examples it holds, where there are any.

    Args:
        summary: as `choice_summary` returns it.
        window: the trained window in tokens, marked by a dashed line.
        value: "accuracy", or "loss".
    """
    if value not in VALUES:
        raise unknown("value", value, VALUES)
    columns, label, guess = VALUES[value]
    needed = ("scaling", "task", "length", "questions", "examples", "possible", *columns)
    check_drawable(summary, "choice_summary", *needed, window=window)
    styles = styles_of(summary["scaling"].unique())
    groups = list(summary.groupby("task", sort=False))
    with mpl.rc_context(RC):
        figure, axes = small_multiples(len(groups), 3, height=3.3, sharex=True, sharey=True)
        for ax, (task, rows) in zip(axes, groups, strict=True):
            _curves(ax, rows, styles, columns)
            if value == "accuracy":
                _possible(ax, rows, styles)
            ax.axhline(rows[columns[-1]].mean(), **GUESSING, label=guess)
            _lengths(ax, rows)
            mark_window(ax, window)
            ax.set_title(str(task), pad=ABOVE_WINDOW)
        if value == "accuracy":
            axes[0].set_ylim(-0.04, 1.06)
            axes[0].yaxis.set_major_formatter(PercentFormatter(1))
        figure.supylabel(f"{label}{_asked(summary)}", fontsize=10)
        legend_below(figure, axes[-1])
    return figure


def _curves(
    ax: Axes, rows: pd.DataFrame, styles: Mapping[str, Style], columns: tuple[str, ...]
) -> None:
    for name, curve in rows.groupby("scaling", sort=False):
        colour, line, marker, label = styles[str(name)]
        x, (middle, low, high, _) = curve["length"], (curve[column] for column in columns)
        ax.fill_between(x, low, high, color=colour, alpha=0.15, lw=0)
        ax.plot(x, middle, line, color=colour, marker=marker, ms=5, label=label, zorder=3)


def _possible(ax: Axes, rows: pd.DataFrame, styles: Mapping[str, Style]) -> None:
    """What a perfect reader scores, in each scaling's colour; the legend names one of them."""
    for name, curve in rows.groupby("scaling", sort=False):
        style: LineStyle = {**POSSIBLE, "color": styles[str(name)].colour}
        ax.plot(curve["length"], curve["possible"], **style)
    named: LineStyle = {**POSSIBLE, "color": BLACK}
    ax.plot([], [], **named, label="a perfect reader")


def _lengths(ax: Axes, rows: pd.DataFrame) -> None:
    """A tick per length, and under it how many examples the longest prompt holds."""
    lengths = sorted(rows["length"].unique())
    length_axis(ax, lengths)
    most = rows.groupby("length")["examples"].max()
    if not most.any():
        return
    labels = {n: f"{tokens(n)}\n{most[n]:,.0f}" for n in lengths}
    ax.xaxis.set_major_formatter(FuncFormatter(lambda n, _: labels.get(round(n), "")))
    ax.set_xlabel("length (tokens, log scale),\nand examples that it holds")


def _asked(summary: pd.DataFrame) -> str:
    counts = summary["questions"]
    few, many = int(counts.min()), int(counts.max())
    return f"\n({few if few == many else f'{few} to {many}'} questions per point)"
