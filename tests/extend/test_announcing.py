"""Which stage begins, and how long the rest may take."""

from __future__ import annotations

import pytest

from longrope_lab.extend import announcing
from longrope_lab.extend.announcing import Announcer
from longrope_lab.extend.stages import Formula

FLOPS = {"00_formula_128": 0.0, "01_search_128": 10.0, "02_search_256": 30.0}
STAGE = Formula(128, "yarn")


@pytest.fixture
def clock(monkeypatch):
    """Time that passes only when a test says so."""
    monkeypatch.setenv("LONGROPE_LAB_PROGRESS", "lines")
    now = [1000.0]
    monkeypatch.setattr(announcing.time, "monotonic", lambda: now[0])
    return now


def run_all(folder, clock, seconds):
    announcer = Announcer(FLOPS)
    for name, spent in zip(FLOPS, seconds, strict=True):
        with announcer.stage(folder / name, STAGE):
            clock[0] += spent


def test_the_rest_takes_as_long_per_operation_as_what_was_run(tmp_path, clock, capsys):
    run_all(tmp_path, clock, [0, 20, 60])
    assert capsys.readouterr().err.splitlines() == [
        "stage 1 of 3, 00_formula_128: yarn, a formula",
        "stage 2 of 3, 01_search_128: yarn, a formula",  # a formula says nothing of the pace
        "stage 3 of 3, 02_search_256: yarn, a formula; about 60 s left in all",
    ]


@pytest.mark.parametrize("made", ["scaling.json", "weights.safetensors"])
def test_what_was_done_before_says_nothing_of_the_pace(made, tmp_path, clock, capsys):
    (tmp_path / "01_search_128").mkdir()
    (tmp_path / "01_search_128" / made).touch()
    run_all(tmp_path, clock, [0, 20, 60])
    assert capsys.readouterr().err.splitlines()[1:] == [
        "stage 2 of 3, 01_search_128: yarn, a formula; done before",
        "stage 3 of 3, 02_search_256: yarn, a formula",
    ]


def test_of_several_processes_the_main_one_says_it(tmp_path, clock, capsys, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    run_all(tmp_path, clock, [0, 20, 60])
    assert capsys.readouterr() == ("", "")
