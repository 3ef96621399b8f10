"""Processes that read each long text together, one per GPU, as an executor."""

from __future__ import annotations

import contextlib
import datetime
import multiprocessing
import os
import tempfile
import threading
from collections.abc import Callable
from concurrent.futures import (
    FIRST_COMPLETED,
    FIRST_EXCEPTION,
    Executor,
    Future,
    ProcessPoolExecutor,
    ThreadPoolExecutor,
    wait,
)
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import ParamSpec, TypeVar

import psutil
import torch
import torch.distributed as dist

from ..common.checks import whole
from ..models.sharing import SPLIT_FROM, sharing
from .workers import prepare_process, visible_gpus

P = ParamSpec("P")
T = TypeVar("T")

# Processes end a task within moments of one another. One that is this much later waits for another
# that has left.
GRACE = 60.0

# How long a process waits for the others, to begin with and in each step.
PATIENCE = datetime.timedelta(minutes=20)


class SequenceParallel(Executor):
    """Processes that do each task together, and split the long texts in it among them.

    A model whose pass over one text takes minutes so takes a part of that, and each GPU holds a
    part of what the pass computes. Losses and gradients are those of one GPU, rounding aside; each
    process compares them on the first tokens of the first text, and refuses the model otherwise.

    Started by ``torchrun`` (or ``accelerate launch``), the processes that there are work together:
    each makes this object and calls the same functions. Otherwise they are started here.

    If one process dies, the others are ended, for they would wait for it: the task raises
    `BrokenProcessPool`, and the next one begins with fresh processes.

    Args:
        count: processes; None for one per GPU, or without a GPU for two. A launcher's count stands.
        threads: CPU threads that each process may use.
        split_from: tokens from which a text is read by all together. Shorter ones take a process
            each, where a measurement knows their length beforehand (`of_length`).

    Raises:
        ValueError: a count, threads or split_from that are not whole numbers from 1, or a count
            that is not the launcher's.
    """

    def __init__(
        self, count: int | None = None, *, threads: int = 1, split_from: int = SPLIT_FROM
    ) -> None:
        launched = int(os.environ.get("WORLD_SIZE", 1))
        gpus = visible_gpus()
        self.launched = launched > 1
        asked = (launched if self.launched else len(gpus) or 2) if count is None else count
        self.count = whole("count", asked, 1)
        self.split_from = whole("split_from", split_from, 1)
        self._threads, self._gpus = whole("threads", threads, 1), gpus
        if self.launched and self.count != launched:
            raise ValueError(
                f"count is {self.count}, and the launcher started {launched} processes: leave out "
                "count, or start as many"
            )
        self._team: list[ProcessPoolExecutor] = []
        self._pids: list[int] = []
        self._lock = threading.Lock()
        self._waiting = ThreadPoolExecutor(1)
        self._alone: Executor = _Alone(self)
        if self.launched:
            _connect_launched()
            self._alone = _InTurn()

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
        try:
            future.set_result(_in_step(self.split_from, fn, *args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """End the processes; the arguments are those of any executor."""
        self._waiting.shutdown(wait, cancel_futures=cancel_futures)
        self._alone.shutdown(wait, cancel_futures=cancel_futures)
        team, self._team = self._team, []
        for process in team:
            process.shutdown(wait)

    def team(self) -> list[ProcessPoolExecutor]:
        """The processes, started if they are not.

        Raises:
            BrokenProcessPool: one of them could not start.
        """
        with self._lock:
            if self._team:
                return self._team
            self._team = self._started()
            # The first task tells which process it is, before it waits for the others.
            self._pids = [each.submit(os.getpid).result() for each in self._team]
            meeting = str(Path(tempfile.mkdtemp(prefix="longrope-lab-")) / "processes")
            joined = [
                each.submit(_join, rank, self.count, meeting)
                for rank, each in enumerate(self._team)
            ]
            done, _ = wait(joined, return_when=FIRST_EXCEPTION)
        for task in done:
            if task.exception():
                self.end(self._team)
                task.result()
        return self._team

    def end(self, team: list[ProcessPoolExecutor]) -> None:
        """End processes of which one is lost: the others wait for it."""
        with self._lock:
            if self._team is not team:
                return
            self._team = []
            for pid in self._pids:
                with contextlib.suppress(psutil.NoSuchProcess):
                    psutil.Process(pid).kill()
        for process in team:
            process.shutdown(wait=False)

    def _together(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        team = self.team()
        try:
            tasks = [each.submit(_in_step, self.split_from, fn, *args, **kwargs) for each in team]
        except BrokenProcessPool:
            self.end(team)
            raise
        done, _ = wait(tasks, return_when=FIRST_COMPLETED)
        if not any(task.exception() for task in done):
            done, late = wait(tasks, timeout=GRACE)
            if not late and not any(task.exception() for task in done):
                return tasks[0].result()
        failed = [task for task in done if task.exception()]
        # An error that all raise alike leaves them as they were.
        _, late = wait(tasks, timeout=1)
        if late or any(isinstance(task.exception(), BrokenProcessPool) for task in failed):
            self.end(team)
        return (failed or list(done))[0].result()

    def _device(self, rank: int) -> str:
        return self._gpus[rank % len(self._gpus)] if self._gpus else ""

    def _started(self) -> list[ProcessPoolExecutor]:
        # Spawned, not forked: neither CUDA nor PyTorch's thread pool survives a fork.
        context = multiprocessing.get_context("spawn")
        devices = [self._device(rank) for rank in range(self.count)]
        return [
            ProcessPoolExecutor(1, context, prepare_process, (device, self._threads))
            for device in devices
        ]


class _Alone(Executor):
    """The same processes, each with a task of its own."""

    def __init__(self, all_of_them: SequenceParallel) -> None:
        self._all = all_of_them
        self._idle = threading.Lock()
        self._busy: set[int] = set()
        self._waiting = ThreadPoolExecutor(all_of_them.count)

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Run a function in a process that is free, or in the next one that will be."""
        return self._waiting.submit(self._run, fn, *args, **kwargs)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more tasks; the processes are ended by those who started them."""
        self._waiting.shutdown(wait, cancel_futures=cancel_futures)

    def _run(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        with self._idle:  # there are as many threads as processes, so one is free
            rank = min(set(range(self._all.count)) - self._busy)
            self._busy.add(rank)
        team = self._all.team()
        try:
            return team[rank].submit(fn, *args, **kwargs).result()
        except BrokenProcessPool:
            self._all.end(team)
            raise
        finally:
            with self._idle:
                self._busy.remove(rank)


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
