"""Running notebooks: what is kept, and what a failure leaves behind."""

from __future__ import annotations

import functools
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pandas as pd
import pytest
from papermill.exceptions import PapermillExecutionError

from longrope_lab.common.identity import digest_at
from longrope_lab.runs import notebooks, run_one
from longrope_lab.runs.preparing import prepare

NOTEBOOKS = sorted(path.stem for path in notebooks.NOTEBOOKS.glob("*.ipynb"))


def number_in(folder):
    return pd.read_csv(folder / "table.csv")["number"].tolist()


def test_run_keeps_notebook_tables_and_origin(own_notebooks):
    folder = run_one.run("00", "smoke", {"seed": 7}, own_notebooks)
    assert folder == own_notebooks / "smoke" / "00_tiny"
    assert number_in(folder) == [2]
    executed = nbformat.read(folder / "00_tiny.ipynb", as_version=4)
    # Not the folder that it worked in.
    assert executed.cells[-1].outputs[0].text.strip() == "00_tiny"
    assert ".running" not in (folder / "00_tiny.ipynb").read_text()
    origin = json.loads((folder / "run.json").read_text())
    assert origin["parameters"] == {
        "number": 2, "fail": False, "seed": 7, "lengths": [64], "model_name": "lab",
        "out": "00_tiny",
    }  # fmt: skip
    assert origin["inputs"] == {}
    assert origin["seed"] == 7 and origin["profile"] == "smoke" and origin["commit"] == "f" * 40
    assert origin["versions"]["torch"] and origin["wall_seconds"] > 0
    assert [p.name for p in folder.parent.iterdir()] == ["00_tiny"]


def test_a_failed_run_leaves_the_earlier_one(own_notebooks, no_kernel):
    folder = run_one.run("00_tiny", "cpu", {"number": 3}, own_notebooks)
    with pytest.raises(PapermillExecutionError):
        run_one.run("00_tiny", "cpu", {"number": 4, "fail": True}, own_notebooks)
    assert number_in(folder) == [3] and (folder / "run.json").is_file()
    assert number_in(own_notebooks / "cpu" / "00_tiny.failed") == [4]
    with pytest.raises(PapermillExecutionError):
        run_one.run("00_tiny", "cpu", {"number": 5, "fail": True}, own_notebooks)
    assert number_in(own_notebooks / "cpu" / "00_tiny.failed") == [5]
    run_one.run("00_tiny", "cpu", {"number": 6}, own_notebooks)
    assert number_in(folder) == [6]
    assert [p.name for p in folder.parent.iterdir()] == ["00_tiny"]


@pytest.mark.parametrize("stop", [KeyboardInterrupt, SystemExit, OSError])
def test_a_run_that_is_stopped_leaves_the_earlier_one(stop, own_notebooks, no_kernel, monkeypatch):
    folder = run_one.run("00_tiny", "cpu", {"number": 3}, own_notebooks)

    def stopped(*_, parameters, **__):
        Path(parameters["out"], "table.csv").write_text("half")
        raise stop

    monkeypatch.setattr("papermill.execute_notebook", stopped)
    with pytest.raises(stop):
        run_one.run("00_tiny", "cpu", {"number": 4}, own_notebooks)
    assert number_in(folder) == [3]
    assert sorted(p.name for p in folder.parent.iterdir()) == ["00_tiny", "00_tiny.failed"]


def test_no_bars_in_an_executed_notebook(own_notebooks, monkeypatch):
    """A run is in lines, whatever the user has set for progress, and that stands after it."""

    def execute(source, target, **_):
        seen.append(os.environ["LONGROPE_LAB_PROGRESS"])
        shutil.copy(source, target)

    seen = []
    monkeypatch.setattr("papermill.execute_notebook", execute)
    for before in (None, "bars"):
        if before is not None:
            monkeypatch.setenv("LONGROPE_LAB_PROGRESS", before)
        run_one.run("01", "cpu", None, own_notebooks)
        assert os.environ.get("LONGROPE_LAB_PROGRESS") == before
    assert seen == ["lines", "lines"]


