"""Scalings on disk: JSON, and the one-column CSV of factors that microsoft/LongRoPE's search writes."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray


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
    """Write `data`, making the folder if need be."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
    return path


def read_json(path: Path) -> Any:
    """What the file holds; an error that names it if it is missing or damaged."""
    if not path.is_file():
        raise FileNotFoundError(f"no scaling at {path}: save one with RopeScaling.save, or check the path")
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not readable JSON ({error}): it is damaged; write it again with .save") from None
