"""`search`: runs a method's rounds within a budget, here or on workers, and keeps what was measured."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future, as_completed
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import pandas as pd
import torch

from ..common.checks import unknown
from ..common.files import Json
from ..common.progress import Progress
from ..models.loading import model_digest, model_of
from ..models.rotary import rope_spec
from ..rope.scaling import RopeScaling
from ..texts.tokens import Document
from .checkpoint import Log
from .evolution import PRESETS, Evolution
from .gradient import Gradient
from .objective import GRADIENT_FORWARDS, Measured, Objective, Trial, measure_in_worker
from .random import Random
from .space import SearchSpace

if TYPE_CHECKING:
    from transformers import PreTrainedModel

COLUMNS = [
    "round",
    "number",
    "kind",
    "documents",
    "loss",
    "best_loss",
    "best_perplexity",
    "dropped",
    "forwards",
    "tokens",
    "start_tokens",
    "attention_factor",
]


class Searcher(Protocol):
    """What a method's `start` returns."""

    def ask(self) -> list[Trial]:
        """The next round; empty at the end."""

    def tell(self, results: Sequence[Measured]) -> None:
        """What the round gave, in its order."""


class Settings(Protocol):
    """A method: `Evolution`, `Gradient`, `Random`."""

    def start(self, space: SearchSpace, documents: int, seed: int) -> Searcher:
        """A search with these settings."""

    def identity(self) -> Json:
        """What tells one search from another."""


SEARCHES: dict[str, Settings] = {
    "evolution": Evolution(),
    "gradient": Gradient(),
    "random": Random(),
}


@dataclass(frozen=True)
class Budget:
    """When a search stops early; what is None does not count. A trial that would exceed it is not
    begun.

    Args:
        candidates: trials: candidates measured, or documents of gradient steps and validations.
        tokens: forward tokens; a gradient counts four forward passes.
        seconds: of measuring, those before an interruption included.

    Raises:
        ValueError: an amount that is not above 0.
    """

    candidates: int | None = None
    tokens: int | None = None
    seconds: float | None = None

    def __post_init__(self) -> None:
        for name in ("candidates", "tokens", "seconds"):
            amount = getattr(self, name)
            if amount is not None and not amount > 0:
                raise ValueError(
                    f"the budget's {name} is {amount}: it must be above 0, or None for no limit"
                )
            if amount is not None and name != "seconds":
                object.__setattr__(self, name, int(amount))  # 1e6 is a float


@dataclass(frozen=True, eq=False)
class SearchResult:
    """What a search found.

    Args:
        best: the best scaling that was measured on all documents.
        best_loss: its objective, nats a token.
        history: a row a trial, in the order asked: round, number (in the round), kind, documents
            (measured), loss (mean over these, nats a token), best_loss and best_perplexity (of all
            so far), dropped (by racing), forwards (of one document, all so far; a gradient counts
            4), tokens (the same in tokens), start_tokens, attention_factor.
        scalings: the scaling of each row.
        seconds: measuring took, summed over workers.
        finished: whether the method came to its end, and no budget or interruption before it.
    """

    best: RopeScaling
    best_loss: float
    history: pd.DataFrame
    scalings: list[RopeScaling] = field(repr=False)
    seconds: float
    finished: bool


