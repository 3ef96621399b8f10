"""Refusals of unknown names and of numbers: each error says the value, the rule and the way out."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd  # only named here: these checks load in no time

# Of the generators that take the fewest: NumPy's old one, which transformers seeds, too.
LARGEST_SEED = 2**32 - 1
# Characters of a value that an error shows.
SHOWN = 60


def unknown(kind: str, value: object, choices: Iterable[str]) -> ValueError:
    """The error for a name that is not among `choices`; it offers the nearest one.

    >>> unknown("method", "yarm", ["pi", "yarn"])
    ValueError("unknown method 'yarm': did you mean 'yarn'? Known: pi, yarn")
    """
    known = list(choices)
    near = difflib.get_close_matches(str(value), known, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return ValueError(f"unknown {kind} {value!r}: {hint}Known: {', '.join(known) or '(none)'}")


def known_only(kind: str, names: Iterable[str], choices: Iterable[str]) -> None:
    """Refuse the first name that is not among `choices`: nothing reads it."""
    known = list(choices)
    for name in names:
        if name not in known:
            raise unknown(kind, name, known)


def whole(name: str, value: Any, least: int, rule: str = "") -> int:
    """The value as an int, if it is a whole number of at least `least`.

    >>> whole("steps", 400.0, 1)
    400

    Raises:
        ValueError: it is not; the error states the rule in the words of `rule`, or in general ones.
    """
    try:
        if int(value) == value and value >= least and not isinstance(value, bool):
            return int(value)
    except (TypeError, ValueError, OverflowError):  # None or text, NaN, infinity
        pass
    raise ValueError(f"{name} is {value}: {rule or f'it must be a whole number from {least}'}")


def above(name: str, value: Any, bound: int) -> float:
    """The value as a float, if it is a finite number above `bound`.

    Raises:
        ValueError: it is not.
    """
    try:
        if math.isfinite(value) and value > bound and not isinstance(value, bool):
            return float(value)
    except (TypeError, OverflowError):  # None or text, a whole number that no float can hold
        pass
    raise ValueError(f"{name} is {shortened(str(value))}: it must be a finite number above {bound}")


def shortened(words: str, most: int = SHOWN) -> str:
    """Words of at most so many characters, with an ellipsis where some are left out."""
    return words if len(words) <= most else words[: most - 3] + "..."


def named(name: str, value: object) -> str:
    """The value as a name: a text with something to read in it.

    Raises:
        ValueError: it is not.
    """
    if isinstance(value, str) and value.strip():
        return value
    raise ValueError(f"{name} is {value!r}: it must be a text, and not an empty one")


def seed_of(value: object) -> int:
    """The value as a seed, if NumPy's and PyTorch's generators both take it.

    Raises:
        ValueError: it does not.
    """
    seed = whole("seed", value, 0)
    if seed > LARGEST_SEED:
        raise ValueError(f"seed is {value}: it must be at most {LARGEST_SEED}")
    return seed


def check_table(table: pd.DataFrame, made_by: str, *columns: str) -> None:
    """Refuse a table without rows, or without a column that is needed.

    Raises:
        ValueError: naming the columns, and `made_by`, which makes such tables.
    """
    there = [str(name) for name in getattr(table, "columns", ())]
    missing = [name for name in columns if name not in there]
    if missing:
        raise ValueError(
            f"the table has no column {', '.join(map(repr, missing))}: pass one that {made_by} "
            f"returns; this has {', '.join(there) or 'none'}"
        )
    if table.empty:
        raise ValueError(
            f"the table has no rows, so there is nothing to show: pass one that {made_by} returns"
        )
