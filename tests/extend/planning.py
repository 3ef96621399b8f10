"""What the tests of plans share: documents, the paper's plan at a small size, and a run of one."""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
from conftest import VOCABULARY, WINDOW
from finetuning import TOKENIZER

from longrope_lab.extend.plan import Plan
from longrope_lab.extend.progressive import progressive
from longrope_lab.extend.recipe import Recipe
from longrope_lab.extend.stages import FineTune, Formula, Recover, Search
from longrope_lab.searches import Evolution, Gradient
from longrope_lab.texts.tokens import Document

DOCS = [
    Document(f"book {i}", np.random.default_rng(i).integers(3, VOCABULARY, length))
    for i, length in enumerate((200, 300, 130, 256, 280))
]
LONG, FIRST_TWO_LONG = 4 * WINDOW, [DOCS[1], DOCS[3]]
RECIPE = Recipe(steps=3, batch=2, learning_rate=2e-3, warmup=1, save_every=1)
EVOLUTION = Evolution(population=5, mutations=2, crossovers=1, top=3, rounds=1)
GRADIENT = Gradient(steps=3, validate_every=2, learning_rate=0.3)
DOWN = Gradient(steps=3, validate_every=3, learning_rate=0.3, initial="high")

# As the paper's: two searches before the fine-tunings, one on top of them, two recoveries.
PAPERS = Plan(
    (
        Search(2 * WINDOW, EVOLUTION, documents=2),
        Search(3 * WINDOW, GRADIENT, documents=3, attention_factors=(1.0, 1.4)),
        FineTune(2 * WINDOW, RECIPE),
        FineTune(3 * WINDOW, dataclasses.replace(RECIPE, lora_rank=2), segment=WINDOW),
        Search(LONG, GRADIENT, documents=2),
        Recover(WINDOW, Evolution(8, 3, 3, top=4, rounds=2, initial=("high",)), documents=1),
        Recover(2 * WINDOW, DOWN, documents=1, free_attention_factor=True),
    )
)

# One that searches nothing.
SHORT = Plan((Formula(2 * WINDOW), FineTune(2 * WINDOW, RECIPE), Formula(LONG, "pi")))


def run(model, plan, folder, **changes):
    """`progressive` on the documents above, from seed 5."""
    settings = {"train_docs": DOCS, "search_docs": DOCS, "seed": 5} | changes
    return progressive(model, TOKENIZER, plan, folder, **settings)


def weights(model):
    """A copy of all that a checkpoint holds."""
    return {name: p.detach().clone() for name, p in model.state_dict().items()}


def same_weights(one, other):
    """To the last bit."""
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


class Words:
    """A tokenizer whose token is a word."""

    name_or_path, vocab_size = "words", 100

    def __call__(self, text, verbose):
        return {"input_ids": [len(word) for word in text.split()]}
