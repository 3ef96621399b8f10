"""Figures of what a scaling does to each dimension pair, and of Position Interpolation's bounds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator
from numpy.typing import ArrayLike

from ..common.files import Json
from ..rope.scaling import RopeScaling
from ..rope.spec import RopeSpec
from .style import (
    RC,
    WINDOW_STYLE,
    legend_aside,
    length_axis,
    mark_window,
    shade_unfinished,
    styles_of,
    subplots,
    three_digits,
    tokens,
)


def factor_profile(
    scalings: Mapping[str, RopeScaling] | Sequence[RopeScaling], figure: Figure | None = None
) -> Figure:
    """Rescale factor of each dimension pair, a curve a scaling; shaded: less than one turn inside
    the window.

    `figure`, of an earlier call, is drawn anew.
    """
    named = scalings if isinstance(scalings, Mapping) else {s.method: s for s in scalings}
    styles = styles_of(named)
    spec = next(iter(named.values())).spec
    with mpl.rc_context(RC):
        figure, (ax,) = subplots(1, 1, width=6.6, height=3.9, figure=figure)
        for name, scaling in named.items():
            colour, line, marker, label = styles[name]
            ax.plot(scaling.factors, line, color=colour, marker=marker, ms=3.5, label=label)
        shade_unfinished(ax, spec.rotations)
        ax.set_yscale("log", base=2)
        ax.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}"))
        ax.set_xlabel("dimension pair i (fast to slow)")
        ax.set_ylabel("rescale factor λ (log scale)")
        legend_aside(ax)
    return figure


def wavelengths(spec: RopeSpec, target_length: int | None = None) -> Figure:
    """Tokens to a full turn of each dimension pair, against the window; shaded: pairs that never
    finish one inside it.

    Args:
        spec: the embedding as trained.
        target_length: L' in tokens, drawn as a second line.
    """
    tokens_a_turn, window = spec.wavelengths, spec.window
    with mpl.rc_context(RC):
        figure, (ax,) = subplots(1, 1, width=5.6, height=3.9)
        ax.plot(tokens_a_turn, "o-", color="#333333", ms=4.5, lw=1)
        ax.set_ylim(tokens_a_turn.min() / 3, tokens_a_turn.max() * 3)
        shade_unfinished(ax, spec.rotations)
        _length_axis_y(ax, "wavelength (tokens a turn, log scale)")
        _lengths_across(ax, {"window": window, "target": target_length})
        for i, shift, side in ((0, -14, "left"), (len(tokens_a_turn) - 1, 8, "right")):
            ax.annotate(f"{three_digits(tokens_a_turn[i])} tokens", (i, tokens_a_turn[i]), xytext=(0, shift),
                        textcoords="offset points", fontsize=9, ha=side)  # fmt: skip
        unfinished = int((spec.rotations < 1).sum())
        ax.set_title(f"{unfinished} of {len(tokens_a_turn)} pairs never finish a turn inside {tokens(window)} tokens",
                     fontsize=10)  # fmt: skip
        ax.set_xlabel("dimension pair i (fast to slow)")
        if unfinished:
            legend_aside(ax)
    return figure


def rescaled_wavelengths(scalings: Mapping[str, RopeScaling] | Sequence[RopeScaling]) -> Figure:
    """Left, wavelength of each dimension pair after scaling; right, how far its angle goes at L',
    in trained ranges.

    A trained range is the angle L*theta that training reached; the angle at L' is s/lambda of it.
    Above 1, a pair that never finished a turn (shaded) meets angles that training never showed."""
    named = scalings if isinstance(scalings, Mapping) else {s.method: s for s in scalings}
    styles = styles_of(named)
    first = next(iter(named.values()))
    spec, target = first.spec, first.target_length
    with mpl.rc_context(RC):
        figure, (left, right) = subplots(1, 2, width=4.4, height=3.9)
        for name, scaling in named.items():
            colour, line, marker, label = styles[name]
            style: Json = {"color": colour, "marker": marker, "ms": 3.5, "label": label}
            left.plot(2 * np.pi / scaling.frequencies, line, **style)
            right.plot(scaling.ratio / scaling.factors, line, **style)
        for ax in (left, right):
            shade_unfinished(ax, spec.rotations)
            ax.set_xlabel("dimension pair i (fast to slow)")
        _length_axis_y(left, "wavelength (tokens a turn, log scale)")
        _lengths_across(left, {"window": spec.window, "target": target})
        left.set_title("after scaling: tokens to a full turn", fontsize=10)
        right.set_yscale("log", base=2)
        right.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}"))
        right.set_ylim(0.6, 1.2 * first.ratio)
        right.axhline(1, **WINDOW_STYLE)
        right.set_ylabel(f"angle at {tokens(target)} / largest trained angle")
        right.set_title("reach; shaded and above 1: angles never seen", fontsize=10)
        legend_aside(right)
    return figure


def score_fit(table: pd.DataFrame, window: int) -> Figure:
    """PI's Figure 2 from the table of `bounds.score_fit`: fitted scores inside the window, beyond it, and between."""
    curves = {str(name): group for name, group in table.groupby("curve", sort=False)}
    styles = styles_of(["none", "pi"])
    with mpl.rc_context(RC):
        figure, (inside, beyond, between) = subplots(1, 3, width=3.6, height=3.5)
        inside.plot(
            curves["data"]["position"],
            curves["data"]["score"],
            ".",
            color="#9A9A9A",
            ms=3,
            label="to be fitted",
        )
        inside.plot(
            curves["inside"]["position"],
            curves["inside"]["score"],
            color="#333333",
            lw=1.4,
            label="fitted a(s)",
        )
        inside.set_title("inside the window: well behaved", fontsize=10)
        inside.legend(loc="upper right", fontsize=8, frameon=True, framealpha=0.9, edgecolor="none")
        for name in ("none", "pi"):
            colour, _, _, label = styles[name]
            label = "a(s), no scaling" if name == "none" else f"a(s / ratio), {label}"
            beyond.plot(
                curves[name]["position"], curves[name]["score"], color=colour, lw=1.4, label=label
            )
        beyond.set_yscale("symlog", linthresh=1)
        beyond.set_title("beyond it: explodes without scaling", fontsize=10)
        beyond.legend(loc="upper right", fontsize=8)
        target = float(curves["pi"]["position"].max()) + 1
        beyond.set_xticks(
            [k * target / 4 for k in range(5)], [tokens(k * target / 4) for k in range(5)]
        )
        beyond.set_ylim(top=300 * beyond.get_ylim()[1])  # room for the legend
        mark_window(beyond, window)
        beyond.set_ylabel("attention score (log beyond ±1)")
        fine, whole = curves["between"], curves["trained"]
        between.plot(
            fine["position"],
            fine["score"],
            color=styles["pi"][0],
            lw=2,
            label="a(s), which PI asks for",
        )
        between.plot(
            whole["position"], whole["score"], "--", color="#333333", lw=1, label="straight lines"
        )
        between.plot(
            whole["position"], whole["score"], "o", color="#333333", ms=5, label="trained distances"
        )
        between.set_title("between trained distances: smooth", fontsize=10)
        between.legend(loc="best", fontsize=8)
        for ax in (inside, beyond, between):
            ax.set_xlabel("distance s (tokens)")
        inside.set_ylabel("attention score")
    return figure


