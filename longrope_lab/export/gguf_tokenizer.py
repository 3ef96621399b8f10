"""Writes a tokenizer of bytes and merges as a GGUF file holds it, if llama.cpp knows how it cuts.

How texts are cut before merges stands in llama.cpp itself, and a file only names the rule. A name
is written where the rule is the very same; else the tokens of a served model would be others.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..common.files import Json
from ..models.gguf_files import SPLITS

if TYPE_CHECKING:
    from gguf import GGUFWriter
    from transformers import PreTrainedTokenizerBase

# The names that are written, of all that mean the same.
RULES = {SPLITS[name]: name for name in ("gpt-2", "smollm", "llama-bpe", "qwen2")}
# Of this one, llama.cpp takes a whole piece that is a token as it is, before any merge.
WHOLE_PIECES = "llama-bpe"

# gguf's numbers of the kinds of tokens.
NORMAL, CONTROL, USER_DEFINED, UNUSED = 1, 3, 4, 5


@dataclass(frozen=True)
class TokenizerEntries:
    """What a file states of a tokenizer.

    Args:
        split: the name of the rule that cuts texts.
        tokens, kinds: one per row of the embedding.
        merges: the pairs, as "a b".
        ids: of special tokens, by gguf's name.
        ends: whether BOS and EOS are put around a text.
        template: of a chat, if there is one.
    """

    split: str
    tokens: list[str]
    kinds: list[int]
    merges: list[str]
    ids: dict[str, int]
    ends: tuple[bool, bool]
    template: str | None

    def add_to(self, writer: GGUFWriter) -> None:
        """Add all of it to what is being written."""
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre(self.split)
        writer.add_token_list(self.tokens)
        writer.add_token_types(self.kinds)
        writer.add_token_merges(self.merges)
        for name, number in self.ids.items():
            getattr(writer, f"add_{name}_token_id")(number)
        writer.add_add_bos_token(self.ends[0])
        writer.add_add_eos_token(self.ends[1])
        if self.template:
            writer.add_chat_template(self.template)


def tokenizer_entries(
    tokenizer: PreTrainedTokenizerBase, rows: int, otherwise: str
) -> TokenizerEntries:
    """What a file has to state of a tokenizer.

    Args:
        tokenizer: of bytes and merges.
        rows: of the embedding; those without a token get a name that no text has.
        otherwise: the way out where it cannot be stated.

    Raises:
        ValueError: it is of another kind, or cuts texts by a rule that llama.cpp is not known to
            have.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    rules: Json = json.loads(backend.to_str()) if backend is not None else {}
    model = rules.get("model", {})
    if model.get("type") != "BPE" or model.get("byte_fallback"):
        raise ValueError(
            f"the tokenizer, a {type(tokenizer).__name__}, is not one of bytes and merges, and no "
            f"other is written as GGUF here: {otherwise}"
        )
    split = RULES.get(_cuts(rules["pre_tokenizer"]) or ())
    normal = rules["normalizer"] is None or rules["normalizer"].get("type") == "NFC"  # Qwen's
    if split is None or not normal or model["ignore_merges"] != (split == WHOLE_PIECES):
        raise ValueError(
            "the tokenizer cuts texts by a rule that llama.cpp is not known to have (known are "
            f"those of {', '.join(RULES.values())}): {otherwise}"
        )
    tokens, kinds = _tokens(model["vocab"], rules["added_tokens"], rows)
    pairs = [m if isinstance(m, str) else " ".join(m) for m in model["merges"]]
    named = {name: getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "unk", "pad")}
    ids = {name: number for name, number in named.items() if number is not None}
    sample = tokenizer("a").input_ids
    ends = sample[0] == ids.get("bos"), sample[-1] == ids.get("eos")
    template = getattr(tokenizer, "chat_template", None)
    return TokenizerEntries(
        split, tokens, kinds, pairs, ids, ends, template if isinstance(template, str) else None
    )


def _tokens(
    vocabulary: dict[str, int], added: list[dict[str, Any]], rows: int
) -> tuple[list[str], list[int]]:
    """The token of each row of the embedding, with its kind."""
    tokens = [f"[PAD{row}]" for row in range(rows)]
    kinds = [UNUSED] * rows
    for token, row in vocabulary.items():
        tokens[row], kinds[row] = token, NORMAL
    for more in added:
        row = more["id"]
        tokens[row], kinds[row] = more["content"], CONTROL if more["special"] else USER_DEFINED
    return tokens, kinds


def _cuts(rule: Json | None) -> tuple[str, ...] | None:
    """The regular expressions by which texts are cut, one after another; None for other rules."""
    match rule:
        case {"type": "Sequence", "pretokenizers": [*parts]}:
            each = [_cuts(part) for part in parts]
            return None if None in each else tuple(cut for cuts in each for cut in cuts or ())
        case {"type": "Split", "pattern": {"Regex": cut}, "behavior": "Isolated", "invert": False}:
            return (cut,)
        case {"type": "Digits", "individual_digits": True}:
            return (r"\p{N}",)
        case {"type": "ByteLevel", "add_prefix_space": False, "use_regex": usual}:
            return SPLITS["gpt-2"] if usual else ()
    return None
