"""How large an attention score can become between trained positions, and beyond them.

Position Interpolation (PI, arXiv 2306.15595, section 2.3) argues from the form that RoPE gives to a
score. Read the d/2 pairs of dimensions of a query and a key as complex numbers. At distance s the
two then meet in

    a(s) = Re sum_j h_j e^{i s theta_j},        h_j = q_j conj(k_j),  j = 0 ... d/2 - 1

Training has seen a(s) at whole s below L. PI asks for a(s) between two such distances; a model
without scaling asks for it beyond L.

Between: a theorem (`interpolation_bound`), since |a''(s)| <= max|h| sum_j theta_j^2. Let l(s) be
the straight line through a(s1) and a(s2). Then for s1 <= s <= s2

    |a(s) - l(s)| <= max|h| sum_j theta_j^2 (s - s1)(s2 - s) / 2

Theorem 2.1 as PI states it (`published_interpolation_bound`) puts d/(4 ln base) for the sum of
squares. The sum is (1 - base^-2) / (1 - base^(-4/d)), about d/(4 ln base) + 1/2, so the published
constant is too small: by 13 % for d = 128 and base 10000. Some h break it, such as
h_j = e^{-i s theta_j} at the s in the middle. The statement holds with d/(4 ln base) + 1 in its
place, and PI's conclusion does not depend on it.

Beyond: a theorem (`extrapolation_bound`), by summation by parts (Su et al., arXiv 2104.09864,
section 3.4.3), for every s:

    |a(s)| <= max_j |h_{j+1} - h_j| B(s) <= 2 max|h| B(s),   h_{d/2} = 0
    B(s) = sum_{k=0}^{d/2-1} |A_{k+1}(s)|,   A_k(s) = sum_{j<k} e^{i s theta_j}

PI observes, from a plot for base 10000 and d = 128 (appendix B), that B(s)/d is almost always above
1. With B(s) = d the two published bounds have the ratio 2 * 32 ln(10000) = 2 * 294.73, which is
PI's "at least about 600x".

A ratio of bounds is not a ratio of scores. |a(s)| <= max|h| d/2 is plain, tighter wherever
B(s) > d/4, and attained by h_j = e^{-i s theta_j}. The largest distance from the line that any h
attains is `worst_deviation`.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from ..common.checks import seed_of
from .spec import Floats, RopeSpec, check_target

Complexes = NDArray[np.complex128]

# A position and its neighbours: where a straight line is furthest from what it interpolates.
MIDWAY = (0.5, 0, 1)


def attention_score(spec: RopeSpec, coefficients: ArrayLike, positions: ArrayLike) -> Floats:
    """a(s) = Re sum_j h_j e^{i s theta_j} (PI, Eq. 3).

    Args:
        spec: gives theta.
        coefficients: h, complex, shape (d/2,), or (..., d/2) for several scores at once.
        positions: s, distances in tokens, whole or not, any shape.

    Returns:
        The scores, shape coefficients.shape[:-1] + positions.shape.

    Raises:
        ValueError: coefficients of another shape, or not finite.
    """
    h = np.asarray(coefficients, dtype=np.complex128)
    if h.shape[-1:] != (spec.rotary_dim // 2,) or not np.isfinite(h).all():
        raise ValueError(
            f"coefficients have shape {h.shape}: they must be {spec.rotary_dim // 2} finite "
            f"complex numbers, one per pair of the {spec.rotary_dim} rotary dimensions"
        )
    angles = np.asarray(positions, dtype=np.float64)[..., None] * spec.frequencies
    real = np.tensordot(h.real, np.cos(angles), (-1, -1))
    scores: Floats = real - np.tensordot(h.imag, np.sin(angles), (-1, -1))
    return scores


def linear_score(
    spec: RopeSpec, coefficients: ArrayLike, positions: ArrayLike, before: float, after: float
) -> Floats:
    """The straight line through a(before) and a(after): a_linear of PI's Theorem 2.1."""
    left, right = attention_score(spec, coefficients, [before, after])  # one h, shape (d/2,)
    share = (np.asarray(positions, dtype=np.float64) - before) / (after - before)
    line: Floats = left + share * (right - left)
    return line


