"""Runs a `Plan`: search, fine-tune, search again, recover (LongRoPE, arXiv 2402.13753, section 3.3).

Each stage leaves what it made in a folder of its own, so that a second call goes on where the first one stopped.
Of several processes (``accelerate launch``), which share the fine-tunings, the main one searches.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import pandas as pd
from safetensors import SafetensorError
from safetensors.torch import load_model, save_model

from .corpora import Document
from .errors import unknown
from .files import claim, write_table
from .finetune import finetune, segments
from .plans import PLANS, Plan
from .rope import RopeScaling
from .rotary import rope_spec
from .schedule import StagedSchedule
from .search.objective import model_of
from .search.run import model_digest, search
from .search.space import SearchSpace
from .stages import FineTune, Recover, Search, Stage, formula_scaling, naming


@dataclass(frozen=True, eq=False)
class Extended:
    """What a plan made of a model, whose weights are now the fine-tuned ones.

    Args:
        schedule: the recovered scalings and, beyond them, that of the longest search.
        scalings: what each search gave, by length.
        recovered: what each recovery found, by length.
        tuned: the scaling that the weights were last trained at; None without a fine-tuning.
        folders: of the stages, in order.
    """

    schedule: StagedSchedule
    scalings: dict[int, RopeScaling]
    recovered: dict[int, RopeScaling]
    tuned: RopeScaling | None
    folders: tuple[Path, ...]

    @property
    def histories(self) -> dict[str, pd.DataFrame]:
        """By the name of a stage's folder: a search's as `SearchResult` has it, a fine-tuning's as `finetune` does."""
        files = {folder.name: _history(folder) for folder in self.folders}
        return {name: pd.read_csv(file) for name, file in files.items() if file.is_file()}


def progressive(
    model: Any,
    tokenizer: Any,
    plan: str | Plan,
    folder: str | os.PathLike[str],
    *,
    train_docs: Sequence[Document] = (),
    search_docs: Sequence[Document] = (),
    seed: int = 0,
    stages: int | None = None,
) -> Extended:
    """Run a plan on a model; the same call with the same folder goes on after the last finished stage, or inside one.

    The model's weights become the fine-tuned ones; no scaling is left in place. To go on in the same Python, load the
    model again first.

    Args:
        model: a Hugging Face causal language model, as it was loaded; or its name for `load_model`, or a function
            without arguments that returns it, so that processes of `WorkerProcesses` can take roads side by side.
        tokenizer: its tokenizer.
        plan: what to do; or a name of `PLANS`.
        folder: gets ``plan.json``, a folder a stage (``scaling.json``, ``history.csv`` and what was measured of a
            search; ``weights.safetensors`` and ``training/`` of a fine-tuning, whose checkpoints go once the weights
            are there) and, at the end, ``schedule.json``.
        train_docs: to fine-tune on.
        search_docs: to search on; each stage takes the first that are long enough.
        seed: of the first stage; each further one takes the next number.
        stages: run so many of the first ones alone, and leave the model as it is after them; a later call goes on.

    Raises:
        ValueError: a number of stages that the plan does not have; a folder of another plan, model, seed or other
            documents; too few documents of a stage's length; an unknown plan, or one that does not fit the model
            (`Plan.check`). All before anything runs.
        RuntimeError: nothing can be written; and what `search` and `finetune` raise.
        KeyboardInterrupt: stopped by hand; what was measured is kept.
    """
    if isinstance(plan, str):
        if plan not in PLANS:
            raise unknown("plan", plan, PLANS)
        plan = PLANS[plan]
    folder = Path(folder)
    stages = len(plan.stages) if stages is None else stages
    if stages not in range(1, len(plan.stages) + 1):
        raise ValueError(f"stages is {stages}: the plan has {len(plan.stages)}, and from 1 to all of them can be run")
    model = model_of(model)
    plan.check(rope_spec(model))
    for stage in plan.stages:
        with naming(stage):
            _check_documents(stage, tokenizer, train_docs, search_docs)
    identity = {
        "model (as it is loaded, before any stage)": model_digest(model),
        "seed": int(seed),
        "training documents": _digest(train_docs),
        "search documents": _digest(search_docs),
    }
    with _main_first(model):
        claim(folder / "plan.json", "plan", identity | {f"stage {i}": repr(s) for i, s in enumerate(plan.stages)})
    run = _Run(model, tokenizer, train_docs, search_docs)
    named = dict(list(plan.named.items())[:stages])
    for number, (name, stage) in enumerate(named.items()):
        try:
            run.do(stage, folder / name, int(seed) + number)
        except (OSError, SafetensorError) as error:
            raise RuntimeError(
                f"{folder / name} cannot be written ({error}): free some space, and call again to go on"
            ) from error
    schedule = StagedSchedule((*run.recovered.values(), run.scalings[max(run.scalings)]))
    if stages == len(plan.stages):
        with _main_first(model):
            schedule.save(folder / "schedule.json")
    return Extended(schedule, run.scalings, run.recovered, run.tuned, tuple(folder / name for name in named))


