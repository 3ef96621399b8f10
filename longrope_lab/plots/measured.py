"""Figures of measurements: perplexity, passkeys, cost.

They are pure functions of the tables; nothing is measured here."""

from __future__ import annotations

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colorbar import Colorbar
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.ticker import FuncFormatter

from ..measure.stats import accuracy_summary, perplexity_summary
from .style import (
    RC,
    WINDOW_STYLE,
    LineStyle,
    few_numbers,
    legend_aside,
    length_axis,
    mark_window,
    panels_of,
    plain_numbers,
    styles_of,
    subplots,
    tokens,
)


def perplexity_curves(
    table: pd.DataFrame, window: int | None = None, panels: str | None = None
) -> Figure:
    """Perplexity against length, one curve per scaling.

    The band around a curve is its 95 % bootstrap interval over documents.

    Args:
        table: as `perplexity` returns it.
        window: the trained window in tokens, marked by a dashed line.
        panels: a further column of the table; one panel for each of its values.
    """
    groups = panels_of(table, panels)
    styles = styles_of(table["scaling"].unique())
    with mpl.rc_context(RC):
        figure, axes = subplots(1, len(groups), width=4.6, height=3.9, sharey=True)
        for ax, (value, group) in zip(axes, groups, strict=True):
            for name, curve in perplexity_summary(group).groupby("scaling", sort=False):
                colour, line, marker, label = styles[str(name)]
                x = curve["length"]
                ax.plot(
                    x, curve["perplexity"], line, color=colour, marker=marker, ms=5, label=label
                )
                ax.fill_between(x, curve["low"], curve["high"], color=colour, alpha=0.15, lw=0)
            few_numbers(ax)
            length_axis(ax, sorted(table["length"].unique()))
            mark_window(ax, window)
            ax.set_title("" if panels is None else f"{panels} {value!s}", fontsize=10)
        counts = sorted({group["document"].nunique() for _, group in groups})  # of each panel
        axes[0].set_ylabel(f"perplexity (log scale), {' or '.join(map(str, counts))} documents")
        legend_aside(axes[-1])
    return figure


def accuracy_curves(table: pd.DataFrame, window: int | None = None) -> Figure:
    """Share of passkeys found against length, one curve per scaling.

    A bar is the 95 % interval of its share.

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
            ax.plot(x, curve["accuracy"], line, color=colour, marker=marker, ms=5, lw=1.2,
                    label=label)  # fmt: skip
        ax.set_ylim(-0.03, 1.03)
        ax.yaxis.set_major_formatter(FuncFormatter(_percent))
        ax.set_ylabel(f"keys found ({int(table['trials'].max())} trials a length)")
        length_axis(ax, sorted(table["length"].unique()))
        mark_window(ax, window)
        legend_aside(ax)
    return figure


def passkey_heatmap(table: pd.DataFrame, window: int | None = None) -> Figure:
    """Share of passkeys found by length and depth, one panel per scaling.

    Args:
        table: as `passkey` returns it.
        window: the trained window in tokens, marked by a dashed line after the last length inside
            it.
    """
    summary = accuracy_summary(table, by=("scaling", "length", "depth"))
    names = list(summary["scaling"].unique())
    styles = styles_of(names)
    with mpl.rc_context({**RC, "axes.grid": False}):
        figure, axes = subplots(1, len(names), width=2.3, height=2.9, sharey=True)
        for ax, name in zip(axes, names, strict=True):
            of_name = summary[summary["scaling"] == name]
            cells = of_name.pivot_table(index="depth", columns="length", values="accuracy")
            image = _heatmap(ax, cells)
            _mark_after_window(ax, [int(n) for n in cells.columns], window)
            ax.set_title(styles[name].label, fontsize=10)
        axes[0].set_ylabel("depth of the key in the text")
        words = f"; dashed: trained window of {tokens(window)}" if window else ""
        figure.supxlabel("length (tokens)" + words, fontsize=10)
        bar = _bar(figure, image, axes)
        bar.set_label(f"keys found ({int(summary['trials'].max())} trials a cell)")
    return figure


def _heatmap(ax: Axes, cells: pd.DataFrame) -> AxesImage:
    """The shares as colours and in words; rows are depths, columns lengths."""
    shares = cells.to_numpy()
    image = ax.imshow(shares, vmin=0, vmax=1, cmap="cividis", aspect="auto", origin="upper")
    for (row, column), share in np.ndenumerate(shares):
        ax.text(column, row, f"{share:.0%}", ha="center", va="center", fontsize=7.5,
                color="white" if share < 0.55 else "black")  # fmt: skip
    lengths = [tokens(int(n)) for n in cells.columns]
    ax.set_xticks(range(len(lengths)), lengths, rotation=60, fontsize=8)
    ax.set_yticks(range(len(cells.index)), [f"{d:.0%}" for d in cells.index], fontsize=8)
    for spine in ax.spines.values():
        spine.set_visible(False)
    return image


def _mark_after_window(ax: Axes, lengths: list[int], window: int | None) -> None:
    inside = sum(window is not None and n <= window for n in lengths)
    if 0 < inside < len(lengths):
        style: LineStyle = {**WINDOW_STYLE, "color": "#FFFFFF", "linewidth": 2, "zorder": 3}
        ax.axvline(inside - 0.5, **style)


def _bar(figure: Figure, image: AxesImage, axes: list[Axes]) -> Colorbar:
    percent = FuncFormatter(_percent)
    bar = figure.colorbar(image, ax=axes, fraction=0.025, pad=0.015, format=percent)
    bar.outline.set_visible(False)
    return bar


def _percent(share: float, _: int | None = None) -> str:
    return f"{share:.0%}"


def cost_curves(table: pd.DataFrame) -> Figure:
    """Seconds and peak memory against length, from a `scoring_cost` table.

    The plain way, all logits at once, is drawn where it was run."""
    lengths = table["length"]
    with mpl.rc_context(RC):
        figure, (time, memory) = subplots(1, 2, width=4.2, height=3.6)
        time.plot(lengths, table["seconds"], "-o", color="#0072B2", ms=5,
                  label="in chunks (token_losses)")  # fmt: skip
        time.plot(lengths, table["plain_seconds"], ":x", color="#000000", ms=6,
                  label="all logits at once")  # fmt: skip
        time.set_yscale("log")
        time.set_ylabel("seconds a sequence (log scale)")
        time.legend()
        memory.plot(lengths, table["peak_gib"], "-o", color="#0072B2", ms=5)
        memory.set_yscale("log", base=2)
        memory.set_ylabel("memory above the weights (GiB, log scale)")
        for ax in (time, memory):
            length_axis(ax, lengths.tolist())
            ax.tick_params(axis="x", labelrotation=60)
            plain_numbers(ax)
    return figure
