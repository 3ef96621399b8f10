"""Whether a finding showed: claims about recorded tables, and what they come to together.

A claim holds, or does not, at each of several places, such as a corpus and a length. What was not
measured satisfies no claim.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from ..plots.style import STYLES, tokens
from ..rope.methods import METHODS
from .experiments import experiment
from .recorded import NotMeasuredError, Results

YES, PARTLY, NO, NOT_MEASURED = "yes", "partly", "no", "not measured"


class Decided(NamedTuple):
    """Whether a claim holds at a place, and why.

    Args:
        holds: None where it was not measured.
        figure: the measured figure that decided it, in words, with its interval; "" if there is
            none.
    """

    holds: bool | None
    figure: str = ""


Places = Mapping[str, Decided]
# What decides a claim from the results of a profile.
Rule = Callable[[Results], Places]

# A method "stays low" below this multiple of the unscaled model's perplexity inside its window; in
# the paper's Table 6 Mistral ends at 1.92 times where it began.
LOW = 2.0
# A second extension "works" below this multiple of the perplexity before it (the paper's Table 9:
# 7.08 / 6.17 = 1.15).
EXTENDS = 1.25
# Smaller gains from start tokens do not count: those of the paper's Table 2, each at its best n̂,
# are 0.8 to 4 %.
GAIN = 0.005
# Accuracy that an extension may cost: in the paper's Table 8 it costs up to 3.2 points.
LOSS = 0.05
# Fewer questions cannot tell: where none of n scores differs, up to 3/n of all questions may (with
# 95 % confidence).
QUESTIONS = math.ceil(3 / LOSS)
# Share of the keys that the paper's best model finds at every length, and of how many (Figure 4).
FOUND, KEYS = 0.9, 10
# What is left of the perplexity that a search began with: what counts as a fall, and what the paper
# finds (Figure 6).
FALLS, HALVES = 0.9, 0.5


@dataclass(frozen=True)
class Claim:
    """Part of a finding.

    Args:
        says: in words, for all of its places.
        holds: gives the places; raises NotMeasuredError.
    """

    says: str
    holds: Rule


CLAIMS: dict[str, list[Claim]] = {}


def claim(names: str, says: str) -> Callable[[Rule], Rule]:
    """Register a function as a claim of the experiments named, such as "T6 F1"."""

    def register(function: Rule) -> Rule:
        for name in names.split():
            CLAIMS.setdefault(experiment(name).id, []).append(Claim(says, function))
        return function

    return register


class Outcome(NamedTuple):
    """What a claim came to.

    Args:
        says: the claim, in words.
        places: empty where nothing was measured.
        why: what is missing, where nothing was measured.
    """

    says: str
    places: Places
    why: str = ""


def judge(name: str, results: Results) -> tuple[str, list[Outcome]]:
    """Whether an experiment's finding shows in a profile's results.

    Returns:
        What all places come to together (`overall`); and the outcome of each claim, in their order.
    """
    outcomes = [_outcome(each, results) for each in CLAIMS[experiment(name).id]]
    return overall(
        decided.holds
        for outcome in outcomes
        for decided in (outcome.places.values() or [Decided(None)])
    ), outcomes


def overall(holds: Iterable[bool | None]) -> str:
    """What several places come to together.

    Returns:
        "yes" if the claim holds at all of them, "partly" if it does at some, "no" if all were
        measured and it holds at none, otherwise "not measured".
    """
    known = list(holds)
    if known and all(known):
        return YES
    if any(known):
        return PARTLY
    return NO if known and None not in known else NOT_MEASURED


def _outcome(each: Claim, results: Results) -> Outcome:
    try:
        return Outcome(each.says, each.holds(results))
    except NotMeasuredError as error:
        return Outcome(each.says, {}, str(error))


def at(*parts: Any) -> str:
    """The name of a place, row or column, from methods (as figures call them) and lengths."""
    return " ".join(
        tokens(p) if not isinstance(p, str) else STYLES[p][3] if p in STYLES else p for p in parts
    )


def formulas_of(name: str) -> list[str]:
    """The formulas that the paper compares with in an experiment."""
    return [row for row in experiment(name).rows if row in METHODS]


def each_of(name: str) -> str:
    """The same formulas, in words."""
    return "each of " + ", ".join(at(formula) for formula in formulas_of(name))


def percent(share: float) -> str:
    return f"{100 * share:g} %"