@dataclass
class _Run:
    """A plan under way: what the stages so far gave."""

    model: Any
    tokenizer: Any
    train_docs: Sequence[Document]
    search_docs: Sequence[Document]
    scalings: dict[int, RopeScaling] = field(default_factory=dict)
    recovered: dict[int, RopeScaling] = field(default_factory=dict)
    tuned: RopeScaling | None = None

    def do(self, stage: Stage, place: Path, seed: int) -> None:
        """Run a stage, or take what an earlier call, or the main process, made of it."""
        place.mkdir(parents=True, exist_ok=True)
        if isinstance(stage, FineTune):
            self.fine_tune(stage, place, seed)
            return
        done = place / "scaling.json"
        with _main_first(self.model):
            if not done.is_file():
                self.scaling(stage, place, seed).save(done)
        found = self.recovered if isinstance(stage, Recover) else self.scalings
        found[stage.length] = RopeScaling.load(done)

    def scaling(self, stage: Search | Recover, place: Path, seed: int) -> RopeScaling:
        """What a formula says, or what a search finds, its measurements kept."""
        if isinstance(stage, Recover):
            free, last = stage.free_attention_factor, self.scalings[max(self.scalings)]
            space = SearchSpace.below(last, stage.length, free_attention_factor=free)
        else:
            spec = rope_spec(self.model)
            below = self.tuned if stage.on_top_of is None else self.scalings[stage.on_top_of]
            if isinstance(stage.method, str):
                return formula_scaling(spec, stage.method, stage.length, below)
            narrowed: dict[str, Any] = {
                "attention_factors": stage.attention_factors,
                "keep_rotations": stage.keep_rotations,
            }
            if below is None:
                space = SearchSpace(spec, stage.length, **narrowed)
            else:
                space = SearchSpace.on_top_of(below, stage.length, **narrowed)
        found = search(
            self.model,
            _long_enough(self.search_docs, stage.length)[: stage.documents],
            stage.length,
            stage.method,
            space=space,
            seed=seed,
            checkpoint=place / "checkpoint.jsonl",
        )
        if not found.finished:  # there is no budget, so Ctrl-C: what it has so far is not the plan's
            raise KeyboardInterrupt(f"stopped by hand in {place}: call again to go on")
        write_table(_history(place), found.history)
        return found.best

    def fine_tune(self, stage: FineTune, place: Path, seed: int) -> None:
        """Train, or take the weights that an earlier call trained."""
        from .trainer import checkpoints

        self.tuned = self.scalings[stage.length]
        weights, training = place / "weights.safetensors", place / "training"
        if weights.is_file():
            load_model(self.model, weights, device=str(self.model.device))
        else:
            assert not isinstance(stage.recipe, str)
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
        with _main_first(self.model):
            if not weights.is_file():
                part = weights.with_suffix(".part")
                save_model(self.model, str(part))
                part.replace(weights)  # whole or not at all
            for checkpoint in checkpoints(training):  # each twice or three times as large, and of no more use
                shutil.rmtree(checkpoint)


def _main_first(model: Any) -> contextlib.AbstractContextManager[None]:
    """The main process runs the block, then the others, which find done what it did; alone, nothing to wait for."""
    if int(os.environ.get("WORLD_SIZE", 1)) == 1:
        return contextlib.nullcontext()
    from accelerate import PartialState

    # The others wait as long as a search takes.
    state = PartialState(cpu=model.device.type == "cpu", timeout=timedelta(days=30))
    waiting: contextlib.AbstractContextManager[None] = state.main_process_first()
    return waiting


def _history(place: Path) -> Path:
    training = place / "training"
    return training / "loss.csv" if training.is_dir() else place / "history.csv"


def _check_documents(
    stage: Stage, tokenizer: Any, train_docs: Sequence[Document], search_docs: Sequence[Document]
) -> None:
    if isinstance(stage, FineTune):
        segments(train_docs, stage.segment_tokens, tokenizer)
    elif not isinstance(stage.method, str):
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
    content = hashlib.sha256()
    for doc in docs:
        content.update(len(doc).to_bytes(8) + doc.ids.astype("<i8").tobytes())
    return f"{len(docs)} of {sum(map(len, docs)):,} tokens, {content.hexdigest()[:16]}"
