"""The command line: what it says, what it begins, and how it ends."""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd
import pytest
from nbclient.exceptions import DeadKernelError

from longrope_lab import cli
from longrope_lab.runs import notebooks as runs

NOTEBOOKS = sorted(path.stem for path in runs.NOTEBOOKS.glob("*.ipynb"))


@pytest.fixture
def command(own_notebooks, no_kernel, capsys, monkeypatch):
    """Runs the command on the tiny notebooks; returns status, what it printed and what it complained of."""
    monkeypatch.setattr("longrope_lab.models.loading.too_large", lambda name, length: None)

    def run(*arguments):
        status = cli.main([*arguments, "--results", str(own_notebooks)])
        return status, *capsys.readouterr()

    return run


def statuses(printed):
    """Notebook -> status of the table at the end."""
    lines = printed[printed.index("notebook ") :].splitlines()
    assert lines[0].split() == ["notebook", "status", "seconds"]
    return {
        name: status for name, status, seconds in map(str.split, lines[1:]) if int(seconds) >= 0
    }


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "00_quikstart"], "unknown notebook '00_quikstart': did you mean '00_quickstart'"),
        (["run", "T22"], "unknown experiment 'T22': did you mean 'T2'"),
        (["run", "00", "f13"], "unknown experiment 'F13': did you mean 'F"),
        (["run", "00", "--profile", "cpuu"], "unknown profile 'cpuu': did you mean 'cpu'"),
        (
            ["run", "00", "-p", "length=[512]"],
            "unknown parameter of 00_quickstart 'length': did you mean 'lengths'",
        ),
        (
            ["run", "00", "02", "-p", "document=1"],
            "unknown parameter 'document': did you mean 'documents'",
        ),
        (["run", "00", "-p", "lengths"], "-p takes name=value"),
        (["run", "00", "-p", "lengths=[512"], "is not YAML"),
        (
            ["run", "00", "-p", "lengths=512"],
            "'lengths' of 00_quickstart is 512: it takes a list, such as [256, 512",
        ),
        (
            ["run", "00", "-p", "seed=[1]"],
            "'seed' of 00_quickstart is [1]: it takes one value, such as 0",
        ),
        (
            ["run", "00", "-p", "out=elsewhere"],
            "the runner sets 'out' itself: name the folder of the results with --results",
        ),
        (["run", "00", "02", "-p", "out=elsewhere"], "the runner sets 'out' itself"),
    ],
)
def test_command_line_says_what_is_wrong(arguments, message, capsys, tmp_path):
    assert cli.main([*arguments, "--results", str(tmp_path / "results")]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "results").exists()  # nothing was begun


def test_one_notebook(command, own_notebooks):
    status, printed, _ = command("run", "00", "-p", "number=9")
    assert status == 0
    first, second = printed.splitlines()
    assert first == "00_tiny (cpu) ..."
    assert re.fullmatch(rf"{own_notebooks}/cpu/00_tiny  \d+ s", second)
    assert pd.read_csv(own_notebooks / "cpu" / "00_tiny" / "table.csv")["number"].tolist() == [9]


def test_all_of_them(command, no_kernel, own_notebooks):
    status, printed, _ = command(
        "run", "all", "00", "--profile", "smoke", "-p", "number=9", "-p", "seed=3"
    )
    assert status == 0
    assert no_kernel == ["00_tiny", "01_small"]  # each once
    assert statuses(printed) == {"00_tiny": "done", "01_small": "done"}
    assert (
        "seed is no parameter of 01_small" in printed
    )  # and number, which both have, is not spoken of
    assert "number is" not in printed
    for name in no_kernel:
        assert pd.read_csv(own_notebooks / "smoke" / name / "table.csv")["number"].tolist() == [9]


def test_a_failing_notebook_does_not_stop_the_others(command, no_kernel, own_notebooks):
    status, printed, complaints = command("run", "all", "-p", "fail=true")
    assert status == 1
    assert statuses(printed) == {"00_tiny": "failed", "01_small": "done"}
    first, second = complaints.splitlines()
    assert first == "longrope-lab: 00_tiny failed in cell 2: AssertionError: not this time"
    assert (
        second.endswith(f"{own_notebooks}/cpu/00_tiny.failed")
        and (own_notebooks / "cpu/00_tiny.failed").is_dir()
    )


