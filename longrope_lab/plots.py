"""Figures as functions of tables: each returns a matplotlib `Figure` and measures nothing.

One colour a method throughout (Okabe and Ito's palette, safe for colour-blind readers), lengths on an axis of base 2,
the trained window marked, intervals drawn.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter, NullLocator

from .rope import RopeScaling
from .stats import accuracy_summary, perplexity_summary

# method: (colour, line style, marker, name in a legend)
STYLES = {
    "none": ("#000000", ":", "x", "no scaling"),
    "pi": ("#E69F00", "-", "s", "PI"),
    "ntk": ("#56B4E9", "-", "^", "NTK"),
    "dynamic_ntk": ("#0072B2", "--", "v", "Dynamic NTK"),
    "yarn": ("#009E73", "-", "D", "YaRN"),
    "longrope": ("#D55E00", "-", "o", "LongRoPE"),
}
OTHERS = ("#CC79A7", "#8C6D31", "#7F7F7F", "#B8A900")
WINDOW_STYLE: dict[str, Any] = {"color": "#777777", "linestyle": (0, (4, 3)), "linewidth": 1.2, "zorder": 1}

# Any: matplotlib types the keys of a style sheet one by one.
RC: Any = {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#E6E6E6",
    "axes.axisbelow": True,
    "legend.frameon": False,
    "svg.hashsalt": "longrope_lab",  # the same figure gives the same file
}


def perplexity_curves(table: pd.DataFrame, window: int | None = None, panels: str | None = None) -> Figure:
    """Perplexity against length, a curve a scaling, with the 95 % bootstrap interval over documents as a band.

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
                ax.plot(curve["length"], curve["perplexity"], line, color=colour, marker=marker, ms=5, label=label)
                ax.fill_between(curve["length"], curve["low"], curve["high"], color=colour, alpha=0.15, lw=0)
            ax.set_yscale("log")
            ax.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}"))
            ax.yaxis.set_minor_formatter(FuncFormatter(_few_minor_labels(ax)))
            length_axis(ax, sorted(table["length"].unique()))
            mark_window(ax, window)
            ax.set_title("" if panels is None else f"{panels} {value!s}", fontsize=10)
        documents = table.groupby("document").ngroups
        axes[0].set_ylabel(f"perplexity (log scale), {documents} documents")
        axes[-1].legend(loc="center left", bbox_to_anchor=(1.01, 0.5))
    return figure


