"""What happens inside transformers' Trainer: the loss, the order of segments, whole checkpoints,
the log.

A step takes `batch` segments, whatever the number of processes: each process computes its share, on
a GPU several short ones at a time, and gradients are averaged before the optimiser sees them."""

from __future__ import annotations

import contextlib
import gc
import math
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from ..common.files import Json, write_table
from ..common.progress import Progress
from ..models.forward import mean_loss
from ..models.loading import quiet_transformers
from .recipe import Recipe

if TYPE_CHECKING:
    from transformers import PreTrainedModel

WEIGHTS = "model.safetensors"
AT_ONCE = {
    "cuda": 65_536
}  # tokens in a forward pass, by kind of device: fewer leave a GPU idle; elsewhere one segment
KEPT = (
    2  # checkpoints: should the weights of the last one turn out to be bad, there is the one before
)


def training_arguments(
    model: PreTrainedModel, folder: Path, recipe: Recipe, length: int, seed: int
) -> Any:
    """transformers' TrainingArguments for a recipe, on segments of `length` tokens; nothing is
    written yet.

    Raises:
        ValueError: a batch that the processes cannot share, weights that accelerate would spread
            over processes, or a model that is not where a single process trains.
    """
    from accelerate.utils import parse_flag_from_env

    for name in ("FSDP", "DEEPSPEED"):
        if parse_flag_from_env(f"ACCELERATE_USE_{name}"):
            raise ValueError(
                f"accelerate is configured for {name}, which spreads the weights over processes; here each holds all "
                "of them: launch with --multi_gpu, and train low-rank updates if memory is short"
            )
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
    processes = arguments.world_size
    if recipe.batch % processes:
        raise ValueError(
            f"batch is {recipe.batch}, and {processes} processes cannot share it evenly: take a multiple of {processes}"
        )
    here = arguments.device
    if processes == 1 and (here.type, here.index or 0) != (device.type, device.index or 0):
        raise ValueError(
            f"the model is on {device}, and a single process trains on {here}: load it there"
        )
    share, most = recipe.batch // processes, max(length, AT_ONCE.get(device.type, 0))
    at_once = max(
        rows for rows in range(1, share + 1) if share % rows == 0 and rows * length <= most
    )
    arguments.per_device_train_batch_size = at_once
    arguments.gradient_accumulation_steps = share // at_once
    if arguments.n_gpu > 1:
        arguments._n_gpu = (
            1  # one process, one GPU: replicas on the others would not have the scaling
        )
    return arguments


