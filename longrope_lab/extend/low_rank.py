"""Low-rank updates (LoRA, LongLoRA): what they train, how they are put in, and how merged."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import torch
from torch import nn

from .recipe import Recipe

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def trained_in_full(model: PreTrainedModel, recipe: Recipe) -> list[nn.Parameter]:
    """The weights that are trained themselves: all, except those that the user froze.

    Beside low-rank updates they are the norms and the embedding (LongLoRA, arXiv 2309.12307,
    section 3.3).

    Raises:
        ValueError: there are none, or the model has no linear layers of the recipe's names, or
            none as wide as its rank.
    """
    if recipe.lora_rank == 0:
        chosen = [p for p in model.parameters() if p.requires_grad]
        if not chosen:
            raise ValueError(
                "none of the model's weights requires a gradient: call "
                "model.requires_grad_(True) first"
            )
        return chosen
    linear = {
        name.rpartition(".")[2]: max(module.in_features, module.out_features)
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear)
    }
    missing = [name for name in recipe.lora_modules if name not in linear]
    if missing:
        raise ValueError(
            f"the model has no linear layers named {', '.join(missing)}: set the recipe's "
            f"lora_modules to some of {', '.join(sorted(linear))}"
        )
    widest = max(linear[name] for name in recipe.lora_modules)
    if recipe.lora_rank > widest:
        raise ValueError(
            f"lora_rank is {recipe.lora_rank:,}, and the widest of these layers has {widest:,} "
            "dimensions: take a lower one, or lora_rank=0 to train all weights"
        )
    embedding = model.get_input_embeddings().weight
    return [p for name, p in model.named_parameters() if "norm" in name or p is embedding]


def trained_parameters(model: PreTrainedModel, recipe: Recipe) -> int:
    """How many numbers a fine-tuning changes: weights trained in full, and low-rank updates.

    Raises:
        ValueError: as `trained_in_full`.
    """
    in_full = sum(p.numel() for p in trained_in_full(model, recipe))
    layers = [
        m for name, m in model.named_modules() if name.rpartition(".")[2] in recipe.lora_modules
    ]
    updates = sum(m.in_features + m.out_features for m in layers if isinstance(m, nn.Linear))
    return int(in_full + recipe.lora_rank * updates)


@contextlib.contextmanager
def low_rank_updates(
    model: PreTrainedModel, recipe: Recipe, in_full: Sequence[nn.Parameter], seed: int
) -> Iterator[None]:
    """Low-rank updates of the recipe's layers, if it wants them.

    They are merged at the end, and dropped by an error.
    """
    if recipe.lora_rank == 0:
        yield
        return
    _put_in(model, recipe, in_full, seed)
    done = False
    try:
        yield
        done = True
    finally:
        _take_out(model, merged=done)


def _put_in(
    model: PreTrainedModel, recipe: Recipe, in_full: Sequence[nn.Parameter], seed: int
) -> None:
    from peft import LoraConfig, inject_adapter_in_model

    torch.manual_seed(seed)
    config = LoraConfig(
        r=recipe.lora_rank,
        lora_alpha=2 * recipe.lora_rank,
        target_modules=list(recipe.lora_modules),
    )
    inject_adapter_in_model(config, model)
    full = {id(p) for p in in_full}
    for name, p in model.named_parameters():
        p.requires_grad_("lora_" in name or id(p) in full)


def _take_out(model: PreTrainedModel, *, merged: bool) -> None:
    """Put the model's own layers back, with the updates in their weights or without."""
    for name, module in [(n, m) for n, m in model.named_modules() if hasattr(m, "lora_A")]:
        if merged:
            module.merge()
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, module.get_base_layer())