def passkey_heatmap(table: pd.DataFrame, window: int | None = None) -> Figure:
    """Share of passkeys found by length and depth, a panel a scaling.

    Args:
        table: as `passkey` returns it.
        window: the trained window in tokens, marked by a dashed line after the last length inside it.
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
            image = ax.imshow(cells.to_numpy(), vmin=0, vmax=1, cmap="cividis", aspect="auto", origin="upper")
            for (row, column), share in np.ndenumerate(cells.to_numpy()):
                ax.text(column, row, f"{share:.0%}", ha="center", va="center", fontsize=7.5,
                        color="white" if share < 0.55 else "black")  # fmt: skip
            lengths = [int(n) for n in cells.columns]
            ax.set_xticks(range(len(lengths)), [tokens(n) for n in lengths], rotation=60, fontsize=8)
            ax.set_yticks(range(len(cells.index)), [f"{d:.0%}" for d in cells.index], fontsize=8)
            inside = sum(window is not None and n <= window for n in lengths)
            if 0 < inside < len(lengths):
                ax.axvline(inside - 0.5, **{**WINDOW_STYLE, "color": "#FFFFFF", "linewidth": 2, "zorder": 3})
            ax.set_title(styles[name][3], fontsize=10)
            for spine in ax.spines.values():
                spine.set_visible(False)
        axes[0].set_ylabel("depth of the key in the text")
        figure.supxlabel(
            "length (tokens)" + (f"; dashed: trained window of {tokens(window)}" if window else ""), fontsize=10
        )
        bar = figure.colorbar(
            image, ax=list(axes), fraction=0.025, pad=0.015, format=FuncFormatter(lambda a, _: f"{a:.0%}")
        )
        bar.set_label(f"keys found ({trials} trials a cell)")
        bar.outline.set_visible(False)
    return figure


def factor_profile(scalings: Mapping[str, RopeScaling] | Sequence[RopeScaling]) -> Figure:
    """Rescale factor of each dimension pair, a curve a scaling; shaded: less than one turn inside the window."""
    named = scalings if isinstance(scalings, Mapping) else {s.method: s for s in scalings}
    styles = styles_of(named)
    spec = next(iter(named.values())).spec
    with mpl.rc_context(RC):
        figure, (ax,) = subplots(1, 1, width=6.6, height=3.9)
        for name, scaling in named.items():
            colour, line, marker, label = styles[name]
            ax.plot(scaling.factors, line, color=colour, marker=marker, ms=3.5, label=label)
        shade_unfinished(ax, spec.rotations)
        ax.set_yscale("log", base=2)
        ax.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}"))
        ax.set_xlabel("dimension pair i (fast to slow)")
        ax.set_ylabel("rescale factor λ (log scale)")
        ax.legend(loc="center left", bbox_to_anchor=(1.01, 0.5))
    return figure


def cost_curves(table: pd.DataFrame) -> Figure:
    """Seconds and peak memory against length, from a `scoring_cost` table; the plain way beside ours where it was run."""
    with mpl.rc_context(RC):
        figure, (time, memory) = subplots(1, 2, width=4.2, height=3.6)
        time.plot(table["length"], table["seconds"], "-o", color="#0072B2", ms=5, label="in chunks (token_losses)")
        time.plot(table["length"], table["plain_seconds"], ":x", color="#000000", ms=6, label="all logits at once")
        time.set_yscale("log")
        time.set_ylabel("seconds a sequence (log scale)")
        time.legend()
        memory.plot(table["length"], table["peak_gib"], "-o", color="#0072B2", ms=5)
        memory.set_yscale("log", base=2)
        memory.set_ylabel("peak memory above the weights (GiB, log scale)")
        for ax in (time, memory):
            length_axis(ax, table["length"])
            ax.tick_params(axis="x", labelrotation=60)
            ax.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}"))
            ax.yaxis.set_minor_formatter(NullFormatter())
    return figure


# --- what the figures share -----------------------------------------------------------------------------------------


def subplots(rows: int, columns: int, *, width: float, height: float, **options: Any) -> tuple[Figure, list[Axes]]:
    """A figure that no global state knows, and its axes in reading order; sizes in inches a panel."""
    figure = Figure(figsize=(width * columns + 1.4, height * rows), layout="constrained", dpi=120)
    return figure, list(np.atleast_1d(figure.subplots(rows, columns, **options)).ravel())


def styles_of(names: Any) -> dict[str, tuple[str, str, str, str]]:
    """The fixed style of each method; other names share the remaining colours in order."""
    rest = cycle(OTHERS)
    return {str(name): STYLES.get(str(name)) or (next(rest), "-", "o", str(name)) for name in names}


def tokens(count: float) -> str:
    """512, 4k, 2M: a length as people say it."""
    for unit, size in (("M", 2**20), ("k", 2**10)):
        if count >= size:
            return f"{count / size:g}{unit}" if count % size == 0 else f"{count / size:.3g}{unit}"
    return f"{count:g}"


def length_axis(ax: Axes, lengths: Sequence[int]) -> None:
    """A log axis of base 2 with a tick at each measured length."""
    ax.set_xscale("log", base=2)
    ax.xaxis.set_major_locator(mpl.ticker.FixedLocator(list(lengths)))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter(FuncFormatter(lambda n, _: tokens(n)))
    ax.set_xlabel("length (tokens, log scale)")


def mark_window(ax: Axes, window: int | None) -> None:
    """A dashed line at the trained window, if it is in sight."""
    low, high = ax.get_xlim()
    if window is not None and low <= window <= high:
        ax.axvline(window, **WINDOW_STYLE)
        ax.annotate("trained window", (window, 1), xycoords=("data", "axes fraction"), xytext=(3, -3),
                    textcoords="offset points", rotation=90, va="top", fontsize=8, color="#777777")  # fmt: skip


def shade_unfinished(ax: Axes, rotations: np.ndarray) -> None:
    """Grey over the dimension pairs that make less than one turn inside the window."""
    unfinished = np.flatnonzero(rotations < 1)
    if unfinished.size:
        ax.axvspan(unfinished[0] - 0.5, len(rotations) - 0.5, color="#EFEFEF", zorder=0)
        ax.annotate("less than one turn\ninside the window", (unfinished[0] - 0.3, 0.02), fontsize=8, va="bottom",
                    xycoords=("data", "axes fraction"), color="#777777")  # fmt: skip


def _few_minor_labels(ax: Axes) -> Any:
    """Labels 2 and 5 of each decade, if the axis spans less than two; matplotlib would print none or all."""

    def label(y: float, _: int | None = None) -> str:
        low, high = ax.get_ylim()
        leading = round(y / 10 ** np.floor(np.log10(y)))
        return f"{y:g}" if high / low < 300 and leading in (2, 5) else ""

    return label
