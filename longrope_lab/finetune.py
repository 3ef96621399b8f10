"""Fine-tuning at a scaling and a length: transformers' Trainer over segments of long documents.

The paper's recipe (LongRoPE, arXiv 2402.13753, section 4.1; YaRN, arXiv 2309.00071, section 4.1): next-token training
on segments bookended by BOS and EOS, a few hundred steps. The loss never holds full logits and keeps only the inputs
of each layer (`mean_loss`, `recomputing`), so memory grows with the hidden states of one segment.

Several processes (``accelerate launch``) share the segments of a step; nothing here changes for them.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from .corpora import Document
from .errors import unknown
from .files import write_json
from .losses import fast_attention, mean_loss, recomputing
from .models import quiet_transformers
from .progress import Progress
from .rope import RopeScaling
from .rotary import scaled
from .schedule import RopeSchedule
from .search.run import model_digest

ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")


@dataclass(frozen=True)
class Recipe:
    """Settings of a fine-tuning.

    Args:
        steps: of the optimiser.
        batch: segments a step, over all processes.
        learning_rate: AdamW's, at its highest.
        decay: "linear" (to 0), "constant" or "cosine", after the warm-up.
        warmup: steps of linear rise.
        lora_rank: 0 trains all weights; otherwise low-rank updates of `lora_modules` and, in full, norms and
            embeddings (LongLoRA, arXiv 2309.12307, section 3.3), merged at the end.
        lora_modules: names of the linear layers that get such updates.
        save_every: steps between two checkpoints.

    Raises:
        ValueError: a number below its least, or an unknown decay.
    """

    steps: int = 400
    batch: int = 32
    learning_rate: float = 2e-5
    decay: str = "linear"
    warmup: int = 20
    lora_rank: int = 0
    lora_modules: tuple[str, ...] = ATTENTION
    save_every: int = 50

    def __post_init__(self) -> None:
        for name, least in (("steps", 1), ("batch", 1), ("warmup", 0), ("lora_rank", 0), ("save_every", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} is {getattr(self, name)}: it must be at least {least}")
        if not (math.isfinite(self.learning_rate) and self.learning_rate > 0):
            raise ValueError(f"learning_rate is {self.learning_rate}: it must be a finite number above 0")
        if self.decay not in ("linear", "constant", "cosine"):
            raise unknown("decay", self.decay, ("linear", "constant", "cosine"))


RECIPES = {
    # LongRoPE, section 4.1, LLaMA2 to 128k (to 256k: 600 steps more); warm-up as in YaRN, whose settings it follows.
    "llama2": Recipe(),
    # LongRoPE, section 4.1, Mistral: 400 steps at 16k tokens, constant.
    "mistral": Recipe(batch=64, learning_rate=1e-6, decay="constant"),
    # A model of a hundred million parameters, on one GPU in minutes.
    "small": Recipe(steps=60, batch=8, learning_rate=1e-4, decay="cosine", warmup=6, save_every=20),
    # The lab model, on a laptop.
    "tiny": Recipe(steps=30, batch=2, learning_rate=2e-4, decay="cosine", warmup=3, save_every=10),
}


def finetune(
    model: Any,
    tokenizer: Any,
    docs: Sequence[Document],
    scaling: RopeScaling | RopeSchedule | None,
    folder: str | os.PathLike[str],
    *,
    length: int | None = None,
    recipe: str | Recipe = "llama2",
    seed: int = 0,
) -> pd.DataFrame:
    """Train a model in place at a scaling; the same call with the same folder goes on where an earlier one was killed.

    On a GPU the weights are held in float32 while training and multiplied in bfloat16.

    Args:
        model: a Hugging Face causal language model; its weights change.
        tokenizer: its tokenizer, for BOS and EOS.
        docs: documents to cut into segments; see `segments`.
        scaling: what is in place while training; None: the model as it stands.
        folder: checkpoints, ``loss.csv`` and ``finetune.json`` (what was asked for).
        length: tokens a segment; the scaling's target unless given.
        recipe: a name of `RECIPES`, or a `Recipe`.
        seed: of the segments' order and of low-rank updates.

    Returns:
        A row a step: step, loss (mean over the step's segments, nats a token), learning_rate, tokens (all so far).

    Raises:
        ValueError: no segment in the documents, a folder of another fine-tuning, named modules that the model does not
            have, a batch that the processes cannot share, a length not given, an unknown recipe.
        RuntimeError: the loss is not a number (the last good state is in the folder), or nothing can be written.
    """
    if isinstance(recipe, str):
        if recipe not in RECIPES:
            raise unknown("recipe", recipe, RECIPES)
        recipe = RECIPES[recipe]
    if length is None:
        if not isinstance(scaling, RopeScaling):
            raise ValueError("a segment's length follows from a RopeScaling alone: pass length= in tokens")
        length = scaling.target_length
    rows = segments(docs, length, tokenizer)
    folder = Path(folder)
    _claim(
        folder,
        {
            "model": model_digest(model),
            "data": hashlib.sha256(rows.tobytes()).hexdigest()[:16],
            "scaling": None if scaling is None else scaling.to_dict(),
            "length": length,
            "recipe": asdict(recipe),
            "seed": seed,
        },
    )
    dtype = model.dtype
    on_gpu = model.device.type == "cuda"
    torch.manual_seed(seed)
    if on_gpu:
        model.float()
    trained = [p for p in model.parameters() if p.requires_grad]
    try:
        _choose_weights(model, recipe)
        with scaled(model, scaling, length=length), recomputing(model), fast_attention(), _loss_inside(model):
            history = _train(model, rows, folder, recipe, seed, on_gpu)
        _merge_lora(model)
    finally:
        for p in trained:
            p.requires_grad_(True)
        model.to(dtype).eval()
    return history


def segments(docs: Iterable[Document], length: int, tokenizer: Any) -> NDArray[np.int64]:
    """Documents one after the other, cut into rows of BOS, text, EOS; shape (N, length).

    The paper chunks its corpus so. What is left over after the last whole row is not used; a tokenizer
    without one of the two tokens leaves it out.

    Raises:
        ValueError: fewer tokens than one row needs, or a row too short for its bookends.
    """
    before, after = ([] if token is None else [token] for token in (tokenizer.bos_token_id, tokenizer.eos_token_id))
    inside = length - len(before) - len(after)
    if inside < 2:
        raise ValueError(f"length is {length}: a segment needs at least 2 tokens of text between BOS and EOS")
    stream = np.concatenate([doc.ids for doc in docs] or [np.empty(0, np.int64)])
    count = len(stream) // inside
    if count == 0:
        raise ValueError(
            f"the documents hold {len(stream):,} tokens and one segment of length {length:,} takes {inside:,}: load "
            "more documents, or train at a shorter length"
        )
    text = stream[: count * inside].reshape(count, inside)
    return np.hstack(
        [np.tile(np.array(before, np.int64), (count, 1)), text, np.tile(np.array(after, np.int64), (count, 1))]
    )


def _claim(folder: Path, identity: dict[str, Any]) -> None:
    """Make the folder this fine-tuning's own, or see that it is."""
    path = folder / "finetune.json"
    identity = json.loads(json.dumps(identity))
    if path.is_file():
        theirs = json.loads(path.read_text())
        differ = [key for key in identity if identity[key] != theirs.get(key)]
        if differ:
            raise ValueError(
                f"{folder} holds a fine-tuning with another {', '.join(differ)}: name another folder, or remove it"
            )
    elif folder.exists() and any(folder.iterdir()):
        raise ValueError(f"{folder} is not empty and holds no fine-tuning: name another folder")
    else:
        write_json(path, identity)


def _choose_weights(model: Any, recipe: Recipe) -> None:
    if recipe.lora_rank == 0:
        return
    from peft import LoraConfig, inject_adapter_in_model

    linear = {name.rpartition(".")[2] for name, m in model.named_modules() if isinstance(m, nn.Linear)}
    missing = [name for name in recipe.lora_modules if name not in linear]
    if missing:
        raise ValueError(
            f"the model has no linear layers named {', '.join(missing)}: set the recipe's lora_modules to some of "
            f"{', '.join(sorted(linear))}"
        )
    config = LoraConfig(r=recipe.lora_rank, lora_alpha=2 * recipe.lora_rank, target_modules=list(recipe.lora_modules))
    inject_adapter_in_model(config, model)
    embedding = model.get_input_embeddings().weight
    for name, p in model.named_parameters():
        p.requires_grad_("lora_" in name or "norm" in name or p is embedding)


def _merge_lora(model: Any) -> None:
    """Add the low-rank updates to the weights that they update, and put those back in their place."""
    for name, module in list(model.named_modules()):
        if hasattr(module, "lora_A"):
            module.merge()
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, module.get_base_layer())


