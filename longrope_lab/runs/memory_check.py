"""Refuses a run before it begins, whose model does not fit or whose sources are not there."""

from __future__ import annotations

from pathlib import Path

from ..common.files import Json
from ..models.loading import too_large
from ..texts.corpora import check_source
from .notebooks import PROFILES
from .preparing import Prepared, prepare


def check_memory(ready: Prepared) -> None:
    """Refuse a run whose model cannot fit, at the longest of the lengths among its parameters.

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
                too_large(text, 0)
            elif name == "found" and not Path(text).is_file():
                raise FileNotFoundError(f"found: no scaling at {text}: check the path")


def _fits(ready: Prepared, profile: str) -> bool:
    try:
        smaller = prepare(ready.notebook.stem, profile, ready.over)
    except ValueError:  # this notebook has no such profile
        return False
    return _shortage(smaller.parameters) is None


def _shortage(parameters: Json) -> str | None:
    if "model_name" not in parameters:
        return None
    lengths = [v for name, v in parameters.items() if "length" in name or "target" in name]
    numbers = [n for v in lengths for n in (v if isinstance(v, list) else [v])]
    longest = max((n for n in numbers if isinstance(n, int)), default=0)
    return too_large(parameters["model_name"], longest)
