"""What a value may be, read from an annotation: whether it fits, and the rule in words."""

from __future__ import annotations

import builtins
import collections.abc
import os
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import InitVar
from numbers import Complex, Integral, Real
from typing import Annotated

# Where in a value something is wrong, what stands there, and what should.
Fault = tuple[str, object, str]


class Kind:
    """What a value may be.

    Args:
        one, many: the rule in words, as in "a number" and "numbers".
        fits: whether a value is of that kind, whatever is in it.
        inside: what is in it, each with its place and its own kind.
    """

    def __init__(
        self,
        one: str,
        many: str,
        fits: Callable[[object], bool],
        inside: Callable[[object], Iterable[tuple[str, object, Kind]]] | None = None,
    ) -> None:
        self.one, self.many, self.fits, self.inside = one, many, fits, inside

    def fault(self, value: object) -> Fault | None:
        """What is wrong with a value; None if it fits."""
        if not self.fits(value):
            return "", value, self.one
        if self.inside is not None:
            for place, item, kind in self.inside(value):
                if found := kind.fault(item):
                    return place + found[0], found[1], found[2]
        return None


class Either(Kind):
    """One of several kinds."""

    def __init__(self, kinds: Iterable[Kind]) -> None:
        self.kinds = tuple(kinds)
        one, many = _either(k.one for k in self.kinds), _either(k.many for k in self.kinds)
        super().__init__(one, many, lambda value: self.fault(value) is None)

    def fault(self, value: object) -> Fault | None:
        """What is wrong with a value that fits none of them."""
        inside = None
        for kind in self.kinds:
            found = kind.fault(value)
            if found is None:
                return None
            # Where the outside fits, that kind says what is wrong inside.
            inside = inside or (found if found[0] else None)
        return inside or ("", value, self.one)


def _either(words: Iterable[str]) -> str:
    *first, last = dict.fromkeys(words)
    return f"{', '.join(first)} or {last}" if first else last


def kind_of(annotation: object, names: Mapping[str, object]) -> Kind:
    """The kind that an annotation states.

    Args:
        annotation: as ``inspect.signature`` gives it: mostly a text, which is evaluated here.
        names: those of its module. What only type checkers import is known by its name alone.
    """
    if isinstance(annotation, str):
        annotation = eval(annotation, {}, _Names(names))
        return kind_of(annotation, names)
    if isinstance(annotation, InitVar):
        return kind_of(annotation.type, names)
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is collections.abc.Callable:
        return Kind("a function", "functions", callable)
    if origin is Annotated:  # what is taken besides, as long as old names are
        arguments = (arguments[0], *getattr(annotation, "__metadata__", ()))
    if origin in (Annotated, typing.Union, types.UnionType):
        kinds = [kind_of(each, names) for each in arguments]
        # An empty path would be the current folder. What takes arrays, too, takes whole texts.
        if KINDS["PathLike"] in kinds and ARRAY not in kinds:
            kinds = [NAME if kind is KINDS["str"] else kind for kind in kinds]
        return Either(kinds)
    if not isinstance(origin, type):
        return _plain(annotation)
    return _generic(origin, [kind_of(each, names) for each in arguments if each is not ...])


def _generic(origin: type, items: list[Kind]) -> Kind:
    """The kind of ``list[int]``, ``Mapping[str, float]`` and so on."""
    if issubclass(origin, collections.abc.Mapping):
        words = f"from {items[0].many} to {items[1].many}"
        return Kind(f"a dict {words}", f"dicts {words}", _is_mapping, _entries(*items))
    if origin.__name__ != "ndarray" and issubclass(origin, collections.abc.Iterable):
        words = f" of {items[0].many}"
        fits = _is_list if issubclass(origin, collections.abc.Sequence) else _is_iterable
        return Kind(f"a list{words}", f"lists{words}", fits, _items(items[0]))
    return _plain(origin)


def _plain(annotation: object) -> Kind:
    """The kind of a class; anything for what is none."""
    name = getattr(annotation, "__name__", "")
    if annotation in (None, types.NoneType):
        return Kind("None", "None", lambda value: value is None)
    if name in KINDS or not isinstance(annotation, type):
        return KINDS.get(name, ANYTHING)
    words = f"{'an' if name[:1] in 'AEIOU' else 'a'} {name}", name
    if getattr(annotation, "_is_protocol", False):
        methods = [method for method in vars(annotation) if not method.startswith("_")]
        return Kind(*words, lambda value: _has(value, methods))
    if isinstance(annotation, _Stranger):
        return Kind(*words, lambda value: _is_called(name, value))
    return Kind(*words, lambda value: isinstance(value, annotation))


class _Stranger(type):
    """A class that stands for one that only type checkers import."""

    def __getattr__(cls, name: str) -> _Stranger:
        if name.startswith("_"):
            raise AttributeError(name)
        return _Stranger(name, (), {})


