"""Passkey retrieval: can the model still read out a number hidden far back?

Mohtashami and Jaggi (arXiv 2305.16300) hide it in repeated sentences. PI, YaRN and LongRoPE measure
the effective window of an extended model so (LongRoPE, Figure 4).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike

from ..common.checks import whole
from ..common.progress import progress
from ..models.forward import fast_attention
from ..models.generation import generate
from ..models.loading import quiet_transformers
from ..models.rotary import by_name
from ..rope.schedule import Scaling
from ..texts.tokens import Document

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

TASK = (
    "There is an important info hidden inside a lot of irrelevant text. Find it and memorize it. "
    "I will quiz you about the important information there.\n"
)
FILLER = (
    "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again. "
)
KEY = "\nThe pass key is {key}. Remember it. {key} is the pass key.\n"
QUESTION = "\nWhat is the pass key? The pass key is"

# Room for the answer at the end of the sequence: a space and five digits take at most six tokens.
ANSWER_TOKENS = 8

# Tokens of prompts answered together: so few that a batch's memory is bounded, and enough to keep a
# CPU busy.
BATCH_TOKENS = 8192

COLUMNS = ["scaling", "length", "depth", "trial", "expected", "answer", "correct"]

# Where a prompt stands in a table: length, depth, trial.
Cell = tuple[int, float, int]


def passkey(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    lengths: Sequence[int],
    depths: Sequence[float] = (0.0, 0.25, 0.5, 0.75, 1.0),
    trials: int = 10,
    scalings: Mapping[str, Scaling | None] | None = None,
    filler: Sequence[Document] | None = None,
    seed: int = 0,
) -> pd.DataFrame:
    """Passkey retrieval at each length and depth, under each scaling.

    >>> model, tokenizer = lab.load_model("lab")  # a window of 512 tokens
    >>> scalings = {"none": None, "yarn": lab.rope_scaling(lab.rope_spec(model), "yarn", 1024)}
    >>> table = lab.passkey(model, tokenizer, [256, 1024], [0.25], trials=1, scalings=scalings)
    >>> table[["scaling", "length", "expected", "correct"]]
      scaling  length expected  correct
    0    none     256    25160     True
    1    none    1024    32352    False
    2    yarn     256    25160     True
    3    yarn    1024    32352     True

    All scalings get the same prompts.

    Args:
        model, tokenizer: a Hugging Face causal language model and its tokenizer.
        lengths: tokens of prompt and answer together.
        depths: where the key stands, from 0.0 (beginning) to 1.0 (end).
        trials: prompts per length and depth, each with its own key.
        scalings: name -> scaling; None as a scaling (or as `scalings`) means the model as it
            stands. A schedule is fixed to the set of the prompt's length before anything is
            generated.
        filler: documents to hide the key in, from a random place on; None for the paper's repeated
            sentences.
        seed: of keys and places.

    Returns:
        One row per trial: scaling, length, depth, trial, expected, answer (the greedy
        continuation), correct (whether its first number is the key).

    Raises:
        ValueError: lengths or trials that are not whole numbers from 1, filler documents shorter
            than a length, or what `passkey_sequence` refuses.
    """
    if not len(lengths) or not len(depths):
        raise ValueError(
            f"passkey needs at least one length and one depth; got {len(lengths)} lengths and "
            f"{len(depths)} depths"
        )
    if filler is not None and not len(filler):
        raise ValueError(
            "filler is an empty list: pass documents, or None for the paper's repeated sentences"
        )
    lengths = [whole("length", length, 1) for length in lengths]
    trials = whole("trials", trials, 1)
    for depth in depths:
        _check_depth(depth)
    scalings = by_name(scalings)
    cells = [
        (length, depth, trial) for length in lengths for depth in depths for trial in range(trials)
    ]
    prompts = {cell: passkey_prompt(tokenizer, *cell, filler, seed) for cell in cells}
    work = [(*named, batch) for named in scalings.items() for batch in _batches(cells)]
    rows = []
    sizes = [sum(length for length, _, _ in batch) for _, _, batch in work]
    for name, scaling, batch in progress(work, "passkey", sizes):
        answers = _answers(model, tokenizer, [prompts[cell][0] for cell in batch], scaling)
        for cell, answer in zip(batch, answers, strict=True):
            key = prompts[cell][1]
            number = re.search(r"\d+", answer)
            rows.append((name, *cell, key, answer, number is not None and number.group() == key))
    return pd.DataFrame(rows, columns=COLUMNS)


def _batches(cells: Sequence[Cell]) -> Iterator[list[Cell]]:
    """Cells of one length each, as many as are answered together."""
    for length, together in groupby(cells, key=lambda cell: cell[0]):
        same_length, size = list(together), max(1, BATCH_TOKENS // length)
        for start in range(0, len(same_length), size):
            yield same_length[start : start + size]


def _check_depth(depth: float) -> None:
    if not 0 <= depth <= 1:
        raise ValueError(
            f"depth is {depth}: it is a share of the text, from 0.0 (beginning) to 1.0 (end)"
        )


def passkey_prompt(
    tokenizer: PreTrainedTokenizerBase,
    length: int,
    depth: float,
    trial: int = 0,
    filler: Sequence[Document] | None = None,
    seed: int = 0,
) -> tuple[list[int], str]:
    """The prompt behind a row of a `passkey` table, made with its tokenizer, filler and seed.

    Returns:
        The prompt's token ids and the five-digit key.

    Raises:
        ValueError: a filler document shorter than `length`, or what `passkey_sequence` refuses.
    """
    rng = np.random.default_rng([seed, max(length, 0), round(depth * 1e6), trial])
    text = None
    if filler is not None:
        document = filler[int(rng.integers(len(filler)))]
        if len(document) < length:
            raise ValueError(
                f"the filler document {document.title!r} has {len(document):,} tokens and a prompt "
                f"may need {length:,}: load it with min_tokens={length}"
            )
        start = int(rng.integers(0, len(document) - length + 1))
        text = document.ids[start : start + length]
    return passkey_sequence(tokenizer, length, depth, rng, text)


def _answers(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: list[list[int]],
    scaling: Scaling | None,
) -> list[str]:
    """The greedy continuation of each of several prompts of one length, as text."""
    from transformers import GenerationConfig

    ids = torch.tensor(prompts, device=model.device)  # (B, T)
    end, pad = tokenizer.eos_token_id, tokenizer.pad_token_id
    greedy = GenerationConfig(
        do_sample=False, eos_token_id=end, pad_token_id=end if pad is None else pad
    )
    # generate() takes what `greedy` leaves open from the model's own config: a repetition penalty
    # there would forbid the very digits that are asked for.
    before, model.generation_config = model.generation_config, greedy
    mask = torch.ones_like(ids)
    try:
        with torch.inference_mode(), fast_attention(), quiet_transformers():
            out = generate(model, ids, scaling, attention_mask=mask, max_new_tokens=ANSWER_TOKENS)
    finally:
        model.generation_config = before
    texts = tokenizer.batch_decode(out[:, ids.shape[1] :], skip_special_tokens=True)
    return [text.strip() for text in texts]


def passkey_sequence(
    tokenizer: PreTrainedTokenizerBase,
    length: int,
    depth: float,
    rng: np.random.Generator,
    filler: ArrayLike | None = None,
) -> tuple[list[int], str]:
    """A prompt of exactly ``length - ANSWER_TOKENS`` tokens, so that there is room for the answer.

    Args:
        tokenizer: a Hugging Face tokenizer.
        length: tokens of prompt and answer together.
        depth: where the key stands in the filler, from 0 (the beginning) to 1 (the end).
        rng: draws the key.
        filler: token ids (T,) to hide it in, at least `length`; None for the paper's repeated
            sentences.

    Returns:
        The prompt's token ids and the five-digit key.

    Raises:
        ValueError: a depth outside 0 to 1, a length with no room for the question, or too little
            filler.
    """
    _check_depth(depth)
    key = str(rng.integers(10_000, 100_000))

    def ids_of(text: str) -> list[int]:
        return list(tokenizer(text, add_special_tokens=False)["input_ids"])

    task = list(tokenizer(TASK)["input_ids"])
    hidden, question = ids_of(KEY.format(key=key)), ids_of(QUESTION)
    room = length - ANSWER_TOKENS - len(task) - len(hidden) - len(question)
    if room < 0:
        raise ValueError(
            f"length {length} has no room for a passkey prompt: with this tokenizer it takes at "
            f"least {length - room}"
        )
    if filler is None:
        unit = ids_of(FILLER)
        text = (unit * (room // len(unit) + 1))[:room]
    else:
        text = np.asarray(filler)[:room].tolist()
        if len(text) < room:
            raise ValueError(
                f"the filler has {len(text)} tokens: a prompt of length {length} needs {room}"
            )
    before = round(depth * room)
    return [*task, *text[:before], *hidden, *text[before:], *question], key
