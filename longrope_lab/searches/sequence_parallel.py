"""Processes that read each long text together, one per GPU, as an executor."""

from __future__ import annotations

import contextlib
import datetime
import multiprocessing
import os
import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import (
    FIRST_EXCEPTION,
    Executor,
    Future,
    ProcessPoolExecutor,
    ThreadPoolExecutor,
    wait,
)
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import ParamSpec, TypeVar

import psutil
import torch
import torch.distributed as dist

from ..common.checks import whole
from ..common.scratch import ScratchFolder
from ..models.sharing import SPLIT_FROM, sharing
from .workers import prepare_process, process_count, thread_count, visible_gpus

P = ParamSpec("P")
T = TypeVar("T")

# How long a process waits for the others, in each step.
PATIENCE = datetime.timedelta(hours=2)

# Once one process has failed, the others have so many seconds to fail alike.
GRACE = 1.0


class SequenceParallel(Executor):
    """Processes that do each task together, and split the long texts in it among them.

    A model whose pass over one text takes minutes so takes a part of that, and each GPU holds a
    part of what the pass computes. Losses and gradients are those of one GPU, rounding aside; each
    process compares them on the first tokens of the first text, and refuses the model otherwise.

    Started by ``torchrun`` (or ``accelerate launch``), the processes that there are work together:
    each makes this object and calls the same functions. Otherwise they are started here.

    If one process dies, the others are ended, for they would wait for it: the task raises
    `BrokenProcessPool`, and the next one begins with fresh processes. A launcher ends them itself.

    Args:
        count: processes; None for one per GPU, or without a GPU for two. A launcher's count stands.
        threads: CPU threads that each process may use.
        split_from: tokens from which a text is read by all together. Shorter ones take a process
            each, where a measurement knows their length beforehand (`of_length`).

    Raises:
        ValueError: a count, threads or split_from that are not whole numbers from 1, a count that
            is not the launcher's, more processes than GPUs, or more than a machine bears.
    """

    def __init__(
        self, count: int | None = None, *, threads: int = 1, split_from: int = SPLIT_FROM
    ) -> None:
        launched = int(os.environ.get("WORLD_SIZE", 1))
        gpus = visible_gpus()
        self.launched = launched > 1
        asked = (launched if self.launched else len(gpus) or 2) if count is None else count
        self.count = process_count(asked)
        self.split_from = whole("split_from", split_from, 1)
        threads = thread_count(threads)
        if self.launched and self.count != launched:
            raise ValueError(
                f"count is {self.count}, and the launcher started {launched} processes: leave out "
                "count, or start as many"
            )
        if gpus and not self.launched and self.count > len(gpus):
            raise ValueError(
                f"count is {self.count}, and this process sees {len(gpus)} GPUs: each process "
                "needs its own, so leave out count"
            )
        devices = gpus or [""] * self.count
        self._started_on = [] if self.launched else [(d, threads) for d in devices[: self.count]]
        self._team: _Team | None = None
        self._lock = threading.Lock()
        self._waiting = ThreadPoolExecutor(1)
        self._alone: Executor = _InTurn() if self.launched else _Alone(self)
        if self.launched:
            _connect_launched()

    def of_length(self, tokens: int) -> Executor:
        """Who is to read texts so long: all together, or each process one."""
        return self if tokens >= self.split_from else self._alone

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Run a function in all processes at once; the result is that of the first.

        Raises:
            RuntimeError: after `shutdown`.
        """
        if not self.launched:
            return self._waiting.submit(self._together, fn, *args, **kwargs)
        future: Future[T] = Future()
        # An error is raised at once, for the others may be waiting: the launcher then ends them.
        future.set_result(_in_step(self.split_from, fn, *args, **kwargs))
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """End the processes; the arguments are those of any executor."""
        self._waiting.shutdown(wait, cancel_futures=cancel_futures)
        self._alone.shutdown(wait, cancel_futures=cancel_futures)
        if self._team is not None:
            self._team.shutdown(wait)

    @contextlib.contextmanager
    def team(self) -> Iterator[_Team]:
        """The processes, started if there are none; if one of them is lost, all are ended."""
        with self._lock:
            if self._team is None:
                self._team = _Team.started(self._started_on)
            team = self._team
        try:
            yield team
        except RuntimeError:  # of a dead process, or of a GPU that may not work any more
            self._end(team)
            raise

    def _end(self, team: _Team) -> None:
        with self._lock:
            if self._team is team:
                self._team = None
        team.end()

    def _together(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        with self.team() as team:
            tasks = [
                each.submit(_in_step, self.split_from, fn, *args, **kwargs)
                for each in team.processes
            ]
            wait(tasks, return_when=FIRST_EXCEPTION)
            done, late = wait(tasks, timeout=GRACE)
            if late:
                self._end(team)
            errors = [error for task in done if (error := task.exception())]
            if errors:  # what the others say of a process that is gone says less
                raise min(errors, key=lambda error: not isinstance(error, BrokenProcessPool))
            return tasks[0].result()


@dataclass(frozen=True)
class _Team:
    """Processes that are connected with one another.

    Args:
        processes: one each.
        pids: of them.
        meeting: the folder of the file by which they found each other.
    """

    processes: list[ProcessPoolExecutor]
    pids: list[int]
    meeting: ScratchFolder

    @classmethod
    def started(cls, devices: Sequence[tuple[str, int]]) -> _Team:
        """As many new processes as devices, each with its threads.

        Raises:
            BrokenProcessPool: one of them could not start.
        """
        meeting = ScratchFolder()  # first: if there is no place for it, no process has begun
        # Spawned, not forked: neither CUDA nor PyTorch's thread pool survives a fork.
        context = multiprocessing.get_context("spawn")
        processes = [ProcessPoolExecutor(1, context, prepare_process, each) for each in devices]
        # Each tells which process it is, before it waits for the others.
        told = [each.submit(os.getpid) for each in processes]
        team = cls(processes, [each.result() for each in told], meeting)
        place = str(Path(meeting.name) / "processes")
        joined = [
            each.submit(_join, rank, len(devices), place) for rank, each in enumerate(processes)
        ]
        try:
            for task in wait(joined, return_when=FIRST_EXCEPTION).done:
                task.result()
        except BaseException:
            team.end()
            raise
        return team

    def end(self) -> None:
        """End them at once, for they may wait for one another."""
        for pid in self.pids:
            with contextlib.suppress(psutil.NoSuchProcess):
                psutil.Process(pid).kill()
        self.shutdown(wait=False)

    def shutdown(self, wait: bool) -> None:
        """End each once it has done what it does."""
        for process in self.processes:
            process.shutdown(wait)
        self.meeting.cleanup()


class _Alone(Executor):
    """The same processes, each with a task of its own."""

    def __init__(self, all_of_them: SequenceParallel) -> None:
        self._all = all_of_them
        self._idle: queue.SimpleQueue[int] = queue.SimpleQueue()
        for rank in range(all_of_them.count):
            self._idle.put(rank)
        self._waiting = ThreadPoolExecutor(all_of_them.count)

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Run a function in a process that is free, or in the next one that will be."""
        return self._waiting.submit(self._run, fn, *args, **kwargs)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more tasks; the processes are ended by those who started them."""
        self._waiting.shutdown(wait, cancel_futures=cancel_futures)

    def _run(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        rank = self._idle.get()
        try:
            with self._all.team() as team:
                return team.processes[rank].submit(fn, *args, **kwargs).result()
        finally:
            self._idle.put(rank)


class _InTurn(Executor):
    """A launcher's processes take turns: each does a task of its own, and all get each result.

    They ask for the results in the same order, since each runs the same script.
    """

    def __init__(self) -> None:
        self._tasks = 0

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Run a function here if it is this process's turn."""
        owner, self._tasks = self._tasks % dist.get_world_size(), self._tasks + 1
        future: _Theirs[T] = _Theirs(owner)
        if owner == dist.get_rank():
            try:
                future.own = fn(*args, **kwargs), None
            except Exception as error:
                future.own = None, error
        return future


class _Theirs(Future[T]):
    """What one process finds; the others get it when they ask for it."""

    def __init__(self, owner: int) -> None:
        super().__init__()
        self._owner = owner
        self.own: tuple[T | None, Exception | None] = None, None

    def result(self, timeout: float | None = None) -> T:
        """Hand it over, or get it; all processes wait for the one that found it."""
        if not self.done():
            box = [self.own]
            dist.broadcast_object_list(box, self._owner)
            value, error = box[0]
            if error is None:
                self.set_result(value)  # type: ignore[arg-type]
            else:
                self.set_exception(error)
        return super().result(timeout)


def _in_step(split_from: int, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
    """A function's result in one of the processes that all call it."""
    with sharing(split_from):
        return fn(*args, **kwargs)


def _join(rank: int, count: int, meeting: str) -> None:
    """Connect a process that was started here with the others."""
    dist.init_process_group(
        _backend(), f"file://{meeting}", rank=rank, world_size=count, timeout=PATIENCE
    )


def _connect_launched() -> None:
    """Connect this process with the launcher's others, if nothing has done so."""
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", 0)))
    if not dist.is_initialized():
        dist.init_process_group(_backend(), timeout=PATIENCE)


def _backend() -> str:
    return "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
