"""What it brings to leave the first n-hat tokens unscaled (LongRoPE, section 2.2 and Table 2).

A table of a sweep has n-hat as text in its scaling column, so that `paired_comparison` and the
figures take it as any other."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from ..common.checks import check_table
from ..models.rotary import rope_spec
from ..rope.methods import rope_scaling
from ..rope.scaling import RopeScaling
from ..texts.tokens import Document
from .perplexity import perplexity
from .stats import paired_comparison
from .tables import stack

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# What a `perplexity` table says of a row beside what was measured.
MEASURED = ("length", "tokens", "loss", "perplexity")


def start_token_variants(scaling: RopeScaling, counts: Iterable[int]) -> dict[str, RopeScaling]:
    """The scaling with each of these n-hat, in tokens, by n-hat as text."""
    return {str(count): replace(scaling, start_tokens=count) for count in counts}


def start_token_sweep(
    model: PreTrainedModel,
    docs: Sequence[Document],
    methods: Sequence[str],
    targets: Sequence[int],
    counts: Sequence[int],
) -> pd.DataFrame:
    """Perplexity of formulas with their first n-hat tokens left unscaled.

    Each is read at its target, and over the first tokens of the largest n-hat alone, so that
    `losses_after` can take these out.

    Args:
        model: a Hugging Face causal language model.
        docs: documents of at least the longest target.
        methods: formulas, as `rope_scaling` knows them.
        targets: lengths that each is made for, in tokens.
        counts: values of n-hat in tokens.

    Returns:
        Method, target, and the columns of `perplexity`; scaling is n-hat as text.
    """
    spec = rope_spec(model)
    tables = {}
    for method in methods:
        for target in targets:
            scaling = rope_scaling(spec, method, target).at(target)
            variants = start_token_variants(scaling, counts)
            tables[method, target] = perplexity(model, docs, [max(counts), target], variants)
    return stack(tables, "method", "target")


def losses_after(table: pd.DataFrame, start: int) -> pd.DataFrame:
    """The losses of the tokens after the first `start` alone.

    The first n-hat tokens, left unscaled, predict one another as in any short text; what else they
    are worth shows in the tokens after them.

    Args:
        table: as `perplexity` returns it, with further columns or not, measured at `start` too.
        start: tokens.

    Returns:
        The rows of the longer lengths, in order: tokens, loss and perplexity without those of the
        first `start`.

    Raises:
        ValueError: a row whose document was not measured at `start` under the same scaling.
    """
    keys = [name for name in table if name not in MEASURED]
    # Titles may repeat.
    counted = table.assign(repeat=table.groupby([*keys, "length"], sort=False).cumcount())
    first = counted.loc[counted["length"] == start, [*keys, "repeat", "tokens", "loss"]]
    longer = counted[counted["length"] > start]
    if longer.empty:
        raise ValueError(f"no row is longer than {start:,} tokens: name a shorter start")
    both = longer.merge(first, on=[*keys, "repeat"], suffixes=("", " before"))
    if len(both) < len(longer):
        raise ValueError(
            f"{len(longer) - len(both)} rows have no row of {start:,} tokens beside them: measure "
            f"perplexity at {start:,} tokens, too"
        )
    tokens = both["tokens"] - both["tokens before"]
    total = both["loss"] * both["tokens"] - both["loss before"] * both["tokens before"]
    loss = total / tokens
    return both.assign(tokens=tokens, loss=loss, perplexity=np.exp(loss))[list(table)]


def start_token_ratios(table: pd.DataFrame) -> pd.DataFrame:
    """Perplexity at each n-hat over that at n-hat = 0, on the same documents.

    Args:
        table: a `start_token_sweep`'s rows of one length per target.

    Returns:
        One row per (method, target, n-hat above 0): method, target, start_tokens, and the columns
        of `paired_comparison`.

    Raises:
        ValueError: n-hat = 0 was not measured, or nothing else was; or it is another table.
    """
    check_table(table, "start_token_sweep", "method", "target", "scaling")
    ratios = {}
    for (method, target), group in table.groupby(["method", "target"], sort=False):
        for count in group["scaling"].unique():
            if count != "0":
                ratios[method, target, int(count)] = paired_comparison(group, count, "0")
    return stack(ratios, "method", "target", "start_tokens")


def best_by_start_tokens(history: pd.DataFrame, by: str) -> pd.DataFrame:
    """The best candidate of each n-hat that searches tried, over the best of all.

    Args:
        history: of searches, as `SearchResult` has it, stacked with a further column.
        by: that column, such as the target.

    Returns:
        One row per (search, n-hat), both rising: the column `by`, start_tokens, best_loss (nats
        per token), ratio (of perplexities, 1 for the best n-hat).

    Raises:
        ValueError: the table lacks a column.
    """
    check_table(history, "search", by, "start_tokens", "loss")
    best = history.groupby([by, "start_tokens"])["loss"].min().rename("best_loss").reset_index()
    lowest = best.groupby(by)["best_loss"].transform("min")
    return best.assign(ratio=np.exp(best["best_loss"] - lowest))
