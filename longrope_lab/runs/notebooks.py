"""The notebooks of the repository, their profiles and their parameters.

Everything here is quick: the command says what is wrong with a name before it loads more.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path

import yaml

from ..common.checks import unknown
from ..common.files import Json, from_json, not_too_deep
from .parameters import Parameter, parameters_in

PROFILES = ("smoke", "cpu", "gpu", "scale", "paper")

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"

# What committed notebooks say of their kernel; JupyterLab would add versions and widgets' states.
KERNEL = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}

# Parameters of the release before, and what they are called now.
RENAMED = {"model": "model_name", "stages": "stages_folder"}


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


def title_of(notebook: Path) -> str:
    """The heading that a notebook opens with."""
    return _source(_cells(notebook)[0]).partition("\n")[0].lstrip("# ")


def code_cells(notebook: Path) -> int:
    """How many cells of a notebook hold code."""
    return sum(cell.get("cell_type") == "code" for cell in _cells(notebook))


def measures_speed(notebook: Path) -> bool:
    """Whether nothing may run beside a notebook: a cell of it has the tag "alone"."""
    return any("alone" in _tags(cell) for cell in _cells(notebook))


def parameters_of(notebook: Path) -> dict[str, Parameter]:
    """The parameters of a notebook, by name.

    They are what the cell with the tag "parameters" sets, as ``name: type = default  # help``.

    Raises:
        ValueError: something else stands in that cell.
    """
    tagged = [cell for cell in _cells(notebook) if "parameters" in _tags(cell)]
    try:
        return parameters_in("\n".join(map(_source, tagged)))
    except (SyntaxError, ValueError) as error:
        raise ValueError(
            f"the parameters of {notebook} cannot be read ({error}): give each a line of the form "
            "name: type = default  # help"
        ) from None


def without_outputs(model: Json, path: str, **_: object) -> None:
    """Make what JupyterLab is about to save the notebook as it is committed.

    It is a `pre_save_hook` of Jupyter's contents manager, and holds for the repository's notebooks:
    a copy under another name keeps its outputs.

    Args:
        model: what is saved; a notebook's content is changed in place.
        path: where it is saved, of which the name alone counts.
    """
    content = model["content"]
    if Path(path).name not in {notebook.name for notebook in notebooks()} or content is None:
        return
    for cell in content["cells"]:
        if cell["cell_type"] == "code":
            cell.update(outputs=[], execution_count=None)
    content["metadata"] = copy.deepcopy(KERNEL)


def _cells(notebook: Path) -> list[Json]:
    try:
        cells: list[Json] = from_json(notebook.read_bytes())["cells"]
        if not [cell["cell_type"] and _source(cell) for cell in cells]:
            raise ValueError("it has no cells")
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{notebook} is not a notebook ({error}): restore it") from None
    return cells


def _tags(cell: Json) -> list[str]:
    tags: list[str] = cell.get("metadata", {}).get("tags", [])
    return tags


def _source(cell: Json) -> str:
    return "".join(cell["source"])  # a text, or a list of lines with their ends


def profile_path(notebook: Path, profile: str) -> Path:
    """Where the parameters are that `profile` sets for a notebook.

    Raises:
        ValueError: an unknown profile, or one that this notebook does not have.
    """
    if profile not in PROFILES:
        raise unknown("profile", profile, PROFILES)
    paths = {name: NOTEBOOKS / "profiles" / name / f"{notebook.stem}.yaml" for name in PROFILES}
    if not paths[profile].is_file():
        has = ", ".join(name for name, path in paths.items() if path.is_file()) or "none"
        raise ValueError(f"notebook {notebook.stem} has no profile {profile!r}: it has {has}")
    return paths[profile]


def profile_parameters(notebook: Path, profile: str) -> Json:
    """What `profile` sets for a notebook, from ``notebooks/profiles/<profile>/<notebook>.yaml``.

    Raises:
        ValueError: an unknown profile, one that this notebook does not have, or a damaged file.
    """
    path = profile_path(notebook, profile)
    try:
        with not_too_deep():
            parameters = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (yaml.YAMLError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{path} is not YAML ({reason}): restore it") from None
    if not isinstance(parameters, dict):
        raise ValueError(f"{path} holds {parameters!r}: it takes lines of the form name: value")
    return parameters


def check_parameter(
    notebook: str, parameter: str, value: object, known: Mapping[str, Parameter]
) -> None:
    """Refuse a parameter that a notebook lacks, or a value that it does not take.

    Args:
        notebook: its name.
        parameter: its name.
        value: what it is set to.
        known: the notebook's parameters (`parameters_of`).

    Raises:
        ValueError: see above; or the parameter is ``out``, which only the runner sets.
    """
    if parameter not in known:
        raise unknown_parameter(f"parameter of {notebook}", parameter, known)
    if parameter == "out":
        raise ValueError(
            "the runner sets 'out' itself: name the folder of the results with --results (results=)"
        )
    known[parameter].check(value, notebook)


def unknown_parameter(kind: str, name: str, known: Mapping[str, object]) -> ValueError:
    """The error for a parameter that is not among `known`; of a renamed one it says the new name.

    Args:
        kind: what it is in words, such as "parameter of 00_quickstart".
        name: the parameter.
        known: those that there are.
    """
    now = RENAMED.get(name)
    if now in known:
        return ValueError(f"unknown {kind} {name!r}: `{name}` is now `{now}`")
    return unknown(kind, name, known)
