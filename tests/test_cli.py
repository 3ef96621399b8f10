"""The command line: what it says, what it begins, and how it ends."""

from __future__ import annotations

import errno
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
from jupyter_client.kernelspec import NoSuchKernel
from nbclient.exceptions import DeadKernelError

from longrope_lab import cli
from longrope_lab.runs import notebooks as runs
from longrope_lab.runs.preparing import Prepared

NOTEBOOKS = sorted(path.stem for path in runs.NOTEBOOKS.glob("*.ipynb"))


@pytest.fixture
def command(own_notebooks, no_kernel, capsys, monkeypatch):
    """Runs the command on the tiny notebooks.

    Returns the status, what it printed and what it complained of.
    """
    monkeypatch.setattr("longrope_lab.runs.memory_check.too_large", lambda name, length: None)

    def run(*arguments):
        status = cli.main([*arguments, "--results", str(own_notebooks)])
        return status, *capsys.readouterr()

    return run


def statuses(printed):
    """Notebook -> status of the table at the end."""
    lines = printed[printed.index("notebook ") :].splitlines()
    assert lines[0].split() == ["notebook", "status", "seconds"]
    rows = [line.split() for line in lines[1:]]
    return {name: status for name, status, seconds in rows if int(seconds) >= 0}


def fails_with(error):
    """In papermill's place: a run that ends with this error."""

    def execute(*_, **__):
        raise error

    return execute


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
        (["run", "00", "--profile", ""], "profile is '': give it at least one character"),
        (["run", "04", "-p", "corpora=[kjv]"], "it takes a list of texts (2 of them), such as"),
        (["run", "02", "-p", "targets=[999]"], "whole numbers (at least 2 of them) from 1, such"),
        (["run", "05", "-p", "two_steps=[1,2,3]"], "a list of whole numbers (2 of them) from 1"),
        (["run", "00", "-p", "lengths=[512"], "is not YAML"),
        (
            ["run", "00", "-p", "lengths=512"],
            "'lengths' of 00_quickstart is 512: it takes a list of whole numbers from 1, such",
        ),
        (
            ["run", "00", "-p", "seed=[1]"],
            "'seed' of 00_quickstart is [1]: it takes a whole number from 0, such as 0",
        ),
        (["run", "00", "-p", "seed=one"], "'seed' of 00_quickstart is 'one': it takes a whole"),
        (["run", "00", "-p", "seed=true"], "'seed' of 00_quickstart is True: it takes a whole"),
        (["run", "00", "-p", "corpus=[kjv]"], "'corpus' of 00_quickstart is ['kjv']: it takes a t"),
        (
            ["run", "00", "-p", "model=smollm2"],
            "unknown parameter of 00_quickstart 'model': `model` is now `model_name`",
        ),
        (["run", "00", "02", "-p", "model=smollm2"], "'model': `model` is now `model_name`"),
        (["run", "05", "-p", "stages=here"], "'stages': `stages` is now `stages_folder`"),
        (
            ["run", "00", "-p", "out=elsewhere"],
            "the runner sets 'out' itself: name the folder of the results with --results",
        ),
        (["run", "00", "02", "-p", "out=elsewhere"], "the runner sets 'out' itself"),
        (["run", "00", "-p", "lengths=&a [*a]"], "'lengths' of 00_quickstart is [["),
        (
            ["run", "00", "-p", "lengths=[512,1k]"],
            "is [512, '1k']: it takes a list of whole numbers",
        ),
        (["run", "all", "-p", "seed=-1"], "is -1: it takes a whole number from 0, such as 0"),
        (["run", "00", "-p", "seed=" + 9999 * "["], "the value of 'seed' is not YAML"),
        (["run", "03", "-p", "preset=nope"], "unknown preset of 03_search 'nope': Known: paper"),
        (["run", "00", "07", "-p", "methods=[nope]"], "unknown methods of 00_quickstart 'nope'"),
    ],
)
def test_command_line_says_what_is_wrong(arguments, message, capsys, tmp_path):
    assert cli.main([*arguments, "--results", str(tmp_path / "results")]) == 2
    complaints = capsys.readouterr().err
    assert message in complaints and len(complaints.splitlines()) == 1
    assert not (tmp_path / "results").exists()  # nothing was begun


def test_an_unknown_action(capsys):
    assert cli.main(["runn"]) == 2
    assert "invalid choice: 'runn'" in capsys.readouterr().err


