"""Files that are written whole or not at all, and the folder of what can be made again."""

from __future__ import annotations

import contextlib
import csv
import errno
import json
import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from platformdirs import user_cache_dir

if TYPE_CHECKING:
    import pandas as pd  # only named here: a scaling needs numpy alone

# What a JSON file holds at its top.
Json = dict[str, Any]

# What to do where the system refuses to read or to write, by its reason.
WAYS_OUT = {
    errno.ENOSPC: "free some space, or name another place",
    errno.EDQUOT: "free some space, or name another place",
    errno.EACCES: "allow it there, or name another place",
    errno.EPERM: "allow it there, or name another place",
    errno.EROFS: "name another place",
    errno.EISDIR: "a folder is in the way: move it, or name another place",
    errno.ENOTDIR: "a file is in the way: move it, or name another place",
    errno.EEXIST: "something is in the way: move it, or name another place",
    errno.ENOENT: "check the path",
    errno.ELOOP: "name another place",
    errno.ENAMETOOLONG: "name a shorter one",
    errno.EMFILE: "allow more open files (ulimit -n)",
    errno.ENOMEM: "choose a smaller model or shorter lengths",
}


class UnwritableError(OSError, ValueError):
    """A file or folder cannot be written: which, why, and the way out.

    `reason` is the system's own word for it. It is an `OSError` and a `ValueError`, as io's
    `UnsupportedOperation` is.
    """

    reason = ""


@contextlib.contextmanager
def writing(path: str | os.PathLike[str]) -> Iterator[None]:
    """What the system refuses in the block becomes an `UnwritableError` that names `path`.

    Its own error names no file where a disk is full.
    """
    try:
        yield
    except UnwritableError:
        raise
    except OSError as error:
        reason = error.strerror or str(error)
        way_out = WAYS_OUT.get(error.errno or 0, "name another place")
        refused = UnwritableError(f"{path} cannot be written ({reason}): {way_out}")
        refused.reason = reason
        raise refused from error


def at_home(path: str | os.PathLike[str]) -> Path:
    """A path whose ``~`` stands for the user's home, or for that of the user named after it.

    Raises:
        ValueError: there is no such user.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise ValueError(
            f"{path} begins with a home that is not known: write the path out, or put ./ before it"
        ) from None


def nearest_folder(path: str | os.PathLike[str]) -> Path:
    """The folder that is there already, in which `path` would be made."""
    return next(folder for folder in Path(path).absolute().parents if folder.exists())


def check_writable(path: str | os.PathLike[str]) -> None:
    """Refuse a path at which nothing can be made, before any work is done for it.

    Raises:
        UnwritableError: the system refuses.
    """
    # What the system allows is known once it was tried: root may write where /proc takes nothing.
    with writing(path):
        Path(path).exists()  # refuses a name that is too long
        tried = nearest_folder(path) / f".try-{uuid.uuid4().hex[:8]}"
        tried.mkdir()
        tried.rmdir()


def not_ours(source: str, kind: str, error: Exception) -> ValueError:
    """The error for a file or dict that cannot be what longrope_lab wrote."""
    reason = f"it has no {error}" if isinstance(error, KeyError) else str(error)
    return ValueError(f"{source} is not a {kind} that longrope_lab wrote: {reason}")


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A new file to write, which takes the place of `path` once the block ends well.

    A reader finds the old content or the new one, never a half. Several processes may write the
    same path at once: each has a file of its own, and the last to finish wins. After an error
    nothing is left behind.

    Raises:
        UnwritableError: the system refuses, for want of space or of the right to write there.
    """
    path = Path(path)
    part = path.with_name(f"{path.name}.{uuid.uuid4().hex[:8]}.part")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield part
            part.replace(path)
        except BaseException:
            with contextlib.suppress(OSError):
                part.unlink(missing_ok=True)
            raise


@contextlib.contextmanager
def not_too_deep() -> Iterator[None]:
    """What Python cannot take in, as it is nested too deeply, becomes a `ValueError`."""
    try:
        yield
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def from_json(text: str | bytes) -> Any:
    """What a JSON text stands for; bytes are UTF-8.

    Raises:
        ValueError: it is not JSON, not UTF-8, nested too deeply, or gives a key two values.
    """
    with not_too_deep():
        text = text if isinstance(text, str) else text.decode("utf-8")
        return json.loads(text, object_pairs_hook=_each_key_once)


def _each_key_once(pairs: list[tuple[str, object]]) -> Json:
    """An object of JSON. Of two values of one key, Python would take the last and say nothing."""
    found: Json = {}
    for name, value in pairs:
        if name in found and found[name] != value:
            raise ValueError(f"the key {name!r} is there twice: keep the right one")
        found[name] = value
    return found


def write_json(path: str | os.PathLike[str], data: Json) -> Path:
    """Write `data` as JSON, in a folder that is made if need be."""
    with replacing(path) as part:
        part.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
    return Path(path)


def write_table(path: Path, table: pd.DataFrame) -> None:
    """Write a table as every CSV here is: eight digits, the same bytes on every system."""
    # pandas does not quote a carriage return, and reads it as the end of a line.
    returns = any("\r" in str(value) for column in table for value in table[column])
    text: str = table.to_csv(
        index=False,
        float_format="%.8g",
        lineterminator="\n",
        quoting=csv.QUOTE_NONNUMERIC if returns else csv.QUOTE_MINIMAL,
    )
    with replacing(path) as part:
        part.write_text(text, encoding="utf-8", newline="\n")


def read_json(path: Path, kind: str) -> Any:
    """What a JSON file holds; `kind` says what it should be, in the words of an error.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not JSON.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no {kind} at {path}: save one with .save, or check the path")
    try:
        return from_json(path.read_bytes())
    except ValueError as error:
        raise ValueError(
            f"{path} is not readable JSON ({error}): the {kind} is damaged; remove it, or write it "
            "again"
        ) from None


def cache_dir() -> Path:
    """The folder of what can be made again: `LONGROPE_LAB_CACHE`, or the user's cache folder."""
    return Path(os.environ.get("LONGROPE_LAB_CACHE") or user_cache_dir("longrope_lab"))
