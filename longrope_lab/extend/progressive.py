"""Runs a `Plan`: search, fine-tune, search again, recover (LongRoPE, arXiv 2402.13753, section
    3.3).

Each stage leaves what it made in a folder of its own, so that a second call goes on where the first
one stopped. Of several processes (``accelerate launch``), which share the fine-tunings, the main
one searches."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd
from safetensors import SafetensorError
from safetensors.torch import load_model, save_model

from ..common.files import replacing, write_table
from ..common.identity import digest, take
from ..common.processes import main_first
from ..common.renames import renamed_arguments
from ..models.loading import model_digest, model_of
from ..models.rotary import rope_spec
from ..rope.scaling import RopeScaling
from ..rope.schedule import LengthSchedule
from ..searches.run import search
from ..searches.space import SearchSpace
from ..texts.tokens import Document
from .finetune import finetune, segments
from .plan import Plan, plan_of
from .ready import PLANS
from .stages import FineTune, Formula, Recover, Search, Stage, naming
from .trainer import checkpoints

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

# Of a plan's folder; the release before wrote 1, without saying so: formulas were searches there.
FORMAT = 2


@dataclass(frozen=True, eq=False)
class Extended:
    """What a plan made of a model, whose weights are now the fine-tuned ones.

    Args:
        plan: what was run.
        schedule: the recovered scalings and, beyond them, that of the longest search.
        scalings: what each search and formula gave, by length.
        recovered: what each recovery found, by length.
        tuned: the scaling that the weights were last trained at; None without a fine-tuning.
        folders: of the stages, in order.
    """

    plan: Plan
    schedule: LengthSchedule
    scalings: dict[int, RopeScaling]
    recovered: dict[int, RopeScaling]
    tuned: RopeScaling | None
    folders: tuple[Path, ...]

    @property
    def histories(self) -> dict[str, pd.DataFrame]:
        """By the name of a stage's folder: a search's as `SearchResult` has it, a fine-tuning's as `finetune` does."""
        files = {folder.name: _history(folder) for folder in self.folders}
        return {name: pd.read_csv(file) for name, file in files.items() if file.is_file()}

    @property
    def training_loss(self) -> pd.DataFrame:
        """The fine-tunings' histories one below the other, tokens counted over all of them."""
        tables = [table for name, table in self.histories.items() if "finetune" in name]
        starts = [
            sum(stage.tokens for stage in self.plan.trainings[:number])
            for number in range(len(tables))
        ]
        return pd.concat(
            [t.assign(tokens=t["tokens"] + start) for t, start in zip(tables, starts, strict=True)]
        )

    def for_config(
        self, model: PreTrainedModel, search_docs: Sequence[Document], *, seed: int = 0
    ) -> LengthSchedule:
        """The schedule as a Hugging Face config can hold it: at most two sets of factors, and one m
            for both.

        Of more than two sets the longest two are kept. Where the shorter one has another m, it is
        searched again at the longer one's, as its recovery was; it then reads short texts worse,
        the more the further the two lie apart.

        Args:
            model: the extended model.
            search_docs: as `progressive` had them.
            seed: of the search.
        """
        if len(self.schedule.scalings) < 2:
            return self.schedule
        short, long = self.schedule.scalings[-2:]
        if short.attention_factor != long.attention_factor:
            recovery = next(
                s
                for s in self.plan.stages
                if isinstance(s, Recover) and s.length == short.target_length
            )
            docs = _long_enough(search_docs, short.target_length)[: recovery.documents]
            space = SearchSpace.below(long, short.target_length)
            short = search(
                model, docs, short.target_length, recovery.method, space=space, seed=seed
            ).best
        return LengthSchedule((short, long))


