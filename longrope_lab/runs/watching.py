"""Shows on the terminal how far a notebook is while it runs.

Cells are counted by a hook of nbclient. What goes on inside a cell the kernel writes to a file,
which is read here (see `common.progress`). A terminal has one line that is drawn again and again;
anything else gets a line now and then.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from ..common.files import Json
from ..common.progress import HOW, LINE_EVERY
from ..common.quantities import duration
from .forecast import Pace, recorded_seconds
from .notebooks import code_cells
from .preparing import Prepared
from .terminal import columns_of, fitting

# Seconds between two looks at the file.
LOOK_EVERY = 0.5

# Goes to the start of a terminal's line, and clears it.
CLEAR = "\r\x1b[K"


class Watch:
    """One notebook under way: its cell, what goes on inside it, and an estimate of the rest.

    Args:
        ready: the notebook.
        title: what it is called on the terminal: "[2/12] 03_search".
        pace: of this machine, shared by the notebooks of a run.
        later: seconds, by the record, of the notebooks that come after it; None: nobody knows.
    """

    def __init__(
        self,
        ready: Prepared,
        title: str | None = None,
        pace: Pace | None = None,
        later: float | None = None,
    ) -> None:
        self.title = ready.notebook.stem if title is None else title
        self.pace, self.later = pace or Pace(), later
        self.cells = code_cells(ready.notebook) + 1  # papermill adds one: the parameters chosen
        seconds = recorded_seconds(ready)
        self.seconds = seconds if len(seconds) == self.cells else []
        self.cell = 0
        self.inside: Json = {}
        self.started = self._cell_since = self._told_at = time.monotonic()

    def cell_starts(self, *, cell: Any, cell_index: int) -> None:
        """Count a code cell; nbclient calls this for all cells."""
        if cell.cell_type != "code":
            return
        now = time.monotonic()
        if self.seconds and self.cell:
            self.pace.add(now - self._cell_since, self.seconds[self.cell - 1])
        self.cell, self.inside, self._cell_since = self.cell + 1, {}, now

    def take(self, line: Json) -> str | None:
        """Take in what the kernel tells; returns words that are to be said."""
        if "say" in line:
            return str(line["say"])
        if "what" in line:
            self.inside, self._told_at = line, time.monotonic()
        elif line.get("over") == self.inside.get("what"):
            self.inside = {}
        return None

    @property
    def place(self) -> str:
        """Where the notebook is, in words."""
        return f"cell {self.cell} of {self.cells}" if self.cell else "starting"

    @property
    def spent(self) -> str:
        """For how long it has been running, in words."""
        return duration(round(time.monotonic() - self.started))

    @property
    def left(self) -> float | None:
        """Estimated seconds until the notebook's end; None without an earlier run."""
        if not self.seconds:
            return None
        rest = self.pace.factor * sum(self.seconds[self.cell :])
        if not self.cell:
            return rest
        expected = self.pace.factor * self.seconds[self.cell - 1]
        by_record = expected - (time.monotonic() - self._cell_since)
        return rest + max(by_record, self._left_inside(self.inside), 0.0)

    def _left_inside(self, inside: Json) -> float:
        """Seconds until the end of what goes on inside the cell; 0 where nobody knows."""
        return (inside.get("left") or 0.0) - (time.monotonic() - self._told_at)

    def status(self, width: int | None = None) -> str:
        """All of this in one line of so many columns; None: as long as it takes."""
        left, inside = self.left, self.inside  # another thread may start the next cell meanwhile
        time_left = _about(left) or (f" after {self.spent}" if self.cell else "")
        everything = time_left
        if left is not None and self.later is not None:
            everything += f" (all: {duration(left + self.pace.factor * self.later)})"
        count = note = ""
        if inside:
            of = "" if inside["total"] is None else f" of {inside['total']:,}"
            count = f"; {inside['what']} {inside['done']:,}{of}"
            count += "" if _about(left) else _about(self._left_inside(inside))
            note = f", {inside['note']}" if inside["note"] else ""
        ends = (everything + count + note, time_left + count + note, time_left + count, count)
        here = f"{self.title}, {self.place}"
        full = [here + end for end in (*ends, time_left)]
        return fitting([*full, self.place + time_left, self.place], width)


def _about(seconds: float | None) -> str:
    """An estimate in words; none of what is nearly over, or takes longer than was thought."""
    return "" if seconds is None or seconds < 1 else f", about {duration(round(seconds))} left"


class Display:
    """A `Watch` on a stream, while a ``with`` block lasts.

    Args:
        watch: what to show.
        stream: where, such as stderr; None shows nothing. A terminal gets lines now and then, too,
            if it is a dumb one or ``LONGROPE_LAB_PROGRESS=lines`` asks for them.
    """

    def __init__(self, watch: Watch, stream: TextIO | None) -> None:
        self.watch, self.stream = watch, stream
        screen = stream is not None and stream.isatty() and os.environ.get("TERM") != "dumb"
        self.clear = CLEAR if screen and os.environ.get(HOW) != "lines" else ""
        self._said = time.monotonic()

    @contextlib.contextmanager
    def following(self, file: Path) -> Iterator[None]:
        """Read what is written to `file`, and show it; the file is made here."""
        file.touch()
        if self.stream is None:
            yield
            return
        over = threading.Event()
        follower = threading.Thread(
            target=self._follow, args=(self.stream, file, over), daemon=True
        )
        follower.start()
        try:
            yield
        finally:
            over.set()
            follower.join()

    def _follow(self, stream: TextIO, file: Path, over: threading.Event) -> None:
        # Nobody may read this any more; the notebook runs on.
        with contextlib.suppress(OSError, ValueError), file.open("rb") as told:
            half, last = b"", False
            while not last:
                last = over.wait(LOOK_EVERY)
                *lines, half = (half + told.read()).split(b"\n")
                stream.write(self._said_in(lines) + (self.clear if last else self._status(stream)))
                stream.flush()

    def _said_in(self, lines: list[bytes]) -> str:
        """What the kernel wants to be said, a line each; the rest is taken in."""
        said = ""
        for line in lines:
            with contextlib.suppress(ValueError):  # a process was killed while it wrote
                words = self.watch.take(json.loads(line))
                said += "" if words is None else f"{self.clear}{self.watch.title}: {words}\n"
        return said

    def _status(self, stream: TextIO) -> str:
        if self.clear:
            # In the last column some terminals begin a new line.
            return self.clear + self.watch.status(columns_of(stream) - 1)
        if time.monotonic() - self._said <= LINE_EVERY:
            return ""
        self._said = time.monotonic()
        return self.watch.status() + "\n"
