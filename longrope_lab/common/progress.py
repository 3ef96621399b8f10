"""Progress of what takes more than a few seconds: a bar on a screen, else a line now and then.

`longrope-lab run` shows on its own terminal how far a notebook is. It names a file in
``LONGROPE_LAB_PROGRESS_FILE``; the notebook's processes write there, one JSON object per line, and
nothing of it lands in the notebook.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from .files import Json
from .quantities import duration

if TYPE_CHECKING:
    from tqdm.auto import tqdm

T = TypeVar("T")

# Seconds between two lines where no bar can be drawn, and between two lines for a runner.
LINE_EVERY = 20.0
TELL_EVERY = 0.2

# Environment variables: "lines" in the first asks for lines where a bar could be drawn; the second
# names the file of a runner that follows.
HOW, FOLLOWED = "LONGROPE_LAB_PROGRESS", "LONGROPE_LAB_PROGRESS_FILE"

# What a bar shows where the end is known; the rest of the time is our own estimate.
KNOWN_END = "{desc}: {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} [{elapsed}{postfix}]"


class Progress:
    """A count that goes up, with an estimate of the rest, shown while a ``with`` block lasts.

    A terminal or a live notebook gets a bar of tqdm. A headless run, whose stderr is a file or
    which sets ``LONGROPE_LAB_PROGRESS=lines`` for its notebooks, gets a line on stderr, at most one
    every 20 seconds. Under `longrope-lab run` the runner's terminal shows it.

    Args:
        what: what is going on, such as "fine-tuning".
        total: how many there will be; None where nobody knows.
    """

    def __init__(self, what: str, total: int | None = None) -> None:
        self.what, self.total, self.done = what, total, 0
        self._share = self._share_before = 0.0
        self.started = self._working_since = time.monotonic()
        self._shown = _place_to_show(self)

    def advance(self, count: int = 1, note: str = "", share: float | None = None) -> None:
        """Count `count` more as done.

        Args:
            count: how many.
            note: stands beside the count.
            share: of all the work, from 0 to 1, that is done by now. None: every one takes as long.
        """
        self._count(count, share)
        self._shown.advance(self, count, note)

    def skip(self, count: int, share: float | None = None) -> None:
        """Count `count` more that were done before, and so say nothing about the pace."""
        self._count(count, share)
        self._share_before, self._working_since = self._share, time.monotonic()
        self._shown.advance(self, count, "")

    def _count(self, count: int, share: float | None) -> None:
        self.done += count
        self._share = (self.done / self.total if self.total else 0.0) if share is None else share

    @property
    def left(self) -> float | None:
        """Estimated seconds until the end; None where nobody can tell."""
        new = self._share - self._share_before
        if new <= 0:
            return None
        pace = (time.monotonic() - self._working_since) / new
        return pace * max(1 - self._share, 0.0)

    def say(self, words: str) -> None:
        """Write a line on stderr, above the bar if there is one."""
        self._shown.say(f"{self.what}: {words}")

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self._shown.close(self)


def progress(items: Sequence[T], what: str, sizes: Sequence[int] | None = None) -> Iterator[T]:
    """The items one after the other, showing how many are done; see `Progress`.

    Args:
        items: what to go through.
        what: what is going on.
        sizes: how much work each item is, in any unit; None: all are the same.
    """
    done, everything = 0, sum(sizes) if sizes else 0
    with Progress(what, len(items)) as shown:
        for number, item in enumerate(items):
            yield item
            done += sizes[number] if sizes else 0
            shown.advance(share=done / everything if everything else None)


def announce(words: str) -> None:
    """Say what begins: on the runner's terminal if one follows, else here."""
    if _tell({"say": words}):
        return
    if _bars_are_drawn():
        from tqdm.auto import tqdm

        # A live notebook would print stderr as if something were wrong.
        tqdm.write(words, file=sys.stdout if "ipykernel" in sys.modules else sys.stderr)
    else:
        print(words, file=sys.stderr, flush=True)


class _Shown(Protocol):
    """Where progress is shown."""

    def advance(self, state: Progress, count: int, note: str) -> None: ...

    def say(self, line: str) -> None: ...

    def close(self, state: Progress) -> None: ...


class _Bar:
    def __init__(self, state: Progress) -> None:
        from tqdm.auto import tqdm

        form = None if state.total is None else KNOWN_END
        self.bar: tqdm[Any] = tqdm(desc=state.what, total=state.total, leave=False, bar_format=form)

    def advance(self, state: Progress, count: int, note: str) -> None:
        if beside := _beside(state, note):
            self.bar.set_postfix_str(", ".join(beside), refresh=False)
        self.bar.update(count)

    def say(self, line: str) -> None:
        self.bar.write(line, file=sys.stderr)

    def close(self, state: Progress) -> None:
        self.bar.close()


class _Lines:
    def __init__(self, state: Progress) -> None:
        self.said = state.started

    def advance(self, state: Progress, count: int, note: str) -> None:
        now = time.monotonic()
        if now - self.said > LINE_EVERY:
            self.said = now
            of = "" if state.total is None else f" of {state.total:,}"
            after = f"{state.done:,}{of} after {duration(now - state.started)}"
            self.say(f"{state.what}: " + ", ".join([after, *_beside(state, note)]))

    def say(self, line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    def close(self, state: Progress) -> None:
        pass


class _Runner(_Lines):
    """Tells a runner that follows; if it is gone, lines have to do."""

    def __init__(self, state: Progress) -> None:
        super().__init__(state)
        self.told = 0.0
        self.advance(state, 0, "")

    def advance(self, state: Progress, count: int, note: str) -> None:
        now = time.monotonic()
        if now - self.told > TELL_EVERY:
            self.told = now
            left = None if state.left is None else round(state.left, 1)
            told = {"done": state.done, "total": state.total, "left": left, "note": note}
            if not _tell({"what": state.what} | told):
                super().advance(state, count, note)

    def close(self, state: Progress) -> None:
        _tell({"over": state.what})


def _place_to_show(state: Progress) -> _Shown:
    if FOLLOWED in os.environ:
        return _Runner(state)
    return _Bar(state) if _bars_are_drawn() else _Lines(state)


def _bars_are_drawn() -> bool:
    on_screen = "ipykernel" in sys.modules or (sys.stderr is not None and sys.stderr.isatty())
    return on_screen and os.environ.get(HOW) != "lines"


def _tell(line: Json) -> bool:
    """Write a line for the runner that follows; whether there is one."""
    try:
        # Only the runner makes the file. Many processes may write to it, a line at a time.
        file = os.open(os.environ[FOLLOWED], os.O_WRONLY | os.O_APPEND)
    except (KeyError, OSError):
        return False
    try:
        os.write(file, json.dumps(line).encode() + b"\n")
    except OSError:  # a full disk
        return False
    finally:
        os.close(file)
    return True


def _beside(state: Progress, note: str) -> list[str]:
    """What stands beside a count: the rest of the time, and the note."""
    left = state.left
    rest = f"about {duration(round(left))} left" if left is not None and left >= 1 else ""
    return [words for words in (rest, note) if words]
