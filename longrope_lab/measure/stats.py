"""How sure a measurement is: intervals over documents and trials, and paired comparisons."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator, Sequence
from statistics import NormalDist

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from ..common.checks import check_table, seed_of, unknown

CONFIDENCE = 0.95
RESAMPLES = 2000


def bootstrap_interval(
    values: ArrayLike, *, confidence: float = CONFIDENCE, seed: int = 0
) -> tuple[float, float]:
    """Percentile bootstrap interval of the mean over documents.

    Args:
        values: one value per document, shape (N,).
        confidence: share of resamples inside.
        seed: of the resampling, so that a rerun gives the same interval.

    Returns:
        (low, high); NaN for fewer than two values, which say nothing about their spread.

    Raises:
        ValueError: values that are not a single row, or a confidence that is not a share.
    """
    values = np.asarray(values, dtype=np.float64)
    if values.ndim != 1:
        raise ValueError(
            f"values have shape {values.shape}: the interval takes one value per document"
        )
    if not 0 < confidence < 1:
        raise ValueError(
            f"confidence is {confidence}: it is a share of the resamples, between 0 and 1"
        )
    if len(values) < 2:
        return math.nan, math.nan
    rng = np.random.default_rng(seed_of(seed))
    # One resample at a time: tens of thousands of documents make no table of all the draws.
    means = [values[rng.integers(len(values), size=len(values))].mean() for _ in range(RESAMPLES)]
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def wilson_interval(
    right: int, trials: int, *, confidence: float = CONFIDENCE
) -> tuple[float, float]:
    """Wilson's score interval (1927) for a share of successes.

    It stays inside 0 ... 1, also where none or all are right.

    Raises:
        ValueError: no trials, or more right than there were.
    """
    if not 0 <= right <= trials or trials < 1:
        raise ValueError(
            f"{right} right of {trials} trials: at least one trial, and no more right than that"
        )
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    share = right / trials
    middle = share + z * z / (2 * trials)
    reach = z * math.sqrt(share * (1 - share) / trials + z * z / (4 * trials * trials))
    below, above = ((middle + sign * reach) / (1 + z * z / trials) for sign in (-1, 1))
    # Rounding would miss 0 and 1 by a hair.
    return below if right else 0.0, above if right < trials else 1.0


def share_interval(scores: pd.Series[float]) -> tuple[float, float]:
    """Of a mean of scores from 0 to 1: Wilson's if none lies between, else a bootstrap.

    Raises:
        ValueError: one is no such score.
    """
    wrong = scores[~scores.between(0, 1)]
    if len(wrong):
        raise ValueError(f"a score is {wrong.iloc[0]}: it goes from 0 (nothing) to 1 (all right)")
    if scores.isin([0, 1]).all():
        return wilson_interval(int(scores.sum()), len(scores))
    return bootstrap_interval(scores)


def groups_of(
    table: pd.DataFrame, by: Sequence[str], made_by: str, *columns: str
) -> Iterator[tuple[tuple[object, ...], pd.DataFrame]]:
    """The rows of a table with the same values in the columns `by`, group by group.

    Raises:
        ValueError: no such columns in `by`, or what `check_table` refuses.
    """
    if not by:
        raise ValueError("by is empty: name at least one column, such as 'scaling'")
    check_table(table, made_by, *by, *columns)
    yield from table.groupby(list(by), sort=False, dropna=False)


def perplexity_summary(table: pd.DataFrame) -> pd.DataFrame:
    """The mean over documents of a `perplexity` table.

    Every document weighs the same.

    Returns:
        One row per scaling and length, in the table's order: scaling, length, documents, loss (in
        nats per token), perplexity (exp of the mean loss), low, high (its 95 % bootstrap interval).
    """
    check_table(table, "perplexity", "scaling", "length", "loss")
    if not pd.api.types.is_numeric_dtype(table["loss"]):
        raise ValueError("the table's loss holds no numbers: pass one that perplexity returns")
    _check_rows_once(table)
    rows = []
    for (scaling, length), group in table.groupby(["scaling", "length"], sort=False):
        low, high = bootstrap_interval(group["loss"])
        loss = group["loss"].mean(skipna=False)  # what is not a number does not go unseen
        rows.append((scaling, length, len(group), loss, np.exp(loss), np.exp(low), np.exp(high)))
    return pd.DataFrame(
        rows, columns=["scaling", "length", "documents", "loss", "perplexity", "low", "high"]
    )


def paired_comparison(
    table: pd.DataFrame, scaling: str, baseline: str | None = None
) -> pd.DataFrame:
    """How one scaling's perplexity compares with others', on the same documents.

    Documents differ by far more than scalings do. In pairs, a small difference that is the same on
    every document is certain:

    >>> losses = {"pi": [3.0, 3.5, 4.0], "yarn": [2.8, 3.3, 3.8]}
    >>> rows = [(n, 4096, str(i), x) for n, each in losses.items() for i, x in enumerate(each)]
    >>> table = pd.DataFrame(rows, columns=["scaling", "length", "document", "loss"])
    >>> lab.paired_comparison(table, "yarn", "pi").round(3)
      baseline  length  documents  ratio    low   high  wins
    0       pi    4096          3  0.819  0.819  0.819     3

    Args:
        table: a `perplexity` table with both.
        scaling: a name in its scaling column.
        baseline: another; None for each of the others.

    Returns:
        One row per baseline and length: baseline, length, documents, ratio (of perplexities, below
        1 where `scaling` is better), low, high (its 95 % interval, resampling documents with their
        pair of losses), wins (documents where it is better).

    Raises:
        ValueError: a name that the table does not have, documents that only one of them was
            measured on, the same row twice, or a loss that is not a number.
    """
    check_table(table, "perplexity", "scaling", "length", "document", "loss")
    _check_rows_once(table)
    names = list(table["scaling"].unique())
    baselines = [n for n in names if n != scaling] if baseline is None else [baseline]
    for name in (scaling, *baselines):
        if name not in names:
            raise unknown("scaling of this table", name, names)
    rows = [(b, *row) for b in baselines for row in _paired_rows(table, scaling, b)]
    return pd.DataFrame(
        rows, columns=["baseline", "length", "documents", "ratio", "low", "high", "wins"]
    )


def _check_rows_once(table: pd.DataFrame) -> None:
    if table.duplicated().any():
        raise ValueError(
            "the table has the same row twice, which would count a document twice: stack() puts "
            "tables of several runs together, or drop_duplicates() leaves one of each"
        )


def _paired_rows(
    table: pd.DataFrame, scaling: str, baseline: str
) -> Iterator[tuple[Hashable, int, float, float, float, int]]:
    ours, theirs = (_losses_by_document(table, name) for name in (scaling, baseline))
    if set(ours.index) != set(theirs.index):
        raise ValueError(
            f"{scaling!r} and {baseline!r} were not measured on the same documents and lengths"
        )
    differences = ours - theirs.reindex(ours.index)
    if differences.isna().any():
        raise ValueError(
            f"a loss of {scaling!r} or {baseline!r} is not a number: there is nothing to compare"
        )
    for length, difference in differences.groupby("length", sort=False):
        low, high = bootstrap_interval(difference)
        wins = int((difference < 0).sum())
        yield length, len(difference), np.exp(difference.mean()), np.exp(low), np.exp(high), wins


def _losses_by_document(table: pd.DataFrame, scaling: str) -> pd.Series[float]:
    """Losses by length, title and, since titles may repeat, a count within the title."""
    keys = ["length", "document"]
    rows = table[table["scaling"] == scaling]
    return rows.assign(repeat=rows.groupby(keys).cumcount()).set_index([*keys, "repeat"])["loss"]


def accuracy_summary(
    table: pd.DataFrame, by: tuple[str, ...] = ("scaling", "length"), *, judged: str = "correct"
) -> pd.DataFrame:
    """The accuracy of a `passkey` table.

    Args:
        table: as `passkey` returns it.
        by: columns whose values make a group.
        judged: the column that says which answers count: "correct", by their first number, or
            "contains", by the key standing anywhere in them.

    Returns:
        One row per group: the columns of `by`, trials, accuracy, low, high (its 95 % Wilson
        interval).

    Raises:
        ValueError: no rows, or no such column.
    """
    rows = []
    for key, group in groups_of(table, by, "passkey", judged):
        right, trials = int(group[judged].sum()), len(group)
        rows.append((*key, trials, right / trials, *wilson_interval(right, trials)))
    return pd.DataFrame(rows, columns=[*by, "trials", "accuracy", "low", "high"])


def benchmark_summary(table: pd.DataFrame) -> pd.DataFrame:
    """The accuracies of a `benchmarks` table.

    Returns:
        One row per scaling and task, in the table's order: scaling, task, shots, metric, questions,
        accuracy (the mean score), low, high (its 95 % interval: Wilson's where each question is
        right or wrong, else a bootstrap over questions).
    """
    keys = ["scaling", "task", "shots", "metric"]
    check_table(table, "benchmarks", *keys, "score")
    rows = []
    for key, group in table.groupby(keys, sort=False):
        scores = group["score"]
        rows.append((*key, len(scores), scores.mean(), *share_interval(scores)))
    return pd.DataFrame(rows, columns=[*keys, "questions", "accuracy", "low", "high"])


def paired_scores(table: pd.DataFrame, baseline: str) -> pd.DataFrame:
    """How far each scaling's accuracy is from a baseline's, on the same questions.

    Args:
        table: a `benchmarks` table.
        baseline: a name in its scaling column.

    Returns:
        One row per scaling, the baseline left out, and task: scaling, baseline, task, questions,
        difference (of accuracies, above 0 where `scaling` is better), low, high (its 95 % interval,
        resampling questions with their pair of scores; a point where no score differs), better,
        worse (questions that `scaling` scores higher, lower on).

    Raises:
        ValueError: a name that the table does not have, or questions that only one of the two was
            asked.
    """
    check_table(table, "benchmarks", "scaling", "task", "question", "score")
    names = list(table["scaling"].unique())
    if baseline not in names:
        raise unknown("scaling of this table", baseline, names)
    scores = table.set_index(["task", "question"])
    base = scores[scores["scaling"] == baseline]["score"]
    rows = []
    for name in names:
        ours = scores[scores["scaling"] == name]["score"]
        if set(ours.index) != set(base.index):
            raise ValueError(f"{name!r} and {baseline!r} were not asked the same questions")
        if name == baseline:
            continue
        for task, difference in (ours - base.reindex(ours.index)).groupby("task", sort=False):
            better, worse = int((difference > 0).sum()), int((difference < 0).sum())
            mean, interval = difference.mean(), bootstrap_interval(difference)
            rows.append((name, baseline, task, len(difference), mean, *interval, better, worse))
    columns = [
        "scaling",
        "baseline",
        "task",
        "questions",
        "difference",
        "low",
        "high",
        "better",
        "worse",
    ]
    return pd.DataFrame(rows, columns=columns)
