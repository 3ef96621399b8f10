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

from longrope_lab.extend.ready import PLANS
from longrope_lab.runs import notebooks
from longrope_lab.runs.choices import check_choices
from longrope_lab.runs.parameters import parameters_in
from longrope_lab.runs.preparing import prepare


@pytest.mark.parametrize("path", notebooks.notebooks(), ids=lambda p: p.stem)
def test_parameters_are_those_that_papermill_finds(path):
    theirs = papermill.inspect_notebook(str(path))
    values = {name: yaml.safe_load(str(found["default"])) for name, found in theirs.items()}
    ours = notebooks.parameters_of(path)
    assert {name: each.default for name, each in ours.items()} == values and "out" in ours
    types = {name: found["inferred_type_name"] for name, found in theirs.items()}
    assert {name: each.type for name, each in ours.items()} == types
    assert all(each.help for each in ours.values())


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
    source = ["# a comment\n", "a: float = 1e-4  # its help\n", "b: list[int] = [\n", "    1]"]
    found = notebooks.parameters_of(write_parameters(source))
    assert {name: each.default for name, each in found.items()} == {"a": 1e-4, "b": [1]}
    assert found["a"].help == "its help"
    assert notebooks.parameters_of(write_parameters("")) == {}


@pytest.mark.parametrize(
    "source",
    [
        "a: int",
        "a = 1",
        "print(1)",
        "a: int = f(1)",
        "1 +",
        "a: list = []",
        "a: int = 0.5",
        "a: dict = {}",
        "a: list[int] = ['x']",
    ],
)
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
        ("number: 1.5", "'number' of 00_tiny is 1.5: it takes a whole number from 1, such as 1"),
        ("number:", "'number' of 00_tiny is None: it takes a whole number from 1, such as 1"),
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
    ("line", "takes", "refuses"),
    [
        ("it: int = 4  # documents", [1, 9], [0, -1, 1.5, 2.0, True, "two", None, [1], 1e99]),
        ("it: int = 0  # of the trials", [0, 3], [-1, "abc"]),
        ("it: int = 60  # made here; 0: none", [0, 3], [-1]),
        ("it: int = -1  # the last", [-1, 2], [-2]),
        ("it: float = 0.5  # a share", [1, 0.25], [0, -1, True, "1e-4", None, float("nan")]),
        ("it: bool = True  # whether", [False], [0, "no", None]),
        ('it: str = "kjv"  # a corpus', ["x"], ["", " ", 1, None, ["x"]]),
        ('it: str = ""  # a folder', ["x", ""], [1, []]),
        ('it: str = "x"  # a folder; empty: none', [""], [None]),
        ("it: list[int] = [1]  # tokens", [[2, 3]], [[], [512, "1k"], ["9e99"], 1, "x", [[1]]]),
        ("it: list[float] = [0.0, 1.0]  # depths", [[0, 0.5]], [[-1], ["x"], ""]),
        ("it: list[float] = [0.0]  # depths, at most 1", [[0, 1.0]], [[0, 1.5], [-0.1]]),
        ("it: list[int] = [1]  # workers; empty: none", [[]], [""]),
        ("it: list[str] = []  # files", [[], ["x"]], [[1], "x", [""], None]),
    ],
)
def test_what_a_parameter_takes(line, takes, refuses):
    (it,) = parameters_in(line).values()
    for value in takes:
        it.check(value, "00_tiny")
    for value in refuses:
        with pytest.raises(ValueError, match=r"parameter 'it' of 00_tiny is .*: it takes"):
            it.check(value, "00_tiny")


@pytest.mark.parametrize("name", ["00", "07"])
def test_a_depth_lies_in_the_text(name):
    words = r"'depths' of .* is \[0\.5, 1\.5\]: it takes a list of numbers from 0 to 1, such as"
    with pytest.raises(ValueError, match=words):
        prepare(name, "smoke", {"depths": [0.5, 1.5]})


@pytest.mark.parametrize(
    ("name", "parameter", "value", "words"),
    [
        ("05", "plan", "nope", "unknown plan of 05_progressive_extension 'nope': Known: .*lab"),
        ("03", "preset", "tinny", "unknown preset of 03_search 'tinny': did you mean 'tiny'"),
        ("00", "methods", ["none", "yarm"], "unknown methods of 00_quickstart 'yarm'"),
        ("03", "methods", ["yarn"], "unknown methods of 03_search 'yarn': .*gradient"),
        ("02", "search_method", "nope", "unknown search_method of 02_nonuniformity 'nope'"),
        ("05", "formulas", ["dynamic_ntk"], "unknown formulas of 05_progressive_extension"),
    ],
)
def test_names_are_those_that_the_package_knows(name, parameter, value, words):
    with pytest.raises(ValueError, match=words):
        check_choices([prepare("01", "cpu"), prepare(name, "cpu", {parameter: value})])


def test_a_folder_that_is_written_to_is_no_input(tmp_path):
    """Else a run would count as not done, whose own files another one has written over."""
    for path in notebooks.notebooks():
        known = notebooks.parameters_of(path)
        written = [name for name, each in known.items() if each.help.startswith("folder for")]
        written.remove("out")  # which the runner sets
        ready = prepare(path.stem, "smoke", dict.fromkeys(written, str(tmp_path)))
        assert str(tmp_path) in ready.parameters.values() or not written
        assert ready.inputs() == {}, path.stem


@pytest.mark.parametrize("profile", notebooks.PROFILES)
def test_the_names_of_every_profile_exist(profile):
    check_choices([prepare(path.stem, profile) for path in notebooks.notebooks()])


@pytest.mark.parametrize("profile", notebooks.PROFILES)
def test_the_plan_of_05_extends_once_more_after_its_trainings(profile):
    """Table 9 is of that, and Tables 3 and 5 of a first target that is nearer."""
    plan = PLANS[prepare("05", profile).parameters["plan"]]
    assert plan.trainings[0].length <= plan.trainings[-1].length < plan.reach


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
    outs = [notebooks.parameters_of(path)["out"].default for path in notebooks.notebooks()]
    places = [str(Path(start, out, "table.csv")) for out in outs]
    command = ["git", "-C", str(ROOT), "check-ignore", *places]
    ignored = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    assert ignored.splitlines() == places
