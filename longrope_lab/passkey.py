"""Passkey retrieval: can the model still read out a number hidden far back? (Mohtashami and Jaggi, arXiv 2305.16300)

The effective window of an extended model, as PI, YaRN and LongRoPE measure it (LongRoPE Figure 4).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike

TASK = (
    "There is an important info hidden inside a lot of irrelevant text. Find it and memorize it. "
    "I will quiz you about the important information there.\n"
)
FILLER = "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again. "
KEY = "\nThe pass key is {key}. Remember it. {key} is the pass key.\n"
QUESTION = "\nWhat is the pass key? The pass key is"

# Room for the answer at the end of the sequence: a space and five digits take at most six tokens.
ANSWER_TOKENS = 8


def passkey_sequence(
    tokenizer: Any, length: int, depth: float, rng: np.random.Generator, filler: ArrayLike | None = None
) -> tuple[list[int], str]:
    """A prompt of exactly ``length - ANSWER_TOKENS`` tokens, so that prompt and answer together take `length`.

    Args:
        tokenizer: a Hugging Face tokenizer.
        length: tokens of prompt and answer together.
        depth: where the key stands in the filler, from 0 (the beginning) to 1 (the end).
        rng: draws the key.
        filler: token ids (T,) to hide it in, at least `length`; None for the paper's repeated sentences.

    Returns:
        The prompt's token ids and the five-digit key.

    Raises:
        ValueError: a depth outside 0 to 1, a length with no room for the question, or too little filler.
    """
    if not 0 <= depth <= 1:
        raise ValueError(f"depth is {depth}: it is a share of the text, from 0.0 (beginning) to 1.0 (end)")
    key = str(rng.integers(10_000, 100_000))

    def ids_of(text: str) -> list[int]:
        return list(tokenizer(text, add_special_tokens=False)["input_ids"])

    task, hidden, question = list(tokenizer(TASK)["input_ids"]), ids_of(KEY.format(key=key)), ids_of(QUESTION)
    room = length - ANSWER_TOKENS - len(task) - len(hidden) - len(question)
    if room < 0:
        raise ValueError(
            f"length {length} has no room for a passkey prompt: with this tokenizer it takes at least {length - room}"
        )
    if filler is None:
        unit = ids_of(FILLER)
        text = (unit * (room // len(unit) + 1))[:room]
    else:
        text = np.asarray(filler)[:room].tolist()
        if len(text) < room:
            raise ValueError(f"the filler has {len(text)} tokens: a prompt of length {length} needs {room}")
    before = round(depth * room)
    return [*task, *text[:before], *hidden, *text[before:], *question], key