def test_a_killed_run_and_a_second_one_beside_it(own_notebooks, no_kernel):
    """The earlier results stand while a run is at work and after it was killed.

    Another one may start only then.
    """
    folder = run_one.run("01", "cpu", {"number": 3}, own_notebooks)
    code = (
        "import sys; from pathlib import Path; from longrope_lab.runs import notebooks, run_one; "
        "notebooks.NOTEBOOKS = Path(sys.argv[1]); "
        "run_one.run('01', 'cpu', {'number': 4, 'sleep': 300}, sys.argv[2])"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(notebooks.NOTEBOOKS), str(own_notebooks)]
    ) as process:
        at_work = folder.with_name("01_small.running") / "table.csv"
        while not at_work.exists() and process.poll() is None:
            time.sleep(0.05)
        words = r"another run is writing to .*01_small: wait for it, or name another"
        with pytest.raises(ValueError, match=words):
            run_one.run("01", "cpu", {"number": 5}, own_notebooks)
        assert at_work.exists() and number_in(folder) == [3] and no_kernel == ["01_small"]
        process.kill()
    assert number_in(folder) == [3]
    assert json.loads((folder / "run.json").read_text())["parameters"]["number"] == 3
    run_one.run("01", "cpu", {"number": 6}, own_notebooks)
    assert number_in(folder) == [6]
    assert [p.name for p in folder.parent.iterdir()] == ["01_small"]


def test_killed_between_two_renames(own_notebooks, no_kernel):
    """The earlier results are then in `.before` alone; the next run takes them back, or fails."""
    folder = run_one.run("00", "cpu", {"number": 3}, own_notebooks)
    folder.rename(folder.with_name("00_tiny.before"))
    with pytest.raises(PapermillExecutionError):
        run_one.run("00", "cpu", {"fail": True}, own_notebooks)
    assert number_in(folder) == [3]


def test_a_lock_that_has_just_been_removed_is_no_lock(own_notebooks, no_kernel, monkeypatch):
    """It was opened while it was held, and locked after its owner had removed it.

    A third run may hold a new one by then.
    """
    fcntl = pytest.importorskip("fcntl")
    lock = fcntl.flock

    def late(file, how):
        for path in own_notebooks.rglob(".*.lock"):
            path.unlink()
        lock(file, how)

    monkeypatch.setattr(fcntl, "flock", late)
    with pytest.raises(ValueError, match="another run is writing"):
        run_one.run("00", "cpu", None, own_notebooks)
    assert no_kernel == []


def test_what_counts_as_done(own_notebooks, no_kernel, monkeypatch):
    def is_done(profile="cpu", number=3):
        return prepare("00", profile, {"number": number}, results=own_notebooks).is_done()

    assert not is_done()
    folder = run_one.run("00", "cpu", {"number": 3}, own_notebooks)
    assert is_done()
    assert not is_done(number=4)
    assert not is_done(profile="smoke")
    for commit in ("e" * 40, "f" * 40 + "+changes", "unknown"):
        monkeypatch.setenv("LONGROPE_LAB_COMMIT", commit)
        assert not is_done()
        run_one.run("00", "cpu", {"number": 3}, own_notebooks)
        assert is_done() == (commit == "e" * 40)  # code that is not committed is never done
    monkeypatch.setenv("LONGROPE_LAB_COMMIT", "e" * 40)
    run_one.run("00", "cpu", {"number": 3}, own_notebooks)
    origin_of = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps(origin_of | {"profile": "gpu"}))
    assert not is_done()
    for damaged in ("{", "{}", "[]", json.dumps(origin_of | {"files": 1})):
        (folder / "run.json").write_text(damaged)
        assert not is_done()
    (folder / "run.json").write_text(json.dumps(origin_of))
    assert is_done()
    table = (folder / "table.csv").read_bytes()
    (folder / "table.csv").write_bytes(table[:-2])  # a part of it
    assert not is_done()
    (folder / "table.csv").write_bytes(table)
    assert is_done()
    (folder / "table.csv").unlink()
    assert not is_done()


