"""Runs a `Plan`: search, fine-tune, search again, recover (LongRoPE, section 3.3).

Each stage leaves what it made in a folder of its own, so that a second call goes on where the first
one stopped. Of several processes (``accelerate launch``), which share the fine-tunings, the main
one searches.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..common.checks import seed_of
from ..common.files import Json
from ..common.identity import digest, is_taken, take
from ..common.processes import alone
from ..common.renames import renamed_arguments
from ..models.loading import ModelSource, model_digest, model_of
from ..models.rotary import rope_spec
from ..texts.tokens import Document
from .announcing import Announcer
from .explain import works_of
from .extended import Extended
from .plan import Plan
from .plan_run import PlanRun
from .ready import PLANS
from .recipe import by_name

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

# Of a plan's folder; the release before wrote 1, without saying so: formulas were searches there.
FORMAT = 2

# The file of a plan's folder that says whose it is.
IDENTITY = "plan.json"


@renamed_arguments(stages="until")
def progressive(
    model: ModelSource,
    tokenizer: PreTrainedTokenizerBase,
    plan: str | Plan,
    folder: str | os.PathLike[str],
    *,
    train_docs: Sequence[Document] = (),
    search_docs: Sequence[Document] = (),
    seed: int = 0,
    until: int | None = None,
) -> Extended:
    """Run a plan on a model; the same call with the same folder goes on where an earlier one ended.

    The model's weights become the fine-tuned ones; no scaling is left in place. To go on in the
    same Python, load the model again first.

    >>> import longrope_lab as lab
    >>> model, tokenizer = lab.load_model("lab", device="cpu")
    >>> docs = lab.PLANS["tiny"].documents(
    ...     tokenizer, search="kjv", train="kjv", train_split="validation", limit=2
    ... )
    >>> extended = progressive(model, tokenizer, "tiny", "run", **docs)
    >>> extended
    Extended from 512 to 640 tokens; weights at 576 tokens:
      up to 512 tokens: factors 1 to ..., m ...
      up to 640 tokens: factors 1 to ..., m ...

    Args:
        model: a Hugging Face causal language model, as it was loaded; or its name for `load_model`,
            or a function without arguments that returns it, so that processes of `WorkerProcesses`
            can run plans side by side.
        tokenizer: its tokenizer.
        plan: what to do; or a name of `PLANS`.
        folder: gets ``plan.json``, one folder per stage and, at the end, ``schedule.json``. A
            search leaves ``scaling.json``, ``history.csv`` and what was measured, a fine-tuning
            ``weights.safetensors`` and ``training/``, whose checkpoints go once the weights are
            there.
        train_docs: to fine-tune on.
        search_docs: to search on; each stage takes the first that are long enough.
        seed: of the first stage; each further one takes the next number.
        until: run so many stages, from the first, and leave the model as it is after them; a later
            call goes on.

    Raises:
        ValueError: a number of stages that the plan does not have; a seed below 0; a folder of
            another plan, model, seed or other documents, or of another version, or where another
            process is at work; too few documents of a stage's length; an unknown plan, or one that
            does not fit the model (`Plan.check`). All before anything runs.
        RuntimeError: nothing can be written; and what `search` and `finetune` raise.
        KeyboardInterrupt: stopped by hand; what was measured is kept.
    """
    plan, folder, seed = by_name("plan", plan, PLANS), Path(folder), seed_of(seed)
    last = len(plan.stages)
    until = last if until is None else until
    if until not in range(1, last + 1):
        raise ValueError(
            f"until is {until}: the plan has {last} stages, and from 1 to all can be run"
        )
    live = model_of(model)
    identity = _checked(live, tokenizer, plan, train_docs, search_docs, seed)
    run = PlanRun(live, tokenizer, train_docs, search_docs)
    folders = tuple(folder / name for name in plan.named)[:until]
    announcer = Announcer(_flops(plan, live, until))
    with alone(folder, "plan"):
        with run.main_first():
            take(folder / IDENTITY, "plan", identity)
        for number, (stage, place) in enumerate(zip(plan.stages, folders, strict=False)):
            with announcer.stage(place, stage):
                run.do(stage, place, seed + number)
        if until == last:
            with run.main_first():
                run.schedule.save(folder / "schedule.json")
    return Extended(plan, run.schedule, run.scalings, run.recovered, run.tuned, folders)


def _flops(plan: Plan, model: PreTrainedModel, until: int) -> dict[str, float]:
    """The operations of the first stages, by the names of their folders."""
    spec = rope_spec(model)
    works = works_of(plan.named, model, spec)
    return {name: work.flops(model, spec.window) for name, work in [*works.items()][:until]}


def is_begun(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    plan: Plan,
    folder: str | os.PathLike[str],
    *,
    train_docs: Sequence[Document] = (),
    search_docs: Sequence[Document] = (),
    seed: int = 0,
) -> bool:
    """Whether `progressive` would go on in this folder, and not begin; nothing is run or written.

    Arguments are those of `progressive`.

    Raises:
        ValueError: what `progressive` refuses before anything runs.
    """
    identity = _checked(model, tokenizer, plan, train_docs, search_docs, seed)
    return is_taken(Path(folder) / IDENTITY, "plan", identity)


def _checked(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    plan: Plan,
    train_docs: Sequence[Document],
    search_docs: Sequence[Document],
    seed: int,
) -> Json:
    """What tells this run from another, of a plan that fits the model and finds its documents."""
    seed_of(seed)
    plan.check(rope_spec(model))
    PlanRun(model, tokenizer, train_docs, search_docs).check(plan.stages, seed)
    return {
        "format": FORMAT,
        "model (as it is loaded, before any stage)": model_digest(model),
        "seed": seed,
        "training documents": _digest(train_docs),
        "search documents": _digest(search_docs),
    } | {f"stage {number}": repr(stage) for number, stage in enumerate(plan.stages)}


def _digest(docs: Sequence[Document]) -> str:
    """Tells documents from others by their tokens, and says how many there are."""
    parts = (
        part for doc in docs for part in (len(doc).to_bytes(8), doc.ids.astype("<i8").tobytes())
    )
    marked = (doc.answers.tobytes() for doc in docs if doc.answers is not None)
    return f"{len(docs)} of {sum(map(len, docs)):,} tokens, {digest(*parts, *marked)}"
