"""Claims about searched factors: Tables 1, 2, 3 and 11, Figures 3 and 6."""

from __future__ import annotations

import pandas as pd

from ..rope.methods import FORMULAS
from . import comparisons as compared
from .claims import (
    FALLS,
    GAIN,
    HALVES,
    LOW,
    Decided,
    Places,
    at,
    claim,
    each_of,
    formulas_of,
    percent,
)
from .markdown import number
from .recorded import (
    EXTENSION,
    LOSSES,
    NONUNIFORMITY,
    ONE_BY_ONE,
    PAIRED,
    SEARCH,
    WITHOUT,
    NotMeasuredError,
    Results,
)

# What a ratio to the unscaled model at its window is called.
WINDOW = "LongRoPE over the unscaled model at its window"


@claim("T1", f"at every corpus and length, the search is below {each_of('T1')}")
def search_beats_formulas(results: Results) -> Places:
    paired = results.table("t1_paired", NONUNIFORMITY, needs=("corpus", *PAIRED))
    places = paired.groupby(["corpus", "length"], sort=False)
    return {at(*place): compared.below_all(rows, formulas_of("T1")) for place, rows in places}


@claim(
    "T2",
    "for every method and length, leaving some number n̂ of tokens unscaled lowers the perplexity "
    f"of the tokens after the largest n̂ by more than {percent(GAIN)} (earlier tokens would gain "
    "merely because they are a short text)",
)
def start_tokens_help(results: Results) -> Places:
    needs = ("part", "method", "start_tokens", *PAIRED)
    ratios = results.table("t2_ratios", NONUNIFORMITY, needs=needs)
    after = ratios[ratios["part"].str.contains("tokens after")]
    places = after.groupby(["method", "length"], sort=False)
    return {at(*place): _best(rows) for place, rows in places}


def _best(ratios: pd.DataFrame) -> Decided:
    """Whether any n̂ brings more than `GAIN`; with the figure of the best one."""
    found = {n: compared.below(row, 1 - GAIN, "ratio") for n, row in ratios.groupby("start_tokens")}
    known = [each.holds for each in found.values()]
    best = ratios.sort_values("high")["start_tokens"].iloc[0]  # what has no interval comes last
    holds = True if True in known else None if None in known else False
    return Decided(holds, f"n̂ = {best}: {found[best].figure}")


@claim("T3", f"before fine-tuning, the searched factors are below {each_of('T3')}")
def better_start(results: Results) -> Places:
    paired = results.table("t3_paired", EXTENSION, NONUNIFORMITY, needs=PAIRED)
    if "fine-tuning" in paired:  # the notebook without any has no such column
        paired = paired[paired["fine-tuning"] == "before"]
    return compared.below_each(paired, "T3")


@claim("T3", "after fine-tuning, they still are")
def better_end(results: Results) -> Places:
    paired = results.table("t3_paired", EXTENSION, needs=("fine-tuning", *PAIRED))
    return compared.below_each(paired[paired["fine-tuning"] == "after"], "T3")


@claim(
    "F3",
    f"on every corpus, at the longest length, LongRoPE has less than {LOW:g} times the unscaled "
    "model's perplexity at its window, and less than each formula and no scaling",
)
def lowest_without_finetuning(results: Results) -> Places:
    stays = results.table("f3_stays", WITHOUT, needs=("corpus", "scaling", *PAIRED))
    paired = results.table("f3_paired", WITHOUT, needs=("corpus", *PAIRED))
    longrope = stays[stays["scaling"] == "longrope"]
    return {
        at(corpus): compared.both(
            compared.below(longrope[longrope["corpus"] == corpus], LOW, WINDOW),
            compared.below_all(rows, FORMULAS),
        )
        for corpus, rows in paired.groupby("corpus", sort=False)
    }


@claim("F3", f"LongRoPE alone: each formula, and no scaling, has more than {LOW:g} times")
def alone_without_finetuning(results: Results) -> Places:
    stays = results.table("f3_stays", WITHOUT, needs=("corpus", "scaling", *PAIRED))
    places: dict[str, Decided] = {}
    for corpus, rows in stays.groupby("corpus", sort=False):
        others = rows[rows["scaling"].isin(FORMULAS)]
        complete = set(others["scaling"]) == set(FORMULAS)
        low = compared.below(rows[rows["scaling"] == "longrope"], LOW, WINDOW)
        lowest = compared.above(others, LOW, "the lowest of the others")
        places[at(corpus)] = compared.both(
            low, lowest if complete else Decided(None, "without all others")
        )
    return places


def _one_by_one(results: Results) -> tuple[pd.DataFrame, list[str]]:
    """Table 11's losses, and its three steps: PI, searched dimensions, start tokens too."""
    t11 = results.table("t11", ONE_BY_ONE, NONUNIFORMITY, needs=LOSSES)
    steps = list(t11["scaling"].unique())
    if len(steps) != 3 or steps[0] != "pi":
        raise NotMeasuredError(f"the steps are {steps}: PI, dimensions, and start tokens too")
    return t11, steps


@claim("T11", "at every length, searched dimensions bring more than half of the whole gain")
def dimensions_bring_most(results: Results) -> Places:
    t11, (pi, dimensions, complete) = _one_by_one(results)
    return {
        at(n): compared.halfway(t11, dimensions, pi, complete, n)
        for n in compared.lengths_of(t11, pi)
    }


@claim("T11", f"and start tokens lower perplexity further, by more than {percent(GAIN)}")
def start_tokens_add(results: Results) -> Places:
    t11, (_, dimensions, complete) = _one_by_one(results)
    return compared.lower_at_each(t11, complete, dimensions, 1 - GAIN)


def by_round(history: pd.DataFrame) -> pd.DataFrame:
    """The evolution's best perplexity, one row per target.

    Columns: to, rounds, first round, last round, ratio (last over first).
    """
    rows = []
    for target, group in history[history["search"] == "evolution"].groupby("to", sort=False):
        best = group.groupby("round")["best_perplexity"].last()
        rows.append((target, len(best), best.iloc[0], best.iloc[-1], best.iloc[-1] / best.iloc[0]))
    return pd.DataFrame(rows, columns=["to", "rounds", "first round", "last round", "ratio"])


def _falls_below(share: float, results: Results) -> Places:
    """Whether less than this share of the first round's perplexity is left, for each target."""
    history = results.table("history", SEARCH, needs=("to", "search", "round", "best_perplexity"))
    rounds = by_round(history).query("rounds > 1").set_index("to")
    return {
        str(target): Decided(bool(left < share), f"{number(left, 4)} of the first round's is left")
        for target, left in rounds["ratio"].items()
    }


@claim(
    "F6",
    f"at every target, the evolution's best perplexity falls by more than {percent(1 - FALLS)} "
    "from its first round to its last (there is no interval: it is the search's own measure, on "
    "its own documents)",
)
def search_finds_more(results: Results) -> Places:
    return _falls_below(FALLS, results)


@claim("F6", f"and by more than {percent(1 - HALVES)}")
def search_halves(results: Results) -> Places:
    return _falls_below(HALVES, results)
