"""Figures of positions on the circle of a dimension pair.

They show where a scaling puts each position, and what training showed of the circle."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator
from numpy.typing import ArrayLike, NDArray

from ..common.checks import whole
from ..rope.scaling import RopeScaling
from ..rope.spec import Floats, RopeSpec
from .axes import check_pairs, first_of, legend_aside, quarter_ticks, subplots
from .style import RC, WINDOW_STYLE, Style, plain, styles_of, three_digits, tokens

# Dots on a wave, at most: more would touch.
DOTS = 64

# The grey of what training showed.
SEEN = "#EDEDED"


def telling_pairs(spec: RopeSpec, target_length: int) -> tuple[int, int]:
    """Two dimension pairs worth a look: the fastest, and a slow one.

    The slow one makes nearest to 0.65 turns over L' tokens without scaling."""
    turns = whole("target_length", target_length, 1) / spec.wavelengths
    return 0, int(np.abs(np.log(turns / 0.65)).argmin())


def unreached(
    spec: RopeSpec, turns: ArrayLike, pairs: int | slice = slice(None)
) -> NDArray[np.bool_]:
    """Which angles, in turns, of the given pairs are beyond the largest of training.

    None are, of a pair that finished a turn inside the window: it showed every phase.
    """
    trained = spec.rotations[pairs]
    beyond: NDArray[np.bool_] = (trained < 1) & (np.asarray(turns) > trained * (1 + 1e-9))
    return beyond


def pair_angles(
    scalings: Mapping[str, RopeScaling], position: int | None = None, figure: Figure | None = None
) -> Figure:
    """The angle of every dimension pair at one position, one curve per scaling.

    Left, the angle in turns; grey is what training reached, everything for a pair that finished a
    turn inside the window. Right, what each pair adds to the score between this position and the
    first token, if query and key agree in it: m^2 cos(angle). An angle beyond the largest of
    training is hollow.

    Args:
        scalings: by name; all for the same spec and target length.
        position: n in tokens; None for the target length.
        figure: of an earlier call, to be drawn anew.

    Raises:
        ValueError: a position below 1, where there is no angle.
    """
    first = first_of(scalings)
    spec, position = first.spec, first.target_length if position is None else position
    if position < 1:
        raise ValueError(
            f"position is {position}: the first token has no angle; give a position from 1"
        )
    styles = styles_of(scalings)
    with mpl.rc_context(RC):
        figure, (left, right) = subplots(1, 2, height=3.4, figure=figure)
        for name, scaling in scalings.items():
            _angles_of_pairs((left, right), scaling, position, styles[name])
        _finish_turns(left, spec, [s.angles(position) / (2 * np.pi) for s in scalings.values()])
        left.set_title(f"angle at position {position:,}; grey: reached in training")
        size = max(1.0, *(s.attention_factor**2 for s in scalings.values()))
        right.set(ylim=(-1.15 * size, 1.15 * size), ylabel="m² · cos(angle)")
        right.set_title(f"added to the score of tokens {position:,} apart")
        for ax in (left, right):
            ax.set_xlabel("dimension pair i (fast to slow)")
        beyond = "beyond the\ntrained angles"
        right.plot([], [], "o", color="#555555", mfc="white", ms=4, label=beyond)
        legend_aside(right)
    return figure


def _angles_of_pairs(
    axes: tuple[Axes, Axes], scaling: RopeScaling, position: int, style: Style
) -> None:
    """One scaling's angles in turns (left), and what they add to the score (right)."""
    colour, line, marker, label = style
    marker = "o" if marker == "x" else marker  # a cross is never hollow
    turns = scaling.angles(position) / (2 * np.pi)
    added = scaling.attention_factor**2 * np.cos(2 * np.pi * turns)
    pairs, beyond = np.arange(len(turns)), unreached(scaling.spec, turns)
    for ax, y, alpha in zip(axes, (turns, added), (0.6, 0.35), strict=True):
        ax.plot(pairs, y, line, color=colour, lw=1, alpha=alpha)
        _dots(ax, pairs, y, beyond, colour, marker, 4)
    axes[1].plot([], [], line, color=colour, marker=marker, ms=4, label=label)


