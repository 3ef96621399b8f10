"""Names of the release before: they work for one more release, and warn with the new name."""

from __future__ import annotations

import functools
import importlib
import sys
import warnings
from collections.abc import Callable, Mapping
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")

# The module whose frames stand between a caller and a public function.
DOORS = "longrope_lab.common.doors"


def warn_renamed(old: str, new: str, *, depth: int = 3) -> None:
    """Warn at the line that used the old name, with a warning that Python shows without asking.

    That line is so many calls up; a public function's door is none of them.
    """
    words = f"{old} is now {new}; the old name goes with the next release"
    warnings.warn(words, FutureWarning, stacklevel=_levels(depth))


def _levels(depth: int) -> int:
    """How many levels of the stack so many calls are, seen from the function that calls this."""
    frame, levels, left = sys._getframe(1), 1, depth - 1
    while left > 0 and frame.f_back is not None:
        frame, levels = frame.f_back, levels + 1
        left -= frame.f_globals.get("__name__") != DOORS
    return levels


def renamed_arguments(**names: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Decorator: take keyword arguments by their old names as well, given as ``old="new"``.

    Where a call holds both, the old one counts. ``dataclasses.replace`` passes every field by its
    new name, and the old name is then what the caller wrote.
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        @functools.wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            known = _translated(function.__qualname__, kwargs, names)
            return function(*args, **known)  # type: ignore[arg-type]

        return call

    return decorate


def renamed_fields(**names: str) -> Callable[[type[T]], type[T]]:
    """Class decorator: take and give a dataclass's fields by their old names as well."""

    def decorate(cls: type[T]) -> type[T]:
        cls.__init__ = renamed_arguments(**names)(cls.__init__)  # type: ignore[method-assign]
        for old, new in names.items():
            setattr(cls, old, property(functools.partial(_old_attribute, cls.__name__, old, new)))
        return cls

    return decorate


def former_module(room: str, **modules: str) -> Callable[[str], object]:
    """The ``__getattr__`` of a room that has the name of a former module, for what that held.

    Args:
        room: the room's full name.
        modules: the module of the room in which each name is now.
    """

    def former(name: str) -> object:
        if name not in modules:
            raise AttributeError(f"module {room!r} has no attribute {name!r}")
        where = f"{room}.{modules[name]}"
        warn_renamed(f"{room}.{name}", f"{where}.{name}")
        return getattr(importlib.import_module(where), name)

    return former


def _translated(
    where: str, given: Mapping[str, object], names: Mapping[str, str]
) -> dict[str, object]:
    kwargs = dict(given)
    for old in [name for name in names if name in kwargs]:
        warn_renamed(f"{old}= of {where.removesuffix('.__init__')}", f"{names[old]}=", depth=4)
        kwargs[names[old]] = kwargs.pop(old)
    return kwargs


def _old_attribute(cls: str, old: str, new: str, instance: object) -> object:
    warn_renamed(f"{cls}.{old}", f"{cls}.{new}")
    return getattr(instance, new)
