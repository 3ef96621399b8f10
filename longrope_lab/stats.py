"""How sure a measurement is: intervals over documents and trials, and paired comparisons."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy import stats

CONFIDENCE = 0.95


def bootstrap_interval(values: ArrayLike, *, confidence: float = CONFIDENCE, seed: int = 0) -> tuple[float, float]:
    """Percentile bootstrap interval of the mean over documents.

    Args:
        values: one value a document, shape (N,).
        confidence: share of resamples inside.
        seed: of the resampling, so that a rerun gives the same interval.

    Returns:
        (low, high); NaN for fewer than two values, which say nothing about their spread.
    """
    values = np.asarray(values, dtype=np.float64)
    if len(values) < 2:
        return float("nan"), float("nan")
    if np.ptp(values) == 0:  # scipy warns of a degenerate distribution here; the interval is the value
        return float(values[0]), float(values[0])
    result = stats.bootstrap(
        (values,), np.mean, confidence_level=confidence, n_resamples=2000, method="percentile",
        rng=np.random.default_rng(seed),
    )  # fmt: skip
    return float(result.confidence_interval.low), float(result.confidence_interval.high)


def perplexity_summary(table: pd.DataFrame) -> pd.DataFrame:
    """The mean over documents of a `perplexity` table: a row a (scaling, length), in the table's order.

    Every document weighs the same. Columns: scaling, length, documents, loss (nats a token), perplexity
    (exp of the mean loss), low, high (its 95 % bootstrap interval).
    """
    rows = []
    for (scaling, length), group in table.groupby(["scaling", "length"], sort=False):
        low, high = bootstrap_interval(group["loss"])
        loss = group["loss"].mean()
        rows.append((scaling, length, len(group), loss, np.exp(loss), np.exp(low), np.exp(high)))
    return pd.DataFrame(rows, columns=["scaling", "length", "documents", "loss", "perplexity", "low", "high"])


def paired_comparison(table: pd.DataFrame, scaling: str, baseline: str) -> pd.DataFrame:
    """How one scaling's perplexity compares with another's on the same documents.

    Args:
        table: a `perplexity` table with both.
        scaling, baseline: names in its scaling column.

    Returns:
        A row a length: length, documents, ratio (of perplexities, below 1 where `scaling` is better), low, high
        (its 95 % interval, resampling documents with their pair of losses), wins (documents where it is better).

    Raises:
        ValueError: a name that the table does not have, or documents that only one of them was measured on.
    """
    columns = table.pivot_table(index=["length", "document"], columns="scaling", values="loss", sort=False)
    for name in (scaling, baseline):
        if name not in columns:
            raise ValueError(f"no scaling {name!r} in this table: it has {', '.join(map(str, columns))}")
    both = columns[[scaling, baseline]]
    if both.isna().any(axis=None):
        raise ValueError(f"{scaling!r} and {baseline!r} were not measured on the same documents and lengths")
    rows = []
    for length, difference in (both[scaling] - both[baseline]).groupby("length", sort=False):
        low, high = bootstrap_interval(difference)
        rows.append(
            (length, len(difference), np.exp(difference.mean()), np.exp(low), np.exp(high), int((difference < 0).sum()))
        )
    return pd.DataFrame(rows, columns=["length", "documents", "ratio", "low", "high", "wins"])


def accuracy_summary(table: pd.DataFrame, by: tuple[str, ...] = ("scaling", "length")) -> pd.DataFrame:
    """The accuracy of a `passkey` table, grouped: columns `by`, trials, accuracy, low, high (95 % Wilson interval)."""
    rows = []
    for key, group in table.groupby(list(by), sort=False):
        right, trials = int(group["correct"].sum()), len(group)
        interval = stats.binomtest(right, trials).proportion_ci(CONFIDENCE, method="wilson")
        rows.append((*key, trials, right / trials, interval.low, interval.high))
    return pd.DataFrame(rows, columns=[*by, "trials", "accuracy", "low", "high"])
