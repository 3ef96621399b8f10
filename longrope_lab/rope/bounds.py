"""How large an attention score can become between trained positions, and beyond them.

Position Interpolation (PI, arXiv 2306.15595, section 2.3) argues from the form that RoPE gives to a
score. A query and a key at distance s, their d/2 pairs of dimensions read as complex numbers, meet
in

    a(s) = Re sum_j h_j e^{i s theta_j},        h_j = q_j conj(k_j),  j = 0 ... d/2 - 1

Training has seen a(s) at whole s below L. PI asks for a(s) between two such distances; no scaling
asks for it beyond L.

A theorem, on |a''(s)| <= max|h| sum_j theta_j^2 (`interpolation_bound`). Let l(s) be the straight
line through a(s1) and a(s2); then for s1 <= s <= s2

    |a(s) - l(s)| <= max|h| sum_j theta_j^2 (s - s1)(s2 - s) / 2

Theorem 2.1 as PI states it (`published_interpolation_bound`) puts d/(4 ln base) for the sum of
squares. The sum is (1 - base^-2) / (1 - base^(-4/d)), about d/(4 ln base) + 1/2, so the published
constant is too small (by 13 % for d = 128 and base 10000, by 24 % for d = 64) and some h break it:
h_j = e^{-i s theta_j} at the s in the middle. Their statement holds with d/(4 ln base) + 1 in its
place, and their conclusion does not depend on it.

A theorem, by summation by parts (`extrapolation_bound`; Su et al., arXiv 2104.09864, section
3.4.3), for every s:

    |a(s)| <= max_j |h_{j+1} - h_j| B(s) <= 2 max|h| B(s),   h_{d/2} = 0
    B(s) = sum_{k=0}^{d/2-1} |A_{k+1}(s)|,   A_k(s) = sum_{j<k} e^{i s theta_j}

An observation of PI's, from a plot for base 10000 and d = 128 (their appendix B): B(s)/d is almost
always above 1. With B(s) = d the ratio of the two published bounds is 2 * 32 ln(10000) = 2 *
294.73, their "at least about 600x".

A ratio of bounds is not a ratio of scores. |a(s)| <= max|h| d/2 is plain, tighter wherever B(s) >
d/4, and attained (h_j = e^{-i s theta_j}); the largest distance from the line that any h attains is
`worst_deviation`."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from .spec import Floats, RopeSpec, check_target

Complexes = NDArray[np.complex128]


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
            f"coefficients have shape {h.shape}: they must be {spec.rotary_dim // 2} finite complex numbers, one a "
            f"pair of the {spec.rotary_dim} rotary dimensions"
        )
    angles = np.asarray(positions, dtype=np.float64)[..., None] * spec.frequencies
    scores: Floats = np.tensordot(h.real, np.cos(angles), (-1, -1)) - np.tensordot(
        h.imag, np.sin(angles), (-1, -1)
    )
    return scores


def linear_score(
    spec: RopeSpec, coefficients: ArrayLike, positions: ArrayLike, before: float, after: float
) -> Floats:
    """The straight line through a(before) and a(after), at `positions`: a_linear of PI's Theorem 2.1."""
    left, right = attention_score(spec, coefficients, [before, after])  # one h, shape (d/2,)
    share = (np.asarray(positions, dtype=np.float64) - before) / (after - before)
    line: Floats = left + share * (right - left)
    return line


