"""Fine-tuning at a scaling and a length: transformers' Trainer over segments of long documents.

The paper's way (LongRoPE, arXiv 2402.13753, section 4.1; YaRN, arXiv 2309.00071, section 4.1):
next-token training on segments bookended by BOS and EOS, a few hundred steps. The loss never holds
full logits (`mean_loss`) and, of long segments, keeps little of each layer (`saving_memory`), so
memory grows with the hidden states of one segment.

Several processes share the segments of a step, and nothing changes in a script that calls
`finetune`:

    accelerate launch --multi_gpu --num_processes 8 script.py accelerate launch --multi_gpu
    --num_machines 2 --num_processes 16 --machine_rank 0 --main_process_ip HOST \
        --main_process_port 29500 script.py       # the same on each machine, with its rank; all
        must see the folder

Without GPUs, too, it is --multi_gpu that starts several processes, with a model on the CPU.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import nn

from ..common.files import Json
from ..common.identity import digest, take
from ..common.processes import main_first
from ..models.estimates import saving_memory
from ..models.forward import fast_attention, in_float32
from ..models.loading import model_digest
from ..models.rotary import rope_spec, scaled
from ..rope.methods import rope_scaling
from ..rope.scaling import RopeScaling
from ..rope.schedule import RopeSchedule, Scaling
from ..texts.tokens import Document
from .low_rank import low_rank_updates, trained_in_full
from .recipe import Recipe, recipe_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

# Of what a fine-tuning leaves in its folder; the release before wrote 1, without saying so.
FORMAT = 2


def finetune(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    docs: Sequence[Document],
    scaling: Scaling | None,
    folder: str | os.PathLike[str],
    *,
    length: int | None = None,
    recipe: str | Recipe = "llama2",
    seed: int = 0,
) -> pd.DataFrame:
    """Train a model in place at a scaling; the same call with the same folder goes on where an
    earlier one was killed.

    Weights are held in float32 while training, and on a GPU multiplied in bfloat16. At the end only
    the weights are other than before; after an error, or Ctrl-C, not even they (a copy is kept in
    the CPU's memory), so that the same call can be made again.

    Args:
        model: a Hugging Face causal language model; its weights change, except those that do not
            require gradients.
        tokenizer: its tokenizer, for BOS and EOS.
        docs: documents to cut into segments; see `segments`. They are used in shuffled passes over
            all.
        scaling: what is in place while training; None: the model as it stands. With the recipe's
            `short_share`, a schedule's set for the window is what the short pieces are read with.
        folder: for the last two checkpoints, ``loss.csv``, ``finetune.json`` (what was asked for)
            and ``scaling.json``.
        length: tokens a segment; the scaling's target unless given.
        recipe: a name of `RECIPES`, or a `Recipe`.
        seed: of the segments' order and of low-rank updates.

    Returns:
        A row a step: step, loss (mean over the step's segments, nats a token), learning_rate,
            tokens (all so far).

    Raises:
        ValueError: no segment in the documents, token ids that the model does not have, a folder of
            another fine-tuning or of anything else, named modules that the model does not have, a
            batch that the processes cannot share, a length not given, an unknown recipe,
            `short_share` for segments that are hardly longer than the window.
        RuntimeError: a loss or gradient that is not finite (the last good state is in the folder),
            or a checkpoint that cannot be written.
    """
    from .trainer import loss_inside, train, training_arguments

    recipe = recipe_of(recipe)
    if length is None:
        if not isinstance(scaling, RopeScaling):
            raise ValueError(
                "a segment's length follows from a RopeScaling alone: pass length= in tokens"
            )
        length = scaling.target_length
    length, seed, folder = int(length), int(seed), Path(folder)
    rows = segments(docs, length, tokenizer)
    vocabulary = model.get_input_embeddings().weight.shape[0]
    if rows.min() < 0 or rows.max() >= vocabulary:
        raise ValueError(
            f"the documents hold token ids from {rows.min()} to {rows.max()}, and the model has {vocabulary}: tokenise "
            "with this model's own tokenizer"
        )
    spec = rope_spec(model) if scaling is None else scaling.spec
    recipe.check_segment(length, spec.window)
    in_full = trained_in_full(model, recipe)
    with scaled(
        model, scaling, length=length
    ):  # refuses one of another model before anything is written
        pass
    arguments = training_arguments(model, folder, recipe, length, seed)
    with main_first(cpu=model.device.type == "cpu"):
        take(
            folder / "finetune.json",
            "fine-tuning",
            _identity(model, rows, scaling, length, recipe, seed),
        )
        if scaling is not None and arguments.should_save:
            scaling.save(folder / "scaling.json")
    with (
        _undone_by_errors(model, in_full),
        in_float32(model),
        low_rank_updates(model, recipe, in_full, seed),
        # Of a mixed training each pass has the factors of its own length.
        scaled(model, _mixed(scaling), length=None)
        if recipe.short_share
        else scaled(model, scaling, length=length),
        saving_memory(model, length * arguments.per_device_train_batch_size),
        fast_attention(),
        loss_inside(model, spec.window),
    ):
        return train(model, rows, folder, recipe, arguments, spec.window)


def segments(
    docs: Iterable[Document], length: int, tokenizer: PreTrainedTokenizerBase
) -> NDArray[np.int64]:
    """Documents one after the other, cut into rows of BOS, text, EOS; shape (N, length).

    The paper chunks its corpus so. What is left over after the last whole row is not used; a
    tokenizer without one of the two tokens leaves it out.

    Raises:
        ValueError: fewer tokens than one row needs, or a row too short for its bookends.
    """
    before, after = (
        [] if token is None else [token]
        for token in (tokenizer.bos_token_id, tokenizer.eos_token_id)
    )
    inside = length - len(before) - len(after)
    if inside < 2:
        raise ValueError(
            f"length is {length}: a segment needs at least 2 tokens of text between BOS and EOS"
        )
    stream = np.concatenate([doc.ids for doc in docs] or [np.empty(0, np.int64)])
    count = len(stream) // inside
    if count == 0:
        raise ValueError(
            f"the documents hold {len(stream):,} tokens and one segment of length {length:,} takes {inside:,}: load "
            "more documents, or train at a shorter length"
        )
    rows = np.empty((count, length), np.int64)
    rows[:, : len(before)] = before
    rows[:, len(before) : len(before) + inside] = stream[: count * inside].reshape(count, inside)
    rows[:, len(before) + inside :] = after
    return rows


def _mixed(scaling: Scaling | None) -> Scaling | None:
    """The scaling, and nothing scaled inside the window; a schedule says itself what it has there."""
    if not isinstance(scaling, RopeScaling) or scaling.target_length == scaling.spec.window:
        return scaling
    unscaled = rope_scaling(scaling.spec, "none", scaling.spec.window)
    assert isinstance(unscaled, RopeScaling)
    return RopeSchedule.by_length([unscaled, scaling])


def _identity(
    model: PreTrainedModel,
    rows: NDArray[np.int64],
    scaling: Scaling | None,
    length: int,
    recipe: Recipe,
    seed: int,
) -> Json:
    """What tells one fine-tuning from another."""
    known = (
        "none"
        if scaling is None
        else f"{scaling.method}, {digest(json.dumps(scaling.to_dict(), sort_keys=True))}"
    )
    return {
        "format": FORMAT,
        "model": model_digest(model),
        "data": digest(rows.tobytes()),
        "scaling": known,
        "length": length,
        "seed": seed,
    } | asdict(recipe)


@contextlib.contextmanager
def _undone_by_errors(model: PreTrainedModel, trained: Sequence[nn.Parameter]) -> Iterator[None]:
    """At the end nothing but the weights `trained` is other than before; after an error, not even they."""
    attributes, config, training = dict(vars(model)), dict(vars(model.config)), model.training
    wanted = [(p, p.requires_grad) for p in model.parameters()]
    copies = [p.detach().to("cpu", copy=True) for p in trained]
    try:
        yield
    except BaseException:
        with torch.no_grad():
            for p, copy in zip(trained, copies, strict=True):
                p.copy_(copy)
        raise
    finally:
        for p, requires_grad in wanted:
            p.grad = None
            p.requires_grad_(requires_grad)
        for name in (
            vars(model).keys() - attributes
        ):  # marks of accelerate, by which it would not wrap the model again
            delattr(model, name)
        vars(model.config).clear()
        vars(model.config).update(config)  # the Trainer switches the cache off
        model.train(training)
