"""Runs the stages of a plan, and keeps what each of them made in a folder of its own."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors import SafetensorError
from safetensors.torch import load_model, save_model

from ..common.files import read_json, replacing, write_json, write_table
from ..common.identity import digest_of
from ..common.processes import main_first
from ..models.rotary import rope_spec
from ..rope.scaling import RopeScaling
from ..rope.schedule import LengthSchedule
from ..searches.rounds import SearchResult
from ..searches.run import search
from ..searches.space import SearchSpace
from ..texts.needle_documents import needle_documents
from ..texts.tokens import Document, check_ids
from .finetune import finetune, training_rows
from .stages import FineTune, Formula, Recover, Search, Stage, goal_of, needles_of
from .trainer import checkpoints
from .training_arguments import training_arguments
from .wording import counted, naming

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

# A number in a book, among three others of its kind.
HARD = "multikey in documents"

# In a stage's folder: what it made, and the digest of that file.
SCALING, WEIGHTS, DIGEST = "scaling.json", "weights.safetensors", "digest.json"


@dataclass
class PlanRun:
    """A plan under way: what the stages so far gave."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    train_docs: Sequence[Document]
    search_docs: Sequence[Document]
    scalings: dict[int, RopeScaling] = field(default_factory=dict)
    recovered: dict[int, RopeScaling] = field(default_factory=dict)
    tuned: RopeScaling | None = None

    @property
    def schedule(self) -> LengthSchedule:
        """The recovered scalings and, beyond them, that of the longest search or formula."""
        return LengthSchedule((*self.recovered.values(), self.scalings[max(self.scalings)]))

    def main_first(self) -> contextlib.AbstractContextManager[None]:
        """The main process runs the block, then the others."""
        return main_first(cpu=self.model.device.type == "cpu")

    def check(self, stages: Iterable[Stage], seed: int) -> None:
        """See whether all stages will find what they need, before the first one runs.

        Raises:
            ValueError: a stage lacks documents of its length, or room in them for its needles; it
                names layers, or meets token ids, that the model does not have; or its batch cannot
                be shared. The error names the stage.
        """
        for number, stage in enumerate(stages):
            with naming(stage):
                match stage:
                    case FineTune(recipe=recipe):
                        length, given = stage.segment_tokens, (self.model, self.tokenizer)
                        training_rows(*given, self.train_docs, recipe, length)
                        training_arguments(self.model, Path(), recipe, length, seed + number)
                    case Search() | Recover():
                        for doc in self._measured(stage, seed + number):
                            ids = doc.ids[: stage.length]
                            check_ids(ids, len(self.model.get_input_embeddings().weight))

    def do(self, stage: Stage, place: Path, seed: int) -> None:
        """Run a stage, or take what an earlier call, or the main process, made of it.

        Raises:
            ValueError: what an earlier call made is not as it was written.
            RuntimeError: nothing can be written.
        """
        try:
            place.mkdir(parents=True, exist_ok=True)
            self._do(stage, place, seed)
        except (OSError, SafetensorError) as error:
            raise RuntimeError(
                f"{place} cannot be written ({error}): free some space, and call again to go on"
            ) from error

    def _do(self, stage: Stage, place: Path, seed: int) -> None:
        length = stage.length
        match stage:
            case FineTune():
                self._fine_tune(stage, place, seed)
            case Formula():
                make = partial(stage.scaling, rope_spec(self.model), self._below(stage))
                self.scalings[length] = self._kept(stage, place, make)
            case Search():
                space = stage.space(rope_spec(self.model), self._below(stage))
                make = partial(self._search, stage, space, place, seed)
                self.scalings[length] = self._kept(stage, place, make)
            case Recover():
                last, free = self.scalings[max(self.scalings)], stage.free_attention_factor
                space = SearchSpace.below(last, length, free_attention_factor=free)
                make = partial(self._search, stage, space, place, seed)
                self.recovered[length] = self._kept(stage, place, make)

    def _kept(
        self, stage: Formula | Search | Recover, place: Path, make: Callable[[], RopeScaling]
    ) -> RopeScaling:
        """The scaling in a stage's folder; made by the main process if it is not there yet."""
        done = place / SCALING
        with self.main_first():
            if not done.is_file():
                make().save(done)
                _sign(done)
        _check_signed(done)
        try:
            scaling = RopeScaling.load(done)
        except ValueError as error:
            raise _not_as_written(done) from error
        if (scaling.spec, scaling.target_length) != (rope_spec(self.model), stage.length):
            raise _not_as_written(done)
        return scaling

    def _below(self, stage: Formula | Search) -> RopeScaling | None:
        """The scaling whose factors a stage multiplies; None for those of the model as it is."""
        return self.tuned if stage.on_top_of is None else self.scalings[stage.on_top_of]

    def _search(
        self, stage: Search | Recover, space: SearchSpace, place: Path, seed: int
    ) -> RopeScaling:
        """What a search finds, its measurements kept."""
        found = search(
            self.model,
            self._measured(stage, seed),
            stage.length,
            stage.method,
            space=space,
            seed=seed,
            objective=goal_of(stage),
            checkpoint=place / "checkpoint.jsonl",
        )
        best = best_of(found, f"in {place}: call again to go on")
        write_table(history_file(place), found.history)
        return best

    def _measured(self, stage: Search | Recover, seed: int) -> list[Document]:
        """The documents that a search measures, its needles after the others."""
        docs = documents_for(stage, self.search_docs)
        if needles := needles_of(stage):
            size = (stage.length, needles)
            # Where the objective is told, needles are hard: a search learns nothing from those that
            # its start finds.
            tasks = None if goal_of(stage) is None else HARD
            docs = [*docs, *needle_documents(docs, *size, self.tokenizer, tasks=tasks, seed=seed)]
        return docs

    def _fine_tune(self, stage: FineTune, place: Path, seed: int) -> None:
        """Train, or take the weights that an earlier call trained."""
        self.tuned = self.scalings[stage.length]
        weights, training = place / WEIGHTS, place / "training"
        if weights.is_file():
            self._load(weights)
        else:
            finetune(
                self.model,
                self.tokenizer,
                self.train_docs,
                self.tuned,
                training,
                length=stage.segment_tokens,
                recipe=stage.recipe,
                seed=seed,
            )
        with self.main_first():
            if not weights.is_file():
                with replacing(weights) as part:
                    save_model(self.model, str(part))
                _sign(weights)
            # Each is twice or three times as large as the weights, and of no more use.
            for checkpoint in checkpoints(training):
                shutil.rmtree(checkpoint)

    def _load(self, weights: Path) -> None:
        """Put the weights that an earlier call trained into the model."""
        _check_signed(weights)
        try:
            load_model(self.model, weights, device=str(self.model.device))
        except (SafetensorError, RuntimeError) as error:  # cut off; of other names or shapes
            raise _not_as_written(weights) from error