def test_answers_about_names_need_nothing_that_is_slow_to_import(tmp_path):
    commands = [
        ["--help"], ["run", "--help"], ["runn"], ["list"], ["run", "T22"], ["run", "00_quikstart"],
        ["run", "00", "--profile", "cpuu"], ["run", "00", "-p", "length=[512]"],
        ["run", "all", "-p", "model=smollm2"], ["extend", "--help"], ["extend", "lab"], ["compare"],
    ]  # fmt: skip
    code = (
        "import sys\nfrom longrope_lab import cli\n"
        f"statuses = [cli.main(arguments) for arguments in {commands}]\n"
        "print(statuses, *sys.modules, sep='\\n')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    printed = done.stdout.splitlines()
    assert "[0, 0, 2, 0, 2, 2, 2, 2, 2, 0, 2, 2]" in printed and "longrope_lab.cli" in printed
    assert set(printed).isdisjoint(
        {"torch", "transformers", "numpy", "pandas", "matplotlib", "papermill", "nbformat"}
    )


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
    assert "seed is not a parameter of 01_small" in printed
    assert "number is" not in printed  # both have it
    for name in no_kernel:
        assert pd.read_csv(own_notebooks / "smoke" / name / "table.csv")["number"].tolist() == [9]


def test_a_failing_notebook_does_not_stop_the_others(command, no_kernel, own_notebooks):
    status, printed, complaints = command("run", "all", "-p", "fail=true")
    assert status == 1
    assert statuses(printed) == {"00_tiny": "failed", "01_small": "done"}
    first, second = complaints.splitlines()
    assert (
        first
        == "longrope-lab: 00_tiny failed in cell 2 of 3, after 0 s: AssertionError: not this time"
    )
    assert (
        second.endswith(f"{own_notebooks}/cpu/00_tiny.failed")
        and (own_notebooks / "cpu/00_tiny.failed").is_dir()
    )


def test_a_failing_cell_of_one_notebook_is_told_in_two_lines(command):
    status, printed, complaints = command("run", "00", "-p", "fail=true")
    assert status == 1 and printed == "00_tiny (cpu) ...\n"
    assert len(complaints.splitlines()) == 2


def in_its_second_cell(error):
    """In papermill's place: a run that ends with this error in the second cell."""

    def execute(*_, on_cell_start, **__):
        for index, kind in enumerate(["markdown", "code", "code"]):
            on_cell_start(cell=SimpleNamespace(cell_type=kind), cell_index=index)
        raise error

    return execute


def test_a_kernel_that_dies(command, monkeypatch):
    dies = in_its_second_cell(DeadKernelError("Kernel died"))
    monkeypatch.setattr("papermill.execute_notebook", dies)
    status, printed, complaints = command("run", "all")
    assert status == 1 and statuses(printed) == {"00_tiny": "failed", "01_small": "failed"}
    assert (
        "00_tiny failed in cell 2 of 3, after 0 s: Kernel died. Perhaps memory ran out"
        in complaints
    )


def test_which_notebook_of_how_many(command, no_kernel):
    printed = command("run", "all")[1].splitlines()
    assert printed[0] == "[1/2] 00_tiny (cpu) ..." and printed[2] == "[2/2] 01_small (cpu) ..."


def test_where_control_c_came(command, monkeypatch):
    stops = in_its_second_cell(KeyboardInterrupt())
    monkeypatch.setattr("papermill.execute_notebook", stops)
    status, _, complaints = command("run", "all")
    assert status == 130
    assert (
        complaints.splitlines()[0] == "longrope-lab: 00_tiny was stopped in cell 2 of 3, after 0 s"
    )


def test_where_control_c_came_before_a_cell(command, monkeypatch):
    monkeypatch.setattr("papermill.execute_notebook", fails_with(KeyboardInterrupt()))
    complaints = command("run", "00")[2]
    assert "00_tiny was stopped before its first cell, after 0 s\n" in complaints


def test_how_long_all_of_them_will_take(command, no_kernel, monkeypatch):
    """What comes after a notebook counts if all of it was run before."""
    later = []

    def execute(ready, display):
        later.append(display.watch.later)
        return ready.folder

    seconds = {"00_tiny": [5.0], "01_small": [3.0, 4.0]}
    recorded = lambda ready: seconds.get(ready.notebook.stem, [])  # noqa: E731
    monkeypatch.setattr("longrope_lab.runs.run_many.execute", execute)
    monkeypatch.setattr("longrope_lab.runs.run_many.recorded_seconds", recorded)
    command("run", "all")
    monkeypatch.setattr(Prepared, "is_done", lambda ready: ready.notebook.stem == "01_small")
    command("run", "all", "--resume")
    del seconds["01_small"]
    command("run", "all")
    assert later == [7.0, None, None, None, None]


@pytest.mark.parametrize(
    ("error", "words", "alone"),
    [
        (RuntimeError("Kernel died before replying"), "Kernel died before replying", 1),
        (
            OSError(errno.ENOSPC, "No space left on device", "x.png"),
            "x.png: No space left on dev",
            1,
        ),
        (
            NoSuchKernel("python3"),
            "no Jupyter kernel 'python3' .*: install it with python -m pip",
            2,
        ),
    ],
)
def test_a_run_that_the_system_stops(error, words, alone, command, monkeypatch):
    """It is one line, for one notebook as for several."""
    monkeypatch.setattr("papermill.execute_notebook", fails_with(error))
    status, printed, complaints = command("run", "all")
    assert status == 1 and statuses(printed) == {"00_tiny": "failed", "01_small": "failed"}
    first, second = complaints.splitlines()
    assert re.fullmatch(f"longrope-lab: 00_tiny failed: {words}.*", first)
    assert re.fullmatch(f"longrope-lab: 01_small failed: {words}.*", second)
    status, _, complaints = command("run", "00")
    assert status == alone
    assert re.fullmatch(f"longrope-lab: (00_tiny failed: )?{words}.*\n", complaints)


def no_place(kind, folder):
    """A path where no folder of results can be."""
    if kind == "a file":
        (folder / "file").touch()
        return folder / "file"
    if kind == "a loop":
        (folder / "loop").symlink_to(folder / "loop")
        return folder / "loop"
    if kind == "read-only":
        if os.geteuid() == 0:
            pytest.skip("root may write everywhere")
        (folder / "read-only").mkdir(mode=0o500)
        return folder / "read-only" / "results"
    return {"a device": Path("/dev/null"), "too long": folder / ("x" * 300)}[kind]


@pytest.mark.parametrize("kind", ["a file", "a loop", "a device", "too long", "read-only"])
@pytest.mark.usefixtures("command")
def test_a_folder_of_results_that_cannot_be(kind, no_kernel, capsys, tmp_path):
    results = no_place(kind, tmp_path)
    words = r"no results can be kept in .*: name another folder with --results \(results=\)"
    assert cli.main(["run", "00", "--resume", "--results", str(results)]) == 2
    assert re.fullmatch(f"longrope-lab: {words}\n", capsys.readouterr().err)
    assert cli.main(["run", "all", "--results", str(results)]) == 1
    printed, complaints = capsys.readouterr()
    assert statuses(printed) == {"00_tiny": "failed", "01_small": "failed"} and no_kernel == []
    assert re.fullmatch(f"(longrope-lab: 0._[a-z]+ failed: {words}\n)" + "{2}", complaints)
    assert cli.main(["report", "--results", str(results)]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_a_machine_that_is_too_small(command, no_kernel, monkeypatch):
    """One of several that does not fit is one that failed; alone, it is the user's to mend."""
    monkeypatch.setattr(
        "longrope_lab.runs.memory_check.too_large",
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
        assert status == 0
        assert "the code differs from its commit, so no earlier run counts as done" in complaints
    assert no_kernel[8:] == ["01_small"] * 2


def test_control_c_stops_everything(command, no_kernel, monkeypatch):
    monkeypatch.setattr("papermill.execute_notebook", fails_with(KeyboardInterrupt()))
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
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("02_nonuniformity")


def in_a_shell(arguments, **streams):
    """The command in a process of its own; returns its status, and what it says on open streams."""
    command = [sys.executable, "-m", "longrope_lab.cli", *arguments]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | streams
    done = subprocess.run(command, text=True, check=False, **pipes)
    return done.returncode, (done.stdout or "") + (done.stderr or "")


@pytest.fixture
def closed_pipe():
    """A pipe that nobody reads any more."""
    read, write = os.pipe()
    os.close(read)
    yield write
    os.close(write)


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("arguments", [["--help"], ["list"], ["run", "00"]])
def test_nobody_reads_what_it_prints(arguments, unbuffered, closed_pipe, tmp_path, monkeypatch):
    """Python would complain when it prints, or when it exits."""
    monkeypatch.setenv("PYTHONUNBUFFERED", unbuffered)
    where = ["--results", str(tmp_path / "results")] if arguments[0] == "run" else []
    status, complaints = in_a_shell([*arguments, *where], stdout=closed_pipe)
    assert complaints == ""
    assert status == cli.CLOSED_PIPE or (arguments[0], unbuffered) == ("--help", "1")
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize("arguments", [["runn"], ["run", "00_quikstart"], ["run", "00", "-p", "x"]])
def test_nobody_reads_what_it_complains_of(arguments, closed_pipe):
    assert in_a_shell(arguments, stderr=closed_pipe) == (2, "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device of Linux")
def test_a_full_disk_for_what_it_prints():
    with Path("/dev/full").open("w") as full:
        status, complaints = in_a_shell(["list"], stdout=full)
    assert status == 2 and complaints.startswith("longrope-lab: No space left on device: free some")


def test_fetch(monkeypatch, capsys):
    monkeypatch.setattr(
        "longrope_lab.models.smollm2.fetch_smollm2", lambda: Path("/somewhere/model.gguf")
    )
    assert cli.main(["fetch", "smollm2"]) == 0
    assert "/somewhere/model.gguf" in capsys.readouterr().out
