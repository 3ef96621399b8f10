"""Figures of measurements: perplexity, passkeys, cost.

They are pure functions of the tables; nothing is measured here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colorbar import Colorbar
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.ticker import FuncFormatter

from ..measure.stats import accuracy_summary, perplexity_summary
from ..rope.spec import Floats
from .axes import (
    ABOVE_WINDOW,
    check_drawable,
    legend_aside,
    length_axis,
    log_y,
    mark_window,
    panels_of,
    small_multiples,
    subplots,
)
from .style import RC, WINDOW_STYLE, LineStyle, Style, styles_of, tokens

# Up to so many trials, a cell of the heatmap says 1/2 and not 50%.
FEW_TRIALS = 20

# The other curves behind a small multiple's own.
BEHIND = "#D3D3D3"

# Labelled lengths in a panel that is a third of the width.
SMALL_LABELS = 6


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
    check_drawable(table, "perplexity", "scaling", "length", "document", "loss", window=window)
    groups = panels_of(table, panels)
    styles = styles_of(table["scaling"].unique())
    with mpl.rc_context(RC):
        figure, axes = small_multiples(len(groups), 3, height=3.7, sharey=True)
        for ax, (value, group) in zip(axes, groups, strict=True):
            _perplexities(ax, group, styles)
            log_y(ax)
            length_axis(ax, sorted(table["length"].unique()))
            mark_window(ax, window)
            title = "" if panels is None else f"{panels} {value!s}"
            ax.set_title(title, pad=ABOVE_WINDOW)
        counts = sorted({group["document"].nunique() for _, group in groups})  # of each panel
        axes[0].set_ylabel(f"perplexity (log scale), {' or '.join(map(str, counts))} documents")
        legend_aside(axes[-1])
    return figure


def _perplexities(ax: Axes, group: pd.DataFrame, styles: Mapping[str, Style]) -> None:
    for name, curve in perplexity_summary(group).groupby("scaling", sort=False):
        colour, line, marker, label = styles[str(name)]
        x = curve["length"]
        ax.plot(x, curve["perplexity"], line, color=colour, marker=marker, ms=5, label=label)
        ax.fill_between(x, curve["low"], curve["high"], color=colour, alpha=0.15, lw=0)


def accuracy_curves(table: pd.DataFrame, window: int | None = None) -> Figure:
    """Share of passkeys found against length: a panel per scaling, the others in grey behind.

    A bar is the 95 % interval of its share.

    Args:
        table: as `accuracy_summary` returns it for a `passkey` table.
        window: the trained window in tokens, marked by a dashed line.
    """
    columns = ("scaling", "length", "trials", "accuracy", "low", "high")
    check_drawable(table, "accuracy_summary", *columns, window=window)
    names = list(table["scaling"].unique())
    styles = styles_of(names)
    curves = {str(name): table[table["scaling"] == name] for name in names}
    with mpl.rc_context(RC):
        figure, axes = small_multiples(len(names), 3, height=2.0, sharex=True, sharey=True)
        for ax, name in zip(axes, curves, strict=True):
            for other in curves:
                if other != name:
                    ax.plot(curves[other]["length"], curves[other]["accuracy"], color=BEHIND)
            _shares(ax, curves[name], styles[name])
            length_axis(ax, sorted(table["length"].unique()), labels=SMALL_LABELS)
            ax.set_xlabel("")
            if window is not None and ax.get_xlim()[0] <= window <= ax.get_xlim()[1]:
                ax.axvline(window, **WINDOW_STYLE)
        axes[0].set_ylim(-0.06, 1.06)
        axes[0].set_yticks([0, 0.5, 1], ["0%", "50%", "100%"])
        figure.supylabel(
            f"keys found ({int(table['trials'].max())} trials per length)", fontsize=10
        )
        _name_lengths(figure, window)
    return figure


def _shares(ax: Axes, curve: pd.DataFrame, style: Style) -> None:
    """One scaling's own curve, with intervals wide enough to be read."""
    x = curve["length"]
    ax.vlines(x, curve["low"], curve["high"], color=style.colour, alpha=0.35, lw=6)
    ax.plot(x, curve["accuracy"], style.line, color=style.colour, marker=style.marker, ms=6,
            zorder=3)  # fmt: skip
    ax.set_title(style.label, color=style.colour, fontweight="bold")


def _name_lengths(figure: Figure, window: int | None) -> None:
    words = f"; dashed: trained window of {tokens(window)}" if window else ""
    figure.supxlabel("length (tokens, log scale)" + words, fontsize=10)


