"""Files of one JSON object per line, for what is measured step by step.

A line counts once its end is written, so a process that is killed half way through one loses that
line alone. Each line but the first holds a digest of what it says.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path

from .files import Json, writing
from .identity import digest

CHECK = "check"


def line_of(values: Json) -> bytes:
    """An object as a line."""
    return json.dumps(values).encode() + b"\n"


def append_line(path: Path, values: Json) -> None:
    """Add a line to a file; it is on disk when this returns.

    Raises:
        UnwritableError: the file cannot be written.
    """
    with writing(path), path.open("ab") as file:
        file.write(line_of(values))
        file.flush()
        os.fsync(file.fileno())


def check_of(values: Json, *but: str) -> str:
    """A digest of what a line says, but for some of it and for the digest that it holds."""
    return digest(json.dumps({k: v for k, v in values.items() if k not in (*but, CHECK)}))


def whole_lines(content: bytes) -> bytes:
    """The part of a file's content that ends with the end of a line."""
    return content[: content.rfind(b"\n") + 1]


def drop_half_line(path: Path, whole: bytes) -> None:
    """Cut a file back to its whole lines, if it was cut off half way through one."""
    if len(whole) < path.stat().st_size:
        with writing(path), path.open("r+b") as file:
            file.truncate(len(whole))


@contextlib.contextmanager
def refusing(path: Path, of: str) -> Iterator[None]:
    """What goes wrong in reading says that the file is not the checkpoint `of` something."""
    try:
        yield
    except (ValueError, KeyError, TypeError) as error:
        reason = f"it has no {error}" if isinstance(error, KeyError) else error
        raise ValueError(
            f"{path} is not the checkpoint of {of}, or it is damaged ({reason}): remove it, or "
            "name another one"
        ) from None
