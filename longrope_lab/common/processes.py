"""Several processes of one job, as ``accelerate launch`` starts them: which one goes first."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from datetime import timedelta

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
