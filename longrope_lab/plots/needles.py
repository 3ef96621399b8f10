"""Figures of needle tasks: what is found by task, length and depth, and what it costs."""

from __future__ import annotations

import matplotlib as mpl
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..common.checks import check_table, unknown
from ..measure.retrieval import needle_summary
from .axes import check_drawable, legend_below, small_multiples, subplots
from .measured import heatmap, mark_after_window, name_cells, share_bar
from .style import BLACK, OTHERS, RC, STYLES, styles_of

ROWS = ("task", "depth")

# What a trade-off's tasks are drawn in, one after the other.
TASK_COLOURS = (STYLES["dynamic_ntk"].colour, STYLES["longrope"].colour, *OTHERS)
MARKERS = "osD^vP"


def needle_heatmap(table: pd.DataFrame, window: int | None = None, *, rows: str = "task") -> Figure:
    """Share of needles found by length and by task or depth, one panel per scaling.

    Args:
        table: as `needles` returns it.
        window: the trained window in tokens, marked by a dashed line after the last length inside
            it.
        rows: "task", over all depths; or "depth", over all tasks that have one.
    """
    if rows not in ROWS:
        raise unknown("rows", rows, ROWS)
    check_drawable(table, "needles", "scaling", "task", "length", "depth", "found", window=window)
    if table[rows].isna().all():
        raise ValueError("no task of the table has a depth: draw it by rows='task'")
    summary = needle_summary(table.dropna(subset=[rows]), ("scaling", rows, "length"))
    names = list(summary["scaling"].unique())
    styles = styles_of(names)
    lengths = sorted(summary["length"].unique().tolist())
    values = summary[rows].unique().tolist()
    values = sorted(values) if rows == "depth" else values
    labels = [f"{v:.0%}" for v in values] if rows == "depth" else [str(v) for v in values]
    most, height = max(int(15 / max(len(lengths), 2)), 1), 0.26 * len(values) + 0.9
    with mpl.rc_context({**RC, "axes.grid": False}):
        figure, axes = small_multiples(len(names), most, height=height, sharex=True, sharey=True)
        for ax, name in zip(axes, names, strict=True):
            of = summary[summary["scaling"] == name]
            shares, counts = (
                of.pivot_table(index=rows, columns="length", values=value)
                .reindex(index=values, columns=lengths)
                .to_numpy(dtype=float)
                for value in ("found", "prompts")
            )
            image = heatmap(ax, shares, counts, labels, lengths)
            mark_after_window(ax, lengths, window)
            ax.set_title(styles[str(name)].label, color=styles[str(name)].colour)
        figure.supylabel("depth" if rows == "depth" else "", fontsize=10)
        name_cells(figure, window, int(summary["prompts"].max()))
        share_bar(figure, image, axes).set_label("found", fontsize=9)
    return figure


def trade_off_curves(table: pd.DataFrame, name: str = "attention factor m") -> Figure:
    """Perplexity and what is found, over what sets one against the other.

    The lowest perplexity and what finds most in each task are filled, and a dotted line marks the
    lowest perplexity among the tasks.

    Args:
        table: as `trade_off` returns it.
        name: of the values, for the axis.
    """
    columns = ("value", "task", "perplexity", "low", "high", "found", "found_low", "found_high")
    check_table(table, "trade_off", *columns)
    with mpl.rc_context(RC):
        figure, (left, right) = subplots(1, 2, height=3.4, sharex=True)
        losses = table.drop_duplicates("value")
        _curve(left, losses, ("perplexity", "low", "high"), BLACK, "o", "perplexity", least=True)
        left.set(ylabel="perplexity (log scale)", yscale="log", xlabel=name)
        left.yaxis.set_major_formatter("{x:.3g}")
        left.yaxis.set_minor_formatter("{x:.3g}")
        for number, (task, rows) in enumerate(table.groupby("task", sort=False)):
            style = TASK_COLOURS[number % len(TASK_COLOURS)], MARKERS[number % len(MARKERS)]
            _curve(
                right, rows, ("found", "found_low", "found_high"), *style, str(task), least=False
            )
        right.set(ylabel="share of needles found", ylim=(-0.04, 1.04), xlabel=name)
        lowest = float(losses.sort_values("perplexity")["value"].iloc[0])
        right.axvline(lowest, color=BLACK, linestyle=":", linewidth=1, label="lowest perplexity")
        legend_below(figure, right)
    return figure


def _curve(
    ax: Axes,
    rows: pd.DataFrame,
    columns: tuple[str, str, str],
    colour: str,
    marker: str,
    label: str,
    *,
    least: bool,
) -> None:
    """One curve with its intervals; its best point is filled, the others are open."""
    middle, low, high = (rows[column].to_numpy(dtype=float) for column in columns)
    values = rows["value"].to_numpy(dtype=float)
    ax.fill_between(values, low, high, color=colour, alpha=0.13, linewidth=0)
    ax.plot(values, middle, color=colour, marker=marker, label=label, markerfacecolor="white")
    best = middle.argmin() if least else middle.argmax()
    ax.plot(values[best], middle[best], color=colour, marker=marker, markersize=9)
