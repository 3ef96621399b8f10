"""Figures of one width and their axes: panels, ticks of log scales, the mark of the window."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from io import BytesIO
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import (
    FixedLocator,
    FuncFormatter,
    Locator,
    MaxNLocator,
    NullLocator,
)
from matplotlib.transforms import Bbox

from ..common.checks import check_table, unknown, whole
from ..rope.scaling import RopeScaling
from ..rope.spec import Floats, RopeSpec
from .style import WINDOW_STYLE, plain, tokens

# Inches across every figure, so that those of a notebook stand in one column.
WIDTH, DPI = 9.0, 110

# Points between a panel and its title where the window's name stands between them.
ABOVE_WINDOW = 15


class NotebookFigure(Figure):
    """A figure that a notebook shows as a picture, without pyplot's global state."""

    def _repr_png_(self) -> bytes:
        picture = BytesIO()
        self.savefig(picture, format="png")
        return picture.getvalue()

    def get_tightbbox(self, *_: object, **__: object) -> Bbox:
        """The whole figure, in inches: cut to what is drawn, widths would differ."""
        return self.bbox_inches


def subplots(
    rows: int, columns: int, *, height: float, figure: Figure | None = None, **options: Any
) -> tuple[Figure, list[Axes]]:
    """A figure that no global state knows, and its axes in reading order.

    `figure`, made by an earlier call of the same function, is emptied and drawn into again: axes,
    ticks and places stay, which is most of the time that a figure takes.

    Args:
        rows, columns: of panels.
        height: of each row, in inches; the width is that of every figure.
        figure: an earlier one to draw into, or None.
        options: as matplotlib's `Figure.subplots` takes them.
    """
    if figure is None:
        size = (WIDTH, height * rows)
        figure = NotebookFigure(figsize=size, layout="constrained", dpi=DPI)
        return figure, list(np.atleast_1d(figure.subplots(rows, columns, **options)).ravel())
    for ax in figure.axes:
        for artist in [*ax.lines, *ax.patches, *ax.collections, *ax.texts]:
            artist.remove()
        ax.dataLim.set(Bbox.null())
        ax.autoscale(True)
    return figure, list(figure.axes)


