"""Progress of what takes more than a few seconds: a bar on a screen, else a line now and then."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from tqdm.auto import tqdm

T = TypeVar("T")

# Seconds between two lines where no bar can be drawn.
LINE_EVERY = 20.0


class Progress:
    """A count that goes up, with a note beside it, shown while a ``with`` block lasts.

    A terminal or a live notebook gets a bar of tqdm. A headless run, whose stderr is a file or
    which sets ``LONGROPE_LAB_PROGRESS=lines`` for its notebooks, gets a line on stderr, at most one
    every 20 seconds.

    Args:
        what: what is going on, such as "fine-tuning".
        total: how many there will be; None where nobody knows.
    """

    def __init__(self, what: str, total: int | None = None) -> None:
        self.what, self.total, self.done = what, total, 0
        self._started = self._said = time.monotonic()
        self._bar: tqdm[Any] | None = None
        on_screen = "ipykernel" in sys.modules or sys.stderr.isatty()
        if on_screen and os.environ.get("LONGROPE_LAB_PROGRESS") != "lines":
            from tqdm.auto import tqdm

            self._bar = tqdm(desc=what, total=total, leave=False)

    def advance(self, count: int = 1, note: str = "") -> None:
        """Count `count` more as done."""
        self.done += count
        if self._bar is not None:
            self._bar.update(count)
            if note:
                self._bar.set_postfix_str(note)
        elif time.monotonic() - self._said > LINE_EVERY:
            self._said = time.monotonic()
            of = "" if self.total is None else f" of {self.total}"
            after = f" after {self._said - self._started:.0f} s"
            self.say(f"{self.done}{of}{after}" + (f", {note}" if note else ""))

    def say(self, words: str) -> None:
        """Write a line on stderr, above the bar if there is one."""
        line = f"{self.what}: {words}"
        if self._bar is not None:
            self._bar.write(line, file=sys.stderr)
        else:
            print(line, file=sys.stderr, flush=True)

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()


def progress(items: Sequence[T], what: str) -> Iterator[T]:
    """The items one after the other, showing how many are done; see `Progress`."""
    with Progress(what, len(items)) as shown:
        for item in items:
            yield item
            shown.advance()
