"""The controls of the factor editor, and what moving one of them does to the factors."""

from __future__ import annotations

import math

import ipywidgets
import numpy as np
from numpy.typing import NDArray

from ..rope.factors import ROUNDING
from ..rope.scaling import RopeScaling
from ..rope.spec import Floats
from ..searches.space_rules import START_TOKENS
from .explorer import Controls, choice

# The step of the slider of m, and how many steps those of the factors have.
M_STEP = 0.01
STEPS = 200

# A smaller share of a perplexity is no change that one document tells.
TELLS = 0.001


def drag(factors: Floats, knots: list[int], knot: int, value: float, rising: bool) -> Floats:
    """Factors, (d/2,), after the control point `knots[knot]` was moved to `value`.

    Pairs between it and its neighbours follow, the less the further away. With `rising`, pairs on
    its right are pushed up and pairs on its left down where they would break lambda_i <=
    lambda_{i+1}."""
    pair = knots[knot]
    weights = np.interp(np.arange(len(factors)), knots, np.eye(len(knots))[knot])
    moved: Floats = np.maximum(factors * (value / factors[pair]) ** weights, 1.0)
    if rising:
        moved[pair:] = np.maximum.accumulate(moved[pair:])
        moved[: pair + 1] = np.minimum.accumulate(moved[pair::-1])[::-1]
    return moved


def moved_pairs(pair: int, before: Floats, free: Floats, after: Floats) -> str:
    """What a drag did, in words: the factor moved, those that followed, those that gave way.

    Args:
        pair: the dimension pair of the control point.
        before: the factors before it, (d/2,).
        free: after it, if factors might fall.
        after: as they are now.
    """
    words = [f"λ {pair}: {before[pair]:.3g} → {after[pair]:.3g}"]
    others = np.arange(len(before)) != pair
    followed = np.flatnonzero(others & ~_same(free, before))
    if followed.size:
        words.append(f"λ {ranges(followed)} followed")
    for which, verb in ((after > free, "raised"), (after < free, "lowered")):
        pushed = np.flatnonzero(which & ~_same(after, free))
        if pushed.size:
            words.append(f"λ {ranges(pushed)} {verb} so that λ does not fall")
    return "; ".join(words)


def _same(factors: Floats, others: Floats) -> NDArray[np.bool_]:
    return np.isclose(factors, others, rtol=1e-6, atol=0)


def ranges(pairs: NDArray[np.intp]) -> str:
    """Rising numbers in words: 3 to 6, 8."""
    runs = np.split(pairs, np.flatnonzero(np.diff(pairs) > 1) + 1)
    return ", ".join(f"{run[0]}" if len(run) == 1 else f"{run[0]} to {run[-1]}" for run in runs)


def changed_by(now: float, before: float) -> str:
    """The change of a perplexity, in words; one document cannot tell less than a thousandth."""
    change = now / before - 1 if math.isfinite(before) else math.nan
    if abs(change) < TELLS:
        return f"as the edit before, to {TELLS:.1%}: too small a change for one document to tell"
    return f"{change:+.1%} since the edit before" if math.isfinite(change) else ""


def falling(factors: Floats) -> NDArray[np.intp]:
    """The pairs after which a factor falls, by more than rounding."""
    return np.flatnonzero(np.diff(factors) < -ROUNDING)


def step_of(factor: float, octaves: float) -> int:
    """The step of a slider over so many octaves that a factor is shown at.

    A browser rounds what a slider is given to whole steps and sends that back, as if somebody had
    moved it. So sliders get whole steps only, and what comes back counts as a move if it is another
    step."""
    return round(math.log2(factor) / octaves * STEPS)


def shown(factor: float, octaves: float) -> float:
    """The factor at the nearest step."""
    return float(2.0 ** (step_of(factor, octaves) * octaves / STEPS))


def m_shown(m: float) -> float:
    """An attention factor at the nearest step of its slider."""
    return round(m / M_STEP) * M_STEP


def knot_sliders(start: RopeScaling, knots: list[int], octaves: float) -> Controls:
    """A vertical slider for each control point, from 1 up."""
    layout = ipywidgets.Layout(height="150px", width="64px")
    return {
        f"knot_{k}": ipywidgets.FloatLogSlider(
            value=shown(start.factors[pair], octaves),
            base=2,
            min=0,
            max=octaves,
            step=octaves / STEPS,
            orientation="vertical",
            description=f"λ {pair}",
            readout_format=".3g",
            layout=layout,
        )
        for k, pair in enumerate(knots)
    }


def settings(start: RopeScaling, document_length: int, length: int) -> Controls:
    """The other controls; lengths, in tokens, are the window and its doublings."""
    window, longest = start.spec.window, min(document_length, start.target_length)
    doublings = (window * 2**k for k in range((longest // window).bit_length()))
    lengths = [(f"{n:,} tokens", n) for n in sorted({length, *doublings})]
    m = m_shown(start.attention_factor)
    counts = [n for n in START_TOKENS if n <= start.target_length]
    return {
        "start_tokens": choice("n̂", counts, start.start_tokens),
        "attention_factor": ipywidgets.FloatSlider(
            value=m, min=min(0.5, m), max=max(2.0, m), step=M_STEP, description="m"
        ),
        "length": ipywidgets.Dropdown(
            options=lengths,
            value=length,
            description="measure on",
            layout=ipywidgets.Layout(width="220px"),
        ),
        "rising": ipywidgets.Checkbox(
            value=not falling(start.factors).size,
            description="λ may not fall",
            indent=False,
            layout=ipywidgets.Layout(width="130px"),
        ),
        "measure": ipywidgets.Button(description="measure"),
        "reset": ipywidgets.Button(description="start again"),
        "best": ipywidgets.Button(description="back to the best"),
    }
