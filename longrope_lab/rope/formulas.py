"""The formulas of the rescale factors and of the attention factor, as functions of numbers."""

from __future__ import annotations

import math
from numbers import Real

import numpy as np

from ..common.checks import above
from .spec import Floats, RopeSpec


def longrope_attention_factor(spec: RopeSpec, target_length: float) -> float:
    """LongRoPE's attention factor, m = sqrt(1 + ln s / ln L), as in its released code.

    `target_length` counts tokens and need not be whole, since a config may state a ratio that gives
    no whole number.
    """
    return longrope_formula(target_length / spec.window, spec.window)


def longrope_formula(ratio: float, window: int) -> float:
    """The same for a ratio s over a window L of tokens."""
    return math.sqrt(1 + math.log(max(ratio, 1.0)) / math.log(window))


def ntk_factors(spec: RopeSpec, ratio: float) -> Floats:
    """NTK-aware factors, s**(2i/(d-2)), shape (d/2,) (YaRN, section 3.1).

    The fastest pair stays as it is, and the slowest is slowed by all of s.
    """
    if spec.rotary_dim < 4:
        raise ValueError(
            f"NTK scaling needs a rotary_dim of at least 4; this model has {spec.rotary_dim}"
        )
    return ratio ** (np.arange(0, spec.rotary_dim, 2, dtype=np.float64) / (spec.rotary_dim - 2))


def yarn_attention_factor(ratio: float, scale: float = 1.0) -> float:
    """YaRN's attention factor, m = 0.1 ln s + 1 (section 3.4, where it is called sqrt(1/t)).

    `scale` multiplies the logarithm, as DeepSeek's mscale does.
    """
    return 0.1 * scale * math.log(ratio) + 1.0 if ratio > 1 else 1.0


def yarn_factors(
    spec: RopeSpec,
    ratio: float,
    betas: tuple[float, float] = (32.0, 1.0),
    truncate: bool = True,
) -> Floats:
    """YaRN's NTK-by-parts factors, shape (d/2,) (section 3.2).

    Fast pairs keep their frequencies, slow ones get those of Position Interpolation, and between
    the two a ramp mixes both frequencies.

    Args:
        spec: the embedding.
        ratio: s.
        betas, truncate: as of `yarn_ramp`.

    Raises:
        ValueError: as of `yarn_ramp`.
    """
    slowed = yarn_ramp(spec, betas, truncate)
    return 1 / (slowed / ratio + (1 - slowed))


def ramp_factors(spec: RopeSpec, ratio: float) -> Floats:
    """Factors that rise in a straight line along YaRN's ramp, 1 + t(s - 1), shape (d/2,).

    Here factors are mixed, in `yarn_factors` frequencies.
    """
    return 1 + yarn_ramp(spec) * (ratio - 1)


def geometric_factors(spec: RopeSpec, ratio: float) -> Floats:
    """Factors whose logarithms rise in a straight line along YaRN's ramp, s**t, shape (d/2,)."""
    return ratio ** yarn_ramp(spec)


def llama3_factors(
    spec: RopeSpec,
    ratio: float,
    low_freq_factor: float = 1.0,
    high_freq_factor: float = 4.0,
) -> Floats:
    """Llama 3.1's factors, shape (d/2,), as its released code computes them.

    Pairs of more turns inside the window than `high_freq_factor` keep their frequencies, those of
    fewer than `low_freq_factor` get those of Position Interpolation. In between the two frequencies
    are mixed in proportion to the turns, as in the paper of YaRN (section 3.2).

    Args:
        spec: the embedding.
        ratio: s; Llama 3.1 has 8, and Llama 3.2 has 32, for sixteen times the window.
        low_freq_factor, high_freq_factor: turns inside the window.

    Raises:
        ValueError: not ``high_freq_factor > low_freq_factor > 0``.
    """
    low, high = above("low_freq_factor", low_freq_factor, 0), high_freq_factor
    if above("high_freq_factor", high, 0) <= low:
        raise ValueError(
            f"high_freq_factor is {high} and low_freq_factor {low}: they are turns inside the "
            "window, high_freq_factor those of the pairs left alone, so the larger of the two"
        )
    kept: Floats = np.clip((spec.rotations - low) / (high - low), 0, 1)
    return 1 / ((1 - kept) / ratio + kept)


def yarn_ramp(
    spec: RopeSpec, betas: tuple[float, float] = (32.0, 1.0), truncate: bool = True
) -> Floats:
    """How much of the slowing each pair gets, shape (d/2,): 0 leaves it as it is, 1 is all of it.

    Args:
        spec: the embedding.
        betas: the turns inside the window from which on a pair is fast, and up to which it is slow.
        truncate: whether the ends of the ramp are rounded outwards to whole pairs.

    Raises:
        ValueError: not ``beta_fast >= beta_slow > 0``, or base frequencies that do not fall.
    """
    beta_fast, beta_slow = betas
    numbers = all(isinstance(beta, Real) for beta in betas)
    if not (numbers and math.isfinite(beta_fast) and beta_fast >= beta_slow > 0):
        raise ValueError(
            f"beta_fast is {beta_fast} and beta_slow {beta_slow}: they are turns inside the "
            "window, beta_fast those of the dimensions left alone, so beta_fast >= beta_slow > 0"
        )
    if not isinstance(truncate, bool):
        raise ValueError(f"truncate is {truncate!r}: it must be True or False")
    low, high = (_index_of_rotations(spec, beta) for beta in betas)
    if truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, spec.rotary_dim - 1)  # the authors' bound, not d/2 - 1
    if low == high:
        high += 0.001
    ramp: Floats = np.clip((np.arange(spec.rotary_dim // 2) - low) / (high - low), 0, 1)
    return ramp


def _index_of_rotations(spec: RopeSpec, rotations: float) -> float:
    """The pair that makes so many turns inside the window.

    It is a fraction, and it may lie outside 0 ... d/2 - 1.
    """
    if spec.base is not None:
        turns = spec.window / (rotations * 2 * math.pi)
        return spec.rotary_dim * math.log(turns) / (2 * math.log(spec.base))
    log_r = np.log(spec.rotations)
    if len(log_r) < 2 or not (np.diff(log_r) < 0).all():
        raise ValueError(
            "YaRN needs base frequencies that fall from each dimension to the next; these do not"
        )
    # Between two pairs the logarithm is taken as linear, as it is where there is a base; past
    # either end, the slope of that end goes on.
    i = int(np.clip(np.searchsorted(-log_r, -math.log(rotations)) - 1, 0, len(log_r) - 2))
    return i + float((math.log(rotations) - log_r[i]) / (log_r[i + 1] - log_r[i]))
