"""Scalings side by side, as tables; nothing is measured here."""

from __future__ import annotations

import math
from collections.abc import Mapping

import pandas as pd

from ..rope.scaling import RopeScaling


def factor_table(scalings: Mapping[str, RopeScaling]) -> pd.DataFrame:
    """Rescale factors side by side: a column per scaling, after pair; a row per dimension pair.

    Raises:
        ValueError: there are no scalings, or they are for different numbers of dimensions.
    """
    _check_any(scalings)
    pairs = {name: len(scaling.factors) for name, scaling in scalings.items()}
    if len(set(pairs.values())) > 1:
        raise ValueError(
            f"the scalings have different numbers of dimension pairs ({pairs}): compare those of "
            "one model"
        )
    factors = {name: scaling.factors for name, scaling in scalings.items()}
    return pd.DataFrame(factors).rename_axis("pair").reset_index()


def scaling_summary(scalings: Mapping[str, RopeScaling]) -> pd.DataFrame:
    """What scalings do to a rotary embedding, in three numbers each.

    Returns:
        One row per scaling: method (its name), degrees between neighbours, fastest pair; pairs
        beyond their trained angles (at the target length, of those that never finish a turn inside
        the window); attention factor m.

    Raises:
        ValueError: there are no scalings.
    """
    _check_any(scalings)
    rows = []
    for name, scaling in scalings.items():
        further = scaling.factors < scaling.ratio * (1 - 1e-9)  # than any trained position
        beyond = int((further & (scaling.spec.rotations < 1)).sum())
        neighbours = math.degrees(scaling.frequencies[0])
        rows.append((name, neighbours, beyond, scaling.attention_factor))
    return pd.DataFrame(
        rows,
        columns=[
            "method",
            "degrees between neighbours, fastest pair",
            "pairs beyond their trained angles",
            "attention factor m",
        ],
    )


def _check_any(scalings: Mapping[str, RopeScaling]) -> None:
    if not scalings:
        raise ValueError("scalings is empty: give at least one, by a name")
