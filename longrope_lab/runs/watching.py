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
from typing import Any, BinaryIO, TextIO

from ..common.files import Json
from ..common.progress import LINE_EVERY
from ..common.quantities import duration
from .forecast import Pace, recorded_seconds
from .notebooks import code_cells
from .preparing import Prepared
from .terminal import fitting

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
    def left(self) -> float | None:
        """Estimated seconds until the notebook's end; None without an earlier run."""
        if not self.seconds:
            return None
        now, factor = time.monotonic(), self.pace.factor
        rest = factor * sum(self.seconds[self.cell :])
        if not self.cell:
            return rest
        by_record = factor * self.seconds[self.cell - 1] - (now - self._cell_since)
        return rest + max(by_record, self._left_inside(now), 0.0)

    def _left_inside(self, now: float) -> float:
        left = self.inside.get("left")
        return 0.0 if left is None else max(left - (now - self._told_at), 0.0)

    def status(self, width: int | None = None) -> str:
        """All of this in one line of so many columns; None: as long as it takes."""
        left, now = self.left, time.monotonic()
        if left is None:
            rest = everything = f" after {duration(round(now - self.started))}" if self.cell else ""
        else:
            rest = everything = f", about {duration(round(left))} left"
            if self.later is not None:
                everything += f" (all: {duration(left + self.pace.factor * self.later)})"
        here, inside, note = f"{self.title}, {self.place}", "", ""
        if self.inside:
            total = self.inside["total"]
            count = f"{self.inside['done']:,}" + ("" if total is None else f" of {total:,}")
            inside = f"; {self.inside['what']} {count}"
            seconds = self._left_inside(now)
            if left is None and seconds >= 1:
                inside += f", about {duration(round(seconds))} left"
            note = f", {self.inside['note']}" if self.inside["note"] else ""
        shorter = [everything + inside + note, rest + inside + note, rest + inside, inside, rest]
        return fitting([here + words for words in shorter], width)


class Display:
    """A `Watch` on a stream, while a ``with`` block lasts.

    Args:
        watch: what to show.
        stream: where, such as stderr; None shows nothing.
        lines: whether a terminal, too, gets lines now and then.
    """

    def __init__(self, watch: Watch, stream: TextIO | None, *, lines: bool = False) -> None:
        self.watch, self.stream = watch, stream
        screen = stream is not None and stream.isatty() and os.environ.get("TERM") != "dumb"
        self.redraws = screen and not lines
        self._said = time.monotonic()

    @contextlib.contextmanager
    def following(self, file: Path) -> Iterator[None]:
        """Read what is written to `file`, and show it; the file is made here."""
        file.touch()
        if self.stream is None:
            yield
            return
        over = threading.Event()
        follower = threading.Thread(target=self._follow, args=(file, over), daemon=True)
        follower.start()
        try:
            yield
        finally:
            over.set()
            follower.join()

    def _follow(self, file: Path, over: threading.Event) -> None:
        # Nobody may read this any more; the notebook runs on.
        with contextlib.suppress(OSError, ValueError), file.open("rb") as lines:
            while True:
                last = over.wait(LOOK_EVERY)
                for words in self._read(lines):
                    self._say(words)
                if last:
                    break
                self._show()
            if self.redraws:
                self._write(CLEAR)

    def _read(self, lines: BinaryIO) -> list[str]:
        """Take in the lines that are whole; returns what is to be said."""
        said: list[str] = []
        while True:
            before = lines.tell()
            line = lines.readline()
            if not line.endswith(b"\n"):
                lines.seek(before)  # half of a line, or the end
                return said
            with contextlib.suppress(ValueError):  # a process was killed while it wrote
                words = self.watch.take(json.loads(line))
                said += [] if words is None else [words]

    def _say(self, words: str) -> None:
        self._write((CLEAR if self.redraws else "") + f"{self.watch.title}: {words}\n")

    def _show(self) -> None:
        if self.redraws:
            # In the last column some terminals begin a new line.
            self._write(CLEAR + self.watch.status(self._columns() - 1))
        elif time.monotonic() - self._said > LINE_EVERY:
            self._said = time.monotonic()
            self._write(self.watch.status() + "\n")

    def _columns(self) -> int:
        assert self.stream is not None
        try:
            return os.get_terminal_size(self.stream.fileno()).columns or 80
        except (OSError, ValueError):  # no terminal of the system's
            return 80

    def _write(self, text: str) -> None:
        assert self.stream is not None
        self.stream.write(text)
        self.stream.flush()
