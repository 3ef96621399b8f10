"""Progress on what takes more than a few seconds: a bar on a screen, a line now and then without one."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Any, TypeVar

T = TypeVar("T")

# Seconds between two lines where no bar can be drawn.
LINE_EVERY = 20.0


class Progress:
    """A count that goes up, with a note beside it, shown for the length of a ``with`` block.

    A terminal or a live notebook gets a tqdm bar. A headless run, which sets
    ``LONGROPE_LAB_PROGRESS=lines`` for its notebooks, or whose stderr is a file, gets a line on
    stderr at most every 20 seconds.

    Args:
        what: what is going on.
        total: how many there will be; None where nobody knows.
    """

    def __init__(self, what: str, total: int | None = None) -> None:
        self.what, self.total, self.done = what, total, 0
        self._started = self._said = time.monotonic()
        self._bar: Any = None
        in_notebook = "ipykernel" in sys.modules
        if os.environ.get("LONGROPE_LAB_PROGRESS") != "lines" and (
            in_notebook or sys.stderr.isatty()
        ):
            from tqdm.auto import tqdm

            self._bar = tqdm(desc=what, total=total, leave=False)

    def advance(self, count: int = 1, note: str = "") -> None:
        """`count` more are done."""
        self.done += count
        if self._bar is not None:
            self._bar.update(count)
            if note:
                self._bar.set_postfix_str(note)
        elif time.monotonic() - self._said > LINE_EVERY:
            self._said = time.monotonic()
            of = "" if self.total is None else f" of {self.total}"
            self.say(
                f"{self.done}{of} after {self._said - self._started:.0f} s"
                + (f", {note}" if note else "")
            )

    def say(self, words: str) -> None:
        """A line on stderr, above a bar if there is one."""
        line = f"{self.what}: {words}"
        if self._bar is not None:
            self._bar.write(line, file=sys.stderr)
        else:
            print(line, file=sys.stderr, flush=True)

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.close()


def progress(items: Sequence[T], what: str) -> Iterator[T]:
    """`items` one after the other, showing how many are done; see `Progress`."""
    with Progress(what, len(items)) as shown:
        for item in items:
            yield item
            shown.advance()
