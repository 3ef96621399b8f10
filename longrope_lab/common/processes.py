"""Several processes of one job, as ``accelerate launch`` starts them: who is the main one, and who waits for whom."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from datetime import timedelta


def is_main() -> bool:
    """Whether this process is the job's main one, or its only one."""
    return int(os.environ.get("RANK", 0)) == 0


@contextlib.contextmanager
def main_first(*, cpu: bool) -> Iterator[None]:
    """The main process runs the block, then the others, which find done what it did; alone, nothing
    to wait for.

    Also if it fails, so that the others see the same and none waits.

    Args:
        cpu: whether the job computes on CPUs, for the first call of a process, which connects it
            with the others.
    """
    if int(os.environ.get("WORLD_SIZE", 1)) == 1:
        yield
        return
    from accelerate import PartialState

    state = PartialState(
        cpu=cpu, timeout=timedelta(days=30)
    )  # the others wait as long as a search takes
    if not state.is_main_process:
        state.wait_for_everyone()
    try:
        yield
    finally:
        if state.is_main_process:
            state.wait_for_everyone()
