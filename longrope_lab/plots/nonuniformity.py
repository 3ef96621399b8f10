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
from matplotlib.ticker import FixedLocator, FuncFormatter, NullFormatter, NullLocator

from .style import RC, REFERENCE_STYLE, Style, legend_aside, panels_of, plain, styles_of, subplots

# (line, marker filled): the first target of a method, its second, and so on.
LINES = (("-", True), ("--", False), ("-.", True), (":", False))

INTERVAL = ["ratio", "low", "high"]


def paired_ratios(table: pd.DataFrame, scaling: str, panels: str | None = None) -> Figure:
    """One scaling's perplexity over each other one's, on the same documents.

    Each baseline has a point, with its interval as a bar.

    Args:
        table: as `paired_comparison` returns it, one row per baseline (and panel).
        scaling: what it compares, for the axis.
        panels: a further column of the table; one panel for each of its values.
    """
    groups = panels_of(table, panels)
    baselines = list(table["baseline"].unique())
    styles = styles_of(baselines)
    ends = table[INTERVAL].to_numpy(dtype=float)
    left, right = np.nanmin(ends) / 1.15, max(np.nanmax(ends), 1) * 1.15
    height = 0.45 * len(baselines) + 1.1
    with mpl.rc_context(RC):
        figure, axes = subplots(1, len(groups), width=2.6, height=height, sharex=True, sharey=True)
        for ax, (value, group) in zip(axes, groups, strict=True):
            ax.axvline(1, **REFERENCE_STYLE)
            for _, line in group.iterrows():
                row, style = baselines.index(line["baseline"]), styles[str(line["baseline"])]
                _ratio(ax, line, row, style, (left, right))
            ax.set_title(str(value), fontsize=10)
        axes[0].set_xscale("log")
        axes[0].set_xlim(left, right)
        axes[0].set_ylim(len(baselines) - 0.5, -0.7)
        names = [f"against {styles[str(n)].label}" for n in baselines]
        axes[0].set_yticks(range(len(baselines)), names)
        for ax in axes:
            _plain_log_axis(ax)
        ratio = f"perplexity with {scaling} / with the other (log scale)"
        figure.supxlabel(f"{ratio}: left of the line, {scaling} is better", fontsize=10)
    return figure


def _ratio(
    ax: Axes, line: pd.Series[float], row: int, style: Style, limits: tuple[float, float]
) -> None:
    """A point, its interval, and both in words above it."""
    ratio, low, high = line[INTERVAL]
    ax.plot([low, high], [row, row], color=style.colour, lw=2.5, alpha=0.45)
    ax.plot(ratio, row, style.marker, color=style.colour, ms=6)
    words = f"{ratio:.3f}"  # two decimals would call 0.996 a draw
    if np.isfinite(low):
        words += f" ({low:.3f} to {high:.3f})"
    left, right = limits
    middle = np.log(ratio / left) / np.log(right / left)
    inside = np.clip(middle, 0.3, 0.7)  # so that the words fit
    ax.annotate(words, (inside, row), xycoords=("axes fraction", "data"), xytext=(0, 7),
                ha="center", textcoords="offset points", fontsize=7.5)  # fmt: skip


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
    table = table[table["start_tokens"] > 0]
    groups = panels_of(table, panels)
    styles = styles_of(table["method"].unique())
    lines = dict(zip(table["target"].unique(), cycle(LINES), strict=False))
    with mpl.rc_context(RC):
        figure, axes = subplots(1, len(groups), width=3.9, height=3.9, sharex=True, sharey=True)
        for ax, (value, group) in zip(axes, groups, strict=True):
            ax.axhline(1, **REFERENCE_STYLE)
            _sweeps(ax, group, styles, lines, top)
            ax.set_xscale("log", base=2)
            ax.xaxis.set_major_locator(FixedLocator(sorted(table["start_tokens"].unique())))
            ax.xaxis.set_minor_locator(NullLocator())
            ax.xaxis.set_major_formatter(FuncFormatter(plain))
            ax.set_xlabel("n̂, first tokens left alone (log scale)")
            ax.set_title(str(value), fontsize=10)
        ends = table[INTERVAL].to_numpy(dtype=float)
        room = 0.05 * (min(np.nanmax(ends), top) - np.nanmin(ends)) + 0.002
        axes[0].set_ylim(np.nanmin(ends) - room, min(np.nanmax(ends) + room, top))
        axes[0].set_ylabel("perplexity / perplexity at n̂ = 0")
        legend_aside(axes[-1])
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


def _plain_log_axis(ax: Axes) -> None:
    """Ratios around 1 on a log axis: plain numbers, and no more of them than fit."""
    ax.xaxis.set_major_locator(FixedLocator([0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10]))
    ax.xaxis.set_major_formatter(FuncFormatter(plain))
    ax.xaxis.set_minor_formatter(NullFormatter())