class _Names(dict[str, object]):
    """The names that an annotation may use."""

    def __getitem__(self, name: str) -> object:
        if name == "ArrayLike":  # to numpy, texts are
            return _Stranger(name, (), {})
        for names in (self, vars(builtins), vars(typing), vars(collections.abc), {"os": os}):
            if name in names:
                return names.get(name)
        return _Stranger(name, (), {})


def _is_whole(value: object) -> bool:
    if type(value) is int:
        return True
    value = _number(value)
    if not _is_number(value):
        return False
    return isinstance(value, Integral) or float(value).is_integer()  # type: ignore[arg-type]


def _is_number(value: object) -> bool:
    return isinstance(_number(value), Real) and not _is_bool(value)


def _is_bool(value: object) -> bool:
    return isinstance(_number(value), bool)


def _number(value: object) -> object:
    """A value as it is, or the number in an array or tensor without dimensions."""
    if getattr(value, "ndim", None) == 0 and hasattr(value, "item"):
        return value.item()
    return value


def _is_numeric(value: object) -> bool:
    """Whether an array of numbers could be made of a value; none is made."""
    if isinstance(value, list | tuple):
        return all(map(_is_numeric, value))
    if hasattr(value, "dtype"):  # torch's has no kind
        return getattr(value.dtype, "kind", "f") in "biufc"
    return isinstance(value, Complex | range) or hasattr(value, "__array__")


def _is_mapping(value: object) -> bool:
    return isinstance(value, Mapping)


def _is_iterable(value: object) -> bool:
    if getattr(value, "ndim", 1) == 0 or isinstance(value, str | bytes | Mapping | type):
        return False
    return hasattr(value, "__iter__")


def _is_list(value: object) -> bool:
    """Whether it is a list, or something like it: a tuple, an array, a column of a table."""
    return (
        _is_iterable(value) and hasattr(value, "__len__") and not isinstance(value, set | frozenset)
    )


def _items(kind: Kind) -> Callable[[object], Iterator[tuple[str, object, Kind]]]:
    def inside(value: object) -> Iterator[tuple[str, object, Kind]]:
        # An iterator can be read only once.
        if isinstance(value, collections.abc.Iterable) and hasattr(value, "__len__"):
            yield from ((f"[{i}]", item, kind) for i, item in enumerate(value))

    return inside


def _entries(keys: Kind, values: Kind) -> Callable[[object], Iterator[tuple[str, object, Kind]]]:
    def inside(value: object) -> Iterator[tuple[str, object, Kind]]:
        assert isinstance(value, collections.abc.Mapping)
        for key, item in value.items():
            yield f" (its key {key!r})", key, keys
            yield f"[{key!r}]", item, values

    return inside


def _has(value: object, methods: Iterable[str]) -> bool:
    """Whether a value has some of these methods: one of somebody else's may lack the others."""
    if isinstance(value, type):
        return False
    return any(callable(getattr(value, method, None)) for method in methods)


def _is_called(name: str, value: object) -> bool:
    """Whether a value is of a class of this name, or of one derived from it."""
    return any(cls.__name__ == name for cls in type(value).__mro__)


def _is_tokenizer(value: object) -> bool:
    return callable(value) and not isinstance(value, type) and not _is_called("Module", value)


def _is_name(value: object) -> bool:
    if not isinstance(value, str) or not value or "\0" in value:
        return False
    parts = value.encode("utf-8", "surrogatepass").split(b"/")
    return max(map(len, parts)) <= LONGEST_NAME


ANYTHING = Kind("anything", "anything", lambda value: True)
LONGEST_NAME = 255  # bytes, on the file systems of today
RULE = f"(not empty, no null character, at most {LONGEST_NAME} bytes between slashes)"
NAME = Kind(f"a text {RULE}", f"texts {RULE}", _is_name)
ARRAY = Kind("a number, or a list or array of numbers", "arrays of numbers", _is_numeric)

# By the name of the class. A model of peft's is no PreTrainedModel, and works.
KINDS = {
    "object": ANYTHING,
    "Any": ANYTHING,
    "_empty": ANYTHING,  # no annotation
    "bool": Kind("True or False", "True or False", _is_bool),
    "int": Kind("a whole number", "whole numbers", _is_whole),
    "float": Kind("a number", "numbers", _is_number),
    "str": Kind("a text", "texts", lambda value: isinstance(value, str)),
    "PathLike": Kind("a path", "paths", lambda value: isinstance(value, os.PathLike)),
    "ArrayLike": ARRAY,
    "ndarray": ARRAY,
    "DataFrame": Kind(
        "a table (a pandas DataFrame)", "tables", lambda value: _is_called("DataFrame", value)
    ),
    "PreTrainedModel": Kind(
        "a model, as load_model returns it", "models", lambda value: _is_called("Module", value)
    ),
    "PreTrainedTokenizerBase": Kind(
        "a tokenizer, as load_model returns it", "tokenizers", _is_tokenizer
    ),
}
