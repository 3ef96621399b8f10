"""The findings of the paper as claims, in the order of its experiments: what each says stands beside its rule."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pandas as pd

from ..measure.stats import paired_scores
from ..rope.methods import FORMULAS
from .experiments import EXTENSION, LONG, NONUNIFORMITY
from .findings import (
    LOSSES,
    PAIRED,
    Places,
    above,
    at,
    below,
    below_all,
    both,
    claim,
    each_of,
    falls,
    formulas_of,
    halfway,
    lengths_of,
    ours,
    percent,
    ratio,
)
from .recorded import NotMeasuredError, Results

# A method "stays low" below this multiple of the unscaled model's perplexity inside its window; in
# the paper's Table 6 Mistral ends at 1.92 times where it began.
LOW = 2.0
# A second extension "works" below this multiple of the perplexity before it (the paper's Table 9:
# 7.08 / 6.17 = 1.15).
EXTENDS = 1.25
# Smaller gains from start tokens are none: those of the paper's Table 2, each at its best n̂, are
# 0.8 to 4 %.
GAIN = 0.005
# Accuracy that an extension may cost: in the paper's Table 8 it is up to 3.2 points.
LOSS = 0.05
# Fewer questions cannot tell: where none of n scores differs, up to 3/n of all questions may (at 95
# %).
QUESTIONS = math.ceil(3 / LOSS)
# Share of the keys that the paper's best model finds at every length, of so many there (Figure 4).
FOUND, KEYS = 0.9, 10
# What is left of the perplexity that a search began with: what counts as a fall, and what the paper
# finds (Figure 6).
FALLS, HALVES = 0.9, 0.5

WITHOUT, RECOVERY, PASSKEY = "04_without_finetuning", "06_short_context_recovery", "07_passkey"
BENCHMARKS, ONE_BY_ONE, SEARCH = (
    "08_short_context_benchmarks",
    "09_two_nonuniformities",
    "03_search",
)


@claim(
    "T1", f"at every corpus and length, the search's perplexity is below that of {each_of('T1')}"
)
def search_beats_formulas(results: Results) -> Places:
    paired = results.table("t1_paired", NONUNIFORMITY, needs=("corpus", *PAIRED))
    places = paired.groupby(["corpus", "length"], sort=False)
    return {
        at(corpus, length): below_all(rows, formulas_of("T1")) for (corpus, length), rows in places
    }


@claim(
    "T2",
    "for every method and length, leaving some number of tokens n̂ unscaled lowers the perplexity of those after the "
    f"largest n̂ by more than {percent(GAIN)} (the ones before gain by being a short text)",
)
def start_tokens_help(results: Results) -> Places:
    ratios = results.table(
        "t2_ratios", NONUNIFORMITY, needs=("part", "method", "start_tokens", *PAIRED)
    )
    after = ratios[ratios["part"].str.contains("tokens after")]
    places = after.groupby(["method", "length"], sort=False)
    return {
        at(*place): _any(below(row, 1 - GAIN) for _, row in rows.groupby("start_tokens"))
        for place, rows in places
    }


def _any(holds: Iterator[bool | None]) -> bool | None:
    known = list(holds)
    return True if True in known else None if None in known else False


@claim(
    "T3", f"before fine-tuning, the searched factors' perplexity is below that of {each_of('T3')}"
)
def better_start(results: Results) -> Places:
    paired = results.table("t3_paired", EXTENSION, NONUNIFORMITY, needs=PAIRED)
    if "fine-tuning" in paired:  # the notebook without any has no such column
        paired = paired[paired["fine-tuning"] == "before"]
    return _below_each(paired, "T3")


@claim("T3", "after fine-tuning, it still is")
def better_end(results: Results) -> Places:
    paired = results.table("t3_paired", EXTENSION, needs=("fine-tuning", *PAIRED))
    return _below_each(paired[paired["fine-tuning"] == "after"], "T3")


def _below_each(paired: pd.DataFrame, name: str) -> Places:
    """Whether it is below each of an experiment's formulas, at every length."""
    by_length = paired.groupby("length")
    return {
        at(n, formula): below_all(rows, [formula])
        for n, rows in by_length
        for formula in formulas_of(name)
    }


