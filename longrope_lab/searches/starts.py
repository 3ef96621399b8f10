"""Where a search starts: from a formula's factors within the bounds, or from the upper bounds."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from ..common.checks import unknown
from ..rope.methods import METHODS, rope_scaling
from ..rope.scaling import RopeScaling
from ..rope.spec import Floats
from .space import SearchSpace

# Methods that give no factors for a target: a schedule, and the method whose factors are searched.
NO_START = ("dynamic_ntk", "longrope")


def starts_of(initial: str | Iterable[str]) -> tuple[str, ...]:
    """The names of where a search starts, one or several.

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


def start_factors(space: SearchSpace, name: str) -> Floats:
    """A method's factors within the bounds of a space, (d/2,); of "high", the upper bounds.

    Raises:
        ValueError: the method gives a schedule.
    """
    low, high = space.bounds
    if name == "high":
        return high
    scaling = rope_scaling(space.spec, name, space.target_length)
    if not isinstance(scaling, RopeScaling):
        raise ValueError(
            f"the method {name!r} gives a schedule, and a search starts from the factors of one "
            "target: name another start"
        )
    return np.clip(scaling.factors, low, high)


def start_attention_factor(space: SearchSpace, name: str) -> float:
    """The m that goes with `start_factors`: the space's default, within its range.

    Of "none" it is 1 where it is searched, and of "high" the highest.
    """
    if space.searched_attention_factors is None:
        return space.default_attention_factor
    lowest, highest = space.searched_attention_factors
    if name == "high":
        return highest
    m = 1.0 if name == "none" else space.default_attention_factor
    return float(np.clip(m, lowest, highest))
