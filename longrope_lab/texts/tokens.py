"""Documents as token ids: how they are made, kept and checked."""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ..common.files import cache_dir, replacing

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Document:
    """A document as token ids.

    Args:
        title: what it is called.
        ids: int64, shape (T,).
        answers: which of them a search counts, bool, shape (T,); None: all. A needle document marks
            its answer (`needle_documents`). Perplexity and training read all tokens.

    Raises:
        ValueError: marks of another length, or none that is true after the first token, which
            nothing predicts.
    """

    title: str
    ids: NDArray[np.int64]
    answers: NDArray[np.bool_] | None = None

    def __post_init__(self) -> None:
        if self.answers is None:
            return
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
    again, with a warning that names it.
    """
    content = _identity(tokenizer).encode() + b"\0" + text.encode("utf-8", "surrogatepass")
    path = cache_dir() / "tokens" / f"{hashlib.sha256(content).hexdigest()}.ids"
    if path.is_file():
        check, kept = _split(path.read_bytes())
        if check == hashlib.sha256(kept).digest():
            return np.frombuffer(kept, dtype="<i4").astype(np.int64)
        log.warning("the token cache %s is damaged: tokenising again", path)
    ids = np.asarray(tokenizer(text, verbose=False)["input_ids"], dtype="<i4")
    with replacing(path) as part:
        part.write_bytes(hashlib.sha256(ids.tobytes()).digest() + ids.tobytes())
    return ids.astype(np.int64)


def _identity(tokenizer: PreTrainedTokenizerBase) -> str:
    """All of a fast tokenizer's rules; of another one, its name and size must do."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return repr((tokenizer.name_or_path, tokenizer.vocab_size))
    return str(backend.to_str())


def _split(content: bytes) -> tuple[bytes, bytes]:
    """A cache file's checksum and what it covers."""
    size = hashlib.sha256().digest_size
    return content[:size], content[size:]
