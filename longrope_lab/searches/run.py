"""`search`: which model, documents, space and method, and whether they fit one another."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from ..common.checks import seed_of, whole
from ..common.files import Json
from ..common.json_lines import taken
from ..models.loading import ModelSource, model_digest, model_of
from ..models.rotary import rope_spec
from ..texts.tokens import Document
from .budget import Ahead, Budget
from .checkpoint import Log
from .measuring import Results, check_source, here, on_workers
from .objective import Objective, Trial
from .rounds import Rounds, SearchResult
from .sequence_parallel import SequenceParallel
from .settings import Settings, settings_of
from .space import SearchSpace
from .weighing import Goal, counted_and_aside

if TYPE_CHECKING:
    from transformers import PreTrainedModel

log = logging.getLogger(__name__)

AT_FLOOR = (
    "a scaling that the search began with finds these needles already, so they tell it nothing: "
    "hide harder ones, in books and among others of their kind"
)


def search(
    model: ModelSource,
    docs: Sequence[Document],
    target_length: int,
    method: str | Settings = "evolution",
    *,
    preset: str | None = None,
    space: SearchSpace | None = None,
    budget: Budget | None = None,
    seed: int = 0,
    last: int | None = None,
    objective: Goal | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    executor: Executor | None = None,
) -> SearchResult:
    """Search the rescale factors, start tokens and, on request, attention factor of a model.

    >>> model, tokenizer = lab.load_model("lab")  # a window of 512 tokens
    >>> docs = lab.load_corpus("kjv", tokenizer, split="validation", min_tokens=1024, limit=1)
    >>> found = lab.search(model, docs, 1024, lab.Gradient(steps=2, validate_every=2))
    >>> found.history[["kind", "forwards", "best_perplexity"]].round(1)  # YaRN's comes first
             kind  forwards  best_perplexity
    0  validation         4             39.9
    1        step         8             39.9
    2  validation         9             39.6

    Args:
        model: a Hugging Face causal language model, a name for `load_model`, or a function without
            arguments that returns one. With an executor it must be one of the last two, since each
            worker loads the model, once.
        docs: documents of at least `target_length` tokens; the first so many are measured
            (LongRoPE: 5 of PG19's validation split).
        target_length: L' in tokens.
        method: "evolution", "gradient", "random", "strategy", or settings: `Evolution(rounds=10)`.
        preset: sizes of the evolution: "paper" (the default), "paper_512k", "small", "tiny".
        space: what to choose from; None for LongRoPE's Table 4.
        budget: stop earlier than the method would.
        seed: of the method's random numbers.
        last: measure only so many tokens at the end of each document; None: all.
        objective: what to minimise: `Perplexity()`, `Needles()` or `Both(weight)`. Documents that
            mark their answers (`needle_documents`) are needles, the others texts; those that do not
            count are measured for what is found, once. None: each document counts the same, of one
            that marks its answers these alone.
        checkpoint: a file that keeps each measurement. The same call with the same file goes on
            where an earlier one was killed or ran out of budget, and on a CPU ends with the same
            result.
        executor: any `concurrent.futures.Executor`: `WorkerProcesses`, Dask's
            ``Client.get_executor()``, or `SequenceParallel` for documents of which one pass takes
            minutes.

    Returns:
        A `SearchResult`. Ctrl-C ends the search early with what it has so far.

    Raises:
        ValueError: documents shorter than the target, a checkpoint of another search or in use, a
            budget too small for one trial, an executor that was shut down, a live model where
            workers must load their own, an unknown method or preset, a space for another model or
            target; an objective of answers without any, or one to the window itself, where nothing
            is lost.
        RuntimeError: no trial gave a finite loss, a worker died twice on the same trial, or
            measuring failed there.
        KeyboardInterrupt: stopped by hand before the first measurement; later, what there is comes
            back.
    """
    settings = settings_of(method, preset)
    target_length = whole("target_length", target_length, 1, "it counts tokens, so a whole number")
    seed = seed_of(seed)
    if executor is not None:
        _check_executor(model, executor)
    counted, aside = counted_and_aside(docs, objective)
    given = Objective.of(counted, target_length, last, objective)
    rest = Objective.of(aside, target_length, last) if aside else None
    live = model_of(model)
    space = _checked(space, live, target_length, objective)
    name = type(settings).__name__.lower()
    identity = {
        "model": model_digest(live),
        "documents": given.digest(),
        "last": given.last,
        "space": space.to_dict(),
        "method": name,
        "settings": settings.identity(),
        "seed": seed,
    } | _goal_identity(objective)
    with taken(checkpoint, "search") as place:
        kept = Log(place, identity)
        if executor is None:
            measuring = partial(here, live)
        else:
            del live  # the workers have their own
            measuring = partial(on_workers, executor, str(identity["model"]), model)
        # A method of somebody else's may not say what is ahead.
        trials = settings.ahead(len(counted)) if hasattr(settings, "ahead") else None
        budget = budget or Budget()
        ahead = Ahead(budget, target_length, trials)
        rounds = Rounds(kept, budget, target_length, partial(measuring, given), ahead, given)
        found = rounds.result(settings.start(space, len(counted), seed), name)
        return _complete(found, objective, rest, measuring)


def _check_executor(model: ModelSource, executor: Executor) -> None:
    if isinstance(executor, SequenceParallel) and executor.launched:
        raise ValueError(
            f"a launcher started {executor.count} processes, and a search decides in one: start "
            "the script with python alone, and SequenceParallel starts the processes itself"
        )
    check_source(model, executor)


def _goal_identity(goal: Goal | None) -> Json:
    """Of perplexity alone nothing: checkpoints of before go on."""
    return {} if goal is None or goal.needles == 0 else {"objective": str(goal)}


def _complete(
    found: SearchResult,
    goal: Goal | None,
    rest: Objective | None,
    measuring: Callable[[Objective, dict[int, Trial]], Results],
) -> SearchResult:
    """What was found says what it was found for, and what did not count is measured, too."""
    if goal is None:
        return found
    found = replace(found, best=replace(found.best, objective=str(goal)))
    if rest is not None:
        trial = Trial("result", found.best, tuple(range(len(rest.documents))))
        ((_, measured, _),) = measuring(rest, {0: trial})
        text, needle = rest.means(trial.documents, measured.losses)
        if goal.needles:
            found = replace(found, text_loss=text)
        else:
            found = replace(found, needle_loss=needle)
    if found.at_floor:
        log.warning("%s", AT_FLOOR)
    return found


def _checked(
    space: SearchSpace | None, model: PreTrainedModel, target_length: int, goal: Goal | None
) -> SearchSpace:
    """The space given, or Table 4's, if it is for this model and target."""
    spec = rope_spec(model)
    if space is None:
        if goal is not None and goal.needles and target_length <= spec.window:
            raise ValueError(
                f"target_length {target_length} is not above the window of {spec.window} tokens, "
                "so s is 1 and nothing is lost that a search for needles could win: name a longer "
                "target, or a space"
            )
        return SearchSpace(spec, target_length)
    # Its window may have been stated for this search alone: rope_spec(model, window=...).
    given = replace(space.model_spec, window=spec.window)
    if given != spec or space.target_length != target_length:
        raise ValueError(
            f"the space is for {space.model_spec} and {space.target_length} tokens, the search for "
            f"{spec} and {target_length}: make it as SearchSpace(rope_spec(model), {target_length})"
        )
    return space
