"""The one way to say that a name is not known: name it, offer the nearest, list the choices."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def unknown(kind: str, value: object, choices: Iterable[str]) -> ValueError:
    """A ``ValueError`` for a name that is not among `choices`, offering the nearest one.

    >>> str(unknown("method", "yarm", ["pi", "yarn"]))
    "unknown method 'yarm': did you mean 'yarn'? Known: pi, yarn"
    """
    known = list(choices)
    near = difflib.get_close_matches(str(value), known, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return ValueError(f"unknown {kind} {value!r}: {hint}Known: {', '.join(known) or '(none)'}")
