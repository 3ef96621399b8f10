"""What happens inside transformers' Trainer: the loss, whole checkpoints, the log.

A step takes `batch` segments, whatever the number of processes. Each process computes its share, on
a GPU several short ones at a time, and gradients are averaged before the optimiser sees them.
"""

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
from torch.utils.data import DataLoader
from transformers import PrinterCallback, Trainer, TrainerCallback

from ..common.files import Json, read_json, write_json, write_table
from ..common.identity import digests_of
from ..common.progress import Progress
from ..models.forward import mean_loss
from ..models.loading import quiet_transformers
from ..models.positions import GivenPositions, given_positions
from ..models.stand_in import StandIn
from .recipe import Recipe
from .segments import TrainingOrder

if TYPE_CHECKING:
    from transformers import PreTrainedModel

WEIGHTS = "model.safetensors"

# In a checkpoint, a digest of each of its other files; and those that were there before it was.
DIGESTS = "digests.json"
NEEDED = (WEIGHTS, "optimizer.pt", "scheduler.pt", "trainer_state.json")

# What a call may leave out.
Missing = Tensor | None

# Checkpoints: should the weights of the last one turn out to be bad, there is the one before.
KEPT = 2


@contextlib.contextmanager
def loss_inside(model: PreTrainedModel, window: int, *, skips: bool = False) -> Iterator[None]:
    """While in force, a call with labels returns the chunked loss.

    Rows marked short are read in pieces of the window; of the others the counted tokens count, and
    positions may skip if `skips`. The Trainer calls a model through what accelerate wraps around
    it, which averages gradients and casts; so the loss must come out of the model's own `forward`.
    """

    def forward(
        input_ids: Tensor,
        labels: Missing = None,
        short: Missing = None,
        counted: Missing = None,
        positions: Missing = None,
    ) -> Any:
        if labels is None:  # from the backward pass, for the logits of a chunk
            return outer.stock(input_ids=input_ids)
        long = slice(None) if short is None else ~short
        given.give(None if positions is None else positions[long])
        # Entered a second time inside itself, accelerate's autocast would never end.
        with StandIn(model, outer.stock):
            if short is None:
                return {"loss": mean_loss(model, input_ids, counted=counted)}
            pieces = input_ids[short, : input_ids.shape[1] // window * window].reshape(-1, window)
            share = short.float().mean()
            whole = None if counted is None else counted[long]
            parts = ((1 - share, input_ids[long], whole), (share, pieces, None))
            losses = [w * mean_loss(model, ids, counted=c) for w, ids, c in parts if len(ids)]
            return {"loss": sum(losses)}

    # Only where it is needed: a rotary embedding that nothing stands in for may be warned of.
    told = given_positions(model) if skips else contextlib.nullcontext(GivenPositions())
    with told as given, StandIn(model, forward) as outer:
        yield


def train(
    model: PreTrainedModel,
    rows: NDArray[np.int64],
    folder: Path,
    recipe: Recipe,
    arguments: Any,
    window: int,
    needles: tuple[NDArray[np.int64], NDArray[np.bool_]] | None,
    target: int,
) -> pd.DataFrame:
    """Train, going on from the folder's last checkpoint; see `finetune` for the table."""
    unfinished, main = Path(arguments.output_dir), arguments.should_save
    if main:
        shutil.rmtree(unfinished, ignore_errors=True)  # of a kill
    last = next(reversed(checkpoints(folder)), None)
    if last is not None:
        _check_whole(last)
    tokens_per_step = recipe.batch * rows.shape[1]
    shown = Progress("fine-tuning", recipe.steps) if main else contextlib.nullcontext()
    try:
        with quiet_transformers(), shown as bar:
            trainer = _Training(
                folder,
                model=model,
                args=arguments,
                train_dataset=TrainingOrder(rows, recipe, arguments.seed, window, needles, target),
                callbacks=[_Log(folder, tokens_per_step, bar)],
            )
            trainer.remove_callback(PrinterCallback)
            trainer.train(resume_from_checkpoint=None if last is None else str(last))
            # When any process goes on, all is written.
            arguments.distributed_state.wait_for_everyone()
    finally:
        if main:
            shutil.rmtree(unfinished, ignore_errors=True)
    table = history(trainer.state.log_history, tokens_per_step)
    # A Trainer refers to itself: its optimiser's moments would stay until Python happens to look.
    del trainer
    gc.collect()
    return table


def checkpoints(folder: Path) -> list[Path]:
    """Those of a fine-tuning, in the order of their steps."""
    found = [
        path for path in folder.glob("checkpoint-*") if path.name.partition("-")[2].isdecimal()
    ]
    return sorted(found, key=_step)


def _step(checkpoint: Path) -> int:
    return int(checkpoint.name.rpartition("-")[2])


def _check_whole(checkpoint: Path) -> None:
    """Refuse a checkpoint that is not as it was written.

    transformers goes on without an optimizer, from a new one, and says nothing.

    Raises:
        ValueError: a file is missing or other; it is named.
    """
    here = digests_of(checkpoint)
    wrong = [name for name in NEEDED if name not in here]
    if DIGESTS in here:  # not of the version before
        was = _digests(checkpoint)
        wrong += [DIGESTS] * (not was)
        wrong += [name for name in was if name in here and here[name] != was[name]]
        wrong += [name for name in was if name not in {*here, *NEEDED}]
    if wrong:
        raise ValueError(
            f"{checkpoint} is not as it was written ({', '.join(sorted(wrong))}): remove that "
            "folder, and the same call goes on from the one before, or from the beginning"
        )


def _digests(checkpoint: Path) -> Json:
    """What its files were; nothing where that file itself is damaged."""
    try:
        was = read_json(checkpoint / DIGESTS, "list of digests")
    except ValueError:
        return {}
    return was if isinstance(was, dict) else {}


def history(log: Sequence[Json], tokens_per_step: int) -> pd.DataFrame:
    """The Trainer's log as a table: step, loss, learning_rate, tokens."""
    rows = [
        (int(r["step"]), r["loss"], r["learning_rate"], int(r["step"]) * tokens_per_step)
        for r in log
        if "loss" in r
    ]
    return pd.DataFrame(rows, columns=["step", "loss", "learning_rate", "tokens"])


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

    def training_step(self, *args: object, **kwargs: object) -> Tensor:
        loss: Tensor = super().training_step(*args, **kwargs)
        self.losses.append(loss)
        return loss

    def _trained(self) -> dict[str, Tensor]:
        return {name: p.detach() for name, p in self.model.named_parameters() if p.requires_grad}

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        assert output_dir is not None
        if self.args.should_save:
            place = Path(output_dir)
            place.mkdir(parents=True, exist_ok=True)
            weights = {name: p.contiguous() for name, p in self._trained().items()}
            save_file(weights, place / WEIGHTS)

    def _load_from_checkpoint(
        self, resume_from_checkpoint: str, model: PreTrainedModel | None = None
    ) -> None:
        saved, trained = load_file(Path(resume_from_checkpoint) / WEIGHTS), self._trained()
        if saved.keys() != trained.keys():
            raise ValueError(
                f"{resume_from_checkpoint} holds other weights than those to train, such as "
                f"{min(saved.keys() ^ trained.keys())}: another version of a library wrote it; "
                "name another folder"
            )
        for name, p in trained.items():
            p.copy_(saved[name])

    def _save_checkpoint(self, *args: object, **kwargs: object) -> None:
        step = self.state.global_step
        try:
            super()._save_checkpoint(*args, **kwargs)
            # Each process writes the state of its random numbers.
            self.accelerator.wait_for_everyone()
            if self.args.should_save:
                part = Path(self.args.output_dir) / f"checkpoint-{step}"
                write_json(part / DIGESTS, digests_of(part))
                part.replace(self.folder / part.name)
                for old in checkpoints(self.folder)[:-KEPT]:
                    shutil.rmtree(old)
        except Exception as error:  # safetensors and torch have errors of their own for a full disk
            raise _unwritable(f"the checkpoint of step {step}", self.folder, error) from error


class _Finite(TrainerCallback):  # type: ignore[misc]
    """Stops before the optimiser takes in what is not a number."""

    def __init__(self, trainer: _Training) -> None:
        self.trainer = trainer

    def on_pre_optimizer_step(
        self, args: object, state: Any, control: Any, **kwargs: object
    ) -> None:
        trainer = self.trainer
        # The mean over all processes, so that all of them stop; gradients are averaged already.
        loss = trainer.accelerator.reduce(torch.stack(trainer.losses).sum(), "mean").item()
        trainer.losses.clear()
        gradients = [p.grad for p in trainer.model.parameters() if p.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients).item()
        if not math.isfinite(loss):
            raise self._stopped(f"the loss became {loss:g}", state.global_step)
        if not math.isfinite(norm):
            raise self._stopped(f"the gradient's norm became {norm:g}", state.global_step)

    def _stopped(self, what: str, step: int) -> RuntimeError:
        """The error after so many steps; the checkpoint of the last one is removed.

        Weights count as good once a step has found a finite loss with them. With those of that
        checkpoint none was found.
        """
        folder = self.trainer.folder
        good = [path for path in checkpoints(folder) if _step(path) < step]
        if self.trainer.args.should_save:
            shutil.rmtree(folder / f"checkpoint-{step}", ignore_errors=True)
        return RuntimeError(
            f"{what} at step {step + 1}: the last good state is "
            f"{good[-1] if good else 'the model before training'}, and the same call goes on from "
            "there; if that ends here again, lower the learning rate, in another folder"
        )


class _Log(TrainerCallback):  # type: ignore[misc]
    """Keeps ``loss.csv`` and a progress bar, in the main process; the others have no bar."""

    def __init__(self, folder: Path, tokens_per_step: int, bar: Progress | None) -> None:
        self.path, self.tokens_per_step, self.bar = folder / "loss.csv", tokens_per_step, bar

    def on_log(self, args: object, state: Any, control: Any, **kwargs: object) -> None:
        if self.bar is None:
            return
        table = history(state.log_history, self.tokens_per_step)
        try:
            write_table(self.path, table)
        except OSError as error:
            raise _unwritable(self.path.name, self.path.parent, error) from error
        self.bar.advance(state.global_step - self.bar.done, f"loss {table['loss'].iloc[-1]:.4f}")


def _unwritable(what: str, folder: Path, error: Exception) -> RuntimeError:
    reason = str(error).partition("\n")[0]
    return RuntimeError(
        f"{what} cannot be written to {folder} ({reason}): free some space, and the same call goes "
        "on from the last checkpoint"
    )
