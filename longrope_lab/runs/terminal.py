"""What the command says on a terminal: complaints in one line, and texts that fit."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Sequence
from typing import TextIO

from ..common.files import WAYS_OUT

# The status of a shell for a program that Ctrl-C has stopped.
STOPPED = 130


def complain(words: str) -> None:
    """A line on stderr, if anybody listens; the exit status still says it."""
    with contextlib.suppress(BrokenPipeError):
        print(f"longrope-lab: {words}", file=sys.stderr, flush=True)


def words_of(error: BaseException) -> str:
    """An error in one line; of the system's own, the path, what is wrong, and the way out."""
    if isinstance(error, OSError) and error.strerror:
        path = error.filename2 or error.filename  # the second is where something was to go
        where = f"{path}: " if path else ""
        way_out = WAYS_OUT.get(error.errno or 0)
        return f"{where}{error.strerror}{f': {way_out}' if way_out else ''}"
    if isinstance(error, MemoryError):
        return "memory ran out: choose a smaller model or shorter lengths"
    return " ".join(str(error).split()) or type(error).__name__


def fitting(texts: Sequence[str], width: int | None) -> str:
    """The first text that fits into so many columns; None: any does. If none fits, the last, cut.

    >>> fitting(["cell 2 of 9, about 3 min left", "cell 2 of 9"], 20)
    'cell 2 of 9'
    """
    if width is None:
        return texts[0]
    for text in texts:
        if len(text) <= width:
            return text
    return texts[-1][: max(width - 1, 0)] + "…"


def columns_of(stream: TextIO) -> int:
    """How many columns a terminal has now; 80 if the system does not say."""
    try:
        return os.get_terminal_size(stream.fileno()).columns or 80
    except (OSError, ValueError):  # no terminal of the system's
        return 80
