"""A recipe in the words of transformers' Trainer, and how processes share its batches."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import TrainingArguments

from .recipe import Recipe

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# Tokens in a forward pass, by kind of device: fewer leave a GPU idle; elsewhere it is one segment.
AT_ONCE = {"cuda": 65_536}


def training_arguments(
    model: PreTrainedModel, folder: Path, recipe: Recipe, length: int, seed: int
) -> Any:
    """transformers' TrainingArguments for a recipe, on segments of `length` tokens.

    Nothing is written yet.

    Raises:
        ValueError: a batch that the processes cannot share, weights that accelerate would spread
            over processes, or a model that is not where a single process trains.
    """
    _check_launch()
    device = model.device
    arguments = TrainingArguments(
        output_dir=str(folder / "unfinished"),
        max_steps=recipe.steps,
        per_device_train_batch_size=1,
        learning_rate=recipe.learning_rate,
        lr_scheduler_type={"constant": "constant_with_warmup"}.get(recipe.decay, recipe.decay),
        warmup_steps=recipe.warmup,
        adam_beta1=0.9,  # YaRN, section 4.1
        adam_beta2=0.95,
        weight_decay=0.0,
        max_grad_norm=1.0,
        bf16=device.type == "cuda",
        use_cpu=device.type == "cpu",
        seed=seed,
        logging_steps=1,
        logging_nan_inf_filter=False,
        save_steps=recipe.save_every,
        disable_tqdm=True,
        report_to=[],
    )
    here = arguments.device
    one_place = (here.type, here.index or 0) == (device.type, device.index or 0)
    if arguments.world_size == 1 and not one_place:
        raise ValueError(
            f"the model is on {device}, and a single process trains on {here}: load it there"
        )
    _share_batch(arguments, recipe.batch, length, max(length, AT_ONCE.get(device.type, 0)))
    return arguments


def _check_launch() -> None:
    from accelerate.utils import parse_flag_from_env

    for name in ("FSDP", "DEEPSPEED"):
        if parse_flag_from_env(f"ACCELERATE_USE_{name}"):
            raise ValueError(
                f"accelerate is configured for {name}, which spreads the weights over processes; "
                "here each holds all of them: launch with --multi_gpu, and train low-rank updates "
                "if memory is short"
            )


def _share_batch(arguments: Any, batch: int, length: int, most: int) -> None:
    """Each process takes an equal part of a step's segments, up to `most` tokens at a time."""
    processes = arguments.world_size
    if batch % processes:
        raise ValueError(
            f"batch is {batch}, and {processes} processes cannot share it evenly: take a multiple "
            f"of {processes}"
        )
    share = batch // processes
    at_once = max(
        rows for rows in range(1, share + 1) if share % rows == 0 and rows * length <= most
    )
    arguments.per_device_train_batch_size = at_once
    arguments.gradient_accumulation_steps = share // at_once
    if arguments.n_gpu > 1:
        # One process, one GPU: replicas on the others would not have the scaling.
        arguments._n_gpu = 1
