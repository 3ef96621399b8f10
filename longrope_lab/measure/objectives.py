"""What searches on perplexity, on needles or on both find, side by side."""

from __future__ import annotations

import math
from collections.abc import Mapping

import pandas as pd

from ..models.forward import perplexity_of
from ..searches.rounds import SearchResult
from .tables import Key, stack


def objective_summary(found: Mapping[Key, SearchResult], *names: str) -> pd.DataFrame:
    """What searches minimised, and what both kinds of documents read at what they found.

    Args:
        found: results of `search` with an `objective`, by a key or by a tuple of as many keys as
            there are names.
        names: of the columns that the keys go into.

    Returns:
        One row per search: the keys; objective; forward passes (of one document); perplexity of the
        texts and answers' loss (of the needles, in nats per token), nan where there are none;
        answers' loss at the start; attention factor; told nothing: whether the needles were found
        from the start, so that they could not steer.
    """
    return stack({key: _row(result) for key, result in found.items()}, *names)


def _row(found: SearchResult) -> pd.DataFrame:
    history = found.history
    answers = history["needle_loss"].dropna()
    return pd.DataFrame(
        {
            "objective": [found.best.objective],
            "forward passes": [history["forwards"].iloc[-1]],
            "perplexity of the texts": [perplexity_of(found.text_loss)],
            "answers' loss": [found.needle_loss],
            "answers' loss at the start": [answers.iloc[0] if len(answers) else math.nan],
            "attention factor": [found.best.attention_factor],
            "told nothing": [found.at_floor],
        }
    )
