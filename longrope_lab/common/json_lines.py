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

from .files import Json, at_home, writing
from .identity import digest
from .processes import alone

CHECK = "check"


@contextlib.contextmanager
def taken(checkpoint: str | os.PathLike[str] | None, kind: str) -> Iterator[Path | None]:
    """Where a checkpoint lies, which this job holds: two would cut and mix each other's lines.

    Args:
        checkpoint: a file, whose folder is made if missing; None for none.
        kind: what writes to it, in the words of an error: "search".

    Raises:
        ValueError: it is a folder, or nothing that keeps what is written; another job holds it; or
            the folder cannot be written (`UnwritableError`).
    """
    if checkpoint is None:
        yield None
        return
    path = at_home(checkpoint)
    if path.is_dir():
        raise ValueError(f"{path} is a folder: name a file for the checkpoint")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        special = path.exists() and not path.is_file()
    if special:
        raise ValueError(f"{path} keeps nothing that is written: name a file for the checkpoint")
    with alone(path, kind, "name another checkpoint"):
        yield path


def check_begins(path: Path, begin: bytes) -> None:
    """Look at the first bytes of a file, which may be larger than the memory, or somebody's.

    Raises:
        ValueError: it begins otherwise.
    """
    with path.open("rb") as file:
        head = file.read(len(begin))
    if not begin.startswith(head):
        raise ValueError(f"it begins with {head[:60]!r}")


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


def checked(values: Json, *but: str) -> Json:
    """What a line says, with its digest."""
    return values | {CHECK: check_of(values, *but)}


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