@claim(
    "F3",
    f"on every corpus, at the longest length, LongRoPE has less than {LOW:g} times the unscaled model's perplexity at "
    "its window, and less than each formula and no scaling",
)
def lowest_without_finetuning(results: Results) -> Places:
    stays = results.table("f3_stays", WITHOUT, needs=("corpus", "scaling", *PAIRED))
    paired = results.table("f3_paired", WITHOUT, needs=("corpus", *PAIRED))
    longrope = stays[stays["scaling"] == "longrope"]
    return {
        at(corpus): both(
            below(longrope[longrope["corpus"] == corpus], LOW), below_all(rows, FORMULAS)
        )
        for corpus, rows in paired.groupby("corpus", sort=False)
    }


@claim("F3", f"alone: each formula, and no scaling, has more than {LOW:g} times")
def alone_without_finetuning(results: Results) -> Places:
    stays = results.table("f3_stays", WITHOUT, needs=("corpus", "scaling", *PAIRED))
    places: dict[str, bool | None] = {}
    for corpus, rows in stays.groupby("corpus", sort=False):
        others = rows[rows["scaling"].isin(FORMULAS)]
        complete = set(others["scaling"]) == set(FORMULAS)
        low = below(rows[rows["scaling"] == "longrope"], LOW)
        places[at(corpus)] = both(low, above(others, LOW) if complete else None)
    return places


@claim("T5", "LongRoPE's perplexity falls from each length to the next")
def falls_with_length(results: Results) -> Places:
    for notebook in (LONG, EXTENSION):
        try:
            t5 = results.table("t5", notebook, needs=LOSSES)
            return falls(t5, ours(t5), lengths_of(t5, ours(t5)))
        except NotMeasuredError:
            continue
    raise NotMeasuredError("table 5 was not recorded, or without LongRoPE")


@claim(
    "T5",
    f"from YaRN's target to the longest length, LongRoPE's still falls, and YaRN's grows to more than {LOW:g} times",
)
def yarn_breaks(results: Results) -> Places:
    t5, target = results.table("t5", LONG, needs=LOSSES), results.run(LONG).parameters.get("target")
    longest = max(lengths_of(t5, "yarn"), default=0)
    if not isinstance(target, int) or longest <= target:
        raise NotMeasuredError("no length past YaRN's target")
    still = below(ratio(t5, (ours(t5), longest), (ours(t5), target)))
    broken = above(ratio(t5, ("yarn", longest), ("yarn", target)), LOW)
    return {f"{at(target)} to {at(longest)}": both(still, broken)}


def _ends(results: Results) -> tuple[bool | None, dict[str, pd.DataFrame], int]:
    """Whether LongRoPE stays low on books; every scaling over the unscaled model's start; the longest length."""
    t6 = results.table("t6", LONG, needs=LOSSES)
    lengths = lengths_of(t6, "none")
    if not lengths:
        raise NotMeasuredError("the unscaled model was not measured")
    used = [name for name in t6["scaling"].unique() if name == ours(t6) or name in FORMULAS]
    ends = {name: ratio(t6, (name, lengths[-1]), ("none", lengths[0])) for name in used}
    return below(ends[ours(t6)], LOW), ends, lengths[-1]


@claim(
    "T6 F1",
    f"at the longest length, LongRoPE has less than {LOW:g} times the unscaled model's perplexity at the shortest",
)
def low_to_the_end(results: Results) -> Places:
    low, _, longest = _ends(results)
    return {at(longest): low}


@claim("T6", f"and YaRN has more than {LOW:g} times")
def yarn_ends(results: Results) -> Places:
    low, ends, longest = _ends(results)
    return {at(longest): both(low, above(ends["yarn"], LOW) if "yarn" in ends else None)}


@claim(
    "F1",
    f"and each formula that was measured, YaRN among them, and no scaling have more than {LOW:g} times",
)
def others_end(results: Results) -> Places:
    low, ends, longest = _ends(results)
    others = pd.concat([row for name, row in ends.items() if name in FORMULAS])
    return {at(longest): both(low, above(others, LOW) if "yarn" in ends else None)}


