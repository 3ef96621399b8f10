"""What all figures share: a colour per method, axes of lengths, the mark of the trained window."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from io import BytesIO
from itertools import cycle, product
from typing import Any, NamedTuple, TypedDict

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, NullFormatter, NullLocator
from matplotlib.transforms import Bbox

from ..rope.spec import Floats


class Style(NamedTuple):
    """How one method is drawn, in every figure; the label is its name in a legend."""

    colour: str
    line: str
    marker: str
    label: str


class LineStyle(TypedDict, total=False):
    """What matplotlib takes about a line."""

    color: str
    linestyle: str | tuple[int, tuple[int, int]]
    linewidth: float
    zorder: float


STYLES = {
    "none": Style("#000000", ":", "x", "no scaling"),
    "pi": Style("#E69F00", "-", "s", "PI"),
    "ntk": Style("#56B4E9", "-", "^", "NTK"),
    "dynamic_ntk": Style("#0072B2", "--", "v", "Dynamic NTK"),
    "yarn": Style("#009E73", "-", "D", "YaRN"),
    "longrope": Style("#D55E00", "-", "o", "LongRoPE"),
    "evolution": Style("#D55E00", "-", "o", "evolution"),
    "gradient": Style("#CC79A7", "-", "P", "gradient"),
    "random": Style("#8C6D31", "-", ".", "random"),
    "custom": Style("#D55E00", "-", "o", "custom"),
}
OTHERS = ("#7F7F7F", "#B8A900", "#5D3FD3", "#A0522D")

# The line that everything else is compared with, and the one at the trained window.
REFERENCE_STYLE: LineStyle = {"color": "#777777", "linewidth": 1.2, "zorder": 1}
WINDOW_STYLE: LineStyle = {**REFERENCE_STYLE, "linestyle": (0, (4, 3))}

# Any: matplotlib types the keys of a style sheet one by one.
RC: Any = {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#E6E6E6",
    "axes.axisbelow": True,
    "axes.titley": 1.0,  # left to itself, matplotlib measures every tick label to place a title
    "legend.frameon": False,
}


class NotebookFigure(Figure):
    """A figure that a notebook shows as a picture, without pyplot's global state."""

    def _repr_png_(self) -> bytes:
        picture = BytesIO()
        self.savefig(picture, format="png", bbox_inches="tight")
        return picture.getvalue()


def subplots(
    rows: int,
    columns: int,
    *,
    width: float,
    height: float,
    figure: Figure | None = None,
    **options: Any,
) -> tuple[Figure, list[Axes]]:
    """A figure that no global state knows, and its axes in reading order.

    `figure`, made by an earlier call of the same function, is emptied and drawn into again: axes,
    ticks and places stay, which is most of the time that a figure takes.

    Args:
        rows, columns: of panels.
        width, height: of each panel, in inches.
        figure: an earlier one to draw into, or None.
        options: as matplotlib's `Figure.subplots` takes them.
    """
    if figure is None:
        size = (width * columns + 1.4, height * rows)
        figure = NotebookFigure(figsize=size, layout="constrained", dpi=120)
        return figure, list(np.atleast_1d(figure.subplots(rows, columns, **options)).ravel())
    for ax in figure.axes:
        for artist in [*ax.lines, *ax.patches, *ax.collections, *ax.texts]:
            artist.remove()
        ax.dataLim.set(Bbox.null())
        ax.autoscale(True)
    return figure, list(figure.axes)


def panels_of(table: pd.DataFrame, column: str | None) -> list[tuple[object, pd.DataFrame]]:
    """The rows of each panel: (value of the column, rows); all under "" without a column."""
    return [("", table)] if column is None else list(table.groupby(column, sort=False))


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


def styles_of(names: Iterable[object]) -> dict[str, Style]:
    """The fixed style of each method.

    Other names take the remaining colours in order, then these again with dashed lines."""
    rest = ((colour, line, "o") for line, colour in cycle(product(("-", "--", ":"), OTHERS)))
    return {name: STYLES.get(name) or Style(*next(rest), name) for name in map(str, names)}


def tokens(count: float) -> str:
    """512, 4k, 2M: a length as people say it."""
    for unit, size in (("M", 2**20), ("k", 2**10)):
        if count >= size:
            return f"{count / size:g}{unit}" if count % size == 0 else f"{count / size:.3g}{unit}"
    return f"{count:g}"


def three_digits(number: float) -> str:
    """6.28, 62.8, 6,283: three digits, or all of a whole number's."""
    return f"{number:.3g}" if number < 100 else f"{number:,.0f}"


def length_axis(ax: Axes, lengths: Sequence[int]) -> None:
    """A log axis of base 2 with a tick at each measured length."""
    ax.set_xscale("log", base=2)
    ax.xaxis.set_major_locator(FixedLocator(list(lengths)))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter(FuncFormatter(lambda n, _: tokens(n)))
    ax.set_xlabel("length (tokens, log scale)")


def quarter_ticks(ax: Axes, length: float) -> None:
    """Five ticks over an axis of positions."""
    ticks = [k * length / 4 for k in range(5)]
    ax.set_xticks(ticks, [tokens(n) for n in ticks])


def mark_window(ax: Axes, window: int | None) -> None:
    """A dashed line at the trained window, if it is in sight."""
    low, high = ax.get_xlim()
    if window is not None and low <= window <= high:
        ax.axvline(window, **WINDOW_STYLE)
        ax.annotate("trained window", (window, 1), xycoords=("data", "axes fraction"),
                    xytext=(3, -3), textcoords="offset points", rotation=90, va="top", fontsize=8,
                    color="#777777")  # fmt: skip


def shade_unfinished(ax: Axes, rotations: Floats) -> None:
    """Grey over the dimension pairs that make less than one turn inside the window, shape (d/2,).

    The legend says so."""
    unfinished = np.flatnonzero(rotations < 1)
    if unfinished.size:
        label = "less than one turn\ninside the window"
        left, right = unfinished[0] - 0.5, len(rotations) - 0.5
        ax.axvspan(left, right, color="#EFEFEF", zorder=0, label=label)


def plain(number: float, _: int | None = None) -> str:
    """A tick's label on a log axis: 0.5, 16, 10000."""
    return f"{number:g}"


def plain_numbers(ax: Axes) -> None:
    """Plain numbers on a vertical log axis, and none between its main ticks."""
    ax.yaxis.set_major_formatter(FuncFormatter(plain))
    ax.yaxis.set_minor_formatter(NullFormatter())


def few_numbers(ax: Axes) -> None:
    """A vertical log axis with plain numbers, between the decades no more of them than fit."""
    ax.set_yscale("log")
    ax.yaxis.set_major_formatter(FuncFormatter(plain))
    ax.yaxis.set_minor_formatter(FuncFormatter(_few_minor_labels(ax)))


def _few_minor_labels(ax: Axes) -> Callable[[float, int | None], str]:
    """Labels 2 and 5 of each decade, on an axis of less than 2.5; all, on one of little of it."""

    def label(y: float, _: int | None = None) -> str:
        low, high = ax.get_ylim()
        leading = round(y / 10 ** np.floor(np.log10(y)))
        shown = range(1, 10) if high / low < 4 else (2, 5)
        return f"{y:g}" if high / low < 300 and leading in shown else ""

    return label