def interpolation_bound(
    spec: RopeSpec, largest: float | ArrayLike, positions: ArrayLike, before: float, after: float
) -> Floats:
    """How far a(s) can be from the straight line through its neighbours.

    The bound is sum_j |h_j| theta_j^2 (s - s1)(s2 - s) / 2, a theorem for any frequencies: |a''| is
    at most the sum, and the error of linear interpolation at most half of that times the product.

    Args:
        spec: gives theta.
        largest: max|h|; or |h_j| of each pair, shape (d/2,), for a bound that knows which pairs
            are large.
        positions: s in tokens, before <= s <= after.
        before, after: s1 and s2, the neighbours.

    Raises:
        ValueError: a position that is not between the neighbours.
    """
    size = np.broadcast_to(np.abs(np.asarray(largest)).astype(np.float64), (spec.rotary_dim // 2,))
    bound: Floats = (size * spec.frequencies**2).sum() * _between(positions, before, after) / 2
    return bound


def published_interpolation_bound(
    spec: RopeSpec, largest: float, positions: ArrayLike, before: float, after: float
) -> Floats:
    """PI's Theorem 2.1 as printed, slightly too small, as the top of this module explains.

    The bound is d max|h| (s - s1)(s2 - s) / (8 ln base). Midway between whole positions it is
    d max|h| / (32 ln base), which is d max|h| / 294.73 for base 10000.

    Raises:
        ValueError: a spec without a base, or a position that is not between the neighbours.
    """
    bound: Floats = (
        spec.rotary_dim * abs(largest) * _between(positions, before, after) / (8 * _log_base(spec))
    )
    return bound


def worst_deviation(spec: RopeSpec) -> float:
    """The largest |a(s) - line| midway between whole positions, over all h with max|h| = 1.

    It is sum_j (1 - cos(theta_j/2)), and h_j = e^{-i s theta_j} attains it at any s: a(s) is then
    d/2, and the line of each pair passes at cos(theta_j/2).
    """
    return float((1 - np.cos(spec.frequencies / 2)).sum())


def partial_sums(spec: RopeSpec, positions: ArrayLike) -> Floats:
    """B(s) = sum_{k=0}^{d/2-1} |A_{k+1}(s)|, of the shape of `positions`.

    Here A_k(s) = sum_{j<k} e^{i s theta_j}. That B(s)/d is above 1 at most s is an observation of
    PI's, from a plot (appendix B), and not a theorem.
    """
    angles = np.asarray(positions, dtype=np.float64)[..., None] * spec.frequencies
    sums: Floats = np.abs(np.cumsum(np.exp(1j * angles), axis=-1)).sum(axis=-1)
    return sums


def extrapolation_bound(spec: RopeSpec, largest: float, positions: ArrayLike) -> Floats:
    """2 max|h| B(s), which |a(s)| never exceeds (a theorem; PI, section 2.3)."""
    return 2 * abs(largest) * partial_sums(spec, positions)


def bound_ratio(spec: RopeSpec, positions: ArrayLike | None = None) -> Floats:
    """The extrapolation bound over the published interpolation bound midway between positions.

    Without `positions`, B(s) counts as d, as in PI: the ratio is then 2 * 32 ln(base), whatever d,
    which is 2 * 294.73 for base 10000.

    Raises:
        ValueError: a spec without a base.
    """
    b = float(spec.rotary_dim) if positions is None else partial_sums(spec, positions)
    ratio: Floats = np.asarray(2 * b * 32 * _log_base(spec) / spec.rotary_dim)
    return ratio


def generator(seed: int | np.random.Generator) -> np.random.Generator:
    """The generator itself, or that of a seed.

    Raises:
        ValueError: a seed that is not one.
    """
    return seed if isinstance(seed, np.random.Generator) else np.random.default_rng(seed_of(seed))


def random_coefficients(
    spec: RopeSpec, trials: int, seed: int | np.random.Generator = 0
) -> Complexes:
    """Coefficients of size 1 and random phase, shape (trials, d/2): max|h| = 1 in each trial."""
    phases = generator(seed).uniform(0, 2 * np.pi, (trials, spec.rotary_dim // 2))
    h: Complexes = np.exp(1j * phases)
    return h


def bounds_table(
    spec: RopeSpec,
    target_length: int,
    trials: int = 200,
    points: int = 240,
    seed: int | np.random.Generator = 0,
) -> pd.DataFrame:
    """The bounds beside what random coefficients really do, for max|h| = 1.

    Returns:
        One row per distance s up to `target_length`, spread evenly on a log axis, with the columns

            position                        s, whole, in tokens
            partial_sums                    B(s)
            extrapolation_bound             2 B(s)
            plain_bound                     d/2
            largest_score                   the largest |a(s)| of `trials` random h
            interpolation_bound             midway between s and s + 1
            published_interpolation_bound   the same, as PI prints it
            largest_deviation               of a(s + 1/2) from the line, over the same h

    Raises:
        ValueError: a spec without a base, or a target shorter than the window.
    """
    target_length = check_target(spec, target_length)
    s = np.unique(np.geomspace(1, target_length, points).round())
    h = random_coefficients(spec, trials, seed)
    # Each is (trials, points).
    here, middle, there = (attention_score(spec, h, s + step) for step in (0, 0.5, 1))
    return pd.DataFrame(
        {
            "position": s.astype(np.int64),
            "partial_sums": partial_sums(spec, s),
            "extrapolation_bound": extrapolation_bound(spec, 1, s),
            "plain_bound": spec.rotary_dim / 2,
            "largest_score": np.abs(here).max(axis=0),
            "interpolation_bound": float(interpolation_bound(spec, 1, *MIDWAY)),
            "published_interpolation_bound": float(published_interpolation_bound(spec, 1, *MIDWAY)),
            "largest_deviation": np.abs(middle - (here + there) / 2).max(axis=0),
        }
    )


def bounds_summary(spec: RopeSpec, target_length: int) -> pd.DataFrame:
    """The constants of the argument side by side, for max|h| = 1.

    B(s) is taken at every whole s from the window to `target_length`.

    Returns:
        A table with the columns case, quantity, value.
    """
    beyond = np.arange(spec.window, check_target(spec, target_length) + 1)
    parts = np.array_split(beyond, len(beyond) // 4096 + 1)  # bounded memory
    b = np.concatenate([partial_sums(spec, part) for part in parts])
    values = {
        ("between", "published bound, d/(32 ln base)"): published_interpolation_bound(
            spec, 1, *MIDWAY
        ),
        ("between", "bound with the exact sum of squares"): interpolation_bound(spec, 1, *MIDWAY),
        ("between", "attained by the worst h"): worst_deviation(spec),
        ("beyond", "bound with B(s) = d, 2d"): 2 * spec.rotary_dim,
        ("beyond", "bound 2 B(s), the smallest"): 2 * b.min(),
        ("beyond", "attained by the worst h, d/2"): spec.rotary_dim / 2,
        ("beyond", "share of s with B(s) > d"): (b > spec.rotary_dim).mean(),
        ("ratio", "published bounds with B(s) = d, 64 ln base"): bound_ratio(spec),
        ("ratio", "attained by the worst h"): spec.rotary_dim / 2 / worst_deviation(spec),
    }
    return pd.DataFrame(
        [(case, quantity, float(np.asarray(value))) for (case, quantity), value in values.items()],
        columns=["case", "quantity", "value"],
    )


def _between(positions: ArrayLike, before: float, after: float) -> Floats:
    s = np.asarray(positions, dtype=np.float64)
    if not (before < after and (before <= s).all() and (s <= after).all()):
        raise ValueError(
            f"positions from {s.min()} to {s.max()} are not between the neighbours {before} and "
            f"{after}"
        )
    product: Floats = (s - before) * (after - s)
    return product


def _log_base(spec: RopeSpec) -> float:
    if spec.base is None:
        raise ValueError(
            "this RopeSpec has base_frequencies and no base, which PI's closed form needs: use "
            "interpolation_bound, which takes any frequencies"
        )
    return float(np.log(spec.base))