def search(
    model: PreTrainedModel,
    docs: Sequence[Document],
    target_length: int,
    method: str | Settings = "evolution",
    *,
    preset: str | None = None,
    space: SearchSpace | None = None,
    budget: Budget | None = None,
    seed: int = 0,
    last: int | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    executor: Executor | None = None,
) -> SearchResult:
    """Search the rescale factors, start tokens and, if the space says so, attention factor of a
    model.

    Args:
        model: a Hugging Face causal language model; or, and with an executor always, a name for
            `load_model` or a function without arguments that returns one, which each worker calls
            once.
        docs: documents of at least `target_length` tokens; the first so many are measured
            (LongRoPE: 5 of PG19's validation split).
        target_length: L' in tokens.
        method: "evolution", "gradient", "random", or its settings: `Evolution(rounds=10)`.
        preset: sizes of the evolution: "paper" (the default), "paper_512k", "small", "tiny".
        space: what to choose from; Table 4 unless given.
        budget: stop earlier than the method would.
        seed: of the method's random numbers.
        last: measure only so many tokens at the end of each document; None: all.
        checkpoint: a file that keeps each measurement. The same call with the same file goes on
            where an earlier one was killed or ran out of budget, and on a CPU ends with the same
            result.
        executor: any `concurrent.futures.Executor`: `WorkerProcesses`, Dask's
            ``Client.get_executor()``.

    Returns:
        A `SearchResult`. Ctrl-C ends the search early with what it has so far.

    Raises:
        ValueError: documents shorter than the target, a checkpoint of another search, a budget too
            small for one trial, an executor that was shut down, a live model where workers must
            load their own, an unknown method or preset, a space for another model or target.
        RuntimeError: no trial gave a finite loss, a worker died twice on the same trial, or
            measuring failed there.
        KeyboardInterrupt: stopped by hand before the first measurement; later, what there is comes
            back.
    """
    settings = settings_of(method, preset)
    # Out of an array these are numpy's, which JSON does not know.
    target_length, seed, last = int(target_length), int(seed), None if last is None else int(last)
    if executor is not None and isinstance(model, torch.nn.Module):
        raise ValueError(
            "workers load the model themselves: with executor=, pass a name for load_model, or a function without "
            "arguments that returns the model, in place of the model itself"
        )
    objective = Objective.of(docs, target_length, last)
    live = model_of(model)
    spec = rope_spec(live)
    space = SearchSpace(spec, target_length) if space is None else space
    if space.model_spec != spec or space.target_length != target_length:
        raise ValueError(
            f"the space is for {space.model_spec} and {space.target_length} tokens, the search for {spec} and "
            f"{target_length}: make it as SearchSpace(rope_spec(model), {target_length})"
        )
    identity = {
        "model": model_digest(live),
        "documents": objective.digest(),
        "last": last,
        "space": space.to_dict(),
        "method": type(settings).__name__.lower(),
        "settings": settings.identity(),
        "seed": seed,
    }
    log = Log(checkpoint, identity)
    if executor is None:
        run = _Run(
            log, budget or Budget(), target_length, lambda trials: _here(live, objective, trials)
        )
    else:
        del live
        key, workers = str(identity["model"]), executor
        run = _Run(
            log,
            budget or Budget(),
            target_length,
            lambda t: on_workers(workers, key, model, objective, t),
        )
    return run.result(settings.start(space, len(docs), seed), type(settings).__name__.lower())


def settings_of(method: str | Settings, preset: str | None = None) -> Settings:
    """A search's settings, as they are or by their name.

    Raises:
        ValueError: an unknown name or preset, a preset beside anything but "evolution", or no
            settings.
    """
    if isinstance(method, str):
        if method not in SEARCHES:
            raise unknown("search method", method, SEARCHES)
        if preset is None:
            return SEARCHES[method]
        if method == "evolution":
            if preset not in PRESETS:
                raise unknown("preset", preset, PRESETS)
            return PRESETS[preset]
    if preset is not None:
        raise ValueError(
            f"preset {preset!r} sizes method='evolution' alone: leave it out, or pass settings as method"
        )
    if not (hasattr(method, "start") and hasattr(method, "identity")):
        raise ValueError(
            f"method is {method!r}: name one of {', '.join(SEARCHES)}, or pass settings such as Gradient(steps=48)"
        )
    return method


# Measurements as they come: the trial's number in its round, what it gave, seconds.
Results = Iterator[tuple[int, Measured, float]]


