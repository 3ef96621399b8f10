"""Passkeys asked of an engine: does what was handed over still find them?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import pandas as pd

from ..common.checks import whole
from ..common.progress import progress
from ..measure.needle_prompts import ANSWER_TOKENS, passkey_prompt
from ..measure.needles import COLUMNS, judged, passkey_cells
from ..texts.tokens import Document
from .engines import find_engine
from .servers import Engine, Server

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def served_passkey(
    engines: Mapping[str, Engine | str],
    tokenizer: PreTrainedTokenizerBase,
    lengths: Sequence[int],
    depths: Sequence[float] = (0.0, 0.25, 0.5, 0.75, 1.0),
    trials: int = 10,
    filler: Sequence[Document] | None = None,
    seed: int = 0,
    *,
    answer_tokens: int = ANSWER_TOKENS,
) -> pd.DataFrame:
    """Passkey retrieval by engines, on the very prompts of `passkey`.

    >>> model, tokenizer = lab.load_model("lab")
    >>> def forgetful(ids, positions):
    ...     return [{tokenizer.eos_token_id: 0.0} for _ in positions]
    >>> found = lab.served_passkey({"forgetful": forgetful}, tokenizer, [256], [0.5], trials=1)
    >>> found[["scaling", "length", "expected", "correct"]]
         scaling  length expected  correct
    0  forgetful     256    77374    False

    Token ids go in. A server answers by its own greedy generation; any other engine is asked for
    the most likely token, again and again.

    Args:
        engines: name -> engine, as `check_serving` takes it: the address of a server,
            "llama.cpp:FILE.gguf", or a function. Each is loaded when its turn comes.
        tokenizer: of the model that they serve.
        lengths, depths, trials, filler, seed, answer_tokens: as `passkey` takes them.

    Returns:
        One row per trial, with the columns of a `passkey` table; an engine's name stands for the
        scaling.

    Raises:
        ValueError: what `passkey_prompt` refuses; an engine that is unknown, not installed or
            cannot load its file; a server whose context is too short.
        FileNotFoundError: there is nothing at an engine's path.
        ConnectionError: no server answers.
    """
    cells = passkey_cells(lengths, depths, trials)
    answer_tokens = whole("answer_tokens", answer_tokens, 1)
    prompts = {
        cell: passkey_prompt(tokenizer, *cell, filler, seed, answer_tokens=answer_tokens)
        for cell in cells
    }
    rows = []
    for name, engine in engines.items():
        ask, _ = find_engine(engine)
        for cell in progress(cells, f"passkeys of {name}", [length for length, _, _ in cells]):
            ids, key = prompts[cell]
            answer = _answer(ask, tokenizer, ids, answer_tokens)
            rows.append((name, *cell, key, answer, *judged(answer, key)))
    return pd.DataFrame(rows, columns=COLUMNS)


def _answer(ask: Engine, tokenizer: PreTrainedTokenizerBase, ids: list[int], tokens: int) -> str:
    """The greedy continuation of a prompt, as text."""
    if isinstance(ask, Server):
        return ask.continuation(ids, tokens).strip()
    answer: list[int] = []
    while len(answer) < tokens:
        given = [*ids, *answer]
        told = [after for after in ask(given, [len(given) - 1]) if after]
        if not told:
            raise ValueError(
                "the engine tells nothing of what follows an input: it must return the "
                "log-probabilities of the most likely tokens after the last position"
            )
        best = max(told[0], key=lambda token: told[0][token])
        if best == tokenizer.eos_token_id:
            break
        answer.append(best)
    text: str = tokenizer.decode(answer, skip_special_tokens=True)
    return text.strip()
