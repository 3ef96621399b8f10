"""The door of the package: a public function refuses arguments of the wrong type before it begins.

What a parameter takes is read from its annotation, once, at the first call. Inside the package
functions call one another without this check.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import itertools
import re
import reprlib
import types
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from .checks import unknown
from .kinds import ANYTHING, Kind, kind_of

T = TypeVar("T")

# What parameters take: those in order, those that have a name, and all further values.
Kinds = tuple[list[tuple[str, Kind]], Mapping[str, Kind], tuple[str, Kind]]

# On a class that has its door: it gets one only.
MARK = "__has_a_door__"


def door(public: T, home: str) -> T:
    """A public function or class whose arguments are checked; anything else is returned as it is.

    A function comes back as another, which belongs to the module `home`. A class is changed where
    it is: its construction, and its own public methods. A dataclass does nothing while it is made
    but check its fields, so its own words come first, where they name the field.
    """
    if isinstance(public, type):
        if MARK not in vars(public):
            _fit(public)
    elif isinstance(public, types.FunctionType):
        checked = _checked(public)
        checked.__module__ = home  # where it is found again by pickle, too
        return checked  # type: ignore[return-value]
    return public


def _fit(cls: type) -> None:
    setattr(cls, MARK, True)
    for name, member in [*vars(cls).items()]:
        if name != "__init__" and name.startswith("_"):
            continue
        if isinstance(member, types.FunctionType):
            own_first = name == "__init__" and dataclasses.is_dataclass(cls)
            setattr(cls, name, _checked(member, own_first=own_first))
        elif isinstance(member, classmethod | staticmethod):
            setattr(cls, name, type(member)(_checked(member.__func__)))


def _checked(function: Callable[..., Any], *, own_first: bool = False) -> Callable[..., Any]:
    kinds = functools.cache(functools.partial(_kinds, function))

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        if not own_first:
            _check(kinds(), args, kwargs)
        try:
            result = function(*args, **kwargs)
        except TypeError as error:
            _check(kinds(), args, kwargs)
            _check_names(function, args, kwargs, str(error))
            raise
        except (ValueError, AttributeError) as error:
            if own_first:
                _check(kinds(), args, kwargs, but_for=str(error))
            raise
        if own_first:
            _check(kinds(), args, kwargs)
        return result

    return call


def _check(
    kinds: Kinds,
    args: tuple[object, ...],
    kwargs: Mapping[str, object],
    but_for: str = "",
) -> None:
    """Refuse the first argument that is not of its kind, unless these words name it already.

    What is wrong may be a value inside; the error says where.
    """
    in_order, by_name, rest = kinds
    ordered = itertools.chain(in_order, itertools.repeat(rest))
    given = [(name, kind, value) for (name, kind), value in zip(ordered, args, strict=False)]
    given += [(name, by_name[name], value) for name, value in kwargs.items() if name in by_name]
    for name, kind, value in given:
        if name not in but_for and (found := kind.fault(value)):
            place, wrong, rule = found
            raise ValueError(f"{name}{place} is {reprlib.repr(wrong)}: it must be {rule}")


def _kinds(function: Callable[..., Any]) -> Kinds:
    """What a function's parameters take: those in order, all that have a name, and the rest."""
    original = inspect.unwrap(function)
    in_order, by_name, rest = [], {}, ("", ANYTHING)
    for name, parameter in inspect.signature(original).parameters.items():
        kind = kind_of(parameter.annotation, original.__globals__)
        if parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD):
            in_order.append((name, kind))
        if parameter.kind in (parameter.KEYWORD_ONLY, parameter.POSITIONAL_OR_KEYWORD):
            by_name[name] = kind
        if parameter.kind is parameter.VAR_POSITIONAL:
            rest = name, kind
    return in_order, by_name, rest


def _check_names(
    function: Callable[..., Any],
    args: tuple[object, ...],
    kwargs: Mapping[str, object],
    failed: str,
) -> None:
    """Refuse a call that lacks an argument, or has one that the function does not know.

    One that is handed on may be unknown further in, where the call `failed` then.
    """
    signature = inspect.signature(function)
    called = function.__qualname__.removesuffix(".__init__")
    known = [name for name in signature.parameters if name not in ("self", "cls")]
    takes_any = any(p.kind is p.VAR_KEYWORD for p in signature.parameters.values())
    for name in () if takes_any else kwargs:
        if name not in known:
            raise unknown(f"argument of {called}", name, known) from None
    handed_on = re.search(r"unexpected keyword argument '(\w+)'", failed)
    if handed_on and handed_on[1] in kwargs and handed_on[1] not in known:
        raise ValueError(f"{called} has no option {handed_on[1]!r} ({failed}): leave it out")
    try:
        signature.bind(*args, **kwargs)
    except TypeError as error:
        raise ValueError(f"{called}: {error}; it takes {', '.join(known)}") from None
