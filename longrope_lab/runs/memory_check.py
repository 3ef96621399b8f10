"""Refuses a run before it begins, whose model does not fit or whose sources are not there."""

from __future__ import annotations

from pathlib import Path

from ..common.files import Json
from ..extend.ready import PLANS
from ..extend.stages import FineTune, Formula
from ..models.loading import too_large
from ..texts.corpora import check_source
from .notebooks import PROFILES
from .preparing import Prepared, prepare


def check_memory(ready: Prepared) -> None:
    """Refuse a run whose model cannot fit, at the longest length of its parameters or its plan.

    Raises:
        ValueError: it cannot; the error gives the numbers, and a smaller profile that can.
    """
    shortage = _shortage(ready.parameters)
    if shortage is None:
        return
    smaller = [p for p in PROFILES[: PROFILES.index(ready.profile)] if _fits(ready, p)]
    way_out = (
        f"--profile {smaller[-1]} fits"
        if smaller
        else "name a smaller model or shorter lengths with -p"
    )
    raise ValueError(
        f"the profile {ready.profile!r} of {ready.notebook.stem} is too large for this machine: "
        f"{ready.parameters['model_name']!r} takes {shortage}: {way_out}"
    )


def check_sources(ready: Prepared) -> None:
    """Refuse a run whose corpora, found scalings or extended model are not there.

    Raises:
        ValueError, FileNotFoundError: one is not.
    """
    for name, value in ready.parameters.items():
        for text in value if isinstance(value, list) else [value]:
            if not text or not isinstance(text, str):  # empty: the notebook does without
                continue
            if "corpus" in name or "corpora" in name or name == "books":
                check_source(text)
            elif name == "extended":
                _check_extended(text, ready.parameters.get("extended_lengths", []))
            elif name == "found" and not Path(text).is_file():
                raise FileNotFoundError(f"found: no scaling at {text}: check the path")


def _check_extended(model: str, lengths: list[int]) -> None:
    shortage = too_large(model, max(lengths, default=0))
    if shortage:
        raise ValueError(f"extended: {model!r} takes {shortage}: name another, or shorter lengths")


def _fits(ready: Prepared, profile: str) -> bool:
    try:
        smaller = prepare(ready.notebook.stem, profile, ready.over)
    except ValueError:  # this notebook has no such profile
        return False
    return _shortage(smaller.parameters) is None


def _shortage(parameters: Json) -> str | None:
    if "model_name" not in parameters:
        return None
    longest = max([*_lengths(parameters), *_of_plan(parameters.get("plan"))], default=0)
    return too_large(parameters["model_name"], longest)


def _lengths(parameters: Json) -> list[int]:
    """The lengths among parameters, but for those of another model."""
    lengths = [
        value
        for name, value in parameters.items()
        if ("length" in name or "target" in name) and name != "extended_lengths"
    ]
    numbers = [n for value in lengths for n in (value if isinstance(value, list) else [value])]
    return [n for n in numbers if isinstance(n, int)]


def _of_plan(name: object) -> list[int]:
    """What the stages of a plan read at a time, in tokens; a formula reads nothing."""
    if not isinstance(name, str) or name not in PLANS:
        return []
    read = [stage for stage in PLANS[name].stages if not isinstance(stage, Formula)]
    return [s.segment_tokens if isinstance(s, FineTune) else s.length for s in read]