@renamed_arguments(stages="until")
def progressive(
    model: PreTrainedModel | str | Callable[[], PreTrainedModel],
    tokenizer: PreTrainedTokenizerBase,
    plan: str | Plan,
    folder: str | os.PathLike[str],
    *,
    train_docs: Sequence[Document] = (),
    search_docs: Sequence[Document] = (),
    seed: int = 0,
    until: int | None = None,
) -> Extended:
    """Run a plan on a model; the same call with the same folder goes on after the last finished
    stage, or inside one.

    The model's weights become the fine-tuned ones; no scaling is left in place. To go on in the
    same Python, load the model again first.

    Args:
        model: a Hugging Face causal language model, as it was loaded; or its name for `load_model`,
            or a function without arguments that returns it, so that processes of `WorkerProcesses`
            can run plans side by side.
        tokenizer: its tokenizer.
        plan: what to do; or a name of `PLANS`.
        folder: gets ``plan.json``, one folder per stage (``scaling.json``, ``history.csv`` and what
            was measured of a search; ``weights.safetensors`` and ``training/`` of a fine-tuning,
            whose checkpoints go once the weights are there) and, at the end, ``schedule.json``.
        train_docs: to fine-tune on.
        search_docs: to search on; each stage takes the first that are long enough.
        seed: of the first stage; each further one takes the next number.
        until: run so many stages, from the first, and leave the model as it is after them; a later
            call goes on.

    Raises:
        ValueError: a number of stages that the plan does not have; a folder of another plan, model,
            seed or other documents, or of another version; too few documents of a stage's length;
            an unknown plan, or one that does not fit the model (`Plan.check`). All before anything
            runs.
        RuntimeError: nothing can be written; and what `search` and `finetune` raise.
        KeyboardInterrupt: stopped by hand; what was measured is kept.
    """
    plan, folder = plan_of(plan, PLANS), Path(folder)
    until = len(plan.stages) if until is None else until
    if until not in range(1, len(plan.stages) + 1):
        raise ValueError(
            f"until is {until}: the plan has {len(plan.stages)} stages, and from 1 to all can be run"
        )
    live = model_of(model)
    plan.check(rope_spec(live))
    for stage in plan.stages:
        with naming(stage):
            _check_documents(stage, tokenizer, train_docs, search_docs)
    identity = {
        "format": FORMAT,
        "model (as it is loaded, before any stage)": model_digest(live),
        "seed": int(seed),
        "training documents": _digest(train_docs),
        "search documents": _digest(search_docs),
    }
    run = _Run(live, tokenizer, train_docs, search_docs)
    with run.main_first():
        take(
            folder / "plan.json",
            "plan",
            identity | {f"stage {i}": repr(s) for i, s in enumerate(plan.stages)},
        )
    named = dict(list(plan.named.items())[:until])
    for number, (name, stage) in enumerate(named.items()):
        try:
            run.do(stage, folder / name, int(seed) + number)
        except (OSError, SafetensorError) as error:
            raise RuntimeError(
                f"{folder / name} cannot be written ({error}): free some space, and call again to go on"
            ) from error
    schedule = LengthSchedule((*run.recovered.values(), run.scalings[max(run.scalings)]))
    if until == len(plan.stages):
        with run.main_first():
            schedule.save(folder / "schedule.json")
    return Extended(
        plan,
        schedule,
        run.scalings,
        run.recovered,
        run.tuned,
        tuple(folder / name for name in named),
    )


