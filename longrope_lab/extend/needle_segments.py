"""Segments of needle documents to train on.

A model that is trained on books alone forgets how to look something up, inside its old window
too. So a `Recipe` can give a share of its segments to such documents (`needle_share`). Their loss
is that of the answers alone, unless it says otherwise: among the tokens of a long segment an answer
hardly counts. Factors that are searched on perplexity alone lose it likewise, so a `Search` can
measure such documents beside the books (`needles`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ..texts.needle_documents import NeedleWriter, long_enough
from ..texts.tokens import Document

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Share of the rows that hold one document; the others are packed with shorter ones.
WHOLE = 0.6


def needle_segments(
    docs: Sequence[Document],
    length: int,
    count: int,
    tokenizer: PreTrainedTokenizerBase,
    rng: np.random.Generator,
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Segments of needle documents with their answers, BOS before each document and EOS after it.

    Three of five hold one document. The others are packed with shorter ones, whose lengths are
    uniform on a logarithmic scale up to a quarter of the segment. Half of the documents hide their
    number in a stretch of `docs`, half in repeated sentences, at any depth.

    Args:
        docs: to hide numbers in; those shorter than a segment are left out.
        length: tokens per segment.
        count: segments.
        tokenizer: a Hugging Face tokenizer.
        rng: draws everything.

    Returns:
        Token ids and which of them are answers (number, full stop, EOS), both (count, length).

    Raises:
        ValueError: no document of that length, or a length without room for a needle document.
    """
    writer = NeedleWriter(long_enough(docs, length), tokenizer, rng)
    writer.check_room(length)
    made = [_segment(writer, length) for _ in range(count)]
    shape = (count, length)
    ids = np.array([ids for ids, _ in made], np.int64).reshape(shape)
    return ids, np.array([answers for _, answers in made], np.bool_).reshape(shape)


def _segment(writer: NeedleWriter, length: int) -> tuple[list[int], list[bool]]:
    """One document of that length, or several shorter ones."""
    if writer.rng.random() < WHOLE:
        return writer.document(length)
    ids: list[int] = []
    answers: list[bool] = []
    while len(ids) < length:
        more = writer.document(_part(writer, length, length - len(ids)))
        ids += more[0]
        answers += more[1]
    return ids, answers


def _part(writer: NeedleWriter, length: int, left: int) -> int:
    """Tokens of the next document of a packed segment; the last one takes what is left."""
    least = writer.shortest
    if left <= 2 * least:
        return left
    most = max(min(length // 4, left - least), least)
    return int(np.exp(writer.rng.uniform(np.log(least), np.log(most))) + 1e-9)
