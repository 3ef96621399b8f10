"""What the tests of fine-tuning share: four segments of text, a scaling, a recipe, and a run."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import torch
from conftest import VOCABULARY, WINDOW, tiny_model

from longrope_lab.extend import trainer as trainer_module
from longrope_lab.extend.finetune import finetune
from longrope_lab.extend.recipe import Recipe
from longrope_lab.models.rotary import rope_spec
from longrope_lab.rope.methods import rope_scaling
from longrope_lab.texts.tokens import Document

TOKENIZER = SimpleNamespace(bos_token_id=1, eos_token_id=2)
LENGTH = 2 * WINDOW
# Two documents that hold four segments of 126 tokens between them, and some more.
DOCS = [
    Document(str(n), np.random.default_rng(n).integers(3, VOCABULARY, length))
    for n, length in enumerate((300, 250))
]
ROWS = torch.cat(
    [
        torch.ones(4, 1, dtype=torch.long),
        torch.from_numpy(np.concatenate([doc.ids for doc in DOCS])[: 4 * 126].reshape(4, 126)),
        torch.full((4, 1), 2),
    ],
    dim=1,
)
# Each step takes all four segments, in whatever order.
RECIPE = Recipe(steps=5, batch=4, learning_rate=1e-3, decay="linear", warmup=0, save_every=2)


def scaling_of(model, method="pi"):
    """To twice the window."""
    return rope_scaling(rope_spec(model), method, LENGTH)


def tune(model, folder, *, docs=DOCS, tokenizer=TOKENIZER, length=None, seed=0, **changes):
    """`finetune` at PI with the recipe above, and changes to it."""
    recipe = dataclasses.replace(RECIPE, **changes)
    return finetune(
        model, tokenizer, docs, scaling_of(model), folder, length=length, recipe=recipe, seed=seed
    )


def weights(model):
    """A copy."""
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def gradients_to_come(model):
    """By the names of weights, all gradients from now on: a training clears them at its end."""
    found = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    for name, p in model.named_parameters():
        p.register_hook(functools.partial(lambda name, gradient: found[name].add_(gradient), name))
    return found


def fail_at(call, action, monkeypatch):
    """Let `action(loss)` take the place of the loss at that call, counted from 1.

    Returns a list of what every pass reads.
    """
    calls, stock = [], trainer_module.mean_loss

    def loss(model, ids, **options):
        calls.append(ids.clone())
        found = stock(model, ids, **options)
        return action(found) if len(calls) == call else found

    monkeypatch.setattr(trainer_module, "mean_loss", loss)
    return calls


def undisturbed(folder: Path, **changes) -> tuple[pd.DataFrame, dict[str, torch.Tensor]]:
    """The table and the weights of a run that nothing happens to."""
    model = tiny_model()
    return tune(model, folder, **changes), weights(model)


def assert_same(first, second):
    """Table and weights, to the last bit."""
    pd.testing.assert_frame_equal(first[0], second[0], check_exact=True)
    assert first[1].keys() == second[1].keys()
    assert all(torch.equal(p, second[1][name]) for name, p in first[1].items())


def names(folder):
    """What is in it."""
    return sorted(path.name for path in folder.iterdir())