def passkey_heatmap(
    table: pd.DataFrame, window: int | None = None, *, judged: str = "correct"
) -> Figure:
    """Share of passkeys found by length and depth, one panel per scaling.

    Args:
        table: as `passkey` returns it.
        window: the trained window in tokens, marked by a dashed line after the last length inside
            it.
        judged: the column that says which answers count: "correct" or "contains".
    """
    check_drawable(table, "passkey", "scaling", "length", "depth", judged, window=window)
    summary = accuracy_summary(table, by=("scaling", "length", "depth"), judged=judged)
    names = list(summary["scaling"].unique())
    styles = styles_of(names)
    depths, lengths = (sorted(summary[name].unique().tolist()) for name in ("depth", "length"))
    # Side by side as many as leave each cell the room for its words.
    most, height = max(int(17 / max(len(lengths), 2)), 1), 0.26 * len(depths) + 0.9
    with mpl.rc_context({**RC, "axes.grid": False}):
        figure, axes = small_multiples(len(names), most, height=height, sharex=True, sharey=True)
        for ax, name in zip(axes, names, strict=True):
            shares = _shares_by_depth(summary[summary["scaling"] == name], depths, lengths)
            image = heatmap(ax, *shares, [f"{d:.0%}" for d in depths], lengths)
            mark_after_window(ax, lengths, window)
            ax.set_title(styles[str(name)].label, color=styles[str(name)].colour)
        figure.supylabel("depth of the key", fontsize=10)
        name_cells(figure, window, int(summary["trials"].max()))
        share_bar(figure, image, axes).set_label("keys found", fontsize=9)
    return figure


def _shares_by_depth(
    summary: pd.DataFrame, depths: list[float], lengths: list[int]
) -> tuple[Floats, Floats]:
    """Shares found and prompts, rows depths, columns lengths; NaN where nothing was measured."""
    found, trials = (
        summary.pivot_table(index="depth", columns="length", values=value)
        .reindex(index=depths, columns=lengths)
        .to_numpy(dtype=float)
        for value in ("accuracy", "trials")
    )
    return found, trials


def heatmap(
    ax: Axes, shares: Floats, trials: Floats, rows: Sequence[str], lengths: list[int]
) -> AxesImage:
    """Shares as colours and in words; columns are lengths."""
    image = ax.imshow(shares, vmin=0, vmax=1, cmap="cividis", aspect="auto", origin="upper")
    for (row, column), share in np.ndenumerate(shares):
        if np.isfinite(share):  # a cell that was not measured is left empty
            words = in_words(share, float(trials[row, column]))
            ax.text(column, row, words, ha="center", va="center", fontsize=7.5,
                    color="white" if share < 0.55 else "black")  # fmt: skip
    ax.set_xticks(range(len(lengths)), [tokens(n) for n in lengths], fontsize=8)
    ax.set_yticks(range(len(rows)), rows, fontsize=8)
    ax.tick_params(length=2)
    for spine in ax.spines.values():
        spine.set_visible(False)
    return image


def in_words(share: float, trials: float) -> str:
    """A cell in words: of few trials 1/2, of many 50%."""
    return f"{share * trials:.0f}/{trials:.0f}" if trials <= FEW_TRIALS else f"{share:.0%}"


def mark_after_window(ax: Axes, lengths: list[int], window: int | None) -> None:
    inside = sum(window is not None and n <= window for n in lengths)
    if 0 < inside < len(lengths):
        style: LineStyle = {**WINDOW_STYLE, "color": "#FFFFFF", "linewidth": 2, "zorder": 3}
        ax.axvline(inside - 0.5, **style)


def name_cells(figure: Figure, window: int | None, prompts: int) -> None:
    """Under a heatmap, what its columns and its cells are: there every figure has the room."""
    words = f"; dashed: trained window of {tokens(window)}" if window else ""
    count = f"{prompts} prompt{'s' if prompts != 1 else ''} per cell"
    figure.supxlabel(f"length (tokens){words}; {count}", fontsize=10)


def share_bar(figure: Figure, image: AxesImage, axes: list[Axes]) -> Colorbar:
    percent = FuncFormatter(lambda share, _: f"{share:.0%}")
    bar = figure.colorbar(image, ax=axes, pad=0.01, aspect=30, format=percent, ticks=[0, 0.5, 1])
    bar.ax.tick_params(labelsize=8, length=2)
    bar.outline.set_visible(False)
    return bar


def cost_curves(table: pd.DataFrame) -> Figure:
    """Seconds and peak memory against length, from a `scoring_cost` table.

    The plain way, all logits at once, and compiled layers are drawn where they were run."""
    check_drawable(table, "scoring_cost", "length", "seconds", "plain_seconds", "peak_gib")
    lengths = table["length"]
    with mpl.rc_context(RC):
        figure, (time, memory) = subplots(1, 2, height=3.6)
        time.plot(lengths, table["seconds"], "-o", color="#0072B2", ms=5,
                  label="in chunks (token_losses)")  # fmt: skip
        time.plot(lengths, table["plain_seconds"], ":x", color="#000000", ms=6,
                  label="all logits at once")  # fmt: skip
        if "compiled_seconds" in table:
            time.plot(lengths, table["compiled_seconds"], "--s", color="#009E73", ms=5,
                      label="in chunks, compiled layers")  # fmt: skip
        time.set_ylabel("seconds per sequence (log scale)")
        time.legend()
        memory.plot(lengths, table["peak_gib"], "-o", color="#0072B2", ms=5)
        memory.set_ylabel("memory above the weights (GiB, log scale)")
        log_y(time)
        log_y(memory, base=2)
        for ax in (time, memory):
            length_axis(ax, lengths.tolist())
    return figure