def small_multiples(
    count: int, most: int, *, height: float, **options: Any
) -> tuple[Figure, list[Axes]]:
    """As many panels, at most so many side by side, with rows as even as they can be.

    Axes that are shared have labels on the left and below the last panel of each column alone.
    """
    rows = -(-count // most)
    columns = -(-count // rows)
    figure, axes = subplots(rows, columns, height=height, **options)
    for ax in axes[count:]:
        ax.remove()
    for ax in axes[max(count - columns, 0) : count]:
        ax.xaxis.set_tick_params(labelbottom=True)
    return figure, axes[:count]


def panels_of(table: pd.DataFrame, column: str | None) -> list[tuple[object, pd.DataFrame]]:
    """The rows of each panel: (value of the column, rows); all under "" without a column.

    Raises:
        ValueError: the table has no such column.
    """
    if column is None:
        return [("", table)]
    if column not in table:
        raise unknown("column for panels", column, map(str, table.columns))
    return list(table.groupby(column, sort=False))


def legend_aside(ax: Axes) -> None:
    """A legend on the right of the axes; one that says the same already stays."""
    handles, labels = ax.get_legend_handles_labels()
    wanted = labels, [handle.get_color() for handle in handles if isinstance(handle, Line2D)]
    shown = ax.get_legend()
    if shown is None or wanted != (
        [text.get_text() for text in shown.get_texts()],
        [line.get_color() for line in shown.get_lines()],
    ):
        ax.legend(loc="center left", bbox_to_anchor=(1.01, 0.5))


def legend_below(figure: Figure, ax: Axes) -> None:
    """The legend of one of the panels under them all, in a row."""
    handles, labels = ax.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=max(len(labels), 1))


class FewTicks(Locator):
    """Three to seven ticks on a log axis, wherever it begins and ends.

    They are powers of the base where the axis holds three, else round numbers between them."""

    def __init__(self, base: int) -> None:
        self.base = base

    def __call__(self) -> list[float]:
        """The ticks of the axis as it stands."""
        assert isinstance(self.axis, Axis)
        return self.tick_values(*self.axis.get_view_interval())

    def tick_values(self, vmin: float, vmax: float) -> list[float]:
        """The ticks between two ends; none where an end is no number of a log axis."""
        low, high = sorted((float(vmin), float(vmax)))
        if low <= 0 or not np.isfinite(high):
            return []
        inside: list[float] = []
        for ticks in self._from_coarse_to_fine(low, high):
            inside = [t for t in ticks.tolist() if low * (1 - 1e-9) <= t <= high * (1 + 1e-9)]
            if len(inside) >= 3:
                break
        return inside[:: -(-len(inside) // 7) or 1]

    def _from_coarse_to_fine(self, low: float, high: float) -> Iterator[Floats]:
        first, last = np.floor(np.log([low, high]) / np.log(self.base))
        powers = float(self.base) ** np.arange(first, last + 1)
        yield powers
        for between in ([1, 2, 5], [1, 1.5, 2, 3, 5, 7]) if self.base == 10 else ():
            yield np.outer(powers, between).ravel()
        even = MaxNLocator(6, steps=[1, 2, 2.5, 5, 10], min_n_ticks=3).tick_values(low, high)
        yield np.asarray(even)


def log_y(ax: Axes, base: int = 10) -> None:
    """A vertical log scale with plain numbers: at least three, and no more than fit."""
    ax.set_yscale("log", base=base)
    _few_ticks(ax.yaxis, base)


def log_x(ax: Axes, base: int = 10) -> None:
    """A horizontal log scale with plain numbers: at least three, and no more than fit."""
    ax.set_xscale("log", base=base)
    _few_ticks(ax.xaxis, base)


def _few_ticks(axis: Axis, base: int) -> None:
    axis.set_major_locator(FewTicks(base))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(plain))


def length_axis(ax: Axes, lengths: Sequence[int], labels: int | None = None) -> None:
    """A log axis of base 2 with a tick at each measured length, and further ones up to three.

    Of many ticks, at most so many get a label, evenly spaced, the last one among them.
    """
    ax.set_xscale("log", base=2)
    ticks = _three_lengths(sorted(lengths))
    if ticks[0] < min(lengths):  # a single length has nothing on either side
        ax.set_xlim(ticks[0] / 1.1, ticks[-1] * 1.1)
    ax.xaxis.set_major_locator(FixedLocator(ticks))
    ax.xaxis.set_minor_locator(NullLocator())
    labelled = set(ticks[:: -math.ceil(len(ticks) / (labels or len(ticks)))])
    ax.xaxis.set_major_formatter(FuncFormatter(lambda n, _: tokens(n) if n in labelled else ""))
    ax.set_xlabel("length (tokens, log scale)")


def _three_lengths(lengths: Sequence[int]) -> list[float]:
    """The lengths; of two, also what lies between, and of one, its half and its double."""
    first, last = lengths[0], lengths[-1]
    if len(lengths) > 2:
        return list(lengths)
    if len(lengths) == 1:
        return [first / 2, first, 2 * first]
    doublings = [first * 2.0**k for k in range(1, 64) if first * 2.0**k < last / 1.2]
    return [first, *(doublings or [(first + last) / 2]), last]


def quarter_ticks(ax: Axes, length: float) -> None:
    """Five ticks over an axis of positions."""
    ticks = [k * length / 4 for k in range(5)]
    ax.set_xticks(ticks, [tokens(n) for n in ticks])


def mark_window(ax: Axes, window: int | None) -> None:
    """A dashed line at the trained window, if it is in sight, and its name above the panel."""
    low, high = ax.get_xlim()
    if window is not None and low <= window <= high:
        ax.axvline(window, **WINDOW_STYLE)
        ax.annotate("trained window", (window, 1), xycoords=("data", "axes fraction"),
                    xytext=(0, 3), textcoords="offset points", ha="center", fontsize=8,
                    color="#666666")  # fmt: skip


def shade_unfinished(ax: Axes, rotations: Floats) -> None:
    """Grey over the dimension pairs that make less than one turn inside the window, shape (d/2,).

    The legend says so."""
    unfinished = np.flatnonzero(rotations < 1)
    if unfinished.size:
        label = "less than one turn\ninside the window"
        left, right = unfinished[0] - 0.5, len(rotations) - 0.5
        ax.axvspan(left, right, color="#EFEFEF", zorder=0, label=label)


def beside(ax: Axes, row: int, words: str) -> None:
    """Words on the right of a panel, at one of its rows."""
    ax.annotate(words, (1, row), xycoords=("axes fraction", "data"), xytext=(4, 0), va="center",
                textcoords="offset points", fontsize=8)  # fmt: skip


def first_of(scalings: Mapping[str, RopeScaling]) -> RopeScaling:
    """The first of some scalings, which says of what embedding a figure of them is.

    Raises:
        ValueError: there are none, or they have different numbers of dimension pairs.
    """
    if not scalings:
        raise ValueError("scalings is empty: give at least one, by a name")
    first = next(iter(scalings.values()))
    for name, scaling in scalings.items():
        if len(scaling.factors) != len(first.factors):
            raise ValueError(
                f"the scaling {name!r} has {len(scaling.factors)} dimension pairs, and the first "
                f"{len(first.factors)}: draw those of one model"
            )
    return first


def check_pairs(pairs: Sequence[int], spec: RopeSpec) -> tuple[int, ...]:
    """Refuse dimension pairs that an embedding does not have, or none at all.

    Raises:
        ValueError: naming the first.
    """
    count = spec.rotary_dim // 2
    wrong = [pair for pair in pairs if not 0 <= pair < count]
    if wrong or not len(pairs):
        raise ValueError(
            f"pairs is {list(pairs)}: name at least one dimension pair, each from 0 to {count - 1}"
        )
    return tuple(pairs)


def check_drawable(
    table: pd.DataFrame, made_by: str, *columns: str, window: int | None = None
) -> None:
    """Refuse a table that there is nothing to draw of (`check_table`), or a window that is none.

    Raises:
        ValueError: see there; or a window that is not a whole number from 1.
    """
    check_table(table, made_by, *columns)
    if window is not None:
        whole("window", window, 1, "it is the trained window in tokens, a whole number from 1")
