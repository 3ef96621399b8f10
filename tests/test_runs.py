"""Running notebooks: parameters, what is kept, what a failure leaves behind; and the command line on top."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from longrope_lab import cli, runs
from longrope_lab.methods import rope_scaling
from longrope_lab.rope import RopeScaling, RopeSpec
from longrope_lab.schedule import RopeSchedule

NOTEBOOKS = sorted(path.stem for path in runs.NOTEBOOKS.glob("*.ipynb"))


@pytest.fixture
def own_notebooks(tmp_path, monkeypatch):
    """A folder with one tiny notebook `00_tiny`, which fails if its parameter `fail` says so."""
    folder = tmp_path / "notebooks"
    notebook = nbformat.v4.new_notebook(
        metadata={"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    )
    parameters = nbformat.v4.new_code_cell(
        "number: int = 1  # a number\nfail: bool = False  # whether to fail\n"
        'seed: int = 0  # unused\nout: str = "x"  # folder'
    )
    parameters.metadata["tags"] = ["parameters"]
    work = nbformat.v4.new_code_cell(
        "import pandas as pd\nfrom longrope_lab.runs import record\n"
        "record(out, table=pd.DataFrame({'number': [number]}))\nassert not fail"
    )
    notebook.cells = [nbformat.v4.new_markdown_cell("# A tiny notebook"), parameters, work]
    for profile in ("smoke", "cpu"):
        (folder / "profiles" / profile).mkdir(parents=True)
        (folder / "profiles" / profile / "00_tiny.yaml").write_text("number: 2\n")
    nbformat.write(notebook, folder / "00_tiny.ipynb")
    monkeypatch.setattr(runs, "NOTEBOOKS", folder)
    return tmp_path / "results"


def test_run_keeps_notebook_tables_and_origin(own_notebooks, monkeypatch):
    monkeypatch.setenv("LONGROPE_LAB_COMMIT", "f" * 40)  # the folder is in no repository
    folder = runs.run("00", "smoke", {"seed": 7}, own_notebooks)
    assert folder == own_notebooks / "smoke" / "00_tiny"
    assert pd.read_csv(folder / "table.csv")["number"].tolist() == [2]
    assert nbformat.read(folder / "00_tiny.ipynb", as_version=4).cells[-1].execution_count is not None
    origin = json.loads((folder / "run.json").read_text())
    assert origin["parameters"] == {"number": 2, "fail": False, "seed": 7, "out": folder.as_posix()}
    assert origin["seed"] == 7 and origin["profile"] == "smoke" and origin["commit"] == "f" * 40
    assert origin["versions"]["torch"] and origin["wall_seconds"] > 0


def test_a_failed_run_leaves_the_earlier_one(own_notebooks):
    import papermill

    folder = runs.run("00_tiny", "cpu", {"number": 3}, own_notebooks)
    with pytest.raises(papermill.PapermillExecutionError):
        runs.run("00_tiny", "cpu", {"number": 4, "fail": True}, own_notebooks)
    assert pd.read_csv(folder / "table.csv")["number"].tolist() == [3]
    assert (folder / "run.json").is_file()
    assert pd.read_csv(own_notebooks / "cpu" / "00_tiny.failed" / "table.csv")["number"].tolist() == [4]
    runs.run("00_tiny", "cpu", {"number": 5}, own_notebooks)
    assert sorted(p.name for p in (own_notebooks / "cpu").iterdir()) == ["00_tiny"]


def test_a_killed_run_loses_nothing(own_notebooks, monkeypatch):
    """Killed, a run leaves the earlier results aside and its own folder unfinished; the next one must not drop both."""
    import papermill

    folder = runs.run("00_tiny", "cpu", {"number": 3}, own_notebooks)
    folder.rename(folder.with_suffix(".before"))
    folder.mkdir()
    with pytest.raises(papermill.PapermillExecutionError):
        runs.run("00_tiny", "cpu", {"fail": True}, own_notebooks)
    assert pd.read_csv(folder / "table.csv")["number"].tolist() == [3]


def test_a_kernel_that_dies(own_notebooks, monkeypatch, capsys):
    from nbclient.exceptions import DeadKernelError

    def dies(*_, **__):
        raise DeadKernelError("Kernel died")

    monkeypatch.setattr("papermill.execute_notebook", dies)
    assert cli.main(["run", "00", "--results", str(own_notebooks)]) == 1
    assert "00: Kernel died. Perhaps memory ran out" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "00_quikstart"], "unknown notebook '00_quikstart': did you mean '00_quickstart'"),
        (["run", "00", "--profile", "cpuu"], "unknown profile 'cpuu': did you mean 'cpu'"),
        (["run", "00", "-p", "length=[512]"], "unknown parameter of 00_quickstart 'length': did you mean 'lengths'"),
        (["run", "00", "-p", "lengths"], "-p takes name=value"),
        (["run", "00", "-p", "lengths=[512"], "is not YAML"),
        (["run", "00", "-p", "lengths=512"], "'lengths' of 00_quickstart is 512: it takes a list, such as [256, 512"),
        (["run", "00", "-p", "seed=[1]"], "'seed' of 00_quickstart is [1]: it takes one value, such as 0"),
        (
            ["run", "00", "-p", "out=elsewhere"],
            "the runner sets 'out' itself: name the folder of the results with --results",
        ),
    ],
)
def test_command_line_says_what_is_wrong(arguments, message, capsys, tmp_path):
    assert cli.main([*arguments, *(["--results", str(tmp_path)])]) == 2
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []  # nothing was begun


def test_a_profile_that_a_notebook_lacks(own_notebooks):
    with pytest.raises(ValueError, match=r"00_tiny has no profile 'gpu': it has smoke, cpu"):
        runs.run("00", "gpu", results=own_notebooks)


def test_no_notebooks_at_all(tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "NOTEBOOKS", tmp_path)
    with pytest.raises(ValueError, match="run from a clone"):
        runs.find_notebook("00")


def test_list(capsys):
    assert cli.main(["list"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == NOTEBOOKS


def test_run_of_several_and_fetch(own_notebooks, monkeypatch, capsys):
    assert cli.main(["run", "all", "--profile", "smoke", "--results", str(own_notebooks), "-p", "number=9"]) == 0
    assert pd.read_csv(own_notebooks / "smoke" / "00_tiny" / "table.csv")["number"].tolist() == [9]
    monkeypatch.setattr("longrope_lab.models.fetch_smollm2", lambda: Path("/somewhere/model.gguf"))
    assert cli.main(["fetch", "smollm2"]) == 0
    assert "/somewhere/model.gguf" in capsys.readouterr().out


def test_a_failing_cell_is_told_in_two_lines(own_notebooks, capsys):
    assert cli.main(["run", "00", "--results", str(own_notebooks), "-p", "fail=true"]) == 1
    told = capsys.readouterr().err.splitlines()[-2:]
    assert told[0].startswith("longrope-lab: 00 failed in cell 3: AssertionError")
    assert (own_notebooks / "cpu/00_tiny.failed").is_dir() and told[1].endswith(f"{own_notebooks}/cpu/00_tiny.failed")


def test_record_refuses_what_it_cannot_save(tmp_path):
    with pytest.raises(ValueError, match="rows is a list: record takes DataFrames, matplotlib Figures and scalings"):
        runs.record(tmp_path, rows=[1, 2])


def test_record_saves_scalings(tmp_path):
    spec = RopeSpec(8, 512, base=10000.0)
    scaling = RopeScaling(spec, np.array([1, 1.5, 2, 2.5]), 1024, start_tokens=4, attention_factor=1.07)
    schedule = RopeSchedule.stages([scaling, rope_scaling(spec, "pi", 4096)])
    runs.record(tmp_path / "deep", best=scaling, stages=schedule)
    assert RopeScaling.load(tmp_path / "deep" / "best.json") == scaling
    assert RopeSchedule.load(tmp_path / "deep" / "stages.json") == schedule
    assert sorted(path.name for path in (tmp_path / "deep").iterdir()) == ["best.json", "stages.json"]


def test_record_writes_the_same_bytes_again(tmp_path):
    figure = Figure()
    figure.subplots().plot([1, 2, 3])
    for name in ("a", "b"):
        runs.record(tmp_path / name, figure=figure, table=pd.DataFrame({"x": [1 / 3]}))
    for name in ("figure.svg", "figure.png", "table.csv"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_git_commit_marks_changes(tmp_path, monkeypatch):
    def git(*arguments):
        command = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b", *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    monkeypatch.setattr(runs, "NOTEBOOKS", tmp_path / "notebooks")
    monkeypatch.delenv("LONGROPE_LAB_COMMIT", raising=False)
    assert runs.git_commit() == "unknown"
    git("init", "-q")
    code = tmp_path / "longrope_lab" / "code.py"
    code.parent.mkdir()
    code.write_text("1")
    git("add", ".")
    git("commit", "-qm", "one")
    head = git("rev-parse", "HEAD")
    assert runs.git_commit() == head
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "new.csv").write_text("1")
    (tmp_path / "books.txt").write_text("text")
    assert runs.git_commit() == head  # a result or a text is no change of the code
    code.write_text("2")
    assert runs.git_commit() == head + "+changes"


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_notebook_runs_in_smoke(name, tmp_path):
    folder = runs.run(name, "smoke", results=tmp_path)
    assert list(folder.glob("*.csv")) and list(folder.glob("*.png")) and list(folder.glob("*.svg"))


def test_quickstart_shows_its_finding_and_repeats_exactly(tmp_path):
    """Plain papermill with the profile's file gives the tables that the runner gives, twice."""
    tables = []
    for attempt in ("a", "b"):
        out = tmp_path / attempt
        notebook, parameters = runs.find_notebook("00"), runs.NOTEBOOKS / "profiles/smoke/00_quickstart.yaml"
        command = [sys.executable, "-m", "papermill", str(notebook), str(tmp_path / f"{attempt}.ipynb"),
                   "-f", str(parameters), "-p", "out", str(out), "--no-progress-bar"]  # fmt: skip
        subprocess.run(command, check=True, capture_output=True)
        tables.append({path.name: path.read_bytes() for path in out.glob("*.csv")})
    assert tables[0] == tables[1] and "perplexity.csv" in tables[0]
    summary = pd.read_csv(tmp_path / "a" / "perplexity_summary.csv").set_index(["scaling", "length"])["perplexity"]
    assert summary["none", 1024] > 1.3 * summary["none", 512]  # collapse beyond the window
    assert summary["yarn", 1024] < 0.8 * summary["none", 1024]  # and its repair
