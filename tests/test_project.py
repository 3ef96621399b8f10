"""The files around the package stay in step with it."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
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
SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT = SETTINGS["project"]
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


def test_make_says_what_installing_takes_before_it_starts(tmp_path):
    """As README says it; and nothing once it is installed."""
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)
    python = tmp_path / ".venv" / "bin" / "python"  # in its place, a program that does nothing
    python.parent.mkdir(parents=True)
    python.symlink_to(shutil.which("true"))
    command = [
        "make",
        "-C",
        str(tmp_path),
        "--no-print-directory",
        ".venv/installed",
        "PYTHON=true",
    ]
    first, again = (
        subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
        for _ in range(2)
    )
    begins = next(number for number, line in enumerate(first) if line.startswith("true -m venv"))
    said = " ".join(first[:begins])
    cost = re.search(r"(\d+ s) and ([\d.]+ GB)", (ROOT / "README.md").read_text())
    assert begins <= 2 and all(number in said for number in cost.groups())
    assert max(map(len, first[:begins])) <= 90
    assert not any("GB" in line for line in again)


def test_version():
    assert lab.__version__ == PROJECT["version"]


def test_an_installation_has_every_file_of_the_package():
    package_data = SETTINGS["tool"]["setuptools"]["package-data"]
    patterns = {
        name.replace(".", "/") + "/" + pattern
        for name, of in package_data.items()
        for pattern in of
    }
    for path in (ROOT / "longrope_lab").rglob("*"):
        if path.is_file() and path.suffix not in (".py", ".pyc"):
            assert any(path.relative_to(ROOT).match(pattern) for pattern in patterns), path


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def notebook(request):
    """Each notebook in turn."""
    return nbformat.read(request.param, as_version=4)


def code_of(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def test_a_notebook_opens_with_a_title_and_its_parameters(notebook):
    assert notebook.metadata.kernelspec.name == "python3"
    assert notebook.cells[0].cell_type == "markdown" and notebook.cells[0].source.startswith("# ")
    tags = [cell.metadata.get("tags", []) for cell in notebook.cells]
    assert [i for i, these in enumerate(tags) if "parameters" in these] == [1]
    for line in notebook.cells[1].source.splitlines():
        assert re.fullmatch(r"\w+: [\w[\]]+ = .+  # .+", line), (
            f"not 'name: type = default  # help': {line}"
        )


def test_a_notebook_is_committed_without_outputs(notebook):
    assert all(cell.outputs == [] and cell.execution_count is None for cell in code_of(notebook))


def test_a_notebook_holds_no_logic(notebook):
    """It belongs in the package: a cell calls it, in a few lines."""
    for cell in code_of(notebook):
        assert not re.search(r"^\s*(def|class) ", cell.source, re.MULTILINE), cell.source
        assert len(cell.source.splitlines()) <= 15 or cell == notebook.cells[1], cell.source


def test_a_notebook_uses_no_old_names(notebook):
    for cell in notebook.cells:
        assert not re.search(r"RopeSchedule\.stages|\boriginal_length\b", cell.source), cell.source
    parameters = runs.RENAMED.keys()
    assert not any(re.search(rf"^{old}: ", notebook.cells[1].source, re.M) for old in parameters)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
@pytest.mark.parametrize("profile", runs.PROFILES)
def test_every_profile_sets_only_what_the_notebook_has(path, profile):
    known = runs.parameters_of(path)
    for name, value in runs.profile_parameters(path, profile).items():
        runs.check_parameter(path.stem, name, value, known)


def kept_results(pattern):
    """Files under results/ that are committed.

    What notebooks go on from is not: .gitignore names its folders.
    """
    unkept = {"scratch", "checkpoints", "stages", "extended"}
    files = [path for path in (ROOT / "results").rglob(pattern) if path.is_file()]
    return [path for path in files if unkept.isdisjoint(path.relative_to(ROOT).parts)]


def test_results_name_their_origin():
    for folder in {path.parent for path in kept_results("*.csv")}:
        origin = json.loads((folder / "run.json").read_text())
        uncommitted = f"{folder} comes from code that was not committed"
        assert re.fullmatch(r"[0-9a-f]{40}", origin["commit"]), uncommitted
        assert (folder / f"{origin['notebook']}.ipynb").is_file()


def test_repository_stays_light():
    sizes = {path: path.stat().st_size for path in kept_results("*")}
    assert sum(sizes.values()) < 30e6
