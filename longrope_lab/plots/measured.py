"""Figures of measurements: perplexity, passkeys, cost. Pure functions of the tables; nothing is measured here."""

from __future__ import annotations

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from ..measure.stats import accuracy_summary, perplexity_summary
from .style import (
    RC,
    WINDOW_STYLE,
    few_minor_labels,
    legend_aside,
    length_axis,
    mark_window,
    styles_of,
    subplots,
    tokens,
)


def perplexity_curves(
    table: pd.DataFrame, window: int | None = None, panels: str | None = None
) -> Figure:
    """Perplexity against length, a curve a scaling, with the 95 % bootstrap interval over documents
    as a band.

    Args:
        table: as `perplexity` returns it.
        window: the trained window in tokens, marked by a dashed line.
        panels: a further column of the table; one panel for each of its values.
    """
    groups = [("", table)] if panels is None else list(table.groupby(panels, sort=False))
    styles = styles_of(table["scaling"].unique())
    with mpl.rc_context(RC):
        figure, axes = subplots(1, len(groups), width=4.6, height=3.9, sharey=True)
        for ax, (value, group) in zip(axes, groups, strict=True):
            for name, curve in perplexity_summary(group).groupby("scaling", sort=False):
                colour, line, marker, label = styles[str(name)]
                ax.plot(
                    curve["length"],
                    curve["perplexity"],
                    line,
                    color=colour,
                    marker=marker,
                    ms=5,
                    label=label,
                )
                ax.fill_between(
                    curve["length"], curve["low"], curve["high"], color=colour, alpha=0.15, lw=0
                )
            ax.set_yscale("log")
            ax.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}"))
            ax.yaxis.set_minor_formatter(FuncFormatter(few_minor_labels(ax)))
            length_axis(ax, sorted(table["length"].unique()))
            mark_window(ax, window)
            ax.set_title("" if panels is None else f"{panels} {value!s}", fontsize=10)
        counts = sorted({group["document"].nunique() for _, group in groups})  # of each panel
        axes[0].set_ylabel(f"perplexity (log scale), {' or '.join(map(str, counts))} documents")
        legend_aside(axes[-1])
    return figure


def accuracy_curves(table: pd.DataFrame, window: int | None = None) -> Figure:
    """Share of passkeys found against length, a curve a scaling, a bar for its 95 % interval.

    Args:
        table: as `accuracy_summary` returns it for a `passkey` table.
        window: the trained window in tokens, marked by a dashed line.
    """
    names = list(table["scaling"].unique())
    styles = styles_of(names)
    with mpl.rc_context(RC):
        figure, (ax,) = subplots(1, 1, width=5.4, height=3.6)
        for number, name in enumerate(names):
            colour, line, marker, label = styles[str(name)]
            curve = table[table["scaling"] == name]
            # Side by side, a twentieth of a doubling apart: bars on top of each other cannot be
            # read.
            x = curve["length"] * 2 ** ((number - (len(names) - 1) / 2) / 20)
            ax.vlines(x, curve["low"], curve["high"], color=colour, alpha=0.4, lw=2)
            ax.plot(
                x, curve["accuracy"], line, color=colour, marker=marker, ms=5, lw=1.2, label=label
            )
        ax.set_ylim(-0.03, 1.03)
        ax.yaxis.set_major_formatter(FuncFormatter(lambda a, _: f"{a:.0%}"))
        ax.set_ylabel(f"keys found ({int(table['trials'].max())} trials a length)")
        length_axis(ax, sorted(table["length"].unique()))
        mark_window(ax, window)
        legend_aside(ax)
    return figure


def passkey_heatmap(table: pd.DataFrame, window: int | None = None) -> Figure:
    """Share of passkeys found by length and depth, a panel a scaling.

    Args:
        table: as `passkey` returns it.
        window: the trained window in tokens, marked by a dashed line after the last length inside
            it.
    """
    summary = accuracy_summary(table, by=("scaling", "length", "depth"))
    names = list(summary["scaling"].unique())
    trials = int(summary["trials"].max())
    styles = styles_of(names)
    with mpl.rc_context({**RC, "axes.grid": False}):
        figure, axes = subplots(1, len(names), width=2.3, height=2.9, sharey=True)
        for ax, name in zip(axes, names, strict=True):
            of_name = summary[summary["scaling"] == name]
            cells = of_name.pivot_table(index="depth", columns="length", values="accuracy")
            image = ax.imshow(
                cells.to_numpy(), vmin=0, vmax=1, cmap="cividis", aspect="auto", origin="upper"
            )
            for (row, column), share in np.ndenumerate(cells.to_numpy()):
                ax.text(column, row, f"{share:.0%}", ha="center", va="center", fontsize=7.5,
                        color="white" if share < 0.55 else "black")  # fmt: skip
            lengths = [int(n) for n in cells.columns]
            ax.set_xticks(
                range(len(lengths)), [tokens(n) for n in lengths], rotation=60, fontsize=8
            )
            ax.set_yticks(range(len(cells.index)), [f"{d:.0%}" for d in cells.index], fontsize=8)
            inside = sum(window is not None and n <= window for n in lengths)
            if 0 < inside < len(lengths):
                ax.axvline(
                    inside - 0.5,
                    **{**WINDOW_STYLE, "color": "#FFFFFF", "linewidth": 2, "zorder": 3},
                )
            ax.set_title(styles[name][3], fontsize=10)
            for spine in ax.spines.values():
                spine.set_visible(False)
        axes[0].set_ylabel("depth of the key in the text")
        figure.supxlabel(
            "length (tokens)" + (f"; dashed: trained window of {tokens(window)}" if window else ""),
            fontsize=10,
        )
        bar = figure.colorbar(
            image,
            ax=list(axes),
            fraction=0.025,
            pad=0.015,
            format=FuncFormatter(lambda a, _: f"{a:.0%}"),
        )
        bar.set_label(f"keys found ({trials} trials a cell)")
        bar.outline.set_visible(False)
    return figure


def cost_curves(table: pd.DataFrame) -> Figure:
    """Seconds and peak memory against length, from a `scoring_cost` table; the plain way where it was run."""
    with mpl.rc_context(RC):
        figure, (time, memory) = subplots(1, 2, width=4.2, height=3.6)
        time.plot(
            table["length"],
            table["seconds"],
            "-o",
            color="#0072B2",
            ms=5,
            label="in chunks (token_losses)",
        )
        time.plot(
            table["length"],
            table["plain_seconds"],
            ":x",
            color="#000000",
            ms=6,
            label="all logits at once",
        )
        time.set_yscale("log")
        time.set_ylabel("seconds a sequence (log scale)")
        time.legend()
        memory.plot(table["length"], table["peak_gib"], "-o", color="#0072B2", ms=5)
        memory.set_yscale("log", base=2)
        memory.set_ylabel("memory above the weights (GiB, log scale)")
        for ax in (time, memory):
            length_axis(ax, table["length"].tolist())
            ax.tick_params(axis="x", labelrotation=60)
            ax.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}"))
            ax.yaxis.set_minor_formatter(NullFormatter())
    return figure
