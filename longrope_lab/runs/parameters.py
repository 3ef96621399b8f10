"""What a parameter of a notebook takes, as its line in the `parameters` cell says it."""

from __future__ import annotations

import ast
import math
import re
import reprlib
from dataclasses import dataclass
from functools import cached_property
from typing import Any

# What a type is called, one and several.
TYPES = {
    "bool": ("true or false", ""),
    "int": ("a whole number", "whole numbers"),
    "float": ("a number", "numbers"),
    "str": ("a text", "texts"),
}

# In the help, what an empty text or list means, and a zero; and the largest number.
EMPTY, ZERO = "empty:", "0:"
AT_MOST = re.compile(r"\bat most (\d+)\b")
# How many values a list has.
COUNT = re.compile(r"\b(at least )?(\d+) of them\b")


@dataclass(frozen=True)
class Parameter:
    """One line of the cell: ``name: type = default  # help``.

    The type is bool, int, float, str, or a list of the last three, such as ``list[int]``. Numbers
    count something, so they are from 1, or above 0 if they may have decimals. They go down to a
    default that is lower, and to 0 if the help says what "0:" means; up to 1 if it says "at most
    1". A text or a list is empty only if the default is, or if the help says what "empty:" means.
    A list has so many values as the help says by "2 of them", or "at least 2 of them".

    Raises:
        ValueError: a type that is none of these, or a default that does not fit it.
    """

    name: str
    type: str
    default: Any
    help: str = ""

    def __post_init__(self) -> None:
        if self._item not in TYPES or (self.takes_list and self._item == "bool"):
            raise ValueError(f"{self.name} has the type {self.type}: it takes bool, int, float, "
                             "str, or a list such as list[int]")  # fmt: skip
        if not self.fits(self.default):
            raise ValueError(f"the default of {self.name} is {self.default!r}: {self.rule}")

    @property
    def takes_list(self) -> bool:
        """Whether a value is a list."""
        return self.type.startswith("list[")

    @property
    def rule(self) -> str:
        """What it takes, in words."""
        one, several = TYPES[self._item]
        bound = f"{' above' if self._open else ' from'} {self._least:g}" if self._numbers else ""
        bound += f" to {self._most:g}" if self._numbers and math.isfinite(self._most) else ""
        empty = ", which may be empty" if self._may_be_empty else ""
        said = COUNT.search(self.help)
        count = f" ({said[1] or ''}{said[2]} of them)" if said else ""
        return f"it takes {f'a list of {several}' if self.takes_list else one}{count}{bound}{empty}"

    def check(self, value: object, notebook: str) -> None:
        """Refuse a value that it does not take.

        Raises:
            ValueError: naming the parameter, the value and the rule.
        """
        if not self.fits(value):
            raise ValueError(
                f"parameter {self.name!r} of {notebook} is {reprlib.repr(value)}: {self.rule}, "
                f"such as {self.default!r}"
            )

    def fits(self, value: object) -> bool:
        """Whether a value is one that it takes."""
        if value in ("", []):
            return self._may_be_empty and isinstance(value, list) == self.takes_list
        if not self.takes_list:
            return self._fits_one(value)
        return (
            isinstance(value, list) and self._fits_count(value) and all(map(self._fits_one, value))
        )

    def _fits_count(self, values: list[object]) -> bool:
        said = COUNT.search(self.help)
        if said is None:
            return True
        return len(values) >= int(said[2]) if said[1] else len(values) == int(said[2])

    def _fits_one(self, value: object) -> bool:
        match self._item:
            case "bool":
                return isinstance(value, bool)
            case "str":
                return isinstance(value, str) and bool(value.strip())
        kinds = int | float if self._item == "float" else int
        if isinstance(value, bool) or not isinstance(value, kinds):
            return False
        enough = value > self._least if self._open else value >= self._least
        return math.isfinite(value) and enough and value <= self._most

    @property
    def _item(self) -> str:
        """The type of one value."""
        return self.type.removeprefix("list[").removesuffix("]")

    @property
    def _numbers(self) -> bool:
        return self._item in ("int", "float")

    @property
    def _may_be_empty(self) -> bool:
        if not (self.takes_list or self.type == "str"):
            return False
        return self.default in ("", []) or EMPTY in self.help

    @property
    def _open(self) -> bool:
        """Whether the least number is itself too low."""
        return self._item == "float" and self._least == 0 and 0 not in self._defaults

    @cached_property
    def _least(self) -> float:
        natural = 0 if self._item == "float" or ZERO in self.help else 1
        return float(min([natural, *self._defaults]))

    @cached_property
    def _most(self) -> float:
        said = AT_MOST.search(self.help)
        return float(said[1]) if said else math.inf

    @property
    def _defaults(self) -> list[float]:
        """The numbers of the default."""
        given = self.default if isinstance(self.default, list) else [self.default]
        return [n for n in given if isinstance(n, int | float) and not isinstance(n, bool)]


def parameters_in(source: str) -> dict[str, Parameter]:
    """The parameters that a cell sets, by name.

    Raises:
        SyntaxError, ValueError: something else stands there.
    """
    found, lines = {}, source.splitlines()
    for statement in ast.parse(source).body:
        match statement:
            case ast.AnnAssign(target=ast.Name(id=name), value=ast.expr() as value):
                assert statement.end_lineno and statement.end_col_offset
                rest = lines[statement.end_lineno - 1].encode()[statement.end_col_offset :]
                words, kind = rest.decode().strip(" #"), ast.unparse(statement.annotation)
                found[name] = Parameter(name, kind, ast.literal_eval(value), words)
            case _:
                raise ValueError(f"line {statement.lineno} sets no parameter")
    return found
