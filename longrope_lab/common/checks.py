"""The one way to refuse a name that is not known, and a number outside its rule: value, rule, way out."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable
from typing import Any


def unknown(kind: str, value: object, choices: Iterable[str]) -> ValueError:
    """A ``ValueError`` for a name that is not among `choices`, offering the nearest one.

    >>> str(unknown("method", "yarm", ["pi", "yarn"]))
    "unknown method 'yarm': did you mean 'yarn'? Known: pi, yarn"
    """
    known = list(choices)
    near = difflib.get_close_matches(str(value), known, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return ValueError(f"unknown {kind} {value!r}: {hint}Known: {', '.join(known) or '(none)'}")


def whole(name: str, value: Any, least: int, rule: str = "") -> int:
    """The value as an int, if it is a whole number of at least `least`.

    Raises:
        ValueError: it is not; the error names the value, and the rule in general words or in those
            given.
    """
    try:
        if int(value) == value and value >= least:
            return int(value)
    except (TypeError, ValueError, OverflowError):  # None or text, NaN, infinity
        pass
    raise ValueError(f"{name} is {value}: {rule or f'it must be a whole number from {least}'}")


def above(name: str, value: Any, bound: int) -> float:
    try:
        if math.isfinite(value) and value > bound:
            return float(value)
    except TypeError:  # None or text
        pass
    raise ValueError(f"{name} is {value}: it must be a finite number above {bound}")
