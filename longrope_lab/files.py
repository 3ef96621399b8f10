"""On disk: JSON, tables, the one-column CSV of factors that microsoft/LongRoPE's search writes, runs' folders."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import pandas as pd  # a scaling alone, as rope.py, needs numpy only


def read_factors(path: Path) -> NDArray[np.float64]:
    lines = [line for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    if not lines:
        raise ValueError("the file is empty; it should have one factor a line")
    table = np.loadtxt(lines, delimiter=",", dtype=np.float64, ndmin=2, comments=None)
    rows, columns = table.shape
    if rows > 1 and columns > 1 and (table != table[0]).any():
        raise ValueError(f"it has {rows} different lines of {columns} values; it should have one factor a line")
    factors: NDArray[np.float64] = table[:, 0] if columns == 1 else table[0]
    return factors


def not_ours(source: str, kind: str, error: Exception) -> ValueError:
    """The error for a file or dict that cannot be what longrope_lab wrote."""
    reason = f"it has no {error}" if isinstance(error, KeyError) else str(error)
    return ValueError(f"{source} is not a {kind} that longrope_lab wrote: {reason}")


def write_json(path: str | os.PathLike[str], data: dict[str, Any]) -> Path:
    """Write `data`, whole or not at all, making the folder if need be."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    part.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
    part.replace(path)
    return path


def write_table(path: Path, table: pd.DataFrame) -> None:
    """Write a table as every CSV here is: eight digits, the same bytes on every system."""
    table.to_csv(path, index=False, float_format="%.8g", lineterminator="\n")


def read_json(path: Path) -> Any:
    """What the file holds; an error that names it if it is missing or damaged."""
    if not path.is_file():
        raise FileNotFoundError(f"no scaling at {path}: save one with RopeScaling.save, or check the path")
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not readable JSON ({error}): it is damaged; write it again with .save") from None


def claim(path: Path, kind: str, identity: dict[str, Any]) -> None:
    """Make a folder the own of one run, by a file in it that holds its identity; or see that it is that run's already.

    Args:
        path: the file.
        kind: of run, in words.
        identity: what tells one run from another, by name.

    Raises:
        ValueError: the folder is another run's (the error says what differs), or holds anything else.
    """
    identity = json.loads(json.dumps(identity))
    if path.is_file():
        theirs = read_json(path)
        differ = [name for name in identity | theirs if identity.get(name) != theirs.get(name)]
        if differ:
            details = "; ".join(f"{name}: {theirs.get(name)} there, {identity.get(name)} here" for name in differ)
            raise ValueError(f"{path.parent} holds another {kind} ({details}): name another folder, or remove this one")
    elif path.parent.exists() and any(other.suffix != ".part" for other in path.parent.iterdir()):
        raise ValueError(f"{path.parent} is not empty and holds no {kind}: name another folder")
    else:
        write_json(path, identity)
