"""Where a search starts: from a formula's factors, or from the upper bounds of its space."""

from __future__ import annotations

from collections.abc import Iterable

from ..common.checks import unknown
from ..rope.methods import METHODS

# Methods that give no factors for a target: a schedule, and the method whose factors are searched.
NO_START = ("dynamic_ntk", "longrope")


def starts_of(initial: str | Iterable[str]) -> tuple[str, ...]:
    """The names of where a search starts, one or several; see `SearchSpace.formula_factors`.

    Raises:
        ValueError: neither the name of a method with factors of its own nor "high".
    """
    names: tuple[object, ...] = (initial,)
    if isinstance(initial, Iterable) and not isinstance(initial, str):
        names = tuple(initial)
    known = [name for name in (*METHODS, "high") if name not in NO_START]
    for name in names:
        if name not in known:
            raise unknown("start of a search", name, known)
    return tuple(map(str, names))
