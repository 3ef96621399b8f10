"""Figures of LongRoPE's two non-uniformities.

By dimension, a search is compared with the formulas; by position, n-hat with none."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import cycle

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .axes import (
    beside,
    check_drawable,
    legend_below,
    length_axis,
    log_x,
    panels_of,
    small_multiples,
)
from .style import RC, REFERENCE_STYLE, Style, styles_of

# (line, marker filled): the first target of a method, its second, and so on.
LINES = (("-", True), ("--", False), ("-.", True), (":", False))

INTERVAL = ["ratio", "low", "high"]


def paired_ratios(table: pd.DataFrame, scaling: str, panels: str | None = None) -> Figure:
    """One scaling's perplexity over each other one's, on the same documents.

    Each baseline has a point, its interval as a bar, and both in words on the right.

    Args:
        table: as `paired_comparison` returns it, one row per baseline (and panel).
        scaling: what it compares, for the axis.
        panels: a further column of the table; one panel for each of its values.
    """
    check_drawable(table, "paired_comparison", "baseline", *INTERVAL)
    groups = panels_of(table, panels)
    baselines = list(table["baseline"].unique())
    styles = styles_of(baselines)
    ends = table[INTERVAL].to_numpy(dtype=float)
    height = 0.3 * len(baselines) + 0.8
    with mpl.rc_context(RC):
        figure, axes = small_multiples(len(groups), 2, height=height, sharex=True, sharey=True)
        for ax, (value, group) in zip(axes, groups, strict=True):
            ax.axvline(1, **REFERENCE_STYLE)
            for _, line in group.iterrows():
                row, style = baselines.index(line["baseline"]), styles[str(line["baseline"])]
                _ratio(ax, line, row, style)
            ax.set_title(str(value))
            log_x(ax)
        axes[0].set_xlim(min(np.nanmin(ends), 1) / 1.05, max(np.nanmax(ends), 1) * 1.05)
        axes[0].set_ylim(len(baselines) - 0.5, -0.5)
        names = [f"against {styles[str(n)].label}" for n in baselines]
        axes[0].set_yticks(range(len(baselines)), names)
        ratio = f"perplexity with {scaling} / with the other (log scale)"
        break_at = ":\n" if len(scaling) > 20 else ": "
        words = f"{ratio}{break_at}left of the line, {scaling} is better"
        figure.supxlabel(words, fontsize=10)
    return figure


def _ratio(ax: Axes, line: pd.Series[float], row: int, style: Style) -> None:
    """A point and its interval, and on the right of the panel both in words."""
    ratio, low, high = line[INTERVAL]
    ax.plot([low, high], [row, row], color=style.colour, lw=4, alpha=0.4, solid_capstyle="butt")
    ax.plot(ratio, row, style.marker, color=style.colour, ms=6)
    words = f"{ratio:.3f}"  # two decimals would call 0.996 a draw
    if np.isfinite(low):
        words += f" ({low:.3f} to {high:.3f})"
    beside(ax, row, words)


def start_token_curves(table: pd.DataFrame, panels: str | None = None, top: float = 1.25) -> Figure:
    """Perplexity with the first n-hat tokens left unscaled over that with none, against n-hat.

    There is one colour per method and one line style per target; a bar is a 95 % interval, where
    there is one.

    Args:
        table: columns method, target, start_tokens, ratio, low, high; rows with start_tokens = 0
            are left out, since they are the reference.
        panels: a further column of the table; one panel for each of its values.
        top: the axis ends here; what is higher is written at the edge.
    """
    columns = ("method", "target", "start_tokens", *INTERVAL)
    check_drawable(table, "start_token_ratios", *columns)
    table = table[table["start_tokens"] > 0]
    check_drawable(table, "start_token_ratios", *columns)  # of n̂ above 0, too
    groups = panels_of(table, panels)
    styles = styles_of(table["method"].unique())
    lines = dict(zip(table["target"].unique(), cycle(LINES), strict=False))
    with mpl.rc_context(RC):
        figure, axes = small_multiples(len(groups), 3, height=3.6, sharex=True, sharey=True)
        for ax, (value, group) in zip(axes, groups, strict=True):
            ax.axhline(1, **REFERENCE_STYLE)
            _sweeps(ax, group, styles, lines, top)
            length_axis(ax, sorted(table["start_tokens"].unique()))
            ax.tick_params(axis="x", labelsize=9)
            ax.set_xlabel("n̂, first tokens left alone (log scale)", fontsize=9)
            ax.set_title(str(value))
        ends = table[INTERVAL].to_numpy(dtype=float)
        room = 0.05 * (min(np.nanmax(ends), top) - np.nanmin(ends)) + 0.002
        axes[0].set_ylim(np.nanmin(ends) - room, min(np.nanmax(ends) + room, top))
        axes[0].set_ylabel("perplexity / perplexity at n̂ = 0")
        legend_below(figure, axes[-1])
    return figure


def _sweeps(
    ax: Axes,
    group: pd.DataFrame,
    styles: Mapping[str, Style],
    lines: Mapping[object, tuple[str, bool]],
    top: float,
) -> None:
    """The curves of one panel, and in words what lies above its edge."""
    over, curves = 0, list(group.groupby(["method", "target"], sort=False))
    for number, ((method, target), curve) in enumerate(curves):
        colour, _, marker, label = styles[str(method)]
        line, filled = lines[target]
        # Side by side, a twelfth of a doubling apart: intervals on top of each other cannot be
        # read.
        x = curve["start_tokens"] * 2 ** ((number - (len(curves) - 1) / 2) / 12)
        ax.vlines(x, curve["low"], curve["high"], color=colour, alpha=0.45, lw=2)
        ax.plot(x, curve["ratio"], line, color=colour, marker=marker, ms=5, lw=1.2,
                mfc=colour if filled else "white", label=f"{label}, {target}")  # fmt: skip
        for at, ratio in zip(x, curve["ratio"], strict=True):
            if ratio > top:
                ax.annotate(f"↑ {ratio:.2f}", (at, top), xytext=(0, -9 - 13 * over), ha="center",
                            zorder=5, textcoords="offset points", color=colour, fontsize=9,
                            bbox={"facecolor": "white", "edgecolor": "none", "pad": 1})  # fmt: skip
                over += 1
