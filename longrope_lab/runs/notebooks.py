"""The notebooks of the repository, their profiles and parameters."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from ..common.checks import unknown
from ..common.files import Json

PROFILES = ("smoke", "cpu", "gpu", "paper")


NOTEBOOKS = Path(__file__).parents[2] / "notebooks"


def notebooks() -> list[Path]:
    """The numbered notebooks of the repository, in order."""
    return sorted(NOTEBOOKS.glob("[0-9][0-9]_*.ipynb"))


def find_notebook(name: str) -> Path:
    """The notebook called `name`: its whole name, or its number alone.

    Raises:
        ValueError: no such notebook; the nearest is offered.
    """
    known = {path.stem: path for path in notebooks()}
    if not known:
        raise ValueError(
            f"no notebooks in {NOTEBOOKS}: run from a clone of the repository (pip install -e .)"
        )
    matches = [path for stem, path in known.items() if name in (stem, stem[:2])]
    if not matches:
        raise unknown("notebook", name, known)
    return matches[0]


def profile_parameters(notebook: Path, profile: str) -> Json:
    """What `profile` sets for a notebook: the content of
        ``notebooks/profiles/<profile>/<notebook>.yaml``.

    Raises:
        ValueError: an unknown profile, or one that this notebook does not have.
    """
    if profile not in PROFILES:
        raise unknown("profile", profile, PROFILES)
    path = NOTEBOOKS / "profiles" / profile / f"{notebook.stem}.yaml"
    if not path.is_file():
        has = [p for p in PROFILES if (NOTEBOOKS / "profiles" / p / path.name).is_file()]
        raise ValueError(
            f"notebook {notebook.stem} has no profile {profile!r}: it has {', '.join(has) or 'none'}"
        )
    return dict(yaml.safe_load(path.read_text(encoding="utf-8")) or {})


def parameters_of(notebook: Path) -> Json:
    """The parameters of a notebook, with their defaults."""
    import papermill

    return {
        k: yaml.safe_load(str(v["default"]))
        for k, v in papermill.inspect_notebook(str(notebook)).items()
    }


def check_parameter(
    notebook: Path, parameter: str, value: Any, defaults: Mapping[str, Any]
) -> None:
    if parameter not in defaults:
        raise unknown(f"parameter of {notebook.stem}", parameter, defaults)
    if parameter == "out":
        raise ValueError(
            "the runner sets 'out' itself: name the folder of the results with --results (results=)"
        )
    default = defaults[parameter]
    if isinstance(default, list) != isinstance(value, list):
        wanted = (
            f"a list, such as {default}"
            if isinstance(default, list)
            else f"one value, such as {default!r}"
        )
        raise ValueError(
            f"parameter {parameter!r} of {notebook.stem} is {value!r}: it takes {wanted}"
        )
