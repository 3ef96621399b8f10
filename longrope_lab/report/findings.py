"""Whether a finding showed: claims about recorded tables, and what they come to together.

A claim holds, or not, at each of several places, such as a corpus and a length. Whatever is called
above or below is so with the whole of a 95 % interval, over the same documents; what was not
measured, or not often enough, satisfies nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import pandas as pd

from ..measure.stats import paired_comparison
from ..plots.style import STYLES, tokens
from ..rope.methods import FORMULAS, METHODS
from .experiments import experiment
from .recorded import NotMeasuredError, Results

YES, PARTLY, NO, NOT_MEASURED = "yes", "partly", "no", "not measured"

# place -> whether the claim holds there; None where it was not measured.
Places = Mapping[str, bool | None]

# An interval over fewer documents is no 95 % one: the bootstrap of two or three spans what they
# are, and no more.
ENOUGH = 4

# Columns of the tables that `stats.paired_comparison` and `perplexity` make.
PAIRED = ("baseline", "length", "documents", "ratio", "low", "high")
LOSSES = ("scaling", "length", "document", "loss")

# What is not LongRoPE's besides: the model as it came, or trained inside its window; and YaRN with
# another m.
OTHERS = (*FORMULAS, "as loaded", "no scaling", "control", "YaRN's factors")


@dataclass(frozen=True)
class Claim:
    """Part of a finding.

    Args:
        says: in words, for all of its places.
        holds: the places, from the results of a profile; raises NotMeasuredError.
    """

    says: str
    holds: Callable[[Results], Places]


CLAIMS: dict[str, list[Claim]] = {}


def claim(
    names: str, says: str
) -> Callable[[Callable[[Results], Places]], Callable[[Results], Places]]:
    """Register a function as a claim of the experiments named, such as "T6 F1"."""

    def register(function: Callable[[Results], Places]) -> Callable[[Results], Places]:
        for name in names.split():
            CLAIMS.setdefault(experiment(name).id, []).append(Claim(says, function))
        return function

    return register


def judge(name: str, results: Results) -> tuple[str, list[Places]]:
    """Whether a finding shows in a profile's results, and where each of its claims (in their order)
    does.

    Returns:
        `verdict` of all places together; and the places of each claim, none where nothing was
        measured.
    """
    outcomes = [_places(each, results) for each in CLAIMS[experiment(name).id]]
    return verdict(holds for places in outcomes for holds in (places.values() or [None])), outcomes


def verdict(holds: Iterable[bool | None]) -> str:
    """ "yes": all hold; "partly": some do; "no": all were measured, and none does; otherwise "not measured"."""
    known = list(holds)
    if known and all(known):
        return YES
    if any(known):
        return PARTLY
    return NO if known and None not in known else NOT_MEASURED


def _places(each: Claim, results: Results) -> Places:
    try:
        return each.holds(results)
    except NotMeasuredError:
        return {}


def at(*parts: Any) -> str:
    """The name of a place, or of a row or column: methods as figures call them, lengths as people say them."""
    return " ".join(
        tokens(p) if not isinstance(p, str) else STYLES[p][3] if p in STYLES else p for p in parts
    )


def below(rows: pd.DataFrame, limit: float = 1.0) -> bool | None:
    """Whether the intervals of all these ratios lie below `limit`; None if there are none, or of too few documents."""
    return bool((rows["high"] < limit).all()) if _enough(rows) else None


def above(rows: pd.DataFrame, limit: float) -> bool | None:
    """Whether the intervals of all these ratios lie above `limit`; None as in `below`."""
    return bool((rows["low"] > limit).all()) if _enough(rows) else None


def _enough(rows: pd.DataFrame) -> bool:
    return bool(
        len(rows)
        and rows[["low", "high"]].notna().all(axis=None)
        and (rows["documents"] >= ENOUGH).all()
    )


def below_all(paired: pd.DataFrame, baselines: Iterable[str]) -> bool | None:
    """`below` for the rows of these baselines; None if one of them is missing."""
    wanted = set(baselines)
    rows = paired[paired["baseline"].isin(wanted)]
    return below(rows) if wanted == set(rows["baseline"]) else None


def both(first: bool | None, second: bool | None) -> bool | None:
    """Whether both hold; None if either was not measured."""
    return None if first is None or second is None else first and second


def formulas_of(name: str) -> list[str]:
    """The formulas that the paper compares with in an experiment."""
    return [row for row in experiment(name).rows if row in METHODS]


def each_of(name: str) -> str:
    """The same formulas, in words."""
    return "each of " + ", ".join(at(formula) for formula in formulas_of(name))


def percent(share: float) -> str:
    return f"{100 * share:g} %"


def ours(table: pd.DataFrame) -> str:
    """LongRoPE's name among the scalings: the extended model, "longrope", or the first that is no other's."""
    names = list(table["scaling"].unique())
    found = [n for n in ("extended model", "longrope") if n in names] + [
        n for n in names if n not in OTHERS
    ]
    if not found:
        raise NotMeasuredError("no searched factors and no extended model in this table")
    return str(found[0])


def lengths_of(table: pd.DataFrame, scaling: str) -> list[int]:
    return sorted(int(n) for n in table.loc[table["scaling"] == scaling, "length"].unique())


def ratio(table: pd.DataFrame, first: tuple[str, int], second: tuple[str, int]) -> pd.DataFrame:
    """One (scaling, length) over another, on the same documents: a row as `paired_comparison` gives it."""
    pair = {
        name: table[(table["scaling"] == scaling) & (table["length"] == length)].assign(
            scaling=name, length=0
        )
        for name, (scaling, length) in {"first": first, "second": second}.items()
    }
    if pair["first"].empty or sorted(pair["first"]["document"]) != sorted(
        pair["second"]["document"]
    ):
        raise NotMeasuredError(f"{first} and {second} were not measured on the same documents")
    return paired_comparison(pd.concat(pair.values()), "first", "second")


def falls(table: pd.DataFrame, scaling: str, lengths: list[int]) -> Places:
    """Whether perplexity falls, from each length to the next."""
    return {
        f"{tokens(a)} to {tokens(b)}": below(ratio(table, (scaling, b), (scaling, a)))
        for a, b in pairwise(lengths)
    }


def halfway(table: pd.DataFrame, scaling: str, start: str, end: str, length: int) -> bool | None:
    """Whether a scaling is below another, and more than half the way down from its loss to a third one's."""
    here = table[table["length"] == length]
    keys = here.assign(repeat=here.groupby(["scaling", "document"]).cumcount())  # titles may repeat
    losses = keys.pivot_table("loss", ["document", "repeat"], "scaling")
    if not {scaling, start, end} <= set(losses) or losses[[scaling, start, end]].isna().any(
        axis=None
    ):
        raise NotMeasuredError(
            f"{scaling}, {start} and {end} were not measured on the same documents"
        )
    middle = (
        ((losses[start] + losses[end]) / 2)
        .rename("loss")
        .reset_index()
        .assign(scaling="middle", length=length)
    )
    with_middle = pd.concat([here[here["scaling"] == scaling], middle])
    return both(
        below(ratio(here, (scaling, length), (start, length))),
        below(ratio(with_middle, (scaling, length), ("middle", length))),
    )
