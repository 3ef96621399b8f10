"""Figures of Position Interpolation's argument: attention scores between and beyond positions."""

from __future__ import annotations

from collections.abc import Mapping

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullLocator
from numpy.typing import ArrayLike

from ..rope.spec import RopeSpec
from . import axes
from .style import RC, styles_of


def score_fit(table: pd.DataFrame, window: int) -> Figure:
    """PI's Figure 2: fitted scores inside the window, beyond it, and between trained distances.

    Args:
        table: as `rope.score_fit.score_fit` returns it.
        window: the trained window in tokens.
    """
    axes.check_drawable(table, "score_fit", "curve", "position", "score", window=window)
    curves = {str(name): group for name, group in table.groupby("curve", sort=False)}
    with mpl.rc_context(RC):
        figure, panels = axes.subplots(1, 3, height=3.5)
        _inside(panels[0], curves["data"], curves["inside"])
        _beyond(panels[1], curves["none"], curves["pi"], window)
        _between(panels[2], curves["between"], curves["trained"])
        for ax in panels:
            ax.title.set_fontsize(9.5)
            ax.set_xlabel("distance s (tokens)")
    return figure


def _inside(ax: Axes, data: pd.DataFrame, fitted: pd.DataFrame) -> None:
    ax.plot(data["position"], data["score"], ".", color="#9A9A9A", ms=3, label="to be fitted")
    ax.plot(fitted["position"], fitted["score"], color="#333333", lw=1.4, label="fitted a(s)")
    ax.set_title("inside the window: well behaved", pad=axes.ABOVE_WINDOW)
    ax.set_ylim(top=1.4 * ax.get_ylim()[1])  # room for the legend
    ax.legend(loc="upper right", fontsize=8)
    ax.set_ylabel("attention score")


def _beyond(ax: Axes, unscaled: pd.DataFrame, pi: pd.DataFrame, window: int) -> None:
    styles = styles_of(["none", "pi"])
    for curve, style, label in (
        (unscaled, styles["none"], "a(s), no scaling"),
        (pi, styles["pi"], f"a(s / ratio), {styles['pi'].label}"),
    ):
        ax.plot(curve["position"], curve["score"], color=style.colour, lw=1.4, label=label)
    ax.set_yscale("symlog", linthresh=1)
    ax.set_title("beyond it: explodes without scaling", pad=axes.ABOVE_WINDOW)
    ax.legend(loc="upper right", fontsize=8)
    axes.quarter_ticks(ax, float(pi["position"].max()) + 1)
    ax.set_ylim(top=300 * ax.get_ylim()[1])  # room for the legend
    axes.mark_window(ax, window)
    ax.set_ylabel("attention score (log beyond ±1)")


def _between(ax: Axes, fine: pd.DataFrame, whole: pd.DataFrame) -> None:
    colour = styles_of(["pi"])["pi"].colour
    x, y = whole["position"], whole["score"]
    ax.plot(fine["position"], fine["score"], color=colour, lw=2, label="a(s), which PI asks for")
    ax.plot(x, y, "--", color="#333333", lw=1, label="straight lines")
    ax.plot(x, y, "o", color="#333333", ms=5, label="trained distances")
    ax.set_title("between distances: smooth", pad=axes.ABOVE_WINDOW)
    ax.legend(loc="best", fontsize=8)


