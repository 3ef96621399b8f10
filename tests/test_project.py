"""The files around the package stay in step with it."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path

import nbformat
import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

import longrope_lab as lab
from longrope_lab.runs import notebooks as runs

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def test_environment_installs_this_package_on_a_python_it_supports():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    assert environment["name"] == PROJECT["name"]
    conda = [d for d in environment["dependencies"] if isinstance(d, str)]
    (pip,) = [d["pip"] for d in environment["dependencies"] if isinstance(d, dict)]
    (python,) = [d for d in conda if d.startswith("python=")]
    assert SpecifierSet(PROJECT["requires-python"]).contains(python.removeprefix("python="))
    editable = [line for line in pip if line.startswith("-e .")]
    extras = set(re.findall(r"\[(.*)\]", editable[0])[0].split(","))
    assert extras == set(PROJECT["optional-dependencies"])  # a new extra must be listed
    assert "-c constraints.txt" in pip
    # Everything else comes through the package's own requirements, so that there is one list.
    assert len(pip) == 2 and set(conda) == {python, "pip"}


def test_constraints_pin_every_requirement_inside_its_range():
    lines = [
        line
        for line in (ROOT / "constraints.txt").read_text().splitlines()
        if not line.startswith("#")
    ]
    pins = {
        name.lower().replace("_", "-"): version
        for name, version in (line.split("==") for line in lines)
    }
    wanted = [
        *PROJECT["dependencies"],
        *(r for extra in PROJECT["optional-dependencies"].values() for r in extra),
    ]
    for requirement in map(Requirement, wanted):
        version = pins[requirement.name.lower().replace("_", "-")]
        assert requirement.specifier.contains(version), requirement


def test_version_and_public_names():
    assert lab.__version__ == PROJECT["version"]
    assert all(hasattr(lab, name) for name in lab.__all__)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_notebook_conventions(path):
    notebook = nbformat.read(path, as_version=4)
    assert notebook.metadata.kernelspec.name == "python3"
    assert notebook.cells[0].cell_type == "markdown" and notebook.cells[0].source.startswith("# ")
    tagged = [
        i for i, cell in enumerate(notebook.cells) if "parameters" in cell.metadata.get("tags", [])
    ]
    assert tagged == [1]
    for line in notebook.cells[1].source.splitlines():
        assert re.fullmatch(r"\w+: \w+ = .+  # .+", line), (
            f"not 'name: type = default  # help': {line}"
        )
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert cell.outputs == [] and cell.execution_count is None
            assert not re.search(r"^\s*(def|class) ", cell.source, re.MULTILINE), (
                "logic belongs in the package"
            )


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
@pytest.mark.parametrize("profile", runs.PROFILES)
def test_every_profile_sets_only_what_the_notebook_has(path, profile):
    import papermill

    assert set(runs.profile_parameters(path, profile)) <= set(papermill.inspect_notebook(str(path)))


def kept_results(pattern):
    """Files under results/ that are committed: not what notebooks go on from (.gitignore names the folders)."""
    unkept = {"scratch", "checkpoints", "stages", "extended"}
    files = [path for path in (ROOT / "results").rglob(pattern) if path.is_file()]
    return [path for path in files if unkept.isdisjoint(path.relative_to(ROOT).parts)]


def test_results_name_their_origin():
    for folder in {path.parent for path in kept_results("*.csv")}:
        origin = json.loads((folder / "run.json").read_text())
        assert re.fullmatch(r"[0-9a-f]{40}", origin["commit"]), (
            f"{folder} comes from uncommitted code"
        )
        assert (folder / f"{origin['notebook']}.ipynb").is_file()


def test_repository_stays_light():
    sizes = {path: path.stat().st_size for path in kept_results("*")}
    assert sum(sizes.values()) < 30e6
