"""Notebooks in processes of their own: who waits for whom, and what becomes of each."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

import pandas as pd
import pytest

from longrope_lab.runs import notebooks
from longrope_lab.runs.preparing import Prepared, prepare
from longrope_lab.runs.run_many import run_all
from longrope_lab.runs.side_by_side import needed, side_by_side


def ready(name, *, alone=False, folder=Path("results"), **parameters):
    """A notebook that is ready to run, as `prepare` would have it; the file is there."""
    path = folder / f"{name}.ipynb"
    tags = {"tags": ["alone"]} if alone else {}
    cell = {"cell_type": "markdown", "metadata": tags, "source": f"# {name}"}
    path.write_text(json.dumps({"cells": [cell]}))
    return Prepared(path, "cpu", {}, parameters, parameters, folder / "cpu" / name)


def test_the_notebooks_of_the_paper_wait_for_what_they_read():
    """03, for example, reads nothing of another; what measures speed has the machine alone."""
    prepared = [prepare(path.stem, "cpu") for path in notebooks.notebooks()]
    names = [each.notebook.stem[:2] for each in prepared]
    waits = {
        name: {names[earlier] for earlier in needed(prepared, number)}
        for number, name in enumerate(names)
    }
    assert waits.pop("90") == set(waits)
    assert {name: them for name, them in waits.items() if them} == {
        "06": {"05"}, "07": {"04", "06"}, "08": {"04", "06"}, "10": {"04", "06"},
        "11": {"04"},
    }  # fmt: skip


def test_places_are_compared_as_paths(tmp_path):
    first = ready("a", folder=tmp_path, export_to="x/handed", out="x/b")
    reads = {
        "itself": "x/handed", "inside": "x/handed/deep/file.json", "beside": "x/handed2",
        "results": f"{tmp_path}/cpu/a/table.csv", "nothing": "", "own": "x",
    }  # fmt: skip
    waits = {
        name: needed([first, ready("b", folder=tmp_path, found=[text])], 1) == {0}
        for name, text in reads.items()
    }
    assert [name for name, does in waits.items() if does] == ["itself", "inside", "results"]
    assert needed([ready("b", folder=tmp_path, found="x/handed"), first], 0) == set()


def work(prepared, count):
    """Writes when it began and ended; dies without a word, or fails, if it is to.

    If another is to be beside it, it waits until that has begun."""
    began, name, folder = time.time(), prepared.notebook.stem, prepared.notebook.parent
    (folder / f"{name}.began").touch()
    beside, patience = prepared.parameters.get("beside"), time.monotonic() + 120
    while beside and not (folder / f"{beside}.began").exists():
        if time.monotonic() > patience:
            sys.exit(3)
        time.sleep(0.01)
    with (prepared.notebook.parent / "log").open("a") as log:
        log.write(json.dumps([name, began, time.time(), count]) + "\n")
    if prepared.parameters.get("die"):
        os._exit(9)
    sys.exit(prepared.parameters.get("status", 0))


def run_them(folder, prepared, jobs):
    """What became of each, and when it began and ended."""
    ends = list(side_by_side(prepared, jobs, work))
    lines = map(json.loads, (folder / "log").read_text().splitlines())
    times = {name: (began, ended, count) for name, began, ended, count in lines}
    assert all(seconds > 0 for _, _, seconds in ends)
    return {prepared[number].notebook.stem: well for number, well, _ in ends}, times


def test_as_many_at_a_time_as_may_be(tmp_path):
    """Of three, `c` reads what `b` leaves: so `b` begins first, and `c` when it has ended."""
    prepared = [
        ready("a", folder=tmp_path, beside="b"),
        ready("b", folder=tmp_path, beside="a", export_to="x"),
        ready("c", folder=tmp_path, extended="x"),
    ]
    well, times = run_them(tmp_path, prepared, 2)
    assert well == {"a": True, "b": True, "c": True}
    assert times["b"][1] < times["c"][0]
    assert [times[name][2] for name in "abc"] == ["[1/3]", "[2/3]", "[3/3]"]


def test_one_at_a_time_the_longest_chain_comes_first(tmp_path):
    prepared = [
        ready("a", folder=tmp_path),
        ready("b", folder=tmp_path, export_to="x"),
        ready("c", folder=tmp_path, extended="x"),
    ]
    _, times = run_them(tmp_path, prepared, 1)
    assert times["b"][1] < min(times["a"][0], times["c"][0])
    assert times["a"][1] < times["c"][0] or times["c"][1] < times["a"][0]


def test_what_fails_or_dies_does_not_stop_the_others(tmp_path):
    """Nor what waits for it: it says itself what is missing."""
    prepared = [
        ready("a", folder=tmp_path, die=True, export_to="x"),
        ready("b", folder=tmp_path, status=1),
        ready("c", folder=tmp_path, extended="x"),
        ready("d", folder=tmp_path, alone=True),
    ]
    well, times = run_them(tmp_path, prepared, 3)
    assert well == {"a": False, "b": False, "c": True, "d": True}
    assert times["d"][0] > max(times[name][1] for name in "abc")


@pytest.mark.usefixtures("own_notebooks")
def test_two_notebooks_at_a_time_leave_what_one_would(own_notebooks, capfd):
    prepared = [
        prepare("00", "smoke", {"fail": True}, results=own_notebooks),
        prepare("01", "smoke", {"number": 5}, results=own_notebooks),
    ]
    assert run_all(prepared, jobs=2) == 1
    printed = capfd.readouterr().out
    assert pd.read_csv(own_notebooks / "smoke" / "01_small" / "table.csv")["number"].tolist() == [5]
    assert (own_notebooks / "smoke" / "00_tiny.failed").is_dir()
    rows = [line.split() for line in printed.splitlines()[-2:]]
    assert [row[:2] for row in rows] == [["00_tiny", "failed"], ["01_small", "done"]]
