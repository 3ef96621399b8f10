"""What the fields of a `SearchSpace` may be."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..common.checks import whole
from ..rope.spec import Floats, RopeSpec, check_start_tokens

# Table 4's values of n-hat, the number of first tokens left alone.
START_TOKENS = (0, 1, 2, 4, 8, 12, 16, 20, 24, 28, 32, 64, 128, 256)

# As far as floats tell whole numbers apart.
MOST_STEPS = 2**53


@dataclass(frozen=True)
class Candidate:
    """One point of the space, in whole steps, so that equal points compare equal."""

    factors: tuple[int, ...]  # (d/2,)
    start_tokens: int
    attention_factor: int | None  # None where m is not searched
    critical: int | None = None  # the pair below which factors follow NTK; None: none does


def check_rotations(keep_rotations: float | None) -> None:
    """Refuse what is not a number of turns, for whoever takes it."""
    if keep_rotations is not None and not keep_rotations > 0:
        raise ValueError(
            f"keep_rotations is {keep_rotations}: it counts turns, so a number above 0, or None"
        )


def start_tokens_of(values: Iterable[int], target_length: int) -> tuple[int, ...]:
    """The values of n-hat to try; of Table 4's own, which nobody chose, those up to the target."""
    counts = tuple(values) if isinstance(values, Iterable) else ()
    if not counts:
        raise ValueError(f"start_tokens is {values}: name at least one whole number from 0")
    if counts == START_TOKENS:
        return tuple(count for count in counts if count <= target_length)
    counts = tuple(whole("a value of start_tokens", count, 0) for count in counts)
    check_start_tokens(max(counts), target_length)
    return counts


def attention_factors_of(value: ArrayLike | None) -> tuple[float, float] | float | None:
    if value is None:
        return None
    ends = np.asarray(value, dtype=np.float64)
    if ends.shape in ((), (2,)):
        lowest, highest = np.broadcast_to(ends, 2).tolist()
        if 0 < lowest <= highest < math.inf:
            return (lowest, highest) if ends.ndim else lowest
    raise ValueError(f"attention_factors is {value}: give (lowest, highest), 0 < lowest <= highest")


def bounds_of(
    low: float | tuple[float, ...],
    high: float | tuple[float, ...] | None,
    pairs: int,
    *,
    monotone: bool,
) -> tuple[Floats, Floats]:
    """Lowest and highest factor of each pair, both (d/2,), narrowed by the monotone rule."""
    for name, value in (("low", low), ("high", high)):
        shape = np.asarray(value).shape
        if shape not in ((), (pairs,)):
            raise ValueError(
                f"{name} has shape {shape}: give one number, or {pairs}, one per pair of dimensions"
            )
    lowest, highest = (np.broadcast_to(np.asarray(b, dtype=np.float64), pairs) for b in (low, high))
    if not (np.isfinite(lowest).all() and np.isfinite(highest).all() and (lowest >= 1).all()):
        raise ValueError(
            f"low is {low}, high is {high}: bounds of factors are finite and at least 1"
        )
    why = "dimension {i} has low {low:g} above high {high:g}; lower low or raise high"
    refuse_empty(lowest > highest, lowest, highest, why)
    if monotone:
        lowest = np.maximum.accumulate(lowest)
        highest = np.minimum.accumulate(highest[::-1])[::-1]
        why = (
            "factors may not fall, so dimension {i} must reach {low:g} and stay below {high:g}; "
            "change the bounds, or set monotone=False"
        )
        refuse_empty(lowest > highest, lowest, highest, why)
    return lowest.copy(), highest.copy()


def grid_of(low: Floats, high: Floats, step: float) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Bounds in whole steps, both (d/2,)."""
    if high.max() / step > MOST_STEPS:
        raise ValueError(f"step is {step:g}: from 0 to high are more than {MOST_STEPS:,} of it")
    lowest = np.ceil(low / step - 1e-6).astype(np.int64)
    highest = np.floor(high / step + 1e-6).astype(np.int64)
    why = (
        f"no multiple of the step {step:g} lies between low {{low:g}} and high {{high:g}} of "
        "dimension {i}; take a smaller step or wider bounds"
    )
    refuse_empty(lowest > highest, low, high, why)
    return lowest, highest


def refuse_empty(crossed: NDArray[np.bool_], low: Floats, high: Floats, why: str) -> None:
    """Refuse bounds that leave nothing to choose somewhere; `why` may name {i}, {low}, {high}."""
    if crossed.any():
        i = int(crossed.argmax())
        raise ValueError("the space is empty: " + why.format(i=i, low=low[i], high=high[i]))


def critical_of(value: int | tuple[int, int] | None, spec: RopeSpec) -> tuple[int, int] | None:
    """The lowest and the highest critical pair to try."""
    if value is None:
        return None
    ends = (value, value) if isinstance(value, int | np.integer) else tuple(value)
    pairs = spec.rotary_dim // 2
    rule = f"name a pair from 1 to {pairs - 1}, or (lowest, highest) of them"
    if len(ends) == 2:
        lowest, highest = (whole("critical", end, 1, rule) for end in ends)
        if lowest <= highest < pairs:
            return lowest, highest
    raise ValueError(f"critical is {value}: {rule}")


def likely_critical(spec: RopeSpec) -> tuple[int, int]:
    """Where a model's critical pair lies: from three quarters of the theoretical one to that.

    LongRoPE2 finds 25 of 31 for Phi3-mini and 30 of 35 for LLaMA3-8B.
    """
    highest = min(max(spec.critical_pair, 1), spec.rotary_dim // 2 - 1)
    return max(3 * highest // 4, 1), highest


def ntk_below(factors: Floats, critical: int) -> Floats:
    """The factors (d/2,) with those below a pair made anew, as NTK's to that pair's factor.

    Of pair c with factor f these are f**(i/c), so that the first is 1 (LongRoPE2, arXiv 2502.20082,
    section 3).
    """
    below = factors[critical] ** (np.arange(critical) / critical)
    return np.concatenate([below, factors[critical:]])


def drawn(rng: np.random.Generator, ends: Sequence[int]) -> int:
    """A whole number, uniform from the lowest to the highest."""
    return int(rng.integers(ends[0], ends[1], endpoint=True))
