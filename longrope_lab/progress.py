"""Progress on what takes more than a few seconds: a bar on a screen, a line now and then without one."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator, Sequence
from typing import TypeVar

T = TypeVar("T")

# Seconds between two lines where no bar can be drawn.
LINE_EVERY = 20.0


def progress(items: Sequence[T], what: str) -> Iterator[T]:
    """`items` one after the other, showing how many are done.

    A terminal or a live notebook gets a tqdm bar. A headless run, which sets ``LONGROPE_LAB_PROGRESS=lines``
    for its notebooks, or whose stderr is a file, gets a line on stderr at most every 20 seconds.
    """
    in_notebook = "ipykernel" in sys.modules
    if os.environ.get("LONGROPE_LAB_PROGRESS") != "lines" and (in_notebook or sys.stderr.isatty()):
        from tqdm.auto import tqdm

        yield from tqdm(items, desc=what, leave=False)
        return
    started = said = time.monotonic()
    for done, item in enumerate(items):
        if time.monotonic() - said > LINE_EVERY:
            said = time.monotonic()
            print(f"{what}: {done} of {len(items)} after {said - started:.0f} s", file=sys.stderr, flush=True)
        yield item
