"""Figures of what a scaling does to each dimension pair."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypedDict

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from ..common.checks import whole
from ..rope.scaling import RopeScaling
from ..rope.spec import RopeSpec
from .axes import first_of, legend_aside, log_y, shade_unfinished, subplots
from .style import RC, WINDOW_STYLE, LineStyle, styles_of, three_digits, tokens

PAIRS = "dimension pair i (fast to slow)"


class _Curve(TypedDict):
    color: str
    marker: str
    ms: float
    label: str


def factor_profile(
    scalings: Mapping[str, RopeScaling] | Sequence[RopeScaling], figure: Figure | None = None
) -> Figure:
    """Rescale factor of each dimension pair, one curve per scaling.

    Shaded are the pairs that make less than one turn inside the window. The first of them is
    LongRoPE2's theoretical critical pair, from which on factors may exceed s, the dashed line.

    Args:
        scalings: by name, or in a row; all for the same spec.
        figure: of an earlier call, to be drawn anew.
    """
    named = _named(scalings)
    styles = styles_of(named, {name: s.method for name, s in named.items()})
    spec = first_of(named).spec
    with mpl.rc_context(RC):
        figure, (ax,) = subplots(1, 1, height=3.6, figure=figure)
        for name, scaling in named.items():
            colour, line, marker, label = styles[name]
            ax.plot(scaling.factors, line, color=colour, marker=marker, ms=3.5, label=label)
        shade_unfinished(ax, spec.rotations)
        log_y(ax, base=2)
        _mark_critical(ax, named, spec.critical_pair)
        ax.set_xlabel(PAIRS)
        ax.set_ylabel("rescale factor λ (log scale)")
        legend_aside(ax)
    return figure


def _mark_critical(ax: Axes, named: Mapping[str, RopeScaling], pair: int) -> None:
    """The theoretical critical pair and the ratio s, where some factor is above it."""
    above = [s.ratio for s in named.values() if s.factors.max() > s.ratio * (1 + 1e-9)]
    if not above or pair >= len(next(iter(named.values())).factors):
        return
    ax.axhline(max(above), **WINDOW_STYLE)
    dotted: LineStyle = {**WINDOW_STYLE, "linestyle": ":"}
    ax.axvline(pair, **dotted)
    ax.annotate(f"critical pair {pair}", (pair, 1), xycoords=("data", "axes fraction"),
                xytext=(0, 3), textcoords="offset points", ha="center", fontsize=8,
                color="#666666")  # fmt: skip
    ax.annotate(f"s = {three_digits(max(above))}", (0.01, max(above)), xytext=(0, 3), fontsize=8,
                color="#666666", textcoords="offset points",
                xycoords=("axes fraction", "data"))  # fmt: skip


def wavelengths(spec: RopeSpec, target_length: int | None = None) -> Figure:
    """Tokens to a full turn of each dimension pair, against the window.

    Shaded are the pairs that never finish a turn inside it.

    Args:
        spec: the embedding as trained.
        target_length: L' in tokens, drawn as a second line.
    """
    if target_length is not None:
        whole("target_length", target_length, 1)
    turn, window = spec.wavelengths, spec.window
    with mpl.rc_context(RC):
        figure, (ax,) = subplots(1, 1, height=3.6)
        ax.plot(turn, "o-", color="#333333", ms=4.5, lw=1)
        ax.set_ylim(turn.min() / 3, turn.max() * 3)
        shade_unfinished(ax, spec.rotations)
        _length_axis_y(ax, "wavelength (tokens per turn, log scale)")
        _lengths_across(ax, {"window": window, "target": target_length})
        for i, shift, side in ((0, -14, "left"), (len(turn) - 1, 8, "right")):
            ax.annotate(f"{three_digits(turn[i])} tokens", (i, turn[i]), xytext=(0, shift),
                        textcoords="offset points", fontsize=9, ha=side)  # fmt: skip
        unfinished = int((spec.rotations < 1).sum())
        never = f"{unfinished} of {len(turn)} pairs never finish a turn"
        ax.set_title(f"{never} inside {tokens(window)} tokens")
        ax.set_xlabel(PAIRS)
        if unfinished:
            legend_aside(ax)
    return figure


def rescaled_wavelengths(scalings: Mapping[str, RopeScaling] | Sequence[RopeScaling]) -> Figure:
    """Wavelengths after scaling (left), and how far the angles go at L', in trained ranges (right).

    A trained range is the angle L*theta that training reached; the angle at L' is s/lambda of it.
    Above 1, a pair that never finished a turn (shaded) meets angles that training never showed.

    Args:
        scalings: by name, or in a row; all for the same spec and target length.
    """
    named = _named(scalings)
    styles = styles_of(named, {name: s.method for name, s in named.items()})
    first = first_of(named)
    spec, target = first.spec, first.target_length
    with mpl.rc_context(RC):
        figure, (left, right) = subplots(1, 2, height=3.6)
        for name, scaling in named.items():
            colour, line, marker, label = styles[name]
            curve: _Curve = {"color": colour, "marker": marker, "ms": 3.5, "label": label}
            left.plot(2 * np.pi / scaling.frequencies, line, **curve)
            right.plot(scaling.ratio / scaling.factors, line, **curve)
        for ax in (left, right):
            shade_unfinished(ax, spec.rotations)
            ax.set_xlabel(PAIRS)
        _length_axis_y(left, "wavelength (tokens per turn, log scale)")
        _lengths_across(left, {"window": spec.window, "target": target})
        left.set_title("after scaling: tokens to a full turn")
        log_y(right, base=2)
        right.set_ylim(0.6, 1.2 * first.ratio)
        right.axhline(1, **WINDOW_STYLE)
        right.set_ylabel(f"angle at {tokens(target)} / largest trained angle")
        right.set_title("reach; shaded and above 1: angles never seen")
        legend_aside(right)
    return figure


def _named(
    scalings: Mapping[str, RopeScaling] | Sequence[RopeScaling],
) -> Mapping[str, RopeScaling]:
    return scalings if isinstance(scalings, Mapping) else {s.method: s for s in scalings}


def _length_axis_y(ax: Axes, label: str) -> None:
    """A vertical log axis of base 2 in tokens, with a label every two octaves."""
    ax.set_yscale("log", base=2)
    low, high = (int(np.floor(np.log2(limit))) for limit in ax.get_ylim())
    ax.yaxis.set_major_locator(FixedLocator([2.0**k for k in range(low, high + 1, 2)]))
    ax.yaxis.set_minor_locator(NullLocator())
    ax.yaxis.set_major_formatter(FuncFormatter(lambda n, _: tokens(n)))
    ax.set_ylabel(label)


def _lengths_across(ax: Axes, lengths: Mapping[str, int | None]) -> None:
    """A horizontal line at each length that is given, labelled at its left end.

    That of the window is dashed, others are dotted."""
    for name, length in lengths.items():
        if length is not None:
            dotted: LineStyle = {**WINDOW_STYLE, "linestyle": ":"}
            ax.axhline(length, **(WINDOW_STYLE if name == "window" else dotted))
            ax.annotate(f"{name} {tokens(length)}", (0.01, length), xytext=(0, 3), fontsize=8,
                        color="#666666", textcoords="offset points",
                        xycoords=("axes fraction", "data"))  # fmt: skip
