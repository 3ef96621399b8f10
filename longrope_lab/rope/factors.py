"""Rescale factors as they come in: from a file, and checked against their rules."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from .spec import Floats, RopeSpec, numbers

# Factors come out of formulas and files: so much below 1 is rounding. Some were searched a little
# below 1 (MiniCPM4's first is 0.9978); what is not above LEAST is a mistake, such as an inverse.
ROUNDING, LEAST = 1e-9, 0.9


def read_factors(path: Path) -> Floats:
    """The factors in a CSV, shape (d/2,): one per line, or lines that are all the same.

    Raises:
        ValueError: it holds neither.
    """
    lines = [line for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    if not lines:
        raise ValueError("the file is empty; it should have one factor per line")
    table = np.loadtxt(lines, delimiter=",", dtype=np.float64, ndmin=2, comments=None)
    rows, columns = table.shape
    if rows > 1 and columns > 1 and (table != table[0]).any():
        raise ValueError(
            f"it has {rows} different lines of {columns} values; it should have one factor per line"
        )
    factors: Floats = table[:, 0] if columns == 1 else table[0]
    return factors


def checked_factors(given: ArrayLike, spec: RopeSpec) -> Floats:
    """The factors (d/2,) as an array of their own that nobody can change."""
    factors = numbers("factors", given)
    if factors.shape != (spec.rotary_dim // 2,):
        raise ValueError(
            f"factors have shape {factors.shape}: rotary_dim {spec.rotary_dim} needs shape "
            f"({spec.rotary_dim // 2},), one factor per pair of dimensions"
        )
    bad = np.flatnonzero(~np.isfinite(factors))
    if bad.size:
        raise ValueError(
            f"factor {bad[0]} is {factors[bad[0]]}: rescale factors must be finite numbers"
        )
    low = np.flatnonzero(factors <= LEAST)
    if low.size:
        raise ValueError(
            f"factor {low[0]} is {factors[low[0]]:g}: rescale factors are at least 1 (or above "
            f"{LEAST}, if searched so); they divide the frequency: pass the factor, not its inverse"
        )
    factors = np.where((factors < 1) & (factors >= 1 - ROUNDING), 1.0, factors)
    factors.setflags(write=False)
    return factors