def _finish_turns(ax: Axes, spec: RopeSpec, turns: Sequence[Floats]) -> None:
    """A log axis of turns, grey where training was."""
    lowest = min(float(spec.rotations.min()), *(t.min() for t in turns))
    highest = max(1.0, *(t.max() for t in turns))
    # Whole decades, so that the axis stands still while a slider moves the curves.
    low, high = 10.0 ** np.floor(np.log10(0.8 * lowest)), 10.0 ** np.ceil(np.log10(highest))
    pairs = np.arange(len(spec.rotations))
    seen = np.where(spec.rotations < 1, spec.rotations, high)
    ax.fill_between(pairs, low, seen, step="mid", color=SEEN, lw=0, zorder=0)
    ax.set(yscale="log", ylim=(low, high), ylabel="angle (turns, log scale)")
    decades = np.geomspace(low, high, round(np.log10(high / low)) + 1).tolist()
    ax.yaxis.set_major_locator(FixedLocator(decades))
    ax.yaxis.set_minor_locator(NullLocator())
    ax.yaxis.set_major_formatter(FuncFormatter(plain))


def phase_circles(
    scalings: Mapping[str, RopeScaling],
    pairs: Sequence[int] | None = None,
    near: int = 8,
    steps: int = 8,
) -> Figure:
    """Positions as points on the circle of a dimension pair, one column per method.

    First row: the first `near` tokens on the fastest pair. Further rows: `steps` positions from
    L'/steps to L'. The grey band is what training showed; a position outside it is hollow.

    Args:
        scalings: by name; all for the same spec and target length.
        pairs: the dimension pairs of the rows; by default those of `telling_pairs`.
        near: tokens in the first row.
        steps: positions in each further row.
    """
    first = first_of(scalings)
    spec, target = first.spec, first.target_length
    shown = telling_pairs(spec, target) if pairs is None else check_pairs(pairs, spec)
    near, steps = whole("near", near, 1), whole("steps", steps, 1)
    styles = styles_of(scalings)
    with mpl.rc_context({**RC, "axes.grid": False}):
        figure, axes = subplots(len(shown), len(scalings), height=2.1)
        for row, pair in enumerate(shown):
            far = target * np.arange(1, steps + 1) / steps
            positions = np.arange(near, dtype=float) if row == 0 else far
            which = f"first {near} tokens" if row == 0 else f"every {tokens(target / steps)} tokens"
            turn = f"{three_digits(spec.wavelengths[pair])} tokens per turn"
            in_row = axes[row * len(scalings) : (row + 1) * len(scalings)]
            in_row[0].set_ylabel(f"pair {pair}: {which}\n{turn}", fontsize=8.5)
            for ax, (name, scaling) in zip(in_row, scalings.items(), strict=True):
                _circle(ax, scaling, pair, positions, styles[name].colour)
        for ax, style in zip(axes, styles.values(), strict=False):  # of the first row
            ax.set_title(style.label, color=style.colour, fontweight="bold")
        legend = "grey: phases that training showed;  filled: inside them;  hollow: never seen"
        figure.supxlabel(legend, fontsize=9)
    return figure


def _circle(ax: Axes, scaling: RopeScaling, pair: int, positions: Floats, colour: str) -> None:
    """Positions on the circle of one pair; the first and the last one are named."""
    seen = min(scaling.spec.window * scaling.spec.frequencies[pair], 2 * np.pi)
    band, circle = np.linspace(0, seen, 200), np.linspace(0, 2 * np.pi, 200)
    ax.plot(np.cos(band), np.sin(band), color="#D9D9D9", lw=9, solid_capstyle="butt", zorder=1)
    ax.plot(np.cos(circle), np.sin(circle), color="#999999", lw=0.8, zorder=2)
    angles = scaling.angles(positions)[:, pair]
    x, y = np.cos(angles), np.sin(angles)
    trained = np.mod(angles, 2 * np.pi) <= seen * (1 + 1e-9)
    for these, face in ((trained, colour), (~trained, "white")):
        ax.plot(x[these], y[these], "o", ms=6, mfc=face, mec=colour, mew=1.6, zorder=3)
    for k in (0, -1):
        ax.annotate(tokens(positions[k]), (1.32 * x[k], 1.32 * y[k]), fontsize=8, ha="center",
                    va="center", color="#333333")  # fmt: skip
    ax.set(xlim=(-1.5, 1.5), ylim=(-1.5, 1.5), xticks=[], yticks=[], aspect="equal")
    for spine in ax.spines.values():
        spine.set_visible(False)