def coefficient_profile(spec: RopeSpec, coefficients: Mapping[str, ArrayLike]) -> Figure:
    """|h_j| of each dimension pair, a curve a fit; shaded: pairs that never finish a turn inside
    the window.

    Args:
        spec: the embedding of the fits.
        coefficients: h, shape (d/2,), by the name of the fit (as `bounds.fit_coefficients` returns
            it).
    """
    styles = styles_of(coefficients)
    with mpl.rc_context(RC):
        figure, (ax,) = subplots(1, 1, width=5.6, height=3.4)
        for name, h in coefficients.items():
            colour, line, marker, label = styles[str(name)]
            ax.plot(np.abs(np.asarray(h)), line, color=colour, marker=marker, ms=4, label=label)
        ax.set_yscale("log")
        ax.set_ylim(bottom=ax.get_ylim()[0] / 10)  # room for the words in the shaded part
        shade_unfinished(ax, spec.rotations)
        ax.set_xlabel("dimension pair j (fast to slow)")
        ax.set_ylabel("coefficient |h_j| (log scale)")
        legend_aside(ax)
    return figure


def score_bounds(table: pd.DataFrame, window: int) -> Figure:
    """PI's two bounds from the table of `bounds.bounds_table`, and what random coefficients reach, for max|h| = 1."""
    s = table["position"]
    lines = [
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
    with mpl.rc_context(RC):
        figure, (ax,) = subplots(1, 1, width=6.4, height=4.3)
        for column, line, colour, label in lines:
            ax.plot(s, table[column], line, color=colour, ms=5, lw=1.8, label=label)
        ax.set_yscale("log")
        ax.set_ylim(top=8 * ax.get_ylim()[1])  # room for the window's name
        ax.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}"))
        octaves = int(np.log2(s.max()))
        length_axis(ax, [2**k for k in range(0, octaves + 1, 1 + octaves // 13)])
        ax.set_xlabel("distance s (tokens, log scale)")
        ax.set_ylabel("attention score / max|h| (log scale)")
        mark_window(ax, window)
        ax.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), labelspacing=1)
    return figure


def _length_axis_y(ax: Axes, label: str) -> None:
    """A vertical log axis of base 2 in tokens, with a label every two octaves."""
    ax.set_yscale("log", base=2)
    low, high = (int(np.floor(np.log2(limit))) for limit in ax.get_ylim())
    ax.yaxis.set_major_locator(mpl.ticker.FixedLocator([2.0**k for k in range(low, high + 1, 2)]))
    ax.yaxis.set_minor_locator(NullLocator())
    ax.yaxis.set_major_formatter(FuncFormatter(lambda n, _: tokens(n)))
    ax.set_ylabel(label)


def _lengths_across(ax: Axes, lengths: Mapping[str, int | None]) -> None:
    """A horizontal line at each length that is given, labelled at its left end; "window" is dashed, the rest dotted."""
    for name, length in lengths.items():
        if length is not None:
            ax.axhline(length, **(WINDOW_STYLE | ({} if name == "window" else {"linestyle": ":"})))
            ax.annotate(f"{name} {tokens(length)}", (0.01, length), xytext=(0, 3), fontsize=8, color="#666666",
                        textcoords="offset points", xycoords=("axes fraction", "data"))  # fmt: skip
