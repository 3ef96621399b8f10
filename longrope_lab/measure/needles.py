"""Passkey retrieval: can the model still read out a number hidden far back?

Mohtashami and Jaggi (arXiv 2305.16300) hide it in repeated sentences. PI, YaRN and LongRoPE measure
the effective window of an extended model so (LongRoPE, Figure 4). A model that was tuned to
instructions is asked through its chat template, and its answer begun for it, as RULER does (Hsieh
et al., arXiv 2404.06654).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import groupby, product
from typing import TYPE_CHECKING, TypeVar

import pandas as pd
import torch

from ..common.checks import seed_of, whole
from ..common.progress import progress
from ..models.estimates import check_fits
from ..models.forward import fast_attention
from ..models.generation import generate
from ..models.loading import quiet_transformers
from ..models.rotary import by_name
from ..rope.schedule import Scaling
from ..texts.tokens import Document
from .needle_prompts import ANSWER_TOKENS, passkey_prompt, places_asked, trials_asked

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

# Tokens of prompts answered together: the memory is bounded, and a CPU kept busy.
BATCH_TOKENS = 8192

COLUMNS = ["scaling", "length", "depth", "trial", "expected", "answer", "correct", "contains"]

# What may stand between the digits of a number: 62,635 or 6 2 6 3 5.
APART = r"[\s.,_'’-]?"

# Where a prompt stands in a table: length, depth, trial.
Cell = tuple[int, float, int]
T = TypeVar("T")


def passkey(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    lengths: Sequence[int],
    depths: Sequence[float] = (0.0, 0.25, 0.5, 0.75, 1.0),
    trials: int = 10,
    scalings: Mapping[str, Scaling | None] | None = None,
    filler: Sequence[Document] | None = None,
    seed: int = 0,
    *,
    chat: bool = False,
    answer_tokens: int = ANSWER_TOKENS,
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
        chat: ask through the tokenizer's chat template, for a model tuned to instructions.
        answer_tokens: room for the answer at the end of each length. More let a model come to the
            key after other words, which `contains` then counts.

    Returns:
        One row per trial: scaling, length, depth, trial, expected, answer (the greedy
        continuation), correct (whether its first number is the key), contains (whether the key
        stands anywhere in it, as RULER judges; also with its digits apart, as in 62,635).

    Raises:
        ValueError: lengths, trials or answer_tokens that are not whole numbers from 1, filler
            documents shorter than a length or of another vocabulary, or what `passkey_sequence`
            refuses.
    """
    cells, seed = passkey_cells(lengths, depths, trials), seed_of(seed)
    answer_tokens = whole("answer_tokens", answer_tokens, 1)
    check_fits(model, max(length for length, _, _ in cells))
    scalings = by_name(scalings)
    prompt = partial(passkey_prompt, chat=chat, answer_tokens=answer_tokens)
    prompts = {cell: prompt(tokenizer, *cell, filler, seed) for cell in cells}
    of_length = [list(together) for _, together in groupby(cells, key=lambda cell: cell[0])]
    batched = [batch for same in of_length for batch in batches(same, same[0][0])]
    work = [(*named, batch) for named in scalings.items() for batch in batched]
    rows = []
    sizes = [sum(length for length, _, _ in batch) for _, _, batch in work]
    for name, scaling, batch in progress(work, "passkey", sizes):
        ids = [prompts[cell][0] for cell in batch]
        answers = answers_to(model, tokenizer, ids, scaling, answer_tokens)
        for cell, answer in zip(batch, answers, strict=True):
            key = prompts[cell][1]
            rows.append((name, *cell, key, answer, *judged(answer, key)))
    return pd.DataFrame(rows, columns=COLUMNS)


def judged(answer: str, key: str) -> tuple[bool, bool]:
    """Whether an answer is right: by its first number, and by what it contains."""
    number = re.search(r"\d+", answer)
    digits = APART.join(key)
    apart = re.search(rf"(?<!\d){digits}(?!\d)", answer)
    contains = key in answer or apart is not None
    return number is not None and number.group() == key, contains


def passkey_cells(lengths: Sequence[int], depths: Sequence[float], trials: int) -> list[Cell]:
    """The rows of a `passkey` table under one scaling, in their order.

    Raises:
        ValueError: no lengths or depths, such as no prompt has, or too many trials.
    """
    places = places_asked("passkey", lengths, depths)
    return list(product(*places, range(trials_asked(trials, *places))))


def batches(prompts: Sequence[T], length: int) -> Iterator[Sequence[T]]:
    """Prompts of one length, as many as are answered together."""
    size = max(1, BATCH_TOKENS // length)
    yield from (prompts[i : i + size] for i in range(0, len(prompts), size))


def answers_to(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: list[list[int]],
    scaling: Scaling | None,
    answer_tokens: int,
) -> list[str]:
    """The greedy continuation of each of several prompts of one length, as text."""
    from transformers import GenerationConfig

    ids = torch.tensor(prompts, device=model.device)  # (B, T)
    end, pad = tokenizer.eos_token_id, tokenizer.pad_token_id
    # A chat model ends its turn by a token that its tokenizer may not know as its end.
    own = getattr(model.generation_config, "eos_token_id", None)
    ends = list({end, *(own if isinstance(own, list) else [own])} - {None})
    greedy = GenerationConfig(
        do_sample=False,
        eos_token_id=end if ends == [end] else ends or None,
        pad_token_id=next(iter(ends), None) if pad is None else pad,
    )
    # generate() takes what `greedy` leaves open from the model's own config: a repetition penalty
    # there would forbid the very digits that are asked for.
    before, model.generation_config = model.generation_config, greedy
    mask = torch.ones_like(ids)
    try:
        with torch.inference_mode(), fast_attention(), quiet_transformers():
            out = generate(model, ids, scaling, attention_mask=mask, max_new_tokens=answer_tokens)
    finally:
        model.generation_config = before
    texts = tokenizer.batch_decode(out[:, ids.shape[1] :], skip_special_tokens=True)
    return [text.strip() for text in texts]