def phase_curves(
    scalings: Mapping[str, RopeScaling],
    pairs: Sequence[int] | None = None,
    near: int = 32,
    points: int = 257,
    figure: Figure | None = None,
) -> Figure:
    """What dimension pairs feel over positions, one row per pair.

    Left, cos of the angle times the attention factor m over the first `near` tokens: neighbours
    that a method crowds look alike, and an angle beyond the largest of training is hollow. Right,
    the angle itself up to L', in turns; grey is what training showed, everything for a pair that
    finished a turn inside the window. Start tokens keep the unscaled angle, so a scaling with them
    jumps at n-hat.

    Args:
        scalings: by name; all for the same spec and target length.
        pairs: the dimension pairs of the rows; by default those of `telling_pairs`.
        near: tokens on the left; of more than 64, every so many-th is a dot.
        points: positions drawn on the right.
        figure: of an earlier call with as many pairs, to be drawn anew.
    """
    first = first_of(scalings)
    spec, target = first.spec, first.target_length
    rows = telling_pairs(spec, target) if pairs is None else check_pairs(pairs, spec)
    near, points = whole("near", near, 1), whole("points", points, 2)
    far = np.linspace(0, target, points)
    with mpl.rc_context(RC):
        figure, axes = subplots(len(rows), 2, height=2.7, figure=figure)
        for row, pair in enumerate(rows):
            left, right = axes[2 * row : 2 * row + 2]
            for k, (name, style) in enumerate(styles_of(scalings).items()):
                # Widest first, dotted on top: curves that coincide all show.
                dotted = style.line == ":"
                width, layer = (1.6, 4) if dotted else (1.6 + 1.3 * (len(scalings) - 1 - k), 2)
                _wave(left, scalings[name], pair, near, style, width)
                turns = scalings[name].angles(far)[:, pair] / (2 * np.pi)
                right.plot(far, turns, style.line, color=style.colour, lw=width, label=style.label,
                           zorder=layer)  # fmt: skip
            _finish_wave(left, spec, pair, near)
            _finish_angle(right, spec, pair, target)
        legend_aside(axes[1])
    return figure


def _wave(ax: Axes, scaling: RopeScaling, pair: int, near: int, style: Style, width: float) -> None:
    """m cos(angle) of one pair over the first tokens: a line, and dots at whole positions."""
    m = scaling.attention_factor
    fine = np.linspace(0, near - 1, min(8 * (near - 1) + 1, 6001))
    wave = m * np.cos(scaling.angles(fine)[:, pair])
    ax.plot(fine, wave, style.line, color=style.colour, lw=1, alpha=0.6)
    whole = np.arange(0, near, -(-near // DOTS))
    angles = scaling.angles(whole)[:, pair]
    beyond = unreached(scaling.spec, angles / (2 * np.pi), pair)
    _dots(ax, whole, m * np.cos(angles), beyond, style.colour, "o", width + 1.5)


def _dots(
    ax: Axes,
    x: ArrayLike,
    y: Floats,
    hollow: NDArray[np.bool_],
    colour: str,
    marker: str,
    size: float,
) -> None:
    """Dots, those that are `hollow` in white with a coloured edge."""
    ax.plot(x, np.where(hollow, np.nan, y), marker, color=colour, ms=size, lw=0)
    if hollow.any():
        ax.plot(x, np.where(hollow, y, np.nan), marker, mfc="white", mec=colour, ms=size + 0.5,
                lw=0, zorder=3)  # fmt: skip


def _finish_wave(ax: Axes, spec: RopeSpec, pair: int, near: int) -> None:
    step, window = -(-near // DOTS), spec.window
    ax.set(ylabel=f"pair {pair}: m · cos(angle)", xlabel="position (tokens)")
    ax.set(xlim=(-near / 32, near), ylim=(-1.45, 1.45))
    ax.set_yticks([-1, 0, 1])
    if near > window:
        ax.axvline(window, **WINDOW_STYLE)
    if near > DOTS:
        quarter_ticks(ax, near)
    every = "" if step == 1 else f"; a dot every {step} tokens"
    turn = f"{three_digits(spec.wavelengths[pair])} tokens per turn as trained"
    ax.set_title(turn + every, fontsize=9)


def _finish_angle(ax: Axes, spec: RopeSpec, pair: int, target: int) -> None:
    turns = float(spec.rotations[pair])
    finished = turns >= 1  # then training showed every phase, whatever the count of turns
    ax.axhspan(0, ax.get_ylim()[1] if finished else turns, color=SEEN, zorder=0)
    ax.axvline(spec.window, **WINDOW_STYLE)
    ax.set(ylabel="angle (turns)", xlabel="position (tokens); dashed: trained window")
    ax.set(xlim=(0, target), ylim=(0, None))
    quarter_ticks(ax, target)
    every = f"{three_digits(turns)} turns in the window: every phase seen"
    ax.set_title(every if finished else f"seen: 0 to {turns:.2g} turns", fontsize=9)
