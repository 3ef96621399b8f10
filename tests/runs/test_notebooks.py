"""Finding notebooks, their profiles and parameters, and refusing what they do not have."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import subprocess
from pathlib import Path

import nbformat
import papermill
import pytest
import yaml
from jupyter_server.serverapp import ServerApp
from jupyter_server.services.contents.largefilemanager import AsyncLargeFileManager

from longrope_lab.runs import notebooks
from longrope_lab.runs.preparing import prepare


@pytest.mark.parametrize("path", notebooks.notebooks(), ids=lambda p: p.stem)
def test_parameters_are_those_that_papermill_finds(path):
    theirs = papermill.inspect_notebook(str(path))
    values = {name: yaml.safe_load(str(found["default"])) for name, found in theirs.items()}
    ours = notebooks.parameters_of(path)
    assert ours == values and "out" in ours
    types = {name: found["inferred_type_name"] for name, found in theirs.items()}
    assert {name: type(value).__name__ for name, value in ours.items()} == types


def test_titles():
    titles = [notebooks.title_of(path) for path in notebooks.notebooks()]
    assert titles[0].startswith("Why a context window breaks")
    assert all(titles) and not any(title.startswith("#") for title in titles)


def write_parameters(source):
    """Make them the parameters of `00_tiny`."""
    path = notebooks.find_notebook("00")
    notebook = json.loads(path.read_text())
    notebook["cells"][1]["source"] = source
    path.write_text(json.dumps(notebook))
    return path


@pytest.mark.usefixtures("own_notebooks")
def test_what_parameters_may_look_like():
    source = ["# a comment\n", "a: float = 1e-4  # its help\n", "b: list = [\n", "    1]"]
    assert notebooks.parameters_of(write_parameters(source)) == {"a": 1e-4, "b": [1]}
    assert notebooks.parameters_of(write_parameters("")) == {}


@pytest.mark.parametrize("source", ["a: int", "a = 1", "print(1)", "a: int = f(1)", "1 +"])
@pytest.mark.usefixtures("own_notebooks")
def test_what_is_not_a_parameter(source):
    path = write_parameters(source)
    with pytest.raises(ValueError, match=r"00_tiny.ipynb cannot be read .*: give each a line of"):
        notebooks.parameters_of(path)


@pytest.mark.parametrize("text", ["<<<<<<< HEAD", "{}", "[]"])
@pytest.mark.usefixtures("own_notebooks")
def test_a_damaged_notebook_is_named(text):
    path = notebooks.find_notebook("00")
    path.write_text(text)
    with pytest.raises(ValueError, match=r"00_tiny.ipynb is not a notebook \(.*\): restore it"):
        prepare("00")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("number: [", r"00_tiny.yaml is not YAML \(.*\): restore it"),
        ("number", r"00_tiny.yaml holds 'number': it takes lines of the form name: value"),
        ("numbr: 1", "unknown parameter of 00_tiny 'numbr': did you mean 'number'"),
        ("model: lab", "unknown parameter of 00_tiny 'model': `model` is now `model_name`"),
        ("number: 1.5", "'number' of 00_tiny is 1.5: it takes a whole number, such as 1"),
        ("number:", "'number' of 00_tiny is None: it takes a whole number, such as 1"),
    ],
)
@pytest.mark.usefixtures("own_notebooks")
def test_a_profile_that_does_not_fit_its_notebook(text, words):
    (notebooks.NOTEBOOKS / "profiles" / "cpu" / "00_tiny.yaml").write_text(text)
    with pytest.raises(ValueError, match=words):
        prepare("00")


@pytest.mark.parametrize(("old", "new"), notebooks.RENAMED.items())
def test_a_renamed_parameter_is_named_by_its_new_name(old, new):
    with pytest.raises(ValueError, match=rf"'{old}': `{old}` is now `{new}`"):
        prepare("05", "smoke", {old: "x"})
    assert prepare("05", "smoke", {new: "x"}).parameters[new] == "x"


@pytest.mark.parametrize(
    ("default", "takes", "refuses"),
    [
        (1, [0, -3], [1.5, True, "1", None, [1]]),
        (0.5, [1, 0.25], [True, "1e-4", None]),
        (True, [False], [0, "no", None]),
        ("", ["x", ""], [1, None, ["x"]]),
        ([1], [[], ["x"]], [1, "x", None]),
    ],
)
def test_values_are_of_the_type_of_the_default(default, takes, refuses):
    for value in takes:
        notebooks.check_parameter("00_tiny", "it", value, {"it": default})
    for value in refuses:
        with pytest.raises(ValueError, match=r"parameter 'it' of 00_tiny is .*: it takes"):
            notebooks.check_parameter("00_tiny", "it", value, {"it": default})


@pytest.mark.usefixtures("own_notebooks")
def test_a_profile_that_a_notebook_lacks():
    with pytest.raises(ValueError, match=r"00_tiny has no profile 'gpu': it has smoke, cpu"):
        prepare("00", "gpu")


def test_no_notebooks_at_all(tmp_path, monkeypatch):
    monkeypatch.setattr(notebooks, "NOTEBOOKS", tmp_path)
    with pytest.raises(ValueError, match="run from a clone"):
        notebooks.find_notebook("00")


# --- in JupyterLab ---

ROOT = notebooks.NOTEBOOKS.parent


@pytest.fixture
def jupyter(tmp_path):
    """The manager of files of the server that `make lab` starts, in a folder of its own."""
    (option,) = re.findall(r"jupyter lab .*--(\S+)", (ROOT / "Makefile").read_text())
    app = ServerApp(runtime_dir=str(tmp_path))
    app.parse_command_line([f"--{option}"])
    folder = tmp_path / "notebooks"
    folder.mkdir()
    return AsyncLargeFileManager(config=app.config, root_dir=str(folder)), folder


def executed(path):
    """A notebook as JupyterLab holds it after Run All."""
    notebook = nbformat.read(path, as_version=4)
    for count, cell in enumerate(notebook.cells):
        if cell.cell_type == "code":
            cell.execution_count = count
            cell.outputs = [nbformat.v4.new_output("stream", text="what came out\n")]
    notebook.metadata.kernelspec.display_name = "Python 3 (ipykernel)"
    notebook.metadata.language_info.version = "3.11.7"
    notebook.metadata.widgets = {"application/vnd.jupyter.widget-state+json": {"state": {}}}
    return notebook


@pytest.mark.parametrize("path", notebooks.notebooks(), ids=lambda p: p.stem)
def test_what_jupyterlab_saves_is_what_was_committed(path, jupyter):
    manager, folder = jupyter
    for name in (path.name, f"{path.stem}-Copy1.ipynb"):
        model = {"type": "notebook", "format": "json", "content": executed(path)}
        asyncio.run(manager.save(model, name))
    assert (folder / path.name).read_bytes() == path.read_bytes()
    assert "what came out" in (folder / f"{path.stem}-Copy1.ipynb").read_text()


@pytest.mark.parametrize("start", ["", "notebooks"], ids=["the clone", "notebooks"])
def test_git_ignores_what_notebooks_write_by_default(start):
    """JupyterLab starts a kernel in the folder of its notebook."""
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("no git repository")
    outs = [notebooks.parameters_of(path)["out"] for path in notebooks.notebooks()]
    places = [str(Path(start, out, "table.csv")) for out in outs]
    command = ["git", "-C", str(ROOT), "check-ignore", *places]
    ignored = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    assert ignored.splitlines() == places
