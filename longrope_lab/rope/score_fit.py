"""PI's Figure 2: a score that is fitted inside the window, and asked for elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from .bounds import Complexes, attention_score, generator
from .spec import Floats, RopeSpec, check_target

RIDGE = 1e-8


def fit_coefficients(spec: RopeSpec, scores: ArrayLike, ridge: float = RIDGE) -> Complexes:
    """The h, shape (d/2,), whose a(s) comes nearest to `scores` at s = 0, 1, 2 and so on.

    Pairs that make a small part of a turn inside the window are nearly the same function there, so
    least squares alone leaves their h undetermined. How large they get is decided by `ridge`, the
    weight of sum |h_j|^2 against the squared error. It must be above 0, since the answer would
    otherwise be rounding noise.

    Raises:
        ValueError: a ridge that is not above 0, or scores that are not a list of finite numbers.
    """
    y = np.asarray(scores, dtype=np.float64)
    if y.ndim != 1 or not y.size or not np.isfinite(y).all():
        raise ValueError(
            f"scores have shape {y.shape}: they must be finite numbers in one row, from distance 0 "
            "on"
        )
    if not (np.isfinite(ridge) and ridge > 0):
        raise ValueError(
            f"ridge is {ridge}: it must be above 0, since the fit has no unique answer without it"
        )
    u, size, vt = _decomposed_design(spec, len(y))
    real, imaginary = np.split(vt.T @ ((u.T @ y) * size / (size**2 + ridge)), 2)
    h: Complexes = real + 1j * imaginary
    return h


def score_fit(
    spec: RopeSpec,
    target_length: int,
    seed: int | np.random.Generator = 0,
    ridge: float = RIDGE,
    points: int = 1000,
    zoom: Sequence[int] = (40, 48),
) -> pd.DataFrame:
    """PI's Figure 2: random scores at every trained distance are fitted, then asked for elsewhere.

    The scores are drawn from the standard normal distribution.

    Args:
        spec: the embedding; its window is the range of the fit.
        target_length: L', the longest distance asked for.
        seed: of the random scores.
        ridge: see `fit_coefficients`.
        points: distances drawn in each of the long curves.
        zoom: the whole distances between which the last curve is drawn finely.

    Returns:
        One row per point: curve, position (the distance in tokens), angle_position (the distance
        that the angles are computed from, position/s for PI), and score. The curves are

            data      the random scores
            inside    the fitted score inside the window
            none      the fitted score up to `target_length`, without scaling
            pi        the same under PI
            between   the fitted score from `zoom[0]` to `zoom[1]`
            trained   its values at the whole distances there

    Raises:
        ValueError: a zoom outside the window, or a target shorter than the window.
    """
    length = spec.window
    target_length = check_target(spec, target_length)
    first, last = zoom
    if not 0 <= first < last < length:
        raise ValueError(
            f"zoom is {tuple(zoom)}: it must be two whole distances inside the window of {length} "
            "tokens"
        )
    scores = generator(seed).standard_normal(length)
    h = fit_coefficients(spec, scores, ridge)
    long = np.linspace(0, target_length - 1, points)
    ratio = target_length / length
    curves = {
        "inside": (np.linspace(0, length - 1, points), 1.0),
        "none": (long, 1.0),
        "pi": (long, ratio),
        "between": (np.linspace(first, last, 40 * (last - first) + 1), 1.0),
        "trained": (np.arange(first, last + 1), 1.0),
    }
    frames = [_curve("data", np.arange(length), np.arange(length), scores)]
    for name, (position, divisor) in curves.items():
        asked = position / divisor
        frames.append(_curve(name, position, asked, attention_score(spec, h, asked)))
    return pd.concat(frames, ignore_index=True)


def _curve(name: str, position: ArrayLike, asked: ArrayLike, score: Floats) -> pd.DataFrame:
    columns = {"position": position, "angle_position": asked, "score": score}
    return pd.DataFrame({"curve": name} | columns)


def score_fit_sweep(
    spec: RopeSpec,
    target_length: int,
    ridges: Sequence[float] = (1e-8, 1e-4, 1e-2, 1.0),
    trials: int = 8,
    seed: int = 0,
    points: int = 4000,
) -> pd.DataFrame:
    """The same fit for several sets of scores and several ridges: is the explosion an accident?

    Returns:
        One row per fit: ridge, trial, largest_coefficient (max|h|), and the largest |a(s)| in three
        ranges. They are inside (the window), beyond (it, up to `target_length`) and interpolated
        (under PI, whose last distance lies less than a token past the last trained one).
    """
    length = spec.window
    target_length = check_target(spec, target_length)
    inside = np.linspace(0, length - 1, points)
    beyond = np.linspace(length, target_length, points)
    squeezed = np.linspace(0, target_length - 1, points) * length / target_length
    generators = generator(seed).spawn(trials)
    scores = [generator.standard_normal(length) for generator in generators]
    # (ridges, trials, d/2)
    h = np.array([[fit_coefficients(spec, one, ridge) for one in scores] for ridge in ridges])
    table = pd.DataFrame(
        {"ridge": np.repeat(ridges, trials), "trial": np.tile(np.arange(trials), len(ridges))}
    )
    table["largest_coefficient"] = np.abs(h).max(axis=-1).ravel()
    for name, positions in {"inside": inside, "beyond": beyond, "interpolated": squeezed}.items():
        table[name] = np.abs(attention_score(spec, h, positions)).max(axis=-1).ravel()
    return table


@lru_cache(maxsize=2)  # a sweep fits the same window many times
def _decomposed_design(spec: RopeSpec, length: int) -> tuple[Floats, Floats, Floats]:
    """The matrix (length, d) that takes Re h and Im h to scores, in its singular values."""
    angles = np.arange(length)[:, None] * spec.frequencies
    design = np.concatenate([np.cos(angles), -np.sin(angles)], axis=1)
    u, size, vt = np.linalg.svd(design, full_matrices=False)
    return u, size, vt