class _loss_inside:  # noqa: N801 - a context manager
    """While in force, a call with labels returns the chunked loss: so the Trainer, and what wraps a model, call it."""

    def __init__(self, model: Any) -> None:
        self.model = model

    def __enter__(self) -> None:
        model, stock = self.model, self.model.forward

        def forward(input_ids: Tensor, labels: Tensor | None = None) -> Any:
            if labels is None:
                return stock(input_ids=input_ids)
            return {"loss": torch.stack([mean_loss(model, row[None]) for row in input_ids]).mean()}

        model.forward = forward

    def __exit__(self, *error: object) -> None:
        del self.model.forward


class _Rows(torch.utils.data.Dataset[dict[str, Tensor]]):
    def __init__(self, rows: NDArray[np.int64]) -> None:
        self.rows = torch.from_numpy(rows)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"input_ids": self.rows[index], "labels": self.rows[index]}


def _train(model: Any, rows: NDArray[np.int64], folder: Path, recipe: Recipe, seed: int, on_gpu: bool) -> pd.DataFrame:
    from accelerate import PartialState
    from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments
    from transformers.trainer_utils import get_last_checkpoint

    processes = PartialState(cpu=not on_gpu).num_processes
    if recipe.batch % processes:
        raise ValueError(
            f"batch is {recipe.batch}: {processes} processes cannot share it evenly; take a multiple of them"
        )
    tokens_a_step = recipe.batch * rows.shape[1]
    bar = Progress("fine-tuning", recipe.steps)

    class Finite(Trainer):  # type: ignore[misc]
        def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
            loss: Tensor = super().training_step(*args, **kwargs)
            if not torch.isfinite(loss):
                raise RuntimeError(
                    f"the loss became {loss.item()} at step {self.state.global_step + 1}: the last good state is "
                    f"{get_last_checkpoint(folder) or 'the model before training'}; lower the learning rate"
                )
            return loss

    class Log(TrainerCallback):  # type: ignore[misc]
        def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.is_world_process_zero:
                table = _history(state.log_history, tokens_a_step)
                table.to_csv(folder / "loss.csv", index=False, float_format="%.8g", lineterminator="\n")
                if len(table):
                    bar.advance(int(table["step"].iloc[-1]) - bar.done, f"loss {table['loss'].iloc[-1]:.4f}")

    arguments = TrainingArguments(
        output_dir=str(folder),
        max_steps=recipe.steps,
        per_device_train_batch_size=1,
        gradient_accumulation_steps=recipe.batch // processes,
        learning_rate=recipe.learning_rate,
        lr_scheduler_type={"constant": "constant_with_warmup"}.get(recipe.decay, recipe.decay),
        warmup_steps=recipe.warmup,
        adam_beta2=0.95,  # YaRN, section 4.1
        max_grad_norm=1.0,
        weight_decay=0.0,
        bf16=on_gpu,
        use_cpu=not on_gpu,
        seed=seed,
        logging_steps=1,
        logging_nan_inf_filter=False,
        save_steps=recipe.save_every,
        save_total_limit=2,
        disable_tqdm=True,
        report_to=[],
        remove_unused_columns=False,
        dataloader_pin_memory=on_gpu,
    )
    with quiet_transformers(), bar:
        trainer = Finite(model=model, args=arguments, train_dataset=_Rows(rows), callbacks=[Log()])
        trainer.remove_callback(PrinterCallback)
        try:
            trainer.train(resume_from_checkpoint=get_last_checkpoint(folder))
        except OSError as error:
            raise RuntimeError(
                f"{folder} cannot be written ({error}): free some space, and call again to go on"
            ) from error
    return _history(trainer.state.log_history, tokens_a_step)


def _history(log: Sequence[dict[str, Any]], tokens_a_step: int) -> pd.DataFrame:
    rows = [(int(r["step"]), r["loss"], r["learning_rate"], int(r["step"]) * tokens_a_step) for r in log if "loss" in r]
    return pd.DataFrame(rows, columns=["step", "loss", "learning_rate", "tokens"])
