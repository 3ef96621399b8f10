"""The texts around the package: short enough, in step with it, and true where they can be run."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import tomllib
from pathlib import Path

import nbformat
import pytest
import yaml

import longrope_lab

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
DOCS = sorted((ROOT / "docs").glob("*.md"))
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
CARD = ROOT / "longrope_lab" / "lab_model" / "README.md"
EXTENDED_CARD = CARD.parent / "extended" / "README.md"
TEXTS = [*sorted(ROOT.glob("*.md")), *DOCS, ROOT / "findings" / "README.md", CARD, EXTENDED_CARD]

# Where a file lies on somebody's machine.
OWN_PATH = re.compile(r"(?<![\w.])/(tmp|work|home|root|Users)/")


def blocks(text, language):
    """The code blocks of a text in one language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


def prose(text):
    """A text without its code blocks."""
    return re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)


def links(text):
    """Where a text's links and pictures lead."""
    return re.findall(r"\]\(([^)\s]+)\)", prose(text))


def named(path):
    """How pytest calls a file."""
    return path.relative_to(ROOT).as_posix()


def test_the_readme_is_read_in_four_minutes():
    assert len(prose(README).split()) < 900
    without_links = re.sub(r"!?\[[^]]*\]\([^)]*\)", "", prose(README))
    assert len(re.findall(r"\d[\d.,]*", without_links)) < 40


@pytest.mark.parametrize(
    "path", [path for path in TEXTS if path not in (CARD, EXTENDED_CARD)], ids=named
)
def test_lines_of_prose_fit_a_screen(path):
    """Rows of a table cannot be broken; those of the README are short all the same."""
    for line in path.read_text(encoding="utf-8").splitlines():
        row = line.startswith("|") and path != ROOT / "README.md"
        assert len(line) <= 120 or row, line


@pytest.mark.parametrize("path", TEXTS, ids=named)
def test_links_lead_to_files(path):
    for link in links(path.read_text(encoding="utf-8")):
        if not link.startswith(("https://", "#")):
            assert (path.parent / link.partition("#")[0]).exists(), link


@pytest.mark.parametrize("path", [*TEXTS, *NOTEBOOKS], ids=named)
def test_no_path_of_one_machine(path):
    if path.name == "LOG.md":
        return
    text = path.read_text(encoding="utf-8")
    if path in NOTEBOOKS:
        text = "\n".join(cell.source for cell in nbformat.reads(text, as_version=4).cells)
    assert not OWN_PATH.search(text)


@pytest.mark.parametrize("path", [ROOT / "README.md", *DOCS], ids=named)
def test_python_uses_names_that_there_are(path):
    for block in blocks(path.read_text(encoding="utf-8"), "python"):
        for node in ast.walk(ast.parse(block)):
            match node:
                case ast.Attribute(value=ast.Name(id="lab"), attr=name):
                    assert name in longrope_lab.__all__, name
                case ast.Attribute(value=ast.Attribute(value=ast.Name(id="lab"), attr=a), attr=b):
                    assert hasattr(getattr(longrope_lab, a), b), f"lab.{a}.{b}"


@pytest.mark.usefixtures("lab")
@pytest.mark.parametrize("block", blocks(README, "python"), ids=["tour", "own model", "scratch"])
def test_the_blocks_of_the_readme_are_scripts(block, tmp_path, monkeypatch, capsys):
    """What writes a folder is run twice: the second time the folder is there."""
    monkeypatch.chdir(tmp_path)
    for _ in range(2 if "save_pretrained" in block else 1):
        exec(compile(block, "README.md", "exec"), {"__name__": "__main__"})
        assert capsys.readouterr().out.count("\n") >= 1


def test_the_readme_has_every_notebook_with_its_minutes():
    rows = re.findall(r"^\| \[\d\d\]\((notebooks/\S+)\) \| .+\? \| (\d+) \|$", README, re.M)
    assert [link for link, _ in rows] == [named(path) for path in NOTEBOOKS]
    for link, minutes in rows:
        run = ROOT / "results" / "cpu" / Path(link).stem / "run.json"
        seconds = json.loads(run.read_text())["wall_seconds"]
        assert abs(int(minutes) - seconds / 60) < 1, f"{link} took {seconds} s"


def test_the_readme_has_every_room():
    (tree,) = blocks(README, "text")
    rooms = re.findall(r"^  (\w+)/ ", tree, re.M)
    assert set(rooms) == {path.parent.name for path in ROOT.glob("longrope_lab/*/__init__.py")}


def exercises(path):
    """How many exercises a notebook has."""
    cells = nbformat.read(path, as_version=4).cells
    texts = [cell.source for cell in cells if cell.cell_type == "markdown"]
    (text,) = [t.partition("**Exercises.**")[2] for t in texts if "**Exercises.**" in t] or [""]
    return len(re.findall(r"(?:^| )\(\d\) ", text))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=named)
def test_every_exercise_has_an_answer(path):
    text = (ROOT / "docs" / "answers.md").read_text(encoding="utf-8")
    section = text.partition(f"\n## {path.stem}\n")[2].partition("\n## ")[0]
    answers = re.findall(r"^\*\*\((\d)\)", section, re.M)
    assert answers == [str(n) for n in range(1, exercises(path) + 1)]


def test_the_citation_is_of_this_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for ours, theirs in {"title": "name", "version": "version", "license": "license"}.items():
        assert citation[ours] == project[theirs]


def test_the_changelog_has_every_renamed_parameter():
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert f"\n## {longrope_lab.__version__}\n" in changes
    for name in ("original_length", "by_length", "until=", "docs=", "model_name", "stages_folder"):
        assert name in changes


def test_binder_installs_what_is_pinned():
    binder = ROOT / ".binder"
    lines = (binder / "requirements.txt").read_text().splitlines()
    options = dict(line.split() for line in lines if not line.startswith("#"))
    assert (binder / options["-c"]).resolve() == ROOT / "constraints.txt"
    assert options["-e"] == "." and options["--extra-index-url"].endswith("/whl/cpu")
    assert len(options) == 3  # every other version is that of the constraints
    python = (binder / "runtime.txt").read_text().strip().replace("-", " ").capitalize()
    assert python in (ROOT / "constraints.txt").read_text().partition("\n")[0]
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    assert python.lower().replace(" ", "=") in environment["dependencies"]


def test_binder_starts_among_the_notebooks(tmp_path):
    """Its server is started by this script, in the clone or elsewhere."""
    started = subprocess.run(
        [ROOT / ".binder" / "start", "ls"], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert {path.name for path in NOTEBOOKS} <= set(started.stdout.split())
