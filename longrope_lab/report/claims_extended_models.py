"""Claims about extended models: Tables 5 to 10 and 12, Figures 1, 4 and 5."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from ..measure.stats import paired_scores
from ..rope.methods import FORMULAS
from .claims import (
    EXTENDS,
    FOUND,
    KEYS,
    LOSS,
    LOW,
    QUESTIONS,
    Decided,
    Places,
    at,
    claim,
    each_of,
    percent,
)
from .comparisons import (
    above,
    below,
    below_all,
    below_each,
    both,
    falls,
    halfway,
    lengths_of,
    lower_at_each,
    ours,
    ratio,
)
from .recorded import (
    BENCHMARKS,
    EXTENSION,
    LONG,
    LOSSES,
    PAIRED,
    PASSKEY,
    RECOVERY,
    NotMeasuredError,
    Results,
)

NO_YARN = Decided(None, "without YaRN")


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
    "from YaRN's target to the longest length, LongRoPE's still falls, and YaRN's grows to more "
    f"than {LOW:g} times",
)
def yarn_breaks(results: Results) -> Places:
    t5, target = results.table("t5", LONG, needs=LOSSES), results.run(LONG).parameters.get("target")
    longest = max(lengths_of(t5, "yarn"), default=0)
    if not isinstance(target, int):
        raise NotMeasuredError("YaRN's target is not known: lab.verdict takes it as target=...")
    if longest <= target:
        raise NotMeasuredError("no length past YaRN's target")
    still = below(ratio(t5, (ours(t5), longest), (ours(t5), target)), label="LongRoPE")
    broken = above(ratio(t5, ("yarn", longest), ("yarn", target)), LOW, "YaRN")
    return {f"{at(target)} to {at(longest)}": both(still, broken)}


def _ends(results: Results) -> tuple[Decided, dict[str, pd.DataFrame], dict[str, int]]:
    """How the scalings end on books, each at its own longest length.

    Once a formula has broken, it need not be read as far as LongRoPE.

    Returns:
        Whether LongRoPE stays low; the ratio of each scaling to the unscaled model at the shortest
        length; the longest length of each.
    """
    t6 = results.table("t6", LONG, needs=LOSSES)
    lengths = lengths_of(t6, "none")
    if not lengths:
        raise NotMeasuredError("the unscaled model was not measured")
    used = [name for name in t6["scaling"].unique() if name == ours(t6) or name in FORMULAS]
    longest = {name: lengths_of(t6, name)[-1] for name in used}
    ends = {name: ratio(t6, (name, longest[name]), ("none", lengths[0])) for name in used}
    longest["LongRoPE"] = longest[ours(t6)]
    return below(ends[ours(t6)], LOW, "LongRoPE"), ends, longest


def _broken(ends: dict[str, pd.DataFrame], longest: dict[str, int], label: str) -> Decided:
    """Whether all these end high; not known of one that was not read as far as LongRoPE.

    The figure is that of the lowest, and says where it was read to if not as far.
    """
    low = [name for name, row in ends.items() if above(row, LOW).holds is False]
    far = [name for name in low if longest[name] >= longest["LongRoPE"]]
    name = min(far or ends, key=lambda each: ends[each]["low"].min())
    short = longest[name] < longest["LongRoPE"]
    where = f" at {at(longest[name])}" if short else ""
    found = above(pd.concat([ends[each] for each in far or ends]), LOW, label + where)
    if found.holds is False and short:
        return Decided(None, f"{found.figure}, and not read further")
    return found


@claim(
    "T6 F1",
    f"at the longest length, LongRoPE has less than {LOW:g} times the unscaled model's perplexity "
    "at the shortest",
)
def low_to_the_end(results: Results) -> Places:
    low, _, longest = _ends(results)
    return {at(longest["LongRoPE"]): low}


@claim("T6", f"and YaRN has more than {LOW:g} times")
def yarn_ends(results: Results) -> Places:
    low, ends, longest = _ends(results)
    if "yarn" not in ends:
        return {at(longest["LongRoPE"]): both(low, NO_YARN)}
    yarn = _broken({"yarn": ends["yarn"]}, longest, "YaRN")
    return {at(longest["LongRoPE"]): both(low, yarn)}


@claim(
    "F1",
    "and each formula that was measured, YaRN among them, and no scaling have more than "
    f"{LOW:g} times",
)
def others_end(results: Results) -> Places:
    low, ends, longest = _ends(results)
    others = {name: row for name, row in ends.items() if name in FORMULAS}
    lowest = _broken(others, longest, "the lowest of the others")
    return {at(longest["LongRoPE"]): both(low, lowest if "yarn" in ends else NO_YARN)}


@claim(
    "T7",
    "LongRoPE's perplexity falls from each of three lengths to the next (in part because a longer "
    "text has a smaller share of first tokens)",
)
def falls_on_books(results: Results) -> Places:
    t6 = results.table("t6", LONG, needs=LOSSES)
    t7 = results.table("t7", LONG, needs=("scaling", *PAIRED))
    return falls(t6, ours(t6), lengths_of(t7, ours(t6)))


def _keys(results: Results) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The keys that LongRoPE found, and those that the others did.

    Each has one row per scaling and length: the share found (accuracy) with Wilson's interval (low,
    high).
    """
    needs = ("scaling", "length", "trials", "accuracy", "low", "high")
    keys = results.table("f4_summary", PASSKEY, needs=needs)
    if not {"none", "yarn"} <= set(keys["scaling"]) or (keys["trials"] < KEYS).any():
        raise NotMeasuredError(
            f"the comparison needs no scaling and YaRN, and {KEYS} keys per length"
        )
    found = keys[keys["scaling"] == ours(keys)].sort_values("length")
    return found, keys[keys["scaling"].isin(FORMULAS)]