class _Run:
    """One search under way: the log, the budget, the history."""

    def __init__(
        self, log: Log, budget: Budget, length: int, measure: Callable[[dict[int, Trial]], Results]
    ) -> None:
        self.log, self.budget, self.length, self.measure = log, budget, length, measure
        self.rows: list[tuple[Any, ...]] = []
        self.scalings: list[RopeScaling] = []
        self.best: tuple[float, RopeScaling | None] = (math.inf, None)
        self.forwards = 0

    def result(self, searcher: Searcher, name: str) -> SearchResult:
        finished, number = False, 0
        with Progress(f"{name} search", self.budget.candidates) as bar:
            while True:
                trials = searcher.ask()
                if not trials:
                    finished = True
                    break
                affordable = trials[: self._affordable(trials)]
                results = self._round(number, affordable, bar)
                if len(results) < len(trials):
                    break
                searcher.tell(results)
                number += 1
        best_loss, best = self.best
        if best is None:
            raise RuntimeError(
                f"none of the {len(self.rows)} trials gave a finite loss on all documents: check the model, its dtype "
                "and the documents, or give the search a larger budget"
            )
        history = pd.DataFrame(self.rows, columns=COLUMNS)
        return SearchResult(best, best_loss, history, self.scalings, self.log.seconds, finished)

    def _affordable(self, trials: Sequence[Trial]) -> int:
        """How many of a round's trials the budget has room for, each at its full cost."""
        candidates, tokens = self.budget.candidates, self.budget.tokens
        count = len(trials) if candidates is None else min(len(trials), candidates - len(self.rows))
        if tokens is not None:
            costs = np.cumsum([trial.forwards for trial in trials])
            count = min(
                count,
                int(np.searchsorted(costs, tokens // self.length - self.forwards, side="right")),
            )
        if count == 0 and not self.rows:
            raise ValueError(
                f"the budget of {tokens:,} tokens is too small for one trial of {trials[0].forwards * self.length:,}: "
                "give more, or fewer or shorter documents"
            )
        return count

    def _round(self, number: int, trials: list[Trial], bar: Progress) -> list[Measured]:
        """Results of the trials in order, up to the first that was not measured."""
        done: dict[int, Measured] = {}
        missing: dict[int, Trial] = {}
        for i, trial in enumerate(trials):
            known = self.log.get((number, i), trial)
            if known is None:
                missing[i] = trial
            else:
                done[i] = known
        bar.advance(len(done))
        limit = self.budget.seconds
        if missing and not (limit is not None and self.log.seconds >= limit):
            results = self.measure(missing)
            lowest = self.best[0]
            try:
                for i, measured, seconds in results:
                    self.log.add((number, i), missing[i], measured, seconds)
                    done[i] = measured
                    if not missing[i].gradient:
                        lowest = min(lowest, measured.loss)
                    bar.advance(
                        1, f"best perplexity {math.exp(lowest):.4g}" if lowest < 700 else ""
                    )
                    if limit is not None and self.log.seconds >= limit:
                        break
            except KeyboardInterrupt:
                if not (self.rows or done):
                    raise  # nothing to return
                bar.say(
                    f"stopped by hand after {len(self.log.measured)} trials; with a checkpoint, call again to go on"
                )
            finally:
                results.close()  # type: ignore[attr-defined]
        in_order = [
            done[i]
            for i in range(next((i for i in range(len(trials)) if i not in done), len(trials)))
        ]
        for i, (trial, measured) in enumerate(zip(trials, in_order, strict=False)):
            self._note(number, i, trial, measured)
        return in_order

    def _note(self, number: int, i: int, trial: Trial, measured: Measured) -> None:
        if not trial.gradient and measured.loss < self.best[0]:
            self.best = measured.loss, trial.scaling
        self.forwards += len(measured.losses) * (GRADIENT_FORWARDS if trial.gradient else 1)
        best = self.best[0]
        self.scalings.append(trial.scaling)
        self.rows.append(
            (
                number,
                i,
                trial.kind,
                len(measured.losses),
                measured.mean,
                best,
                math.exp(best) if best < 700 else math.inf,
                measured.dropped,
                self.forwards,
                self.forwards * self.length,
                trial.scaling.start_tokens,
                trial.scaling.attention_factor,
            )
        )


def _here(model: PreTrainedModel, objective: Objective, trials: dict[int, Trial]) -> Results:
    """Measure one after the other in this process."""
    for i, trial in trials.items():
        started = time.perf_counter()
        measured = objective.measure(model, trial)
        yield i, measured, time.perf_counter() - started


def on_workers(
    executor: Executor,
    key: str,
    model: PreTrainedModel,
    objective: Objective,
    trials: dict[int, Trial],
) -> Results:
    """Measure on workers, all trials under way at once; a trial whose worker dies gets one more try."""

    def submit(trial: Trial) -> Future[Any]:
        try:
            return executor.submit(_timed, key, model, objective, trial)
        except Exception as error:
            raise ValueError(
                f"the executor takes no work ({type(error).__name__}: {error}): it was shut down, or its processes "
                "died; make a new one (WorkerProcesses replaces dead processes) and go on from the checkpoint"
            ) from error

    waiting = {submit(trial): (i, 2) for i, trial in trials.items()}
    try:
        while waiting:
            future = next(as_completed(waiting))
            i, tries = waiting.pop(future)
            try:
                measured, seconds = future.result()
            except BaseException as error:  # a cancelled future's is no Exception
                if isinstance(error, KeyboardInterrupt):
                    raise
                if tries == 1:
                    raise RuntimeError(
                        f"a worker died twice on the same trial ({type(error).__name__}: {error}): it may be out of "
                        "memory; what was measured is in the checkpoint"
                    ) from error
                waiting[submit(trials[i])] = i, tries - 1
                continue
            if isinstance(measured, str):
                raise RuntimeError(f"measuring failed on a worker:\n{measured}")
            yield i, measured, seconds
    finally:
        for future in waiting:
            future.cancel()


def _timed(
    key: str, model: PreTrainedModel, objective: Objective, trial: Trial
) -> tuple[Measured | str, float]:
    started = time.perf_counter()
    measured = measure_in_worker(key, model, objective, trial)
    return measured, time.perf_counter() - started
