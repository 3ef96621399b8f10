"""Worker processes of one machine, one per GPU, as a `concurrent.futures.Executor`."""

from __future__ import annotations

import multiprocessing
import os
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.process import BaseProcess
from typing import TypeVar

import torch

from ..common.checks import whole

T = TypeVar("T")

# Processes; each takes some hundred MiB, and a core to be of use. Threads of each, too.
MOST = 1000


class WorkerProcesses(Executor):
    """As many processes as asked for, each with its own GPU where there are any.

    Unlike in a `ProcessPoolExecutor`, the death of a process (out of memory, killed) costs only the
    task that it was working on. That one raises `BrokenProcessPool`, and a fresh process takes the
    dead one's place; one that had no task costs nothing. All end with the process that made them,
    however it ends.

    Args:
        count: processes; None for one per GPU, or without a GPU one per core that this process may
            use.
        threads: CPU threads that each process may use.

    Raises:
        ValueError: a count or threads that are not whole numbers from 1, or a count above a
            thousand.
    """

    def __init__(self, count: int | None = None, *, threads: int = 1) -> None:
        gpus = visible_gpus()
        count = process_count((len(gpus) or _cores()) if count is None else count)
        self._threads = thread_count(threads)
        self._idle: queue.SimpleQueue[tuple[str, ProcessPoolExecutor]] = queue.SimpleQueue()
        for number in range(count):
            device = gpus[number % len(gpus)] if gpus else ""
            self._idle.put((device, self._process(device)))
        self._waiting = ThreadPoolExecutor(count)

    def submit(self, fn: Callable[..., T], /, *args: object, **kwargs: object) -> Future[T]:
        """Run a function in a process that is free, or in the next one that will be.

        Raises:
            RuntimeError: after `shutdown`.
        """
        return self._waiting.submit(self._run, fn, *args, **kwargs)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """End the processes; the arguments are those of any executor."""
        self._waiting.shutdown(wait, cancel_futures=cancel_futures)
        while not self._idle.empty():
            self._idle.get()[1].shutdown(wait)

    def _run(self, fn: Callable[..., T], /, *args: object, **kwargs: object) -> T:
        device, process = self._idle.get()
        try:
            process = self._living(device, process)
            return process.submit(fn, *args, **kwargs).result()
        except BrokenProcessPool:
            process.shutdown(wait=False)
            process = self._process(device)
            raise
        finally:
            self._idle.put((device, process))

    def _living(self, device: str, process: ProcessPoolExecutor) -> ProcessPoolExecutor:
        """A process that answers: this one, or a fresh one if it has died since its last task."""
        try:
            process.submit(os.getpid).result()
            return process
        except BrokenProcessPool:
            process.shutdown(wait=False)
            return self._process(device)

    def _process(self, device: str) -> ProcessPoolExecutor:
        # Spawned, not forked: neither CUDA nor PyTorch's thread pool survives a fork.
        context = multiprocessing.get_context("spawn")
        return ProcessPoolExecutor(1, context, prepare_process, (device, self._threads))


def process_count(count: int) -> int:
    """A number of processes.

    Raises:
        ValueError: it is not a whole number from 1, or too large.
    """
    count = whole("count", count, 1)
    if count > MOST:
        raise ValueError(f"count is {count:,}: at most {MOST:,} processes work together")
    return count


def thread_count(threads: int) -> int:
    """A number of CPU threads for each process; it raises as `process_count`."""
    threads = whole("threads", threads, 1)
    if threads > MOST:
        raise ValueError(f"threads is {threads:,}: a process takes at most {MOST:,}")
    return threads


def visible_gpus() -> list[str]:
    """The names by which a process can be given one GPU; those of a scheduler are kept."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    count = torch.cuda.device_count()
    return visible.split(",") if visible and count else [str(number) for number in range(count)]


def prepare_process(device: str, threads: int) -> None:
    """Give a new process its GPU and its threads, and let it end with the one that made it."""
    if device:
        os.environ["CUDA_VISIBLE_DEVICES"] = device  # before anything has touched a GPU
    torch.set_num_threads(threads)
    parent = multiprocessing.parent_process()
    assert parent is not None
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: BaseProcess) -> None:
    """End this process once its parent has ended, which may have been killed."""
    parent.join()
    os._exit(1)


def _cores() -> int:
    """How many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
