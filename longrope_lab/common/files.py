"""On disk: JSON and tables, each written whole or not at all; and the folder of what can be made again."""

from __future__ import annotations

import contextlib
import json
import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from platformdirs import user_cache_dir

if TYPE_CHECKING:
    import pandas as pd  # a scaling alone needs numpy only

# What a JSON file holds at its top.
Json = dict[str, Any]


def not_ours(source: str, kind: str, error: Exception) -> ValueError:
    """The error for a file or dict that cannot be what longrope_lab wrote."""
    reason = f"it has no {error}" if isinstance(error, KeyError) else str(error)
    return ValueError(f"{source} is not a {kind} that longrope_lab wrote: {reason}")


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A file of a name of its own to write to, beside `path`, which it replaces at the end: whole
        or not at all.

    Also when several processes write the same file: the last one that finishes wins. An error
    leaves nothing behind."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{uuid.uuid4().hex[:8]}.part")
    try:
        yield part
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def write_json(path: str | os.PathLike[str], data: Json) -> Path:
    """Write `data`, whole or not at all, making the folder if need be."""
    with replacing(path) as part:
        part.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
    return Path(path)


def write_table(path: Path, table: pd.DataFrame) -> None:
    """Write a table as every CSV here is: eight digits, the same bytes on every system."""
    with replacing(path) as part:
        table.to_csv(part, index=False, float_format="%.8g", lineterminator="\n")


def read_json(path: Path) -> Any:
    """What the file holds; an error that names it if it is missing or damaged."""
    if not path.is_file():
        raise FileNotFoundError(
            f"no scaling at {path}: save one with RopeScaling.save, or check the path"
        )
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(
            f"{path} is not readable JSON ({error}): it is damaged; write it again with .save"
        ) from None


def cache_dir() -> Path:
    """Where this package keeps what it can make again: `LONGROPE_LAB_CACHE`, or the user's cache folder."""
    return Path(os.environ.get("LONGROPE_LAB_CACHE") or user_cache_dir("longrope_lab"))
