"""Comparisons of recorded tables, from which claims are made.

"Above" and "below" mean the whole of a 95 % interval, over the same documents. What was not
measured, or not often enough, is neither.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise
from typing import Any

import pandas as pd

from ..measure.tables import ratio_between
from ..plots.style import tokens
from ..rope.methods import FORMULAS
from .claims import Decided, Places, at, formulas_of
from .markdown import with_interval
from .recorded import NotMeasuredError

# An interval over fewer documents is not a 95 % one: the bootstrap of two or three spans just them.
ENOUGH = 4

# Scalings that are not LongRoPE's: besides the formulas, the model as it came, or trained inside
# its window; and YaRN with another m.
FURTHER = ("ramp", "geometric", "llama3")
OTHERS = (*FORMULAS, *FURTHER, "as loaded", "no scaling", "control", "YaRN's factors")


def below(rows: pd.DataFrame, limit: float = 1.0, label: str = "") -> Decided:
    """Whether the intervals of all these ratios lie below `limit`.

    Args:
        label: what the ratio is, in the figure; "ratio to" its baseline if empty.

    Returns:
        Not measured if there are no ratios, or one of too few documents; otherwise with the ratio
        that comes nearest to the limit, or passes it furthest.
    """
    if missing := _too_few(rows):
        return Decided(None, missing)
    nearest = rows.iloc[int(rows["high"].argmax())]
    holds = bool(nearest["high"] < limit)
    return Decided(holds, _figure(nearest, label) + f", {_all(holds)} below {limit:g}")


def above(rows: pd.DataFrame, limit: float, label: str = "") -> Decided:
    """Whether the intervals of all these ratios lie above `limit`; otherwise as `below`."""
    if missing := _too_few(rows):
        return Decided(None, missing)
    nearest = rows.iloc[int(rows["low"].argmin())]
    holds = bool(nearest["low"] > limit)
    return Decided(holds, _figure(nearest, label) + f", {_all(holds)} above {limit:g}")


def _too_few(rows: pd.DataFrame) -> str:
    """What these ratios lack to decide anything, or ""."""
    if rows.empty:
        return "no ratio was recorded"
    if (rows["documents"] >= ENOUGH).all() and rows[["low", "high"]].notna().all(axis=None):
        return ""
    return f"the interval needs at least {ENOUGH} documents, and has {rows['documents'].min():g}"


def _figure(row: pd.Series[Any], label: str) -> str:
    named = "ratio" if row["baseline"] == "second" else f"ratio to {at(row['baseline'])}"
    return f"{label or named} {with_interval(row.to_dict(), 'ratio')}"


def _all(holds: bool) -> str:
    return "all of it" if holds else "not all of it"


def below_all(paired: pd.DataFrame, baselines: Iterable[str]) -> Decided:
    """`below` for the rows of these baselines; not measured if one of them is missing."""
    wanted = set(baselines)
    rows = paired[paired["baseline"].isin(wanted)]
    if missing := wanted - set(rows["baseline"]):
        return Decided(None, f"without {', '.join(at(name) for name in sorted(missing))}")
    return below(rows)


def both(first: Decided, second: Decided) -> Decided:
    """Whether both hold; not measured if either was not."""
    unknown = first.holds is None or second.holds is None
    figures = "; ".join(each.figure for each in (first, second) if each.figure)
    return Decided(None if unknown else first.holds and second.holds, figures)


def below_each(paired: pd.DataFrame, name: str) -> Places:
    """`below_all` for each of an experiment's formulas alone, at every length."""
    return {
        at(length, formula): below_all(rows, [formula])
        for length, rows in paired.groupby("length")
        for formula in formulas_of(name)
    }


def ours(table: pd.DataFrame) -> str:
    """LongRoPE's name among the scalings.

    It is "extended model" or "longrope", or else the first that is not among `OTHERS`.

    Raises:
        NotMeasuredError: all are.
    """
    names = list(table["scaling"].unique())
    named = [name for name in ("extended model", "longrope") if name in names]
    found = named + [name for name in names if name not in OTHERS]
    if not found:
        raise NotMeasuredError("no searched factors and no extended model in this table")
    return str(found[0])


def lengths_of(table: pd.DataFrame, scaling: str) -> list[int]:
    return sorted(int(n) for n in table.loc[table["scaling"] == scaling, "length"].unique())


def ratio(table: pd.DataFrame, first: tuple[str, int], second: tuple[str, int]) -> pd.DataFrame:
    """Perplexity of one (scaling, length) over that of another, as `paired_comparison` gives it.

    Raises:
        NotMeasuredError: one was not measured, or the two not on the same documents.
    """
    try:
        return ratio_between(table, first, second)
    except ValueError as error:
        raise NotMeasuredError(str(error)) from None


def lower_at_each(table: pd.DataFrame, first: str, second: str, limit: float = 1.0) -> Places:
    """Whether the first scaling is below `limit` times the second, at each length of the first."""
    return {
        at(n): below(ratio(table, (first, n), (second, n)), limit) for n in lengths_of(table, first)
    }


def falls(table: pd.DataFrame, scaling: str, lengths: list[int]) -> Places:
    """Whether perplexity falls, from each length to the next."""
    return {
        f"{tokens(a)} to {tokens(b)}": below(ratio(table, (scaling, b), (scaling, a)))
        for a, b in pairwise(lengths)
    }


def halfway(table: pd.DataFrame, scaling: str, start: str, end: str, length: int) -> Decided:
    """Whether a scaling is below `start`, and past the middle of the way from there to `end`.

    The middle is that of the two losses of each document.

    Raises:
        NotMeasuredError: the three were not measured on the same documents.
    """
    here = table[table["length"] == length]
    keys = here.assign(repeat=here.groupby(["scaling", "document"]).cumcount())  # titles may repeat
    losses = keys.pivot_table("loss", ["document", "repeat"], "scaling")
    three = [scaling, start, end]
    if not set(three) <= set(losses) or losses[three].isna().any(axis=None):
        raise NotMeasuredError(f"{', '.join(three)} were not measured on the same documents")
    middle = ((losses[start] + losses[end]) / 2).rename("loss").reset_index()
    with_middle = pd.concat(
        [here[here["scaling"] == scaling], middle.assign(scaling="middle", length=length)]
    )
    return both(
        below(ratio(here, (scaling, length), (start, length)), label=f"ratio to {at(start)}"),
        below(
            ratio(with_middle, (scaling, length), ("middle", length)),
            label=f"to the middle between {at(start)} and {at(end)}",
        ),
    )
