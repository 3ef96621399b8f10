"""What an earlier run says about how long a notebook takes."""

from __future__ import annotations

import json

import pytest

from longrope_lab.runs import forecast, run_one
from longrope_lab.runs.forecast import TRUST, Pace, recorded_seconds
from longrope_lab.runs.preparing import prepare


@pytest.fixture
def recorded(own_notebooks, no_kernel):
    """Where an earlier run of `00_tiny` is, whose cells took 1, 2 and 3 seconds."""
    folder = run_one.run("00", "cpu", {"number": 3}, own_notebooks)
    cell = {"cell_type": "code", "metadata": {}, "source": "1"}
    cells = [cell | {"metadata": {"papermill": {"duration": n}}} for n in (1.0, 2.0, 3.0)]
    text = {"cell_type": "markdown", "metadata": {"papermill": {"duration": 9.0}}, "source": "#"}
    (folder / "00_tiny.ipynb").write_text(json.dumps({"cells": [text, *cells]}))
    return folder


def test_the_run_in_the_folder_of_the_results(recorded, own_notebooks):
    assert recorded_seconds(prepare("00", "cpu", {"number": 3}, results=own_notebooks)) == [1, 2, 3]


def test_other_parameters_take_another_time(recorded, own_notebooks):
    assert recorded_seconds(prepare("00", "cpu", {"number": 4}, results=own_notebooks)) == []
    assert recorded_seconds(prepare("00", "smoke", {"number": 3}, results=own_notebooks)) == []


def test_the_run_that_the_repository_holds(recorded, own_notebooks, tmp_path, monkeypatch):
    elsewhere = prepare("00", "cpu", {"number": 3}, results=tmp_path / "elsewhere")
    assert recorded_seconds(elsewhere) == []
    monkeypatch.setattr(forecast, "ROOT", own_notebooks.parent)
    assert recorded_seconds(elsewhere) == [1, 2, 3]  # in another folder, and still the same run


@pytest.mark.parametrize("damaged", ["{", "[]", '{"cells": [{"cell_type": "code"}]}'])
def test_a_damaged_run_says_nothing(damaged, recorded, own_notebooks):
    (recorded / "00_tiny.ipynb").write_text(damaged)
    assert recorded_seconds(prepare("00", "cpu", {"number": 3}, results=own_notebooks)) == []


def test_a_machine_of_half_the_pace():
    pace = Pace()
    assert pace.factor == 1
    pace.add(TRUST, TRUST / 2)
    assert 1 < pace.factor < 2
    pace.add(1e6, 5e5)
    assert pace.factor == pytest.approx(2, rel=1e-3)