def _found(keys: pd.DataFrame) -> Decided:
    """Whether enough is found at each of these lengths; with the least that is."""
    least = keys.iloc[int(keys["accuracy"].argmin())]
    return Decided(bool(least["accuracy"] >= FOUND), _share(least))


def _alone(found: pd.DataFrame, others: pd.DataFrame, length: int) -> Decided:
    """Whether LongRoPE finds enough at a length, and no formula half; with the best of those."""
    here, own = others[others["length"] == length], _found(found[found["length"] == length])
    if not {"none", "yarn"} <= set(here["scaling"]):
        return Decided(False, f"{own.figure}; no scaling or YaRN was not asked")
    most = here.iloc[int(here["high"].argmax())]
    return both(own, Decided(bool(most["high"] < 0.5), _share(most)))


def _share(keys: pd.Series[Any]) -> str:
    """One scaling's share of the keys at one length, in words."""
    low, high = (f"{100 * keys[bound]:.0f}" for bound in ("low", "high"))
    where = f"{at(keys['scaling'])} at {at(int(keys['length']))}"
    return f"{where}: {100 * keys['accuracy']:.0f} % ({low} to {high} %)"


@claim("F4", f"at every length, LongRoPE finds at least {percent(FOUND)} of {KEYS} or more keys")
def finds_everywhere(results: Results) -> Places:
    return {"every length": _found(_keys(results)[0])}


@claim(
    "F4",
    "it does so at the longest length, where each formula and no scaling find less than half, by "
    "the whole interval",
)
def finds_alone_at_the_end(results: Results) -> Places:
    found, others = _keys(results)
    longest = int(found["length"].max())
    return {at(longest): _alone(found, others, longest)}


@claim("F4", "there is a length where it does and they do not")
def finds_alone_somewhere(results: Results) -> Places:
    found, others = _keys(results)
    alone = [_alone(found, others, n) for n in found["length"]]
    return {"somewhere": next((each for each in alone if each.holds), Decided(False))}


@claim(
    "T8",
    f"on every task, the extended model's accuracy is less than {LOSS * 100:g} points below the "
    "original's",
)
def accuracy_is_kept(results: Results) -> Places:
    t8 = results.table("t8", BENCHMARKS, needs=("scaling", "task", "question", "score"))
    original = [name for name in ("as loaded", "none") if name in set(t8["scaling"])]
    if not original:
        raise NotMeasuredError("the original model was not asked")
    try:
        paired = paired_scores(t8[t8["scaling"].isin([ours(t8), original[0]])], original[0])
    except ValueError as error:  # the two were asked different questions
        raise NotMeasuredError(str(error)) from None
    return {str(row["task"]): _kept(row) for row in paired.to_dict("records")}


def _kept(row: Mapping[Any, Any]) -> Decided:
    """Whether accuracy on a task is kept, from a row of `paired_scores`."""
    if row["questions"] < QUESTIONS:
        return Decided(None, f"{row['questions']} questions: at least {QUESTIONS} are needed")
    change, low, high = (f"{100 * row[name]:+.1f}" for name in ("difference", "low", "high"))
    return Decided(bool(row["low"] > -LOSS), f"{change} points ({low} to {high})")


@claim("T9", f"after the second extension, LongRoPE is below {each_of('T9')}")
def second_extension_is_best(results: Results) -> Places:
    paired = results.table("t9_paired", EXTENSION, needs=PAIRED)
    _lengths_of_extension(results)
    return below_each(paired[paired["length"] == paired["length"].max()], "T9")


@claim(
    "T9",
    f"and below {EXTENDS:g} times its own perplexity at the shortest length measured, on the same "
    "documents",
)
def second_extension_works(results: Results) -> Places:
    t9, (first, *_, last) = _lengths_of_extension(results)
    grown = ratio(t9, ("longrope", last), ("longrope", first))
    return {f"{at(first)} to {at(last)}": below(grown, EXTENDS, "LongRoPE")}


def _lengths_of_extension(results: Results) -> tuple[pd.DataFrame, list[int]]:
    """Table 9, and at least two lengths in it: before the second extension and after it."""
    t9 = results.table("t9", EXTENSION, needs=LOSSES)
    lengths = lengths_of(t9, "longrope")
    if len(lengths) < 2:  # a plan that trains at its last length has no second extension
        raise NotMeasuredError("nothing was measured at the length before the second extension")
    return t9, lengths


@claim("T10", "at every length, perplexity with recovery is below that without")
def recovery_helps(results: Results) -> Places:
    return lower_at_each(
        results.table("t10", RECOVERY, needs=LOSSES), "recovery on", "recovery off"
    )


@claim("T10", "by more than half of the way back to the model as loaded, where that is better")
def recovery_wins_back(results: Results) -> Places:
    t10 = results.table("t10", RECOVERY, needs=LOSSES)
    lengths = lengths_of(t10, "recovery on")
    return {at(n): halfway(t10, "recovery on", "recovery off", "as loaded", n) for n in lengths}


@claim("T12", "at the last length, training in two steps is below straight and short-text training")
def two_steps_end_lower(results: Results) -> Places:
    paired = results.table("t12_paired", EXTENSION, needs=PAIRED)
    end = paired[paired["length"] == paired["length"].max()]
    return {variant: below_all(end, [variant]) for variant in ("straight", "short texts")}


@claim(
    "F5",
    "at every length, a model trained in two steps is below one trained straight at the last "
    "length",
)
def two_steps_are_lower(results: Results) -> Places:
    return lower_at_each(results.table("t12", EXTENSION, needs=LOSSES), "two steps", "straight")
