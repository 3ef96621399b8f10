"""What the command says on a terminal: complaints in one line, and texts that fit."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Sequence
from typing import TextIO

# The status of a shell for a program that Ctrl-C has stopped.
STOPPED = 130


def complain(words: str) -> None:
    """A line on stderr, if anybody listens; the exit status still says it."""
    with contextlib.suppress(BrokenPipeError):
        print(f"longrope-lab: {words}", file=sys.stderr, flush=True)


def words_of(error: BaseException) -> str:
    """An error in words; of the system's own, the file and what is wrong with it."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return str(error)


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