@dataclass
class _Run:
    """A plan under way: what the stages so far gave."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    train_docs: Sequence[Document]
    search_docs: Sequence[Document]
    scalings: dict[int, RopeScaling] = field(default_factory=dict)
    recovered: dict[int, RopeScaling] = field(default_factory=dict)
    tuned: RopeScaling | None = None

    def main_first(self) -> contextlib.AbstractContextManager[None]:
        """The main process runs the block, then the others."""
        return main_first(cpu=self.model.device.type == "cpu")

    def do(self, stage: Stage, place: Path, seed: int) -> None:
        """Run a stage, or take what an earlier call, or the main process, made of it."""
        place.mkdir(parents=True, exist_ok=True)
        match stage:
            case FineTune():
                self.fine_tune(stage, place, seed)
            case Formula():
                self.scalings[stage.length] = self._kept(
                    place, lambda: stage.scaling(rope_spec(self.model), self.tuned)
                )
            case Search():
                self.scalings[stage.length] = self._kept(
                    place, lambda: self._search(stage, self._space(stage), place, seed)
                )
            case Recover():
                self.recovered[stage.length] = self._kept(
                    place, lambda: self._search(stage, self._space_below(stage), place, seed)
                )

    def _kept(self, place: Path, make: Callable[[], RopeScaling]) -> RopeScaling:
        """The scaling in a stage's folder; made by the main process if it is not there yet."""
        done = place / "scaling.json"
        with self.main_first():
            if not done.is_file():
                make().save(done)
        return RopeScaling.load(done)

    def _space(self, stage: Search) -> SearchSpace:
        narrowed = {
            "attention_factors": stage.attention_factors,
            "keep_rotations": stage.keep_rotations,
        }
        below = self.tuned if stage.on_top_of is None else self.scalings[stage.on_top_of]
        if below is None:
            return SearchSpace(rope_spec(self.model), stage.length, **narrowed)  # type: ignore[arg-type]
        return SearchSpace.on_top_of(below, stage.length, **narrowed)

    def _space_below(self, stage: Recover) -> SearchSpace:
        last = self.scalings[max(self.scalings)]
        return SearchSpace.below(
            last, stage.length, free_attention_factor=stage.free_attention_factor
        )

    def _search(
        self, stage: Search | Recover, space: SearchSpace, place: Path, seed: int
    ) -> RopeScaling:
        """What a search finds, its measurements kept."""
        found = search(
            self.model,
            _long_enough(self.search_docs, stage.length)[: stage.documents],
            stage.length,
            stage.method,
            space=space,
            seed=seed,
            checkpoint=place / "checkpoint.jsonl",
        )
        if (
            not found.finished
        ):  # there is no budget, so Ctrl-C: what it has so far is not the plan's
            raise KeyboardInterrupt(f"stopped by hand in {place}: call again to go on")
        write_table(_history(place), found.history)
        return found.best

    def fine_tune(self, stage: FineTune, place: Path, seed: int) -> None:
        """Train, or take the weights that an earlier call trained."""
        self.tuned = self.scalings[stage.length]
        weights, training = place / "weights.safetensors", place / "training"
        if weights.is_file():
            load_model(self.model, weights, device=str(self.model.device))
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
            for checkpoint in checkpoints(
                training
            ):  # each twice or three times as large, and of no more use
                shutil.rmtree(checkpoint)


def _history(place: Path) -> Path:
    training = place / "training"
    return training / "loss.csv" if training.is_dir() else place / "history.csv"


def _check_documents(
    stage: Stage,
    tokenizer: PreTrainedTokenizerBase,
    train_docs: Sequence[Document],
    search_docs: Sequence[Document],
) -> None:
    if isinstance(stage, FineTune):
        segments(train_docs, stage.segment_tokens, tokenizer)
    elif isinstance(stage, Search | Recover):
        fit = _long_enough(search_docs, stage.length)
        if len(fit) < stage.documents:
            raise ValueError(
                f"it takes {stage.documents} documents of that length, and {len(fit)} of the {len(search_docs)} in "
                f"search_docs have it (the longest has {max(map(len, search_docs), default=0):,}): load longer ones, "
                "or shorten the stage"
            )


def _long_enough(docs: Sequence[Document], length: int) -> list[Document]:
    return [doc for doc in docs if len(doc) >= length]


def _digest(docs: Sequence[Document]) -> str:
    """Tells documents from others by their tokens, and says how many there are."""
    parts = (
        part for doc in docs for part in (len(doc).to_bytes(8), doc.ids.astype("<i8").tobytes())
    )
    return f"{len(docs)} of {sum(map(len, docs)):,} tokens, {digest(*parts)}"
