"""What errors and tables call a stage."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .stages import Stage


@contextlib.contextmanager
def naming(stage: Stage) -> Iterator[None]:
    """A ValueError from inside names the stage."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{title(stage)}: {error}") from None


def title(stage: Stage) -> str:
    """What an error calls a stage."""
    return f"{type(stage).__name__} at {stage.length:,} tokens"


def counted(number: int, what: str) -> str:
    """A number and its noun, as in "1 document" and "2 documents"."""
    return f"{number:,} {what}" if number == 1 else f"{number:,} {what}s"
