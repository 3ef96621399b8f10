"""Several processes: which of a job goes first, and which of two jobs has a folder."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

from filelock import FileLock, Timeout

from .files import writing

# The others wait as long as the main process works, and a search may take days.
PATIENCE = timedelta(days=30)


def is_main() -> bool:
    """Whether this process is the main one of its job, or the only one."""
    return int(os.environ.get("RANK", 0)) == 0


@contextlib.contextmanager
def main_first(*, cpu: bool) -> Iterator[None]:
    """The main process runs the block first, and the others after it find done what it did.

    They also run it if the main process fails, so that all see the same error and none waits for
    ever. A process that is alone just runs the block.

    Args:
        cpu: whether the job computes on CPUs. The first call of a process connects it with the
            others, and needs to know.
    """
    if int(os.environ.get("WORLD_SIZE", 1)) == 1:
        yield
        return
    from accelerate import PartialState

    state = PartialState(cpu=cpu, timeout=PATIENCE)
    if not state.is_main_process:
        state.wait_for_everyone()
    try:
        yield
    finally:
        if state.is_main_process:
            state.wait_for_everyone()


@contextlib.contextmanager
def alone(folder: Path, kind: str, way_out: str = "name another folder") -> Iterator[None]:
    """Hold a folder for this job; it is free again when the job ends, however that ends.

    The lock is a hidden file beside the folder, which goes with it. Of the processes of a job, as
    ``accelerate launch`` starts them, the main one holds it for all.

    Args:
        folder: what is written to; it need not be there yet.
        kind: what writes to it, in the words of an error: "fine-tuning".
        way_out: what else to do than to wait.

    Raises:
        ValueError: another job holds it, or the lock cannot be written (`UnwritableError`).
    """
    if not is_main():
        yield
        return
    place = Path(os.path.realpath(folder))  # of a loop of links, resolve raises a RuntimeError
    path = place.with_name(f".{place.name}.lock")
    lock = FileLock(path)
    with writing(folder):
        path.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(Timeout):  # held, or removed by a job that has just ended
            lock.acquire(blocking=False)
        if not (lock.is_locked or path.exists()):
            path.touch()  # where the system refuses, filelock waits, and does not say why
    if not lock.is_locked:
        raise ValueError(f"another {kind} is writing to {folder}: wait for it, or {way_out}")
    try:
        yield
    finally:
        with contextlib.suppress(OSError):  # Windows removes it as the lock is given back
            path.unlink()
        lock.release()
