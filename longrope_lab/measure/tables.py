"""What is read off tables of measurements: stacked, in pairs, in words, and in one number.

Every function takes a table and returns a new one; nothing is measured here."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import TypeVar

import numpy as np
import pandas as pd

from ..common.checks import check_table, whole
from ..searches.rounds import SearchResult
from .stats import paired_comparison

Key = TypeVar("Key", bound=Hashable)

# The columns of `paired_comparison`.
PAIRED = ["baseline", "length", "documents", "ratio", "low", "high", "wins"]

# Standard deviations to either side of a mean that hold 95 % of a normal distribution.
NORMAL_95 = 1.96


def stack(tables: Mapping[Key, pd.DataFrame], *names: str) -> pd.DataFrame:
    """Tables one below the other, the key of each in a column in front.

    >>> tables = {"kjv": pd.DataFrame({"loss": [3.5]}), "python": pd.DataFrame({"loss": [2.5]})}
    >>> stack(tables, "corpus")
       corpus  loss
    0     kjv   3.5
    1  python   2.5

    Args:
        tables: by a key, or by a tuple of as many keys as there are names.
        names: of the columns that the keys go into.

    Raises:
        ValueError: no tables, no name, one that a table has, or keys that are not as many.
    """
    if not tables or not names:
        raise ValueError("there is nothing to stack: give at least one table, and a column's name")
    for key in tables:
        parts = len(key) if isinstance(key, tuple) else 1
        if parts != len(names):
            raise ValueError(f"the key {key!r} has {parts} parts, and the columns are {names}")
    if taken := [name for name in names if any(name in table for table in tables.values())]:
        raise ValueError(f"the tables have a column {taken[0]!r} already: name another one")
    stacked = pd.concat(tables, names=list(names))
    return stacked.reset_index(level=list(range(len(names)))).reset_index(drop=True)


def with_interval(
    summary: pd.DataFrame,
    value: str,
    index: str | list[str],
    columns: str,
    *,
    digits: int = 1,
) -> pd.DataFrame:
    """A table to show: each value and its interval as "40.2 (37.1 to 43.0)".

    Args:
        summary: with columns low and high, as `perplexity_summary` and `paired_comparison` return.
        value: the column of the values.
        index, columns: the columns whose values head the rows (one, or several) and the columns.
        digits: after the point.

    Returns:
        Texts, one row per `index` and one column per `columns`; a value without an interval stands
        alone.

    Raises:
        ValueError: the table lacks a column, or digits is below 0.
    """
    heads = [*([index] if isinstance(index, str) else index), columns]
    check_table(summary, "a summary", value, "low", "high", *heads)
    if len(set(heads)) < len(heads):
        raise ValueError(f"index and columns are {heads}: name each column once")
    whole("digits", digits, 0)
    texts = []
    for at, low, high in summary[[value, "low", "high"]].itertuples(index=False):
        interval = "" if math.isnan(low) else f" ({low:.{digits}f} to {high:.{digits}f})"
        texts.append(f"{at:.{digits}f}{interval}")
    return summary.assign(**{value: texts}).pivot_table(
        index=index, columns=columns, values=value, aggfunc="first", sort=False
    )


def ratio_between(
    table: pd.DataFrame, first: tuple[str, int], second: tuple[str, int]
) -> pd.DataFrame:
    """The perplexity of one (scaling, length) over that of another, on the same documents.

    Args:
        table: as `perplexity` returns it.
        first, second: each a scaling and a length in tokens.

    Returns:
        One row, with the columns of `paired_comparison`; its length is the first one's.

    Raises:
        ValueError: either was not measured, or not on the same documents.
    """
    pair = [
        table[(table["scaling"] == scaling) & (table["length"] == length)].assign(
            scaling=name, length=first[1]
        )
        for name, (scaling, length) in {"first": first, "second": second}.items()
    ]
    if any(rows.empty for rows in pair) or sorted(pair[0]["document"]) != sorted(
        pair[1]["document"]
    ):
        raise ValueError(f"{first} and {second} were not measured on the same documents")
    return paired_comparison(pd.concat(pair), "first", "second")


def against_window(
    table: pd.DataFrame, lengths: Sequence[int], window: int, scaling: str = "none"
) -> pd.DataFrame:
    """Each scaling at longer lengths over one scaling at the window: is the longer text put to use?

    Args:
        table: as `perplexity` returns it; the documents of every length are the same.
        lengths: to compare, in tokens.
        window: the length to compare with, in tokens.
        scaling: the one to compare with there.

    Returns:
        One row per (scaling, length): scaling, and the columns of `paired_comparison`, with
        "window" as the baseline.

    Raises:
        ValueError: a length that was not measured, or other documents at some length.
    """
    return stack(
        {
            (name, length): ratio_between(table, (name, length), (scaling, window))
            for name in table["scaling"].unique()
            for length in lengths
        },
        "scaling",
        "at",
    ).assign(baseline="window")[["scaling", *PAIRED]]


def against_baseline(
    table: pd.DataFrame, baseline: str, scalings: Sequence[str] | None = None
) -> pd.DataFrame:
    """Each scaling's perplexity over the baseline's: `paired_comparison` the other way round.

    Args:
        table: as `perplexity` returns it.
        baseline: a name in its scaling column.
        scalings: others; None for all of them, in the table's order.

    Returns:
        One row per (scaling, length): the columns of `paired_comparison`, and scaling.

    Raises:
        ValueError: as `paired_comparison`, or there are no others.
    """
    names = table["scaling"].unique() if scalings is None else scalings
    rows = [
        paired_comparison(table, str(name), baseline).assign(scaling=name)
        for name in names
        if name != baseline
    ]
    if not rows:
        raise ValueError(f"there is nothing to compare {baseline!r} with: name other scalings")
    return pd.concat(rows, ignore_index=True)


def effective_window(summary: pd.DataFrame, share: float = 0.9) -> pd.DataFrame:
    """The longest length at which, and at all shorter ones, a model finds its passkeys.

    Args:
        summary: as `accuracy_summary` returns it, by scaling and length.
        share: of the keys, at least this.

    Returns:
        One row per scaling: scaling, effective window (tokens; 0 if no length reaches the share).

    Raises:
        ValueError: another table, or a share that is none.
    """
    check_table(summary, "accuracy_summary", "scaling", "length", "accuracy")
    if not 0 < share <= 1:
        raise ValueError(f"share is {share}: it is a share of the keys, above 0 and at most 1")
    longest = _longest(summary, "accuracy", lambda found: found >= share)
    return longest.rename(columns={"longest": "effective window"})


def holds_to(summary: pd.DataFrame, window: int, rise: float = 1.1) -> pd.DataFrame:
    """The longest length to which perplexity stays near its lowest at shorter lengths.

    Args:
        summary: as `perplexity_summary` returns it.
        window: the trained window in tokens.
        rise: perplexity over its lowest so far, at most.

    Returns:
        One row per scaling: scaling, holds to (tokens), times the window.

    Raises:
        ValueError: another table, a window below 1, or a rise below 1.
    """
    check_table(summary, "perplexity_summary", "scaling", "length", "perplexity")
    window = whole("window", window, 1)
    if not rise >= 1:
        raise ValueError(f"rise is {rise}: perplexity over its lowest so far is never below 1")
    longest = _longest(summary, "perplexity", lambda values: values <= rise * values.cummin())
    longest = longest.rename(columns={"longest": "holds to"})
    return longest.assign(**{"times the window": longest["holds to"] / window})


def _longest(
    summary: pd.DataFrame, value: str, holds: Callable[[pd.Series[float]], pd.Series[bool]]
) -> pd.DataFrame:
    """The last length, of each scaling, before the first at which its values do not hold."""
    if summary.duplicated(["scaling", "length"]).any():
        raise ValueError(
            "the table has several rows for one scaling and length: pass a summary, which has one"
        )
    rows = []
    for scaling, group in summary.groupby("scaling", sort=False):
        ordered = group.sort_values("length")
        unbroken = np.logical_and.accumulate(holds(ordered[value]).to_numpy())
        rows.append((scaling, max([int(n) for n in ordered["length"][unbroken]], default=0)))
    return pd.DataFrame(rows, columns=["scaling", "longest"])


def questions_for_one_point(paired: pd.DataFrame) -> pd.DataFrame:
    """How many questions it would take to see a difference of one point.

    If a share c of the answers changes, in one direction or the other, the 95 % interval of the
    difference between two accuracies over N questions is about ±1.96 sqrt(c / N).

    Args:
        paired: as `paired_scores` returns it.

    Returns:
        One row per (scaling, task): scaling, task, questions, changed (the share c), for_one_point
        (the N at which the interval is ±0.01).

    Raises:
        ValueError: another table.
    """
    check_table(paired, "paired_scores", "scaling", "task", "questions", "better", "worse")
    changed = (paired["better"] + paired["worse"]) / paired["questions"]
    return paired[["scaling", "task", "questions"]].assign(
        changed=changed, for_one_point=changed * (NORMAL_95 / 0.01) ** 2
    )


def search_summary(found: Mapping[Key, SearchResult], *names: str) -> pd.DataFrame:
    """Where searches began and ended, and what they took.

    Args:
        found: results of `search`, by a key or by a tuple of as many keys as there are names.
        names: of the columns that the keys go into.

    Returns:
        One row per search: the keys; candidates (rows of its history), forward passes (of one
        document), tokens; start tokens, attention factor, lowest factor and highest factor of the
        best scaling; first perplexity, best perplexity (on the documents that it searched on).
    """
    return stack({key: _search_row(result) for key, result in found.items()}, *names)


def _search_row(found: SearchResult) -> pd.DataFrame:
    history, best = found.history, found.best
    lowest = history["best_perplexity"].replace(math.inf, math.nan).dropna()
    return pd.DataFrame(
        {
            "candidates": [len(history)],
            "forward passes": [history["forwards"].iloc[-1]],
            "tokens": [history["tokens"].iloc[-1]],
            "start tokens": [best.start_tokens],
            "attention factor": [best.attention_factor],
            "lowest factor": [best.factors.min()],
            "highest factor": [best.factors.max()],
            "first perplexity": [lowest.iloc[0]],
            "best perplexity": [lowest.iloc[-1]],
        }
    )