def coefficient_profile(spec: RopeSpec, coefficients: Mapping[str, ArrayLike]) -> Figure:
    """|h_j| of each dimension pair, one curve per fit.

    Shaded are the pairs that never finish a turn inside the window.

    Args:
        spec: the embedding of the fits.
        coefficients: h, shape (d/2,), by the name of the fit (as `fit_coefficients` returns it).
    """
    if not coefficients:
        raise ValueError("coefficients is empty: give those of at least one fit, by its name")
    for name, h in coefficients.items():
        if np.shape(h) != (spec.rotary_dim // 2,):
            raise ValueError(
                f"coefficients[{name!r}] has shape {np.shape(h)}: give one number per dimension "
                f"pair, ({spec.rotary_dim // 2},)"
            )
    styles = styles_of(coefficients)
    with mpl.rc_context(RC):
        figure, (ax,) = axes.subplots(1, 1, height=3.4)
        for name, h in coefficients.items():
            colour, line, marker, label = styles[str(name)]
            ax.plot(np.abs(np.asarray(h)), line, color=colour, marker=marker, ms=4, label=label)
        axes.log_y(ax)
        axes.shade_unfinished(ax, spec.rotations)
        ax.set_xlabel("dimension pair j (fast to slow)")
        ax.set_ylabel("coefficient |h_j| (log scale)")
        axes.legend_aside(ax)
    return figure


# (column of `bounds_table`, line, colour, name in the legend)
BOUNDS = [
    ("extrapolation_bound", "-", "#000000", "bound on |a(s)|:\n2 B(s), used beyond the window"),
    ("plain_bound", "--", "#000000", "attained by the worst h: d/2"),
    ("largest_score", ".", "#7F7F7F", "random h: largest |a(s)|"),
    (
        "interpolation_bound",
        "-",
        "#E69F00",
        "bound on |a(s) − line| halfway\nbetween trained distances",
    ),
    ("published_interpolation_bound", ":", "#8C5A00", "the same as published:\nd/(32 ln base)"),
    ("largest_deviation", ".", "#F0C060", "random h: largest |a(s) − line|"),
]


def score_bounds(table: pd.DataFrame, window: int) -> Figure:
    """PI's two bounds, and what random coefficients reach, for max|h| = 1.

    The small axes show the lower one from near: random coefficients stay below it, and pass the
    bound as it was published.

    Args:
        table: as `rope.bounds.bounds_table` returns it.
        window: the trained window in tokens.
    """
    columns = ("position", *(column for column, *_ in BOUNDS))
    axes.check_drawable(table, "bounds_table", *columns, window=window)
    s = table["position"]
    with mpl.rc_context(RC):
        figure, (ax,) = axes.subplots(1, 1, height=4.5)
        for column, line, colour, label in BOUNDS:
            ax.plot(s, table[column], line, color=colour, ms=5, lw=1.8, label=label)
        axes.log_y(ax)
        octaves = int(np.log2(s.max()))
        axes.length_axis(ax, [2**k for k in range(0, octaves + 1, 1 + octaves // 13)])
        ax.set_xlabel("distance s (tokens, log scale)")
        ax.set_ylabel("attention score / max|h| (log scale)")
        ax.grid(visible=False)  # it would run under the numbers of the small axes
        axes.mark_window(ax, window)
        _from_near(ax, table)
        ax.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), labelspacing=1)
    return figure


def _from_near(ax: Axes, table: pd.DataFrame) -> None:
    """Small axes in the gap between the two bounds, which show the lower one on its own scale."""
    near, s = BOUNDS[3:], table["position"]
    values, far = (table[[column for column, *_ in group]] for group in (near, BOUNDS[:3]))
    low, high = values.to_numpy().min(), values.to_numpy().max()
    ends = np.log([*ax.get_ylim(), high, far.to_numpy().min()])
    bottom, top = (ends[2:] - ends[0]) / (ends[1] - ends[0])  # of the gap, in heights of the axes
    gap, room = top - bottom, 0.15 * (high - low)
    place = (0.1, bottom + 0.3 * gap, 0.5, 0.62 * gap)
    inset = ax.inset_axes(place, xlim=ax.get_xlim(), ylim=(low - room, high + room))
    for column, line, colour, _ in near:
        inset.plot(s, table[column], line, color=colour, ms=4, lw=1.8)
    inset.set_xscale("log", base=2)
    inset.xaxis.set_major_locator(NullLocator())
    inset.xaxis.set_minor_locator(NullLocator())
    inset.yaxis.set_major_locator(MaxNLocator(3))
    inset.tick_params(labelsize=8)
    ax.indicate_inset_zoom(inset, edgecolor="#777777")
