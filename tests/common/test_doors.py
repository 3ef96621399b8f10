"""The door of the package: wrong types are refused by the parameter's name, right ones pass."""

from __future__ import annotations

import dataclasses
import inspect
import os
import pickle
import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Protocol

import numpy as np
import pandas as pd
import pytest
import torch
from numpy.typing import ArrayLike, NDArray

import longrope_lab as lab
from longrope_lab.common.doors import door
from longrope_lab.common.kinds import ANYTHING, kind_of


class Wrong:
    """Nothing that any parameter takes."""

    def __repr__(self):
        return "Wrong()"


def functions(home, of):
    """(Label, function, what comes first) of a function, or of a class and its methods."""
    found = getattr(home, of)
    if isinstance(found, types.FunctionType):
        yield of, found, []
    elif isinstance(found, type):
        for name, member in vars(found).items():
            function = getattr(member, "__func__", member)
            if not isinstance(function, types.FunctionType):
                continue
            if name == "__init__":
                made = object.__new__(found) if dataclasses.is_dataclass(found) else None
                yield of, function, [made]
            elif not name.startswith("_"):
                yield f"{of}.{name}", function, [None] * (not isinstance(member, staticmethod))


PUBLIC = [(home, name) for home in (lab, lab.plots, lab.widgets) for name in home.__all__]
# What takes anything: each has a rule of its own.
FREE = {
    "Explorer.redraw(moved)", "RopeScaling.from_dict(data)",
}  # fmt: skip


def parameters(function):
    """Those that have a name, but for the first of a method."""
    for name, parameter in inspect.signature(function).parameters.items():
        if name not in ("self", "cls") and parameter.kind.name not in (
            "VAR_POSITIONAL",
            "VAR_KEYWORD",
        ):
            yield parameter


@pytest.mark.parametrize(
    ("home", "public"), PUBLIC, ids=lambda each: getattr(each, "__name__", each)
)
def test_a_wrong_type_is_refused_by_the_name_of_its_parameter(home, public):
    for label, function, first in functions(home, public):
        names = inspect.unwrap(function).__globals__
        for parameter in parameters(function):
            if kind_of(parameter.annotation, names) is ANYTHING:
                assert f"{label}({parameter.name})" in FREE
                continue
            by_place = parameter.kind is parameter.POSITIONAL_ONLY
            given = ([*first, Wrong()], {}) if by_place else (first, {parameter.name: Wrong()})
            with pytest.raises(ValueError, match=rf"\b{parameter.name}\b.*Wrong\(\)"):
                function(*given[0], **given[1])


class Method(Protocol):
    def ask(self) -> None: ...


class Asks:
    def ask(self):
        """As a `Method` does."""


NAMES = {**globals(), "Alias": "Sequence[Unknown] | str"}


@pytest.mark.parametrize(
    ("annotation", "takes", "refuses"),
    [
        ("int", [3, np.int64(3), 3.0, torch.tensor(3)], [3.5, True, "3", None, np.nan, [3]]),
        ("float", [3, 0.5, np.float32(0.5), np.inf], [True, "0.5", None, 1j]),
        ("bool", [True, np.True_], [1, 0.0, "yes", None]),
        ("int | None", [None, 3], ["3", 3.5]),
        ("str | os.PathLike[str]", ["x", Path("x")], [3, b"x", None]),
        ("Sequence[int]", [[1], (1, 2), range(3), np.arange(3), []], [3, "12", {1: 2}, [1, "2"]]),
        ("list[str]", [["x"], ("x",)], ["x", [1], None]),
        ("Iterable[int]", [[1], iter([1]), {1: 2}.values()], [1, "1"]),
        ("tuple[int, ...] | str", ["x", [1, 2]], [1, [0.5]]),
        ("Mapping[str, float | None]", [{}, {"x": 1, "y": None}], [{1: 1}, {"x": "y"}, ["x"]]),
        ("Callable[[], int]", [len, lambda: 1], [1, "len"]),
        ("ArrayLike", [1, [1.0, 2], np.ones(2), torch.ones(2), [[1], [2]]], ["1", None, ["1"], {}]),
        ("NDArray[np.float64]", [[1.0], np.ones(2)], ["1", None, np.array(["1"])]),
        ("pd.DataFrame", [pd.DataFrame()], [{}, pd.Series(dtype=float)]),
        ("torch.dtype | None", [torch.float32, None], ["float32"]),
        ("Method", [Asks()], [Asks, 1, "x"]),
        ("Annotated[int, str]", [1, "x"], [None]),
        ("Unknown", [type("Unknown", (), {})()], [1]),
        ("Alias", ["x", [type("Unknown", (), {})()]], [1, [1]]),
        ("PreTrainedModel", [torch.nn.Linear(1, 1)], ["lab", None, 1]),
        ("Any", [None, 1, "x"], []),
    ],
)
def test_what_an_annotation_takes(annotation, takes, refuses):
    kind = kind_of(annotation, NAMES)
    for value in takes:
        assert kind.fault(value) is None, value
    for value in refuses:
        assert kind.fault(value) is not None, value


def drawn(docs: Sequence[int], by: Mapping[str, list[float]] | None = None, *, bold: bool = False):
    """A function with a door."""
    return docs, by, bold


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"docs": [1, "two"]}, r"docs\[1\] is 'two': it must be a whole number"),
        ({"docs": "12"}, "docs is '12': it must be a list of whole numbers"),
        (
            {"docs": [], "by": {"x": [1, None]}},
            r"by\['x'\]\[1\] is None: it must be a number",
        ),
        (
            {"docs": [], "by": 5},
            "by is 5: it must be a dict from texts to lists of numbers or None",
        ),
        ({"docs": [], "bold": "yes"}, "bold is 'yes': it must be True or False"),
        ({"docs": [], "bald": True}, "unknown argument of drawn 'bald': did you mean 'bold'"),
        ({}, "drawn: missing a required argument: 'docs'"),
    ],
)
def test_which_value_is_wrong_and_what_it_must_be(given, words):
    with pytest.raises(ValueError, match=words):
        door(drawn, __name__)(**given)


def test_errors_of_the_function_itself_stay_what_they_are():
    def fails(number: int) -> None:
        raise TypeError("inside")

    with pytest.raises(TypeError, match="inside"):
        door(fails, __name__)(1)


def test_a_public_function_is_found_again_by_pickle_and_reads_as_it_was_written():
    assert pickle.loads(pickle.dumps(lab.perplexity)) is lab.perplexity
    assert pickle.loads(pickle.dumps(lab.plots.perplexity_curves)) is lab.plots.perplexity_curves
    assert list(inspect.signature(lab.token_losses).parameters)[:2] == ["model", "ids"]
    assert lab.RopeScaling is type(lab.rope_scaling(lab.RopeSpec(4, 64, 10.0), "pi", 128))


_ = (Annotated, Any, ArrayLike, Callable, Iterable, NDArray, os)  # named in annotations alone
