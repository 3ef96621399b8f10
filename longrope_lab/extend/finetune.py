"""Fine-tuning at a scaling and a length: transformers' Trainer over segments of long documents.

The paper's way (LongRoPE, arXiv 2402.13753, section 4.1; YaRN, arXiv 2309.00071, section 4.1):
next-token training on segments bookended by BOS and EOS, for a few hundred steps. The loss never
holds full logits (`mean_loss`) and, of long segments, keeps little of each layer
(`saving_memory`), so memory grows with the hidden states of one segment.

Several processes share the segments of a step, and nothing changes in a script that calls
`finetune`. On one machine, and on two, each with its rank and all with the same folder::

    accelerate launch --multi_gpu --num_processes 8 script.py

    accelerate launch --multi_gpu --num_machines 2 --num_processes 16 --machine_rank 0 \\
        --main_process_ip HOST --main_process_port 29500 script.py

Without GPUs, too, it is --multi_gpu that starts several processes, with a model on the CPU.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import nn

from ..common.checks import seed_of
from ..common.files import Json
from ..common.identity import digest, take
from ..common.processes import alone, main_first
from ..models.estimates import saving_memory
from ..models.forward import fast_attention, in_float32
from ..models.loading import model_digest
from ..models.positions import check_turned_alone
from ..models.rotary import rope_spec, scaled
from ..rope.methods import rope_scaling
from ..rope.scaling import RopeScaling
from ..rope.schedule import RopeSchedule, Scaling, sets_of
from ..texts.tokens import Document, check_ids
from .low_rank import low_rank_updates, trained_in_full
from .needle_segments import needle_segments
from .recipe import RECIPES, Recipe, by_name
from .segments import segments
from .trainer import loss_inside, train
from .training_arguments import training_arguments

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
    """Train a model in place at a scaling; an interrupted call goes on when it is made again.

    Weights are held in float32 while training, and on a GPU multiplied in bfloat16. At the end only
    the weights are other than before. After an error, or Ctrl-C, not even they are (a copy is kept
    in the CPU's memory), so that the same call with the same folder can be made again.

    >>> import longrope_lab as lab
    >>> model, tokenizer = lab.load_model("lab", device="cpu")
    >>> docs = lab.load_corpus("kjv", tokenizer, limit=2)
    >>> scaling = lab.rope_scaling(lab.rope_spec(model), "yarn", 1024)
    >>> recipe = lab.Recipe(steps=2, batch=1, warmup=0)
    >>> table = finetune(model, tokenizer, docs, scaling, "tuned", recipe=recipe)
    >>> table[["step", "tokens"]]
       step  tokens
    0     1    1024
    1     2    2048

    Args:
        model: a Hugging Face causal language model; its weights change, except those that do not
            require gradients.
        tokenizer: its tokenizer, for BOS and EOS.
        docs: documents to cut into segments; see `segments`. They are used in shuffled passes over
            all.
        scaling: what is in place while training; None: the model as it stands. With the recipe's
            `short_share`, the short pieces are read with a schedule's set for the window.
        folder: for the last two checkpoints, ``loss.csv``, ``finetune.json`` (what was asked for)
            and ``scaling.json``.
        length: tokens per segment; the scaling's target unless given.
        recipe: a name of `RECIPES`, or a `Recipe`.
        seed: of the segments' order and of low-rank updates.

    Returns:
        One row per step: step, loss (mean over the step's segments, nats per token),
        learning_rate, tokens (all so far).

    Raises:
        ValueError: no segment in the documents, token ids that the model does not have, a folder of
            another fine-tuning or of anything else, or one that another process trains in, named
            modules that the model does not have, a batch that the processes cannot share, a length
            not given, an unknown recipe, `short_share` for segments that are hardly longer than the
            window, `skip_share` for some as long as the scaling's target or for layers that take
            positions from elsewhere than the rotary embedding, `needle_share` and no document as
            long as a segment.
        RuntimeError: a loss or gradient that is not finite (the last good state is in the folder),
            or a checkpoint that cannot be written.
    """
    recipe, seed, folder = by_name("recipe", recipe, RECIPES), seed_of(seed), Path(folder)
    length = _length(scaling, length)
    spec = rope_spec(model) if scaling is None else scaling.spec
    target = max((s.target_length for s in sets_of(scaling)), default=0) if scaling else 0
    recipe.check_segment(length, spec.window, target)
    rows = training_rows(model, tokenizer, docs, recipe, length)
    needles = None
    if recipe.needle_share:
        count = recipe.needles_of(recipe.steps * recipe.batch)
        rng = np.random.default_rng([seed, length])
        needles = needle_segments(docs, length, count, tokenizer, rng)
    in_full = trained_in_full(model, recipe)
    with scaled(model, scaling, length=length):
        pass  # refuses one of another model before anything is written
    arguments = training_arguments(model, folder, recipe, length, seed)
    with alone(folder, "fine-tuning"):
        with main_first(cpu=model.device.type == "cpu"):
            identity = _identity(model, rows, scaling, length, recipe, seed)
            take(folder / "finetune.json", "fine-tuning", identity)
            if scaling is not None and arguments.should_save:
                scaling.save(folder / "scaling.json")
        with (
            _undone_by_errors(model, in_full),
            in_float32(model),
            low_rank_updates(model, recipe, in_full, seed),
            _in_place(model, scaling, length, recipe),
            saving_memory(model, length * arguments.per_device_train_batch_size),
            fast_attention(),
            loss_inside(model, spec.window, skips=recipe.skip_share > 0),
        ):
            return train(model, rows, folder, recipe, arguments, spec.window, needles, target)


def training_rows(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    docs: Sequence[Document],
    recipe: Recipe,
    length: int,
) -> NDArray[np.int64]:
    """The segments to train on, shape (N, length), of a training that lacks nothing it needs.

    Raises:
        ValueError: as `finetune` refuses documents and recipes.
    """
    rows, vocabulary = segments(docs, length, tokenizer), model.get_input_embeddings().weight
    check_ids(rows, len(vocabulary))
    if recipe.needle_share:
        one, _ = needle_segments(docs, length, 1, tokenizer, np.random.default_rng(0))
        check_ids(one, len(vocabulary))
    if recipe.skip_share:
        check_turned_alone(model)
    trained_in_full(model, recipe)
    return rows


def _length(scaling: Scaling | None, length: int | None) -> int:
    """Tokens per segment: as given, or the scaling's target."""
    if length is not None:
        return int(length)
    if not isinstance(scaling, RopeScaling):
        raise ValueError(
            "a segment's length follows from a RopeScaling alone: pass length= in tokens"
        )
    return scaling.target_length


def _in_place(
    model: PreTrainedModel, scaling: Scaling | None, length: int, recipe: Recipe
) -> contextlib.AbstractContextManager[object]:
    """The scaling while training; of a mixed training each pass has the factors of its own length.

    Then nothing is scaled inside the window. A schedule says itself what it has there, and where
    positions skip, what it has for the farthest of a row.
    """
    mixed = recipe.short_share > 0
    if mixed and isinstance(scaling, RopeScaling) and scaling.target_length != scaling.spec.window:
        unscaled = rope_scaling(scaling.spec, "none", scaling.spec.window)
        assert isinstance(unscaled, RopeScaling)
        scaling = RopeSchedule.by_length([unscaled, scaling])
    by_row = mixed or (recipe.skip_share > 0 and isinstance(scaling, RopeSchedule))
    return scaled(model, scaling, length=None if by_row else length)


def _identity(
    model: PreTrainedModel,
    rows: NDArray[np.int64],
    scaling: Scaling | None,
    length: int,
    recipe: Recipe,
    seed: int,
) -> Json:
    """What tells one fine-tuning from another."""
    said = asdict(recipe)
    # What trainings did that stood before they could be told otherwise.
    for name, then in {"needle_loss": "answers", "skip_share": 0}.items():
        if said[name] == then:
            del said[name]
    known = "none"
    if scaling is not None:
        known = f"{scaling.method}, {digest(json.dumps(scaling.to_dict(), sort_keys=True))}"
    return {
        "format": FORMAT,
        "model": model_digest(model),
        "data": digest(rows.tobytes()),
        "scaling": known,
        "length": length,
        "seed": seed,
    } | said


@contextlib.contextmanager
def _undone_by_errors(model: PreTrainedModel, trained: Sequence[nn.Parameter]) -> Iterator[None]:
    """At the end only the weights `trained` are other than before; after an error not even they."""
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
        # Marks of accelerate, by which it would not wrap the model again.
        for name in vars(model).keys() - attributes:
            delattr(model, name)
        vars(model.config).clear()
        vars(model.config).update(config)  # the Trainer switches the cache off
        model.train(training)