def interpolation_bound(
    spec: RopeSpec, largest: float | ArrayLike, positions: ArrayLike, before: float, after: float
) -> Floats:
    """How far a(s) can be from the line through its neighbours: sum_j |h_j| theta_j^2 (s - s1)(s2 -
    s) / 2.

    A theorem, for any frequencies: |a''| is at most the sum, and the error of linear interpolation
    at most half of that times the product.

    Args:
        spec: gives theta.
        largest: max|h|; or |h_j| of each pair, shape (d/2,), for a bound that knows which pairs are
            large.
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
    """PI's Theorem 2.1 as printed: d max|h| (s - s1)(s2 - s) / (8 ln base). Slightly too small: see
    the module.

    In the middle of whole positions it is d max|h| / (32 ln base), which is d max|h| / 294.73 for
    base 10000.

    Raises:
        ValueError: a spec without a base, or a position that is not between the neighbours.
    """
    bound: Floats = (
        spec.rotary_dim * abs(largest) * _between(positions, before, after) / (8 * _log_base(spec))
    )
    return bound


def worst_deviation(spec: RopeSpec) -> float:
    """The largest |a(s) - line| midway between whole positions over all h with max|h| = 1: sum_j (1
    - cos(theta_j/2)).

    Attained at any s by h_j = e^{-i s theta_j}: then a(s) is d/2 and each pair's own line passes at
    cos(theta_j/2)."""
    return float((1 - np.cos(spec.frequencies / 2)).sum())


def partial_sums(spec: RopeSpec, positions: ArrayLike) -> Floats:
    """B(s) = sum_{k=0}^{d/2-1} |A_{k+1}(s)|, A_k(s) = sum_{j<k} e^{i s theta_j}; shape
    positions.shape.

    B(s)/d above 1 at most s is what PI observed in a plot (appendix B), no theorem.
    """
    angles = np.asarray(positions, dtype=np.float64)[..., None] * spec.frequencies
    sums: Floats = np.abs(np.cumsum(np.exp(1j * angles), axis=-1)).sum(axis=-1)
    return sums


def extrapolation_bound(spec: RopeSpec, largest: float, positions: ArrayLike) -> Floats:
    """2 max|h| B(s), which |a(s)| never exceeds, shape positions.shape (PI, section 2.3; a theorem)."""
    return 2 * abs(largest) * partial_sums(spec, positions)


def bound_ratio(spec: RopeSpec, positions: ArrayLike | None = None) -> Floats:
    """The extrapolation bound over the published interpolation bound midway between whole
    positions.

    Without `positions`, B(s) counts as d, as in PI: 2 * 32 ln(base), which is 2 * 294.73 for base
    10000 whatever d.

    Raises:
        ValueError: a spec without a base.
    """
    b = float(spec.rotary_dim) if positions is None else partial_sums(spec, positions)
    ratio: Floats = np.asarray(2 * b * 32 * _log_base(spec) / spec.rotary_dim)
    return ratio


def random_coefficients(
    spec: RopeSpec, trials: int, seed: int | np.random.Generator = 0
) -> Complexes:
    """Coefficients of size 1 and uniformly random phase, shape (trials, d/2): max|h| = 1, as the bounds count."""
    phases = np.random.default_rng(seed).uniform(0, 2 * np.pi, (trials, spec.rotary_dim // 2))
    h: Complexes = np.exp(1j * phases)
    return h


def bounds_table(
    spec: RopeSpec,
    target_length: int,
    trials: int = 200,
    points: int = 240,
    seed: int | np.random.Generator = 0,
) -> pd.DataFrame:
    """Bounds and what random coefficients really do, for max|h| = 1, at distances up to
    `target_length`.

    Returns:
        A row a distance, spread evenly on a log axis: position (whole, tokens), partial_sums
        (B(s)), extrapolation_bound, plain_bound (d/2), largest_score (over `trials` random h, of
        |a(s)|), interpolation_bound, published_interpolation_bound (both midway between s and s +
        1), largest_deviation (of a(s + 1/2) from the line, over the same h).

    Raises:
        ValueError: a spec without a base, or a target shorter than the window.
    """
    target_length = check_target(spec, target_length)
    s = np.unique(np.geomspace(1, target_length, points).round())
    h = random_coefficients(spec, trials, seed)
    here, middle, there = (
        attention_score(spec, h, s + step) for step in (0, 0.5, 1)
    )  # (trials, points)
    return pd.DataFrame(
        {
            "position": s.astype(np.int64),
            "partial_sums": partial_sums(spec, s),
            "extrapolation_bound": extrapolation_bound(spec, 1, s),
            "plain_bound": spec.rotary_dim / 2,
            "largest_score": np.abs(here).max(axis=0),
            "interpolation_bound": float(interpolation_bound(spec, 1, 0.5, 0, 1)),
            "published_interpolation_bound": float(
                published_interpolation_bound(spec, 1, 0.5, 0, 1)
            ),
            "largest_deviation": np.abs(middle - (here + there) / 2).max(axis=0),
        }
    )


def bounds_summary(spec: RopeSpec, target_length: int) -> pd.DataFrame:
    """The constants of the argument side by side, for max|h| = 1: columns case, quantity, value.

    B(s) is taken at every whole s from the window to `target_length`.
    """
    beyond = np.arange(spec.window, check_target(spec, target_length) + 1)
    parts = np.array_split(
        beyond, len(beyond) // 4096 + 1
    )  # bounded memory: 4096 distances at a time
    b = np.concatenate([partial_sums(spec, part) for part in parts])
    values = {
        ("between", "published bound, d/(32 ln base)"): published_interpolation_bound(
            spec, 1, 0.5, 0, 1
        ),
        ("between", "bound with the exact sum of squares"): interpolation_bound(spec, 1, 0.5, 0, 1),
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


# --- PI's Figure 2: a score fitted inside the window ----------------------------------------------------------------


def _between(positions: ArrayLike, before: float, after: float) -> Floats:
    s = np.asarray(positions, dtype=np.float64)
    if not (before < after and (before <= s).all() and (s <= after).all()):
        raise ValueError(
            f"positions from {s.min()} to {s.max()} are not between the neighbours {before} and {after}"
        )
    product: Floats = (s - before) * (after - s)
    return product


def _log_base(spec: RopeSpec) -> float:
    if spec.base is None:
        raise ValueError(
            "this RopeSpec has base_frequencies and no base, which PI's closed form needs: use interpolation_bound, "
            "which takes any frequencies"
        )
    return float(np.log(spec.base))
