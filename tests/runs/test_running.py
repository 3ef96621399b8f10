"""Running notebooks: parameters, what is kept, what a failure leaves behind."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import nbformat
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from papermill.exceptions import PapermillExecutionError

from longrope_lab.rope.methods import rope_scaling
from longrope_lab.rope.scaling import RopeScaling
from longrope_lab.rope.schedule import RopeSchedule
from longrope_lab.rope.spec import RopeSpec
from longrope_lab.runs import notebooks, origin, running
from longrope_lab.runs.record import record

NOTEBOOKS = sorted(path.stem for path in notebooks.NOTEBOOKS.glob("*.ipynb"))


def number_in(folder):
    return pd.read_csv(folder / "table.csv")["number"].tolist()


def test_run_keeps_notebook_tables_and_origin(own_notebooks):
    folder = running.run("00", "smoke", {"seed": 7}, own_notebooks)
    assert folder == own_notebooks / "smoke" / "00_tiny"
    assert number_in(folder) == [2]
    executed = nbformat.read(folder / "00_tiny.ipynb", as_version=4)
    assert (
        executed.cells[-1].outputs[0].text.strip() == folder.as_posix()
    )  # not the folder that it worked in
    assert ".running" not in (folder / "00_tiny.ipynb").read_text()
    origin = json.loads((folder / "run.json").read_text())
    assert origin["parameters"] == {
        "number": 2, "fail": False, "seed": 7, "lengths": [64], "model": "lab", "out": folder.as_posix()
    }  # fmt: skip
    assert origin["seed"] == 7 and origin["profile"] == "smoke" and origin["commit"] == "f" * 40
    assert origin["versions"]["torch"] and origin["wall_seconds"] > 0
    assert [p.name for p in folder.parent.iterdir()] == ["00_tiny"]


def test_a_failed_run_leaves_the_earlier_one(own_notebooks, no_kernel):
    folder = running.run("00_tiny", "cpu", {"number": 3}, own_notebooks)
    with pytest.raises(PapermillExecutionError):
        running.run("00_tiny", "cpu", {"number": 4, "fail": True}, own_notebooks)
    assert number_in(folder) == [3] and (folder / "run.json").is_file()
    assert number_in(own_notebooks / "cpu" / "00_tiny.failed") == [4]
    with pytest.raises(PapermillExecutionError):
        running.run("00_tiny", "cpu", {"number": 5, "fail": True}, own_notebooks)
    assert number_in(own_notebooks / "cpu" / "00_tiny.failed") == [5]
    running.run("00_tiny", "cpu", {"number": 6}, own_notebooks)
    assert number_in(folder) == [6]
    assert [p.name for p in folder.parent.iterdir()] == ["00_tiny"]


@pytest.mark.parametrize("stop", [KeyboardInterrupt, SystemExit, OSError])
def test_a_run_that_is_stopped_leaves_the_earlier_one(stop, own_notebooks, no_kernel, monkeypatch):
    folder = running.run("00_tiny", "cpu", {"number": 3}, own_notebooks)

    def stopped(*_, parameters, **__):
        Path(parameters["out"], "table.csv").write_text("half")
        raise stop

    monkeypatch.setattr("papermill.execute_notebook", stopped)
    with pytest.raises(stop):
        running.run("00_tiny", "cpu", {"number": 4}, own_notebooks)
    assert number_in(folder) == [3]
    assert sorted(p.name for p in folder.parent.iterdir()) == ["00_tiny", "00_tiny.failed"]


def test_a_killed_run_and_a_second_one_beside_it(own_notebooks, no_kernel):
    """While a run is at work, and after it was killed, the earlier results stand; only then may another one start."""
    folder = running.run("01", "cpu", {"number": 3}, own_notebooks)
    code = (
        "import sys; from pathlib import Path; from longrope_lab.runs import notebooks, running; "
        "notebooks.NOTEBOOKS = Path(sys.argv[1]); "
        "running.run('01', 'cpu', {'number': 4, 'sleep': 300}, sys.argv[2])"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(notebooks.NOTEBOOKS), str(own_notebooks)]
    ) as process:
        at_work = folder.with_name("01_small.running") / "table.csv"
        while not at_work.exists() and process.poll() is None:
            time.sleep(0.05)
        with pytest.raises(
            ValueError, match=r"another run is writing to .*01_small: wait for it, or name another"
        ):
            running.run("01", "cpu", {"number": 5}, own_notebooks)
        assert at_work.exists() and number_in(folder) == [3] and no_kernel == ["01_small"]
        process.kill()
    assert (
        number_in(folder) == [3]
        and json.loads((folder / "run.json").read_text())["parameters"]["number"] == 3
    )
    running.run("01", "cpu", {"number": 6}, own_notebooks)
    assert number_in(folder) == [6]
    assert [p.name for p in folder.parent.iterdir()] == ["01_small"]


def test_killed_between_two_renames(own_notebooks, no_kernel):
    """The earlier results are then in `.before` alone; the next run takes them back, whatever becomes of itself."""
    folder = running.run("00", "cpu", {"number": 3}, own_notebooks)
    folder.rename(folder.with_name("00_tiny.before"))
    with pytest.raises(PapermillExecutionError):
        running.run("00", "cpu", {"fail": True}, own_notebooks)
    assert number_in(folder) == [3]


def test_a_lock_that_has_just_been_removed_is_no_lock(own_notebooks, no_kernel, monkeypatch):
    """Opened while it was held, locked after its owner had removed it: a third run may hold a new one by then."""
    lock = running.fcntl.flock

    def late(file, how):
        Path(file.name).unlink()
        lock(file, how)

    monkeypatch.setattr(running.fcntl, "flock", late)
    with pytest.raises(ValueError, match="another run is writing"):
        running.run("00", "cpu", None, own_notebooks)
    assert no_kernel == []


def test_what_counts_as_done(own_notebooks, no_kernel, monkeypatch):
    def is_done(profile="cpu", number=3):
        return running.prepare("00", profile, {"number": number}, own_notebooks).is_done()

    assert not is_done()
    folder = running.run("00", "cpu", {"number": 3}, own_notebooks)
    assert is_done()
    assert not is_done(number=4)
    assert not is_done(profile="smoke")
    for commit in ("e" * 40, "f" * 40 + "+changes", "unknown"):
        monkeypatch.setenv("LONGROPE_LAB_COMMIT", commit)
        assert not is_done()
        running.run("00", "cpu", {"number": 3}, own_notebooks)
        assert is_done() == (commit == "e" * 40)  # code that is not committed is never done
    monkeypatch.setenv("LONGROPE_LAB_COMMIT", "e" * 40)
    running.run("00", "cpu", {"number": 3}, own_notebooks)
    origin_of = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps(origin_of | {"profile": "gpu"}))
    assert not is_done()
    for damaged in ("{", "{}", "[]"):
        (folder / "run.json").write_text(damaged)
        assert not is_done()


def test_a_commit_made_while_a_notebook_runs_is_not_the_one_that_ran(
    own_notebooks, no_kernel, monkeypatch
):
    commits = iter(["a" * 40, "b" * 40])
    monkeypatch.setattr(running, "git_commit", lambda: next(commits))
    folder = running.run("00", "cpu", None, own_notebooks)
    assert json.loads((folder / "run.json").read_text())["commit"] == "a" * 40


def test_a_profile_that_a_notebook_lacks(own_notebooks):
    with pytest.raises(ValueError, match=r"00_tiny has no profile 'gpu': it has smoke, cpu"):
        running.run("00", "gpu", results=own_notebooks)


def test_no_notebooks_at_all(tmp_path, monkeypatch):
    monkeypatch.setattr(notebooks, "NOTEBOOKS", tmp_path)
    with pytest.raises(ValueError, match="run from a clone"):
        notebooks.find_notebook("00")


# --- machines that are too small --------------------------------------------------------------------------------------


@pytest.fixture
def profiles_of_sizes(own_notebooks):
    """`00_tiny` with a profile of 64 tokens, one of 100,000 and one of a million, for the lab model."""
    for profile, parameters in {
        "cpu": "seed: 1",
        "gpu": "lengths: [512, 100000]",
        "paper": "lengths: [1000000]",
    }.items():
        folder = notebooks.NOTEBOOKS / "profiles" / profile
        folder.mkdir(exist_ok=True)
        (folder / "00_tiny.yaml").write_text(parameters)
    return own_notebooks


def free(monkeypatch, gib):
    monkeypatch.setattr(
        "psutil.virtual_memory", lambda: SimpleNamespace(available=int(gib * 2**30))
    )
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)


@pytest.mark.parametrize(
    ("profile", "over", "gib", "way_out"),
    [
        # The lab model is 0.026 GiB in float32; a token takes 4 (4 × 256 + 3 × 1024) bytes.
        (
            "paper",
            {},
            2,
            "and 15.3 GiB to score 1,000,000 tokens, and this machine has free 2 GiB: --profile gpu fits",
        ),
        (
            "paper",
            {},
            1,
            "to score 1,000,000 tokens, and this machine has free 1 GiB: --profile cpu fits",
        ),
        (
            "gpu",
            {},
            1,
            "and 1.53 GiB to score 100,000 tokens, and this machine has free 1 GiB: --profile cpu fits",
        ),
        (
            "gpu",
            {"lengths": [512, 200_000]},
            2,
            "200,000 tokens, and .*: name a smaller model or shorter lengths with -p",
        ),
        (
            "cpu",
            {},
            0.02,
            "for 6,950,144 weights in float32 .*: name a smaller model or shorter lengths with -p",
        ),
    ],
)
def test_a_profile_too_large_for_the_machine(
    profile, over, gib, way_out, profiles_of_sizes, no_kernel, monkeypatch
):
    free(monkeypatch, gib)
    with pytest.raises(
        ValueError,
        match=f"'{profile}' of 00_tiny is too large for this machine: 'lab' takes at least .*{way_out}",
    ):
        running.run("00", profile, over, profiles_of_sizes)
    assert not profiles_of_sizes.exists() and no_kernel == []  # nothing was begun


def test_a_profile_that_fits(profiles_of_sizes, no_kernel, monkeypatch):
    free(monkeypatch, 18)
    running.run("00", "paper", None, profiles_of_sizes)
    free(monkeypatch, 0.001)
    running.run("01", "cpu", None, profiles_of_sizes)  # it has no model
    running.run(
        "00", "cpu", {"model": "someone/elses"}, profiles_of_sizes
    )  # not downloaded: load_model will tell
    assert no_kernel == ["00_tiny", "01_small", "00_tiny"]


def test_a_model_that_is_not_there(profiles_of_sizes, no_kernel):
    with pytest.raises(ValueError, match="unknown model 'lap': did you mean 'lab'"):
        running.run("00", "cpu", {"model": "lap"}, profiles_of_sizes)
    assert no_kernel == []


# --- what is recorded -------------------------------------------------------------------------------------------------


def test_record_refuses_what_it_cannot_save(tmp_path):
    with pytest.raises(
        ValueError, match="rows is a list: record takes DataFrames, matplotlib Figures and scalings"
    ):
        record(tmp_path, rows=[1, 2])


def test_record_saves_scalings(tmp_path):
    spec = RopeSpec(8, 512, base=10000.0)
    scaling = RopeScaling(
        spec, np.array([1, 1.5, 2, 2.5]), 1024, start_tokens=4, attention_factor=1.07
    )
    schedule = RopeSchedule.by_length([scaling, rope_scaling(spec, "pi", 4096)])
    record(tmp_path / "deep", best=scaling, stages=schedule)
    assert RopeScaling.load(tmp_path / "deep" / "best.json") == scaling
    assert RopeSchedule.load(tmp_path / "deep" / "stages.json") == schedule
    assert sorted(path.name for path in (tmp_path / "deep").iterdir()) == [
        "best.json",
        "stages.json",
    ]


def test_record_writes_the_same_bytes_again(tmp_path):
    figure = Figure()
    figure.subplots().plot([1, 2, 3])
    for name in ("a", "b"):
        record(tmp_path / name, figure=figure, table=pd.DataFrame({"x": [1 / 3]}))
    for name in ("figure.svg", "figure.png", "table.csv"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_git_commit_marks_changes(tmp_path, monkeypatch):
    def git(*arguments):
        command = [
            "git",
            "-C",
            str(tmp_path),
            "-c",
            "user.name=a",
            "-c",
            "user.email=a@b",
            *arguments,
        ]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    monkeypatch.setattr(origin, "ROOT", tmp_path)
    monkeypatch.delenv("LONGROPE_LAB_COMMIT", raising=False)
    assert origin.git_commit() == "unknown"
    git("init", "-q")
    code = tmp_path / "longrope_lab" / "code.py"
    code.parent.mkdir()
    code.write_text("1")
    git("add", ".")
    git("commit", "-qm", "one")
    head = git("rev-parse", "HEAD")
    assert origin.git_commit() == head
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "new.csv").write_text("1")
    (tmp_path / "books.txt").write_text("text")
    assert origin.git_commit() == head  # a result or a text is no change of the code
    code.write_text("2")
    assert origin.git_commit() == head + "+changes"


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_notebook_runs_in_smoke(name, tmp_path):
    folder = running.run(name, "smoke", results=tmp_path)
    assert list(folder.glob("*.csv")) and list(folder.glob("*.png")) and list(folder.glob("*.svg"))


def test_quickstart_shows_its_finding_and_repeats_exactly(tmp_path):
    """Plain papermill with the profile's file gives the tables that the runner gives, twice."""
    tables = []
    for attempt in ("a", "b"):
        out = tmp_path / attempt
        notebook, parameters = (
            notebooks.find_notebook("00"),
            notebooks.NOTEBOOKS / "profiles/smoke/00_quickstart.yaml",
        )
        command = [sys.executable, "-m", "papermill", str(notebook), str(tmp_path / f"{attempt}.ipynb"),
                   "-f", str(parameters), "-p", "out", str(out), "--no-progress-bar"]  # fmt: skip
        subprocess.run(command, check=True, capture_output=True)
        tables.append({path.name: path.read_bytes() for path in out.glob("*.csv")})
    assert tables[0] == tables[1] and "perplexity.csv" in tables[0]
    summary = pd.read_csv(tmp_path / "a" / "perplexity_summary.csv").set_index(
        ["scaling", "length"]
    )["perplexity"]
    assert summary["none", 1024] > 1.3 * summary["none", 512]  # collapse beyond the window
    assert summary["yarn", 1024] < 0.8 * summary["none", 1024]  # and its repair
