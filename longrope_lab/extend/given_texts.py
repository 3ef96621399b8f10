"""What `LongRoPEModel.extend_context` is given to read: token ids, a text, or a corpus."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, TypeAlias

import torch
from numpy.typing import ArrayLike
from torch import Tensor

from ..common.checks import whole
from ..models.loading import LAB_MODEL
from ..texts.corpora import load_corpus
from ..texts.tokens import Document, tokenize

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Data: TypeAlias = str | os.PathLike[str] | ArrayLike | Tensor
Tokenizer: TypeAlias = "PreTrainedTokenizerBase | None"

# A string of one line and at most so many characters is a path or the name of a corpus; a text to
# search on is longer.
LONGEST_NAME = 1000

# Documents of a corpus that are loaded to train on.
OTHERS = 8


def documents_of(data: Data, length: int, count: int, tokenizer: Tokenizer) -> list[Document]:
    """`count` documents of at least `length` tokens."""
    rule = "it counts what the search measures on, a whole number from 1"
    count = whole("documents", count, 1, rule)
    ids = _ids_of(data, tokenizer)
    if ids is not None:
        return _stretches(ids, length, count)
    assert isinstance(data, str | os.PathLike)
    tokenizer = _known(tokenizer)
    try:
        return load_corpus(data, tokenizer, split="validation", min_tokens=length, limit=count)
    except (ValueError, FileNotFoundError) as error:
        error.add_note(
            f"A string of one line, up to {LONGEST_NAME} characters, is taken for a path or a name."
        )
        raise


def other_texts(
    data: Data, docs: list[Document], length: int, tokenizer: Tokenizer
) -> list[Document]:
    """What there is beside the documents searched on, to train on; those again if there is nothing.

    Of a corpus these are its first documents, of whatever length; of a text or of ids, what follows
    the stretches of `length`.
    """
    ids = _ids_of(data, tokenizer)
    if ids is not None:
        rest = ids[len(docs) * length :].cpu().numpy()
        return [Document("rest", rest)] if len(rest) >= length else docs
    assert isinstance(data, str | os.PathLike)
    try:
        loaded = load_corpus(data, _known(tokenizer), split="validation", limit=len(docs) + OTHERS)
    except ValueError:  # it has fewer
        loaded = load_corpus(data, _known(tokenizer), split="validation")
    searched = {doc.title for doc in docs}
    return [doc for doc in loaded if doc.title not in searched and len(doc) > 1] or docs


def _known(tokenizer: Tokenizer) -> PreTrainedTokenizerBase:
    """The tokenizer, or the lab model's."""
    if tokenizer is not None:
        return tokenizer
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(LAB_MODEL)


def _ids_of(data: Data, tokenizer: Tokenizer) -> Tensor | None:
    """The row of ids in data that is no corpus; None for a corpus."""
    if not isinstance(data, str | os.PathLike):
        return _row(data)
    if isinstance(data, str) and (not data or "\n" in data or len(data) > LONGEST_NAME):
        return _row(tokenize(data, _known(tokenizer)))
    return None


def _row(data: ArrayLike | Tensor) -> Tensor:
    try:
        ids = torch.as_tensor(data)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(
            f"data are a {type(data).__name__} that holds no token ids ({error}): give one row"
        ) from None
    if ids.ndim != 1 or ids.is_floating_point():
        raise ValueError(
            f"data are {ids.dtype} of shape {tuple(ids.shape)}: token ids are one row of whole "
            "numbers"
        )
    return ids


def _stretches(ids: Tensor, length: int, count: int) -> list[Document]:
    """The first `count` stretches of `length` token ids."""
    if len(ids) < count * length:
        raise ValueError(
            f"data have {len(ids):,} tokens, and {count} of {length:,} are needed to search for "
            f"that target, {count * length - len(ids):,} more: give a longer text, or a smaller "
            "target_length" + (" or documents" if count > 1 else "")
        )
    rows = ids[: count * length].view(count, length).long().cpu().numpy()
    return [Document(f"part {i}", row) for i, row in enumerate(rows, start=1)]