def test_results_name_no_folder_of_the_machine(own_notebooks, tmp_path):
    """Neither parameters nor the executed notebook; a digest says which model it was."""
    model = tmp_path / "k" / "extended"
    model.mkdir(parents=True)
    for name in ("config.json", "tokenizer.json"):
        (model / name).write_text("{}")
    folder = run_one.run("00", "cpu", {"model_name": str(model)}, own_notebooks)
    origin = json.loads((folder / "run.json").read_text())
    assert origin["parameters"]["model_name"] == "extended"
    assert origin["inputs"] == {"extended": digest_at(model)}
    executed = (folder / "00_tiny.ipynb").read_text()
    assert str(tmp_path) not in executed and 'model_name = \\"extended\\"' in executed
    assert json.loads(executed)["metadata"]["papermill"]["input_path"] == "notebooks/00_tiny.ipynb"


def test_a_run_whose_texts_have_changed_is_not_done(own_notebooks, no_kernel, tmp_path):
    model = tmp_path / "model.gguf"
    model.write_text("one")

    def is_done():
        return prepare("00", "cpu", {"model_name": str(model)}, results=own_notebooks).is_done()

    run_one.run("00", "cpu", {"model_name": str(model)}, own_notebooks)
    assert is_done()
    model.write_text("two")
    assert not is_done()
    model.unlink()  # what has gone cannot have changed
    assert is_done()


def test_a_path_is_replaced_where_it_is_whole(own_notebooks):
    over = {"model_name": "/data/a"}
    ready = prepare("00", "cpu", over, results=own_notebooks)
    text = 'x = "/data/a"; y = "/data/ab", "/more/data/a", "/data/a/b.txt", /data/a-b'
    assert run_one._without_folders(text, ready) == (
        'x = "a"; y = "/data/ab", "/more/data/a", "a/b.txt", /data/a-b'
    )


def test_a_commit_made_while_a_notebook_runs_is_not_the_one_that_ran(
    own_notebooks, no_kernel, monkeypatch
):
    commits = iter(["a" * 40, "b" * 40])
    monkeypatch.setattr(run_one, "git_commit", lambda: next(commits))
    folder = run_one.run("00", "cpu", None, own_notebooks)
    assert json.loads((folder / "run.json").read_text())["commit"] == "a" * 40


@pytest.fixture(scope="module")
def in_smoke(tmp_path_factory):
    """Runs a notebook in the smoke profile, once for all tests; gives the folder of its results."""
    results = tmp_path_factory.mktemp("smoke")
    return functools.cache(lambda name: run_one.run(name, "smoke", results=results))


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_notebook_runs_in_smoke(name, in_smoke):
    folder = in_smoke(name)
    assert list(folder.glob("*.csv")) and list(folder.glob("*.png")) and list(folder.glob("*.svg"))


def test_quickstart_shows_its_finding_and_repeats_exactly(in_smoke, tmp_path):
    """Plain papermill with the profile's file gives the tables that the runner gives."""
    notebook, out = notebooks.find_notebook("00"), tmp_path / "out"
    command = [
        sys.executable, "-m", "papermill", str(notebook), str(tmp_path / "executed.ipynb"),
        "-f", str(notebooks.profile_path(notebook, "smoke")), "-p", "out", str(out),
        "--no-progress-bar",
    ]  # fmt: skip
    subprocess.run(command, check=True, capture_output=True)
    folder = in_smoke("00_quickstart")
    ours, plain = ({p.name: p.read_bytes() for p in f.glob("*.csv")} for f in (folder, out))
    assert ours == plain and "perplexity.csv" in ours
    table = pd.read_csv(folder / "perplexity_summary.csv")
    summary = table.set_index(["scaling", "length"])["perplexity"]
    assert summary["none", 1024] > 1.3 * summary["none", 512]  # collapse beyond the window
    assert summary["yarn", 1024] < 0.8 * summary["none", 1024]  # and its repair
