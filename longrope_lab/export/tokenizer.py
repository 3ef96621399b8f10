"""A tokenizer in a folder, so that transformers 4 loads it as well as 5."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import TYPE_CHECKING

from ..common.files import Json, read_json, write_json

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# What transformers 5 writes, and what 4 calls the same; 5 understands both. To 4 the first class is
# unknown, and a list of tokens under the second name an error.
CLASSES = {"TokenizersBackend": "PreTrainedTokenizerFast"}
TOKENS, OLD_TOKENS = "extra_special_tokens", "additional_special_tokens"


def write_tokenizer(
    folder: Path, tokenizer: PreTrainedTokenizerBase, longest: int | None = None
) -> None:
    """Write a copy of a tokenizer, free of how it was last called.

    Args:
        folder: where to.
        tokenizer: it is left as it is.
        longest: becomes its `model_max_length`, in tokens, if given.
    """
    tokenizer = copy.deepcopy(tokenizer)
    if longest is not None:
        tokenizer.model_max_length = longest
    # How it was last called stays in it, and would cut or pad every text of whoever loads it.
    if (backend := getattr(tokenizer, "backend_tokenizer", None)) is not None:
        backend.no_truncation()
        backend.no_padding()
    tokenizer.save_pretrained(folder)
    file = folder / "tokenizer_config.json"
    if file.is_file():
        values: Json = read_json(file, "tokenizer config")
        older = dict(values)
        if (name := values.get("tokenizer_class")) in CLASSES:
            older["tokenizer_class"] = CLASSES[name]
        if isinstance(values.get(TOKENS), list):
            older[OLD_TOKENS] = older.pop(TOKENS)
        if older != values:
            write_json(file, older)
