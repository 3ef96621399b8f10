"""Tells a model that guesses from one that has learnt, and trains it for a while.

A model with random weights gives each token of the vocabulary about the same chance, a loss of
ln V. Rotary factors change nothing for it, and a search on it measures noise.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from ..common.progress import Progress
from ..models.forward import token_losses
from ..texts.tokens import Document

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# A loss above this share of ln V is that of a guess: a few steps of training bring it below.
GUESSING = 0.95

# Tokens of a training's first segments; the later ones fill the window, if there is time for them.
SHORT = 512
LEARNING_RATE, WARMUP = 1e-3, 10

# Fewer steps may leave a guess a guess, and how many fit into a time depends on what else runs.
LEAST_STEPS = 3 * WARMUP


@dataclass(frozen=True)
class Reading:
    """How well a model reads texts inside its window.

    Args:
        loss: mean over tokens, in nats.
        vocabulary: V.
    """

    loss: float
    vocabulary: int

    @property
    def guesses(self) -> bool:
        """Whether a guess would do as well."""
        return not self.loss < GUESSING * math.log(self.vocabulary)

    def __str__(self) -> str:
        guess = f"ln of {self.vocabulary:,} tokens, is {math.log(self.vocabulary):.2f}"
        return f"{self.loss:.2f} nats per token on these texts, where a guess, {guess}"


@dataclass(frozen=True)
class Trained:
    """What a short training did: its steps, their tokens, and the tokens of its segments."""

    steps: int
    tokens: int
    lengths: tuple[int, ...]

    def __str__(self) -> str:
        lengths = " and ".join(f"{length:,}" for length in self.lengths)
        return f"{self.tokens:,} tokens in {self.steps:,} steps, by segments of {lengths}"


def reading(
    model: PreTrainedModel, docs: Sequence[Document], window: int, last: int | None = None
) -> Reading:
    """What the model makes of the first `window` tokens of each document, or of their last ones."""
    kept = slice(None if last is None else -last, None)
    losses = [token_losses(model, doc.ids[:window])[kept].mean().item() for doc in docs]
    return Reading(float(np.mean(losses)), int(model.config.vocab_size))


def train_for(
    model: PreTrainedModel, docs: Sequence[Document], window: int, seconds: float, seed: int
) -> Trained:
    """Train all weights on next tokens until the time is over, thirty steps at least.

    Half of the time goes to segments of up to 512 tokens, the rest to the whole window if two of
    its steps fit there, else to more of the same. AdamW as in `Recipe`, at 1e-3. How far it comes
    depends on the machine.

    Args:
        model: a causal language model; in training mode while it lasts.
        docs: of at least 2 tokens.
        window: the longest segment, in tokens.
        seconds: of wall time.
        seed: of the segments.
    """
    was_training, began = model.training, time.monotonic()
    adam = torch.optim.AdamW(model.parameters(), LEARNING_RATE, (0.9, 0.95), weight_decay=0.0)
    rng, steps, tokens, lengths = np.random.default_rng(seed), 0, 0, [min(SHORT, window)]
    model.train()
    with Progress("training from random weights, seconds", math.ceil(seconds)) as shown:
        while (spent := time.monotonic() - began) < seconds or steps < LEAST_STEPS:
            if steps and len(lengths) == 1 and spent > seconds / 2:
                fits = seconds - spent > 2 * window * spent / tokens
                lengths.append(window if fits else lengths[0])
            ids = _segment(docs, lengths[-1], rng)
            loss = _step(model, adam, ids, min(1.0, (steps + 1) / WARMUP))
            steps, tokens = steps + 1, tokens + len(ids)
            spent = min(time.monotonic() - began, seconds)
            shown.advance(int(spent) - shown.done, f"loss {loss:.2f}", share=spent / seconds)
    model.train(was_training)
    return Trained(steps, tokens, tuple(dict.fromkeys(lengths)))


def _segment(docs: Sequence[Document], length: int, rng: np.random.Generator) -> torch.Tensor:
    """Up to `length` tokens of a document from a place drawn at random: longer ones more often."""
    sizes = np.array([len(doc) for doc in docs], dtype=float)
    ids = docs[rng.choice(len(docs), p=sizes / sizes.sum())].ids
    start = rng.integers(0, max(len(ids) - length, 0) + 1)
    return torch.from_numpy(ids[start : start + length].astype(np.int64))


def _step(
    model: PreTrainedModel, adam: torch.optim.Optimizer, ids: torch.Tensor, warmth: float
) -> float:
    for group in adam.param_groups:
        group["lr"] = LEARNING_RATE * warmth
    row = ids[None].to(model.device)
    loss = model(input_ids=row, labels=row, use_cache=False).loss
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    adam.step()
    adam.zero_grad()
    return float(loss.item())


def gained(before: float, after: float, length: int) -> Iterator[str]:
    """In words, what factors changed at a length: mean losses in nats, without them and with."""
    without, found = math.exp(before), math.exp(after)
    yield (
        f"Perplexity at {length:,} tokens of the text searched on: {without:,.4g} without a "
        f"scaling, {found:,.4g} with the one found."
    )
    if found > 0.99 * without:
        yield (
            "That is no gain worth the name: a model that looks only a few tokens back loses "
            "nothing at long lengths, and wins nothing back. Train it longer."
        )
