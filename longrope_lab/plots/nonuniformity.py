"""Figures of LongRoPE's two non-uniformities: by dimension (a search against the formulas), by position (n-hat)."""

from __future__ import annotations

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullFormatter, NullLocator

from .style import RC, legend_aside, styles_of, subplots

# (line, marker filled): the first target of a method, its second, and so on.
LINES = (("-", True), ("--", False), ("-.", True), (":", False))


def paired_ratios(table: pd.DataFrame, scaling: str, panels: str | None = None) -> Figure:
    """One scaling's perplexity over each other one's, on the same documents: a point a baseline,
    with its interval.

    Args:
        table: as `paired_comparison` returns it, one row a baseline (and panel).
        scaling: what it compares, for the axis.
        panels: a further column of the table; one panel for each of its values.
    """
    groups = [("", table)] if panels is None else list(table.groupby(panels, sort=False))
    baselines = list(table["baseline"].unique())
    styles = styles_of(baselines)
    rows = {name: row for row, name in enumerate(baselines)}
    ends = table[["ratio", "low", "high"]].to_numpy(dtype=float)
    left, right = np.nanmin(ends) / 1.15, max(np.nanmax(ends), 1) * 1.15
    with mpl.rc_context(RC):
        figure, axes = subplots(
            1, len(groups), width=2.6, height=0.45 * len(baselines) + 1.1, sharex=True, sharey=True
        )
        for ax, (value, group) in zip(axes, groups, strict=True):
            ax.axvline(1, color="#777777", lw=1.2, zorder=1)
            for _, line in group.iterrows():
                colour, _, marker, _ = styles[str(line["baseline"])]
                row = rows[line["baseline"]]
                ax.plot([line["low"], line["high"]], [row, row], color=colour, lw=2.5, alpha=0.45)
                ax.plot(line["ratio"], row, marker, color=colour, ms=6)
                # Three decimals: two would call 0.996 a draw.
                words = f"{line['ratio']:.3f}"
                if np.isfinite(line["low"]):
                    words += f" ({line['low']:.3f} to {line['high']:.3f})"
                middle = np.clip(
                    np.log(line["ratio"] / left) / np.log(right / left), 0.3, 0.7
                )  # the words fit inside
                ax.annotate(words, (middle, row), xycoords=("axes fraction", "data"), xytext=(0, 7), ha="center",
                            textcoords="offset points", fontsize=7.5)  # fmt: skip
            ax.set_title(str(value), fontsize=10)
        axes[0].set_xscale("log")
        axes[0].set_xlim(left, right)
        axes[0].set_ylim(len(baselines) - 0.5, -0.7)
        axes[0].set_yticks(
            range(len(baselines)), [f"against {styles[str(n)][3]}" for n in baselines]
        )
        for ax in axes:
            _plain_log_axis(ax)
        label = f"perplexity with {scaling} / with the other (log scale): left of the line, {scaling} is better"
        figure.supxlabel(label, fontsize=10)
    return figure


def start_token_curves(table: pd.DataFrame, panels: str | None = None, top: float = 1.25) -> Figure:
    """Perplexity with the first n-hat tokens left unscaled over that with none, against n-hat.

    A colour a method, a line style a target, a bar for the 95 % interval where there is one.

    Args:
        table: columns method, target, start_tokens, ratio, low, high; rows with start_tokens = 0
            are left out, since they are the reference.
        panels: a further column of the table; one panel for each of its values.
        top: the axis ends here; what is higher is written at the edge.
    """
    table = table[table["start_tokens"] > 0]
    groups = [("", table)] if panels is None else list(table.groupby(panels, sort=False))
    styles = styles_of(table["method"].unique())
    targets = list(table["target"].unique())
    counts = sorted(table["start_tokens"].unique())
    with mpl.rc_context(RC):
        figure, axes = subplots(1, len(groups), width=3.9, height=3.9, sharex=True, sharey=True)
        for ax, (value, group) in zip(axes, groups, strict=True):
            ax.axhline(1, color="#777777", lw=1.2, zorder=1)
            over, curves = 0, list(group.groupby(["method", "target"], sort=False))
            for number, ((method, target), curve) in enumerate(curves):
                colour, _, marker, label = styles[str(method)]
                line, filled = LINES[targets.index(target) % len(LINES)]
                # Side by side, a twelfth of a doubling apart: intervals on top of each other cannot
                # be read.
                x = curve["start_tokens"] * 2 ** ((number - (len(curves) - 1) / 2) / 12)
                ax.vlines(x, curve["low"], curve["high"], color=colour, alpha=0.45, lw=2)
                ax.plot(x, curve["ratio"], line, color=colour, marker=marker, ms=5, lw=1.2,
                        mfc=colour if filled else "white", label=f"{label}, {target}")  # fmt: skip
                for at, ratio in zip(x, curve["ratio"], strict=True):
                    if ratio > top:
                        ax.annotate(f"↑ {ratio:.2f}", (at, top), xytext=(0, -9 - 13 * over), ha="center", zorder=5,
                                    textcoords="offset points", color=colour, fontsize=9,
                                    bbox={"facecolor": "white", "edgecolor": "none", "pad": 1})  # fmt: skip
                        over += 1
            ax.set_xscale("log", base=2)
            ax.xaxis.set_major_locator(FixedLocator(counts))
            ax.xaxis.set_minor_locator(NullLocator())
            ax.xaxis.set_major_formatter(FuncFormatter(lambda n, _: f"{n:g}"))
            ax.set_xlabel("n̂, first tokens left alone (log scale)")
            ax.set_title(str(value), fontsize=10)
        ends = table[["ratio", "low", "high"]].to_numpy(dtype=float)
        room = 0.05 * (min(np.nanmax(ends), top) - np.nanmin(ends)) + 0.002
        axes[0].set_ylim(np.nanmin(ends) - room, min(np.nanmax(ends) + room, top))
        axes[0].set_ylabel("perplexity / perplexity at n̂ = 0")
        legend_aside(axes[-1])
    return figure


def _plain_log_axis(ax: Axes) -> None:
    """Ratios around 1 on a log axis: plain numbers, and no more of them than fit."""
    ax.xaxis.set_major_locator(FixedLocator([0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10]))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
    ax.xaxis.set_minor_formatter(NullFormatter())