def _sign(made: Path) -> None:
    """Keep the digest of what a stage made."""
    write_json(made.with_name(DIGEST), {made.name: digest_of(made)})


def _check_signed(made: Path) -> None:
    """Refuse what is not as it was written; of the version before, nothing says how it was."""
    kept = made.with_name(DIGEST)
    if not kept.is_file():
        return
    try:
        same = read_json(kept, "digest")[made.name] == digest_of(made)
    except (ValueError, KeyError, TypeError):
        same = False
    if not same:
        raise _not_as_written(made)


def _not_as_written(made: Path) -> ValueError:
    return ValueError(
        f"{made} is not as this plan wrote it: remove {made.parent}, and the same call makes it "
        "again"
    )


def documents_for(stage: Search | Recover, docs: Sequence[Document]) -> list[Document]:
    """The first documents that are long enough for a stage, as many as it takes.

    Raises:
        ValueError: too few.
    """
    fit = [doc for doc in docs if len(doc) >= stage.length]
    if len(fit) < stage.documents:
        wanted, longest = counted(stage.documents, "document"), max(map(len, docs), default=0)
        raise ValueError(
            f"it takes {wanted} of that length, and {len(fit)} of the {len(docs)} in search_docs "
            f"have it (the longest has {longest:,}): load longer ones, or shorten the stage"
        )
    return fit[: stage.documents]


def best_of(found: SearchResult, where: str) -> RopeScaling:
    """What a search found, if it came to its end.

    Raises:
        KeyboardInterrupt: it was stopped, and what it had by then is not what was asked for.
    """
    if not found.finished:  # there was no budget to run out of
        raise KeyboardInterrupt(f"stopped by hand {where}")
    return found.best


def history_file(place: Path) -> Path:
    """Where a stage keeps its history in its folder."""
    training = place / "training"
    return training / "loss.csv" if training.is_dir() else place / "history.csv"


def is_finished(place: Path) -> bool:
    """Whether a stage has left in its folder what it makes."""
    return any((place / made).is_file() for made in (SCALING, WEIGHTS))
