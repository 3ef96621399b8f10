"""Measures the trials of a round: one after the other in this process, or on workers."""

from __future__ import annotations

import contextlib
import pickle
import threading
import time
import traceback
from collections.abc import Generator, Iterator
from concurrent.futures import Executor, Future, as_completed
from typing import TYPE_CHECKING

import torch

from ..models.loading import ModelSource, model_of
from .objective import Measured, Objective, Trial
from .sequence_parallel import SequenceParallel

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# Measurements as they come: the trial's number in its round, what it gave, seconds.
Results = Generator[tuple[int, Measured, float], None, None]

# How often a trial is sent to workers that die of it.
TRIES = 2

# A worker process holds one model, by its key, which its first task loads. Only one task runs at a
# time, since a task changes the rotary module.
_loaded: dict[str, PreTrainedModel] = {}
_one_at_a_time = threading.Lock()


def here(model: PreTrainedModel, objective: Objective, trials: dict[int, Trial]) -> Results:
    """Measure one trial after the other in this process."""
    for i, trial in trials.items():
        started = time.perf_counter()
        measured = objective.measure(model, trial)
        yield i, measured, time.perf_counter() - started


def on_workers(
    executor: Executor,
    key: str,
    model: ModelSource,
    objective: Objective,
    trials: dict[int, Trial],
) -> Results:
    """Measure on workers, all trials under way at once.

    A trial whose worker dies gets one more try.

    Args:
        executor: any, of threads, processes or machines.
        key: names the model, so that a worker loads it once.
        model: a name for `load_model`, or a function without arguments that returns the model.
        objective: the documents.
        trials: by their number in the round.

    Raises:
        ValueError: the model cannot be sent to a worker, or the executor takes no work.
        RuntimeError: a worker died twice on the same trial, or measuring failed there.
    """
    if isinstance(executor, SequenceParallel):
        executor = executor.of_length(len(objective.documents[0]))
    task = (executor, key, model, objective)
    waiting = {_submit(*task, trial): (i, TRIES) for i, trial in trials.items()}
    try:
        while waiting:
            future = next(as_completed(waiting))
            i, tries = waiting.pop(future)
            try:
                measured, seconds = future.result()
            except KeyboardInterrupt:
                raise
            except BaseException as error:  # a cancelled future's is not an Exception
                check_sent(error)
                if tries == 1:
                    raise RuntimeError(
                        f"a worker died twice on the same trial ({type(error).__name__}: {error}): "
                        "it may be out of memory; what was measured is in the checkpoint"
                    ) from error
                waiting[_submit(*task, trials[i])] = i, tries - 1
                continue
            if isinstance(measured, str):
                raise RuntimeError(f"measuring failed on a worker:\n{measured}")
            yield i, measured, seconds
    finally:
        for future in waiting:
            future.cancel()


def check_source(model: ModelSource, executor: Executor) -> None:
    """Refuse a model that workers would not load themselves.

    Raises:
        ValueError: it is a live one, and the executor's processes are others than this one.
    """
    launched = isinstance(executor, SequenceParallel) and executor.launched
    if isinstance(model, torch.nn.Module) and not launched:
        raise ValueError(
            "workers load the model themselves: with executor=, pass a name for load_model, or a "
            "function without arguments that returns the model, in place of the model itself"
        )


def check_sent(error: BaseException) -> None:
    """Say so if a task failed since pickle refused it, which it says in various ways.

    Raises:
        ValueError: it did.
    """
    if isinstance(error, pickle.PicklingError) or (
        isinstance(error, AttributeError | TypeError) and "pickle" in str(error)
    ):
        raise ValueError(
            f"the model cannot be sent to workers ({error}): pass a name for load_model, or a "
            "function that a module defines at its top; neither a lambda nor a function inside "
            "another one can be pickled"
        ) from error


def _submit(
    executor: Executor, key: str, model: ModelSource, objective: Objective, trial: Trial
) -> Future[tuple[Measured | str, float]]:
    try:
        return executor.submit(_in_worker, key, model, objective, trial)
    except Exception as error:
        raise ValueError(
            f"the executor takes no work ({type(error).__name__}: {error}): it was shut down, or "
            "its processes died; make a new one (WorkerProcesses replaces dead processes) and go "
            "on from the checkpoint"
        ) from error


def _in_worker(
    key: str, model: ModelSource, objective: Objective, trial: Trial
) -> tuple[Measured | str, float]:
    """`Objective.measure` in a worker process, and the seconds that it took.

    What goes wrong inside the measuring comes back as text. An exception that the executor raises
    is then always the executor's own, and worth another try.
    """
    started = time.perf_counter()
    return _measured(key, model, objective, trial), time.perf_counter() - started


def _measured(key: str, model: ModelSource, objective: Objective, trial: Trial) -> Measured | str:
    try:
        with held(key, model) as live:
            return objective.measure(live, trial)
    except Exception:
        return traceback.format_exc()


@contextlib.contextmanager
def held(key: str, model: ModelSource) -> Iterator[PreTrainedModel]:
    """The model of this process by its key, for one task at a time; any other one is dropped."""
    with _one_at_a_time:
        if isinstance(model, torch.nn.Module):
            yield model
            return
        if key not in _loaded:
            _loaded.clear()
            _loaded[key] = model_of(model)
        yield _loaded[key]