@contextlib.contextmanager
def loss_inside(model: PreTrainedModel, window: int) -> Iterator[None]:
    """While in force, a call with labels returns the chunked loss; rows marked short are read in
    pieces of the window.

    The Trainer calls a model through what accelerate wraps around it, which averages gradients and
    casts; so the loss must come out of the model's own `forward`."""
    stock, own = model.forward, vars(model).get("forward")

    def forward(
        input_ids: Tensor, labels: Tensor | None = None, short: Tensor | None = None
    ) -> Any:
        if labels is None:  # from the backward pass, for the logits of a chunk
            return stock(input_ids=input_ids)
        wrapped = model.forward
        model.forward = (
            stock  # entered a second time inside itself, accelerate's autocast would never end
        )
        try:
            if short is None:
                return {"loss": mean_loss(model, input_ids)}
            pieces = input_ids[short, : input_ids.shape[1] // window * window].reshape(-1, window)
            share = short.float().mean()
            parts = ((1 - share, input_ids[~short]), (share, pieces))
            return {
                "loss": sum(weight * mean_loss(model, ids) for weight, ids in parts if len(ids))
            }
        finally:
            model.forward = wrapped

    model.forward = forward
    try:
        yield
    finally:
        del model.forward  # or what accelerate has wrapped around it
        if own is not None:
            model.forward = own


def train(
    model: PreTrainedModel,
    rows: NDArray[np.int64],
    folder: Path,
    recipe: Recipe,
    arguments: Any,
    window: int,
) -> pd.DataFrame:
    """Train, going on from the folder's last checkpoint; see `finetune` for the table."""
    unfinished, main = Path(arguments.output_dir), arguments.should_save
    if main:
        shutil.rmtree(unfinished, ignore_errors=True)  # of a kill
    last = next(reversed(checkpoints(folder)), None)
    try:
        with (
            quiet_transformers(),
            Progress("fine-tuning", recipe.steps) if main else contextlib.nullcontext() as bar,
        ):
            trainer = _Training(
                folder,
                model=model,
                args=arguments,
                train_dataset=_Segments(rows, recipe, arguments.seed, window),
                callbacks=[_Log(folder, recipe.batch * rows.shape[1], bar)],
            )
            trainer.remove_callback(PrinterCallback)
            trainer.train(resume_from_checkpoint=None if last is None else str(last))
            arguments.distributed_state.wait_for_everyone()  # all is written when any process goes on
    finally:
        if main:
            shutil.rmtree(unfinished, ignore_errors=True)
    table = history(trainer.state.log_history, recipe.batch * rows.shape[1])
    del trainer
    gc.collect()  # a Trainer refers to itself: its optimiser's moments would stay until Python happens to look
    return table


def checkpoints(folder: Path) -> list[Path]:
    """Those of a fine-tuning, in the order of their steps."""
    return sorted(folder.glob("checkpoint-*"), key=_step)


def _step(checkpoint: Path) -> int:
    return int(checkpoint.name.rpartition("-")[2])


def history(log: Sequence[Json], tokens_a_step: int) -> pd.DataFrame:
    """The Trainer's log as a table: step, loss, learning_rate, tokens."""
    rows = [
        (int(r["step"]), r["loss"], r["learning_rate"], int(r["step"]) * tokens_a_step)
        for r in log
        if "loss" in r
    ]
    return pd.DataFrame(rows, columns=["step", "loss", "learning_rate", "tokens"])


class _Segments(Dataset[dict[str, Tensor]]):
    """What a training reads, in its order: rows, in shuffled passes over all; instead of some,
        marked short, pieces.

    The pieces are the rows cut to the window, in shuffled passes of their own, so that those of a
    step come from many documents, as the segments of a training in the window do. The order is laid
    down here, since the Trainer's own depends on the number of processes, and cuts the last step of
    a pass short."""

    def __init__(self, rows: NDArray[np.int64], recipe: Recipe, seed: int, window: int) -> None:
        rng = np.random.default_rng(seed)
        self.rows, self.recipe, self.count = (
            torch.from_numpy(rows),
            recipe,
            recipe.steps * recipe.batch,
        )
        short = recipe.short_of(self.count)
        self.order = _passes(rng, len(rows), self.count - short)
        if short:
            self.each = rows.shape[1] // window
            self.pieces = self.rows[:, : self.each * window].reshape(-1, window)
            self.short_order = _passes(rng, len(self.pieces), short * self.each)

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        before, upto = self.recipe.short_of(index), self.recipe.short_of(index + 1)
        if upto > before:
            row = torch.zeros_like(
                self.rows[0]
            )  # as long as the others, of which the last tokens are not read
            taken = self.pieces[self.short_order[before * self.each : upto * self.each]]
            row[: taken.numel()] = taken.flatten()
        else:
            row = self.rows[self.order[index - before]]
        item = {"input_ids": row, "labels": row}
        if self.recipe.short_share:
            item["short"] = torch.tensor(upto > before)
        return item


def _passes(rng: np.random.Generator, size: int, count: int) -> NDArray[np.int64]:
    """The first `count` numbers of shuffled passes over all below `size`."""
    return np.concatenate([rng.permutation(size) for _ in range(-(-count // size))])[:count]


class _Training(Trainer):  # type: ignore[misc]  # transformers is not typed
    """A Trainer whose checkpoints hold the trained weights, and are whole or not there."""

    def __init__(self, folder: Path, **options: Any) -> None:
        super().__init__(**options)
        self.folder = folder
        self.losses: list[Tensor] = []
        self.add_callback(_Finite(self))

    def get_train_dataloader(self) -> Any:
        return self.accelerator.prepare(
            DataLoader(self.train_dataset, self.args.per_device_train_batch_size)
        )

    def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
        loss: Tensor = super().training_step(*args, **kwargs)
        self.losses.append(loss)
        return loss

    def _trained(self) -> dict[str, Tensor]:
        return {name: p.detach() for name, p in self.model.named_parameters() if p.requires_grad}

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        assert output_dir is not None
        if self.args.should_save:
            Path(output_dir).mkdir(parents=True, exist_ok=True)
            save_file(
                {name: p.contiguous() for name, p in self._trained().items()},
                Path(output_dir) / WEIGHTS,
            )

    def _load_from_checkpoint(
        self, resume_from_checkpoint: str, model: PreTrainedModel = None
    ) -> None:
        saved, trained = load_file(Path(resume_from_checkpoint) / WEIGHTS), self._trained()
        if saved.keys() != trained.keys():
            raise ValueError(
                f"{resume_from_checkpoint} holds other weights than those to train, such as "
                f"{min(saved.keys() ^ trained.keys())}: another version of a library wrote it; name another folder"
            )
        for name, p in trained.items():
            p.copy_(saved[name])

    def _save_checkpoint(self, *args: Any, **kwargs: Any) -> None:
        step = self.state.global_step
        try:
            super()._save_checkpoint(*args, **kwargs)
            self.accelerator.wait_for_everyone()  # each process writes the state of its random numbers
            if self.args.should_save:
                part = Path(self.args.output_dir) / f"checkpoint-{step}"
                part.replace(self.folder / part.name)
                for old in checkpoints(self.folder)[:-KEPT]:
                    shutil.rmtree(old)
        except Exception as error:  # safetensors and torch have errors of their own for a full disk
            raise _unwritable(f"the checkpoint of step {step}", self.folder, error) from error


class _Finite(TrainerCallback):  # type: ignore[misc]
    """Stops before the optimiser takes in what is not a number."""

    def __init__(self, trainer: _Training) -> None:
        self.trainer = trainer

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        trainer = self.trainer
        # The mean over all processes, so that all of them stop; gradients are averaged already.
        loss = trainer.accelerator.reduce(torch.stack(trainer.losses).sum(), "mean").item()
        trainer.losses.clear()
        gradients = [p.grad for p in trainer.model.parameters() if p.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients).item()
        if math.isfinite(loss) and math.isfinite(norm):
            return
        # Weights are good once a step has found a finite loss with them: a checkpoint of the last
        # step's are not.
        good = [path for path in checkpoints(trainer.folder) if _step(path) < state.global_step]
        if args.should_save:
            shutil.rmtree(trainer.folder / f"checkpoint-{state.global_step}", ignore_errors=True)
        what = (
            f"the gradient's norm became {norm:g}"
            if math.isfinite(loss)
            else f"the loss became {loss:g}"
        )
        raise RuntimeError(
            f"{what} at step {state.global_step + 1}: the last good state is "
            f"{good[-1] if good else 'the model before training'}, and the same call goes on from there; if that ends "
            "here again, lower the learning rate, in another folder"
        )


class _Log(TrainerCallback):  # type: ignore[misc]
    """Keeps ``loss.csv`` and a progress bar."""

    def __init__(self, folder: Path, tokens_a_step: int, bar: Progress | None) -> None:
        self.path, self.tokens_a_step, self.bar = folder / "loss.csv", tokens_a_step, bar

    def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.bar is None:
            return
        table = history(state.log_history, self.tokens_a_step)
        try:
            write_table(self.path, table)
        except OSError as error:
            raise _unwritable(self.path.name, self.path.parent, error) from error
        self.bar.advance(state.global_step - self.bar.done, f"loss {table['loss'].iloc[-1]:.4f}")


def _unwritable(what: str, folder: Path, error: Exception) -> RuntimeError:
    reason = str(error).partition("\n")[0]
    return RuntimeError(
        f"{what} cannot be written to {folder} ({reason}): free some space, and the same call goes on from the last "
        "checkpoint"
    )
