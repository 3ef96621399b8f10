"""Worker processes of one machine, one a GPU, as a `concurrent.futures.Executor`."""

from __future__ import annotations

import multiprocessing
import os
import queue
from collections.abc import Callable
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any

import torch

from ..common.files import Json


class WorkerProcesses(Executor):
    """As many processes as asked for, each with its own GPU where there are any.

    Unlike a `ProcessPoolExecutor`, the death of a process (out of memory, killed) costs the task it
    was at alone: that one raises `BrokenProcessPool`, and a fresh process takes its place.

    Args:
        count: processes; None for one a GPU, or without a GPU one a core.
        threads: CPU threads that each may use.

    Raises:
        ValueError: fewer than 1 process or thread.
    """

    def __init__(self, count: int | None = None, *, threads: int = 1) -> None:
        gpus = torch.cuda.device_count()
        count = (gpus or os.cpu_count() or 1) if count is None else count
        if count < 1 or threads < 1:
            raise ValueError(f"count is {count} and threads {threads}: both must be at least 1")
        # GPUs that a scheduler has given this process keep the names that it gave them.
        visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
        names = visible.split(",") if visible else [str(number) for number in range(gpus)]
        self._threads = threads
        self._idle: queue.SimpleQueue[tuple[str, ProcessPoolExecutor]] = queue.SimpleQueue()
        for number in range(count):
            device = names[number % gpus] if gpus else ""
            self._idle.put((device, self._process(device)))
        self._waiting = ThreadPoolExecutor(count)

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """As any executor's.

        Raises:
            RuntimeError: after `shutdown`.
        """
        return self._waiting.submit(self._run, fn, args, kwargs)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """End the processes; as any executor's."""
        self._waiting.shutdown(wait, cancel_futures=cancel_futures)
        while not self._idle.empty():
            self._idle.get()[1].shutdown(wait)

    def _run(self, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: Json) -> Any:
        device, process = self._idle.get()
        try:
            return process.submit(fn, *args, **kwargs).result()
        except BrokenProcessPool:
            process.shutdown(wait=False)
            process = self._process(device)
            raise
        finally:
            self._idle.put((device, process))

    def _process(self, device: str) -> ProcessPoolExecutor:
        # Spawned, not forked: neither CUDA nor PyTorch's thread pool survives a fork.
        context = multiprocessing.get_context("spawn")
        return ProcessPoolExecutor(1, context, _prepare_process, (device, self._threads))


def _prepare_process(device: str, threads: int) -> None:
    if device:
        os.environ["CUDA_VISIBLE_DEVICES"] = device  # before anything has touched a GPU
    torch.set_num_threads(threads)