def test_a_failing_cell_of_one_notebook_is_told_in_two_lines(command):
    status, printed, complaints = command("run", "00", "-p", "fail=true")
    assert status == 1 and printed == "00_tiny (cpu) ...\n"
    assert len(complaints.splitlines()) == 2


def test_a_kernel_that_dies(command, monkeypatch):
    def dies(*_, **__):
        raise DeadKernelError("Kernel died")

    monkeypatch.setattr("papermill.execute_notebook", dies)
    status, printed, complaints = command("run", "all")
    assert status == 1 and statuses(printed) == {"00_tiny": "failed", "01_small": "failed"}
    assert "00_tiny: Kernel died. Perhaps memory ran out" in complaints


def test_a_kernel_that_does_not_start(command, monkeypatch):
    def fails(*_, **__):
        raise RuntimeError("Kernel died before replying to kernel_info")

    monkeypatch.setattr("papermill.execute_notebook", fails)
    status, printed, complaints = command("run", "all")
    assert status == 1 and statuses(printed) == {"00_tiny": "failed", "01_small": "failed"}
    assert "01_small failed: Kernel died before replying" in complaints


def test_a_machine_that_is_too_small(command, no_kernel, monkeypatch):
    """One notebook of several that does not fit is one that failed; alone it is the user's to mend."""
    monkeypatch.setattr(
        "longrope_lab.models.loading.too_large",
        lambda name, length: f"too much for {length} tokens",
    )
    status, printed, complaints = command("run", "all")
    assert status == 1 and statuses(printed) == {"00_tiny": "failed", "01_small": "done"}
    assert "longrope-lab: 00_tiny failed: the profile 'cpu' of 00_tiny is too large" in complaints
    status, printed, complaints = command("run", "00")
    assert status == 2 and no_kernel == ["01_small"]
    assert "'lab' takes too much for 64 tokens: name a smaller model" in complaints


def test_resume_runs_what_is_missing(command, no_kernel, monkeypatch):
    assert command("run", "01", "-p", "number=5")[0] == 0
    status, printed, _ = command("run", "all", "--resume", "-p", "number=5")
    assert status == 0 and statuses(printed) == {"00_tiny": "done", "01_small": "skipped"}
    assert "01_small  is of this commit, profile and parameters" in printed
    assert no_kernel == ["01_small", "00_tiny"]
    assert statuses(command("run", "all", "--resume", "-p", "number=5")[1]) == {
        "00_tiny": "skipped", "01_small": "skipped"
    }  # fmt: skip
    assert command("run", "all", "--resume", "-p", "number=6")[0] == 0  # other parameters
    assert command("run", "all", "-p", "number=6")[0] == 0  # not asked to
    monkeypatch.setenv("LONGROPE_LAB_COMMIT", "e" * 40)
    assert command("run", "all", "--resume", "-p", "number=6")[0] == 0  # other code
    assert no_kernel[2:] == ["00_tiny", "01_small"] * 3
    monkeypatch.setenv("LONGROPE_LAB_COMMIT", "e" * 40 + "+changes")
    for _ in range(2):
        status, _, complaints = command("run", "01", "--resume", "-p", "number=6")
        assert (
            status == 0
            and "the code differs from its commit, so no earlier run counts as done" in complaints
        )
    assert no_kernel[8:] == ["01_small"] * 2


def test_control_c_stops_everything(command, no_kernel, monkeypatch):
    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("papermill.execute_notebook", stop)
    status, printed, complaints = command("run", "all")
    assert status == 130 and "01_small" not in printed
    assert "stopped; with --resume, what has finished is not run again" in complaints


def test_list(capsys):
    for arguments in (["list"], ["run", "all", "--list"]):
        assert cli.main(arguments) == 0
        lines = capsys.readouterr().out.splitlines()
        assert [line.split()[0] for line in lines] == NOTEBOOKS
        assert lines[NOTEBOOKS.index("02_nonuniformity")].split()[1:5] == ["T1", "T2", "T3", "T11"]
        assert lines[0].split(maxsplit=1)[1].startswith("Why a context window breaks")
    assert cli.main(["run", "T2", "t1", "--list"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == [
        "02_nonuniformity"
    ]


def test_fetch(monkeypatch, capsys):
    monkeypatch.setattr(
        "longrope_lab.models.smollm2.fetch_smollm2", lambda: Path("/somewhere/model.gguf")
    )
    assert cli.main(["fetch", "smollm2"]) == 0
    assert "/somewhere/model.gguf" in capsys.readouterr().out
