"""Segments to train on: documents cut to one length, and the order in which they are read."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from ..texts.tokens import Document
from .recipe import Recipe

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


# Of one segment.
MOST_SKIPS = 8


def segments(
    docs: Iterable[Document], length: int, tokenizer: PreTrainedTokenizerBase
) -> NDArray[np.int64]:
    """Documents one after the other, cut into rows of BOS, text, EOS.

    The paper chunks its corpus so. What is left over after the last whole row is not used. A
    tokenizer without one of the two tokens leaves it out.

    Returns:
        Token ids, shape (N, length).

    Raises:
        ValueError: fewer tokens than one row needs, or a row too short for its bookends.
    """
    before, after = (
        [] if token is None else [token]
        for token in (tokenizer.bos_token_id, tokenizer.eos_token_id)
    )
    inside = length - len(before) - len(after)
    if inside < 2:
        raise ValueError(
            f"length is {length}: a segment needs at least 2 tokens of text between BOS and EOS"
        )
    stream = np.concatenate([doc.ids for doc in docs] or [np.empty(0, np.int64)])
    count = len(stream) // inside
    if count == 0:
        raise ValueError(
            f"the documents hold {len(stream):,} tokens and one segment of length {length:,} takes "
            f"{inside:,}: load more documents, or train at a shorter length"
        )
    rows = np.empty((count, length), np.int64)
    rows[:, : len(before)] = before
    rows[:, len(before) : len(before) + inside] = stream[: count * inside].reshape(count, inside)
    rows[:, len(before) + inside :] = after
    return rows


class TrainingOrder(Dataset[dict[str, Tensor]]):
    """What a training reads, in its order: segments, and instead of some short pieces or needles.

    Segments come in shuffled passes over all. The pieces are the segments cut to the window, in
    shuffled passes of their own, so that those of a step come from many documents, as the segments
    of a training in the window do. The order is laid down here, since the Trainer's own depends on
    the number of processes, and cuts the last step of a pass short.

    Args:
        rows: segments, shape (N, T).
        recipe: says how many are read, and which share of them in pieces.
        seed: of the order.
        window: tokens of a piece.
        needles: needle documents and which of their tokens are answers, both (M, T), as many as the
            recipe wants; None if it wants none.
        target: the scaling's, in tokens, up to which positions may skip.
    """

    def __init__(
        self,
        rows: NDArray[np.int64],
        recipe: Recipe,
        seed: int,
        window: int,
        needles: tuple[NDArray[np.int64], NDArray[np.bool_]] | None = None,
        target: int = 0,
    ) -> None:
        rng = np.random.default_rng(seed)
        self.seed, self.target = seed, target
        self.needles = None if needles is None else tuple(map(torch.from_numpy, needles))
        self.rows, self.recipe = torch.from_numpy(rows), recipe
        self.count = recipe.steps * recipe.batch
        short = recipe.short_of(self.count)
        self.order = _passes(rng, len(rows), self.count - short - recipe.needles_of(self.count))
        if short:
            self.each = rows.shape[1] // window
            self.pieces = self.rows[:, : self.each * window].reshape(-1, window)
            self.short_order = _passes(rng, len(self.pieces), short * self.each)

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        before, needles = self.recipe.short_of(index), self.recipe.needles_of(index)
        short = self.recipe.short_of(index + 1) > before
        needle = self.recipe.needles_of(index + 1) > needles
        counted = torch.ones(self.rows.shape[1], dtype=torch.bool)
        if short:
            row = self._pieces(before)
        elif needle and self.needles is not None:
            row, answers = (each[needles] for each in self.needles)
            if self.recipe.needle_loss == "answers":
                counted = answers
        else:
            row = self.rows[self.order[index - before - needles]]
        item = {"input_ids": row, "labels": row}
        if self.recipe.short_share:
            item["short"] = torch.tensor(short)
        if self.needles is not None:
            item["counted"] = counted
        if self.recipe.skip_share:
            item["positions"] = self._positions(index)
        return item

    def _positions(self, index: int) -> Tensor:
        """Where the tokens of a segment are turned, (T,): from 0 on, unless it skips."""
        tokens = self.rows.shape[1]
        if self.recipe.skipping_of(index + 1) == self.recipe.skipping_of(index):
            return torch.arange(tokens)
        rng = np.random.default_rng([self.seed, index])
        return torch.from_numpy(skipping_positions(tokens, self.target, rng))

    def _pieces(self, number: int) -> Tensor:
        """The pieces that stand for a segment, one after the other, in a row as long as the others.

        Its last tokens, after the last whole piece, are not read.
        """
        taken = self.pieces[self.short_order[number * self.each : (number + 1) * self.each]]
        row = torch.zeros_like(self.rows[0])
        row[: taken.numel()] = taken.flatten()
        return row


def skipping_positions(tokens: int, target: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Positions of a text that skip at a few places, rising, from 0 to the last before the target.

    Its parts are of any length, and each begins anywhere after the one before (PoSE, arXiv
    2309.10400, section 3.2, where there are two of them). The last one ends at the target, so that
    its full distance is never rare.

    Args:
        tokens: of the text, T.
        target: positions that it spans.
        rng: draws how many skips there are, where, and how far.

    Returns:
        (T,).
    """
    count = min(int(rng.integers(1, MOST_SKIPS, endpoint=True)), tokens - 1)
    places = rng.choice(np.arange(1, tokens), count, replace=False)
    skipped = np.sort(rng.integers(0, target - tokens, count, endpoint=True))
    skipped[-1] = target - tokens
    each = np.zeros(tokens, np.int64)
    each[np.sort(places)] = np.diff(skipped, prepend=0)
    return np.arange(tokens) + np.cumsum(each)


def _passes(rng: np.random.Generator, size: int, count: int) -> NDArray[np.int64]:
    """The first `count` numbers of shuffled passes over all below `size`."""
    passes = [rng.permutation(size) for _ in range(-(-count // size))]
    return np.concatenate([np.empty(0, np.int64), *passes])[:count]