@claim(
    "T7",
    "LongRoPE's perplexity falls from each of three lengths to the next (in part because a longer text has a smaller "
    "share of first tokens)",
)
def falls_on_books(results: Results) -> Places:
    t6, t7 = (
        results.table("t6", LONG, needs=LOSSES),
        results.table("t7", LONG, needs=("scaling", *PAIRED)),
    )
    return falls(t6, ours(t6), lengths_of(t7, ours(t6)))


def _keys(results: Results) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Of LongRoPE and of the others, by length: the share of keys found (accuracy), low, high (Wilson's interval)."""
    keys = results.table(
        "f4_summary", PASSKEY, needs=("scaling", "length", "trials", "accuracy", "low", "high")
    )
    if not {"none", "yarn"} <= set(keys["scaling"]) or (keys["trials"] < KEYS).any():
        raise NotMeasuredError(
            f"no scaling and YaRN must be there to compare with, and {KEYS} keys a length"
        )
    return keys[keys["scaling"] == ours(keys)].sort_values("length"), keys[
        keys["scaling"].isin(FORMULAS)
    ]


def _found(keys: pd.DataFrame) -> bool:
    return bool((keys["accuracy"] >= FOUND).all())


def _alone(found: pd.DataFrame, others: pd.DataFrame, length: int) -> bool:
    here = others[others["length"] == length]
    lost = {"none", "yarn"} <= set(here["scaling"]) and bool((here["high"] < 0.5).all())
    return lost and _found(found[found["length"] == length])


@claim("F4", f"at every length, LongRoPE finds at least {percent(FOUND)} of {KEYS} or more keys")
def finds_everywhere(results: Results) -> Places:
    return {"every length": _found(_keys(results)[0])}


@claim(
    "F4",
    "it does at the longest length, where each formula and no scaling find, by the interval, less than half",
)
def finds_alone_at_the_end(results: Results) -> Places:
    found, others = _keys(results)
    longest = int(found["length"].max())
    return {at(longest): _alone(found, others, longest)}


@claim("F4", "there is a length where it does and they do not")
def finds_alone_somewhere(results: Results) -> Places:
    found, others = _keys(results)
    return {"somewhere": any(_alone(found, others, n) for n in found["length"])}


@claim(
    "T8",
    f"on every task, the extended model's accuracy is less than {LOSS * 100:g} points below the original's",
)
def accuracy_is_kept(results: Results) -> Places:
    t8 = results.table("t8", BENCHMARKS, needs=("scaling", "task", "question", "score"))
    original = [name for name in ("as loaded", "none") if name in set(t8["scaling"])]
    if not original:
        raise NotMeasuredError("the original model was not asked")
    try:
        paired = paired_scores(t8[t8["scaling"].isin([ours(t8), original[0]])], original[0])
    except ValueError as error:  # other questions
        raise NotMeasuredError(str(error)) from None
    rows = zip(paired["task"], paired["questions"], paired["low"], strict=True)
    return {task: low > -LOSS if count >= QUESTIONS else None for task, count, low in rows}


@claim("T9", f"after the second extension, LongRoPE's perplexity is below that of {each_of('T9')}")
def second_extension_is_best(results: Results) -> Places:
    paired = results.table("t9_paired", EXTENSION, needs=PAIRED)
    return _below_each(paired[paired["length"] == paired["length"].max()], "T9")


@claim(
    "T9",
    f"and less than {EXTENDS:g} times its own at the shortest length measured, on the same documents",
)
def second_extension_works(results: Results) -> Places:
    t9 = results.table("t9", EXTENSION, needs=LOSSES)
    lengths = lengths_of(t9, "longrope")
    if len(lengths) < 2:
        raise NotMeasuredError("nothing was measured at the length before the second extension")
    first, last = lengths[0], lengths[-1]
    grown = ratio(t9, ("longrope", last), ("longrope", first))
    return {f"{at(first)} to {at(last)}": below(grown, EXTENDS)}


@claim("T10", "at every length, perplexity with recovery is below that without")
def recovery_helps(results: Results) -> Places:
    t10 = results.table("t10", RECOVERY, needs=LOSSES)
    lengths = lengths_of(t10, "recovery on")
    return {at(n): below(ratio(t10, ("recovery on", n), ("recovery off", n))) for n in lengths}


@claim(
    "T10",
    "by more than half of the way back to the model as it was loaded, where that is the better one",
)
def recovery_wins_back(results: Results) -> Places:
    t10 = results.table("t10", RECOVERY, needs=LOSSES)
    lengths = lengths_of(t10, "recovery on")
    return {at(n): halfway(t10, "recovery on", "recovery off", "as loaded", n) for n in lengths}


def _one_by_one(results: Results) -> tuple[pd.DataFrame, list[str]]:
    """Table 11's losses, and its three steps: PI, searched dimensions, start tokens too."""
    t11 = results.table("t11", ONE_BY_ONE, NONUNIFORMITY, needs=LOSSES)
    steps = list(t11["scaling"].unique())
    if len(steps) != 3 or steps[0] != "pi":
        raise NotMeasuredError(
            f"the steps are {steps}: PI, searched dimensions, and these with start tokens"
        )
    return t11, steps


@claim(
    "T11",
    "at every length, searched dimensions bring more than half of what both non-uniformities bring",
)
def dimensions_bring_most(results: Results) -> Places:
    t11, (pi, dimensions, complete) = _one_by_one(results)
    return {at(n): halfway(t11, dimensions, pi, complete, n) for n in lengths_of(t11, pi)}


@claim("T11", f"and start tokens lower perplexity further, by more than {percent(GAIN)}")
def start_tokens_add(results: Results) -> Places:
    t11, (_, dimensions, complete) = _one_by_one(results)
    added = {n: ratio(t11, (complete, n), (dimensions, n)) for n in lengths_of(t11, complete)}
    return {at(n): below(row, 1 - GAIN) for n, row in added.items()}


@claim(
    "T12",
    "at the last length, a model trained in two steps is below one trained straight there, and below one trained on "
    "short texts",
)
def two_steps_end_lower(results: Results) -> Places:
    paired = results.table("t12_paired", EXTENSION, needs=PAIRED)
    end = paired[paired["length"] == paired["length"].max()]
    return {way: below_all(end, [way]) for way in ("straight", "short texts")}


@claim(
    "F5",
    "at every length, a model trained in two steps is below one trained straight at the last length",
)
def two_steps_are_lower(results: Results) -> Places:
    t12 = results.table("t12", EXTENSION, needs=LOSSES)
    lengths = lengths_of(t12, "two steps")
    return {at(n): below(ratio(t12, ("two steps", n), ("straight", n))) for n in lengths}


def by_round(history: pd.DataFrame) -> pd.DataFrame:
    """The evolution's best perplexity: columns to, rounds, first round, last round, ratio (last over first)."""
    rows = []
    for target, group in history[history["search"] == "evolution"].groupby("to", sort=False):
        best = group.groupby("round")["best_perplexity"].last()
        rows.append((target, len(best), best.iloc[0], best.iloc[-1], best.iloc[-1] / best.iloc[0]))
    return pd.DataFrame(rows, columns=["to", "rounds", "first round", "last round", "ratio"])


def _left(results: Results) -> dict[str, float]:
    history = results.table("history", SEARCH, needs=("to", "search", "round", "best_perplexity"))
    rounds = by_round(history).query("rounds > 1").set_index("to")
    return {str(target): float(left) for target, left in rounds["ratio"].items()}


@claim(
    "F6",
    f"at every target, the evolution's best perplexity falls by more than {percent(1 - FALLS)} from its first round to "
    "its last (there is no interval: it is the search's own measure, on its own documents)",
)
def search_finds_more(results: Results) -> Places:
    return {target: left < FALLS for target, left in _left(results).items()}


@claim("F6", f"and by more than {percent(1 - HALVES)}")
def search_halves(results: Results) -> Places:
    return {target: left < HALVES for target, left in _left(results).items()}
