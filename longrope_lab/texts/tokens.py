"""Documents as token ids: how they are made, kept and checked."""

from __future__ import annotations

import functools
import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ..common.files import UnwritableError, cache_dir, replacing

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase

log = logging.getLogger(__name__)

# Tokens at the beginning of a document that tell it from others.
TELLING = 64


@dataclass(frozen=True, eq=False)
class Document:
    """A document as token ids.

    Args:
        title: what it is called.
        ids: int64, shape (T,).
        answers: which of them a search counts, bool, shape (T,); None: all. A needle document marks
            its answer (`needle_documents`). Perplexity and training read all tokens.

    Raises:
        ValueError: ids that are no row of whole numbers from 0; marks of another length, or none
            that is true after the first token, which nothing predicts.
    """

    title: str
    ids: NDArray[np.int64]
    answers: NDArray[np.bool_] | None = None

    def __post_init__(self) -> None:
        ids = np.asarray(self.ids)
        if ids.ndim != 1 or (len(ids) and (ids.dtype.kind not in "iu" or ids.min() < 0)):
            raise ValueError(
                f"the ids of {self.title!r} are {ids.dtype} of shape {ids.shape}: they are one row "
                "of token ids, whole numbers from 0"
            )
        object.__setattr__(self, "ids", ids if len(ids) else ids.astype(np.int64))
        if self.answers is None:
            return
        object.__setattr__(self, "answers", np.asarray(self.answers))
        if self.answers.dtype != np.bool_ and len(self.answers):
            raise ValueError(
                f"answers of {self.title!r} are {self.answers.dtype}: mark each token with True or "
                "False"
            )
        if self.answers.shape != self.ids.shape or not self.answers[1:].any():
            raise ValueError(
                f"answers of {self.title!r} mark {int(self.answers.sum())} of "
                f"{len(self.answers):,} tokens: mark at least one after the first, in an array of "
                f"the document's {len(self.ids):,} tokens"
            )

    def __len__(self) -> int:
        return len(self.ids)

    def __repr__(self) -> str:
        return f"Document({self.title!r}, {len(self):,} tokens)"


def check_unseen(docs: Sequence[Document], trained: Sequence[Document]) -> None:
    """Refuse to report on documents that a model was trained on.

    A document is one of those if one of the two is the beginning of the other: each may have been
    cut. Titles do not count, as different books have the same.

    Args:
        docs: to report on.
        trained: what was trained on, in tokens of the same tokenizer.

    Raises:
        ValueError: naming those that were trained on.
    """
    seen = [doc for doc in docs if any(_same_beginning(doc.ids, other.ids) for other in trained)]
    if seen:
        titles = ", ".join(repr(doc.title) for doc in seen[:3])
        raise ValueError(
            f"{len(seen)} of the {len(docs)} documents to report on were trained on ({titles}"
            f"{', ...' if len(seen) > 3 else ''}): a model reads those too well; name another "
            "corpus, or another split"
        )


def _same_beginning(one: NDArray[np.int64], other: NDArray[np.int64]) -> bool:
    shared = min(len(one), len(other))
    enough = shared >= min(TELLING, max(len(one), len(other))) > 0
    return enough and np.array_equal(one[:shared], other[:shared])


def check_ids(
    ids: NDArray[np.integer] | Tensor,
    vocabulary: int,
    way_out: str = "tokenise with this model's own tokenizer",
) -> None:
    """Refuse token ids that a model has no embedding for.

    Args:
        ids: whole numbers, at least one, any shape; an array, or a tensor of signed integers.
        vocabulary: V, the rows of the model's embedding.
        way_out: the advice that ends the error.

    Raises:
        ValueError: naming an id below 0 or from V on.
    """
    low, high = int(ids.min()), int(ids.max())
    if low < 0 or high >= vocabulary:
        raise ValueError(
            f"token id {low if low < 0 else high} is outside the model's vocabulary of "
            f"{vocabulary}: {way_out}"
        )


def tokenize(text: str, tokenizer: PreTrainedTokenizerBase) -> NDArray[np.int64]:
    """Token ids of a text, int64, shape (T,), kept on disk for the next time.

    The name of the file follows from the contents of text and tokenizer. A damaged file is made
    again, with a warning that names it. Where nothing can be kept, a warning says so once.
    """
    content = _identity(tokenizer).encode() + b"\0" + text.encode("utf-8", "surrogatepass")
    path = cache_dir() / "tokens" / f"{hashlib.sha256(content).hexdigest()}.ids"
    if (kept := _kept(path)) is not None:
        return np.frombuffer(kept, dtype="<i4").astype(np.int64)
    ids = np.asarray(tokenizer(text, verbose=False)["input_ids"], dtype="<i4")
    try:
        with replacing(path) as part:
            part.write_bytes(hashlib.sha256(ids.tobytes()).digest() + ids.tobytes())
    except UnwritableError as error:
        _say_nothing_is_kept(path.parent, error.reason)
    return ids.astype(np.int64)


def _identity(tokenizer: PreTrainedTokenizerBase) -> str:
    """All of a fast tokenizer's rules; of another one, its name and size must do."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return repr((tokenizer.name_or_path, tokenizer.vocab_size))
    return str(backend.to_str())


def _kept(path: Path) -> bytes | None:
    """The ids in a file of the cache, if it is there, can be read, and is whole."""
    try:
        content = path.read_bytes()
    except OSError:
        return None
    size = hashlib.sha256().digest_size
    check, kept = content[:size], content[size:]
    if check == hashlib.sha256(kept).digest():
        return kept
    log.warning("the token cache %s is damaged: tokenising again", path)
    return None


@functools.cache  # once, and not for each document
def _say_nothing_is_kept(folder: Path, reason: str) -> None:
    log.warning(
        "token ids cannot be kept in %s (%s), so texts are tokenised each time: name a folder "
        "where you may write in the environment variable LONGROPE_LAB_CACHE",
        folder,
        reason,
    )


def opening(text: str, tokenizer: PreTrainedTokenizerBase, **options: bool) -> list[int]:
    """Token ids of a text that goes on: with what the tokenizer puts before it, and no end after.

    Args:
        text: the beginning; not empty.
        tokenizer: a Hugging Face tokenizer.
        options: of the tokenizer's call, such as verbose=False.

    Raises:
        ValueError: the tokenizer splits the text itself otherwise where it adds special tokens.
    """
    inside = list(tokenizer(text, add_special_tokens=False, **options)["input_ids"])
    whole = list(tokenizer(text, **options)["input_ids"])
    for start in range(len(whole) - len(inside) + 1):
        if whole[start : start + len(inside)] == inside:
            return whole[: start + len(inside)]
    raise ValueError(
        f"the tokenizer splits {text[:40]!r} into other tokens where it adds special ones, so what "
        "it puts before a text cannot be told: switch its special tokens off"
    )


def without_ends(ids: NDArray[np.int64], tokenizer: PreTrainedTokenizerBase) -> NDArray[np.int64]:
    """A document's token ids (T,) as a part of another text: without BOS, EOS and their like.

    A token for what is unknown stays, since it stands for some text.
    """
    special = set(tokenizer.all_special_ids) - {tokenizer.unk_token_id}
    return ids[~np.isin(ids, sorted(special))]
