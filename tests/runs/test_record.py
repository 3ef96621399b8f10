"""What a notebook keeps."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from longrope_lab.rope.methods import rope_scaling
from longrope_lab.rope.scaling import RopeScaling
from longrope_lab.rope.schedule import RopeSchedule
from longrope_lab.rope.spec import RopeSpec
from longrope_lab.runs.record import record


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
    record(tmp_path / "deep", best=scaling, schedule=schedule)
    assert RopeScaling.load(tmp_path / "deep" / "best.json") == scaling
    assert RopeSchedule.load(tmp_path / "deep" / "schedule.json") == schedule
    names = sorted(path.name for path in (tmp_path / "deep").iterdir())
    assert names == ["best.json", "schedule.json"]


def test_record_writes_the_same_bytes_again(tmp_path):
    figure = Figure()
    figure.subplots().plot([1, 2, 3])
    for name in ("a", "b"):
        record(tmp_path / name, figure=figure, table=pd.DataFrame({"x": [1 / 3]}))
    for name in ("figure.svg", "figure.png", "table.csv"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


@pytest.mark.parametrize("kind", ["table", "figure", "scaling"])
def test_what_cannot_be_written_is_named(tmp_path, monkeypatch, kind):
    """A full disk's own error names no file."""
    spec = RopeSpec(8, 512, base=10000.0)
    items = {
        "table": pd.DataFrame({"x": [1]}),
        "figure": Figure(),
        "scaling": rope_scaling(spec, "pi", 1024),
    }

    def full(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_text", full)
    monkeypatch.setattr(Figure, "savefig", full)
    words = rf"{kind}\.\w+ cannot be written \(No space left on device\): free some space, or name"
    with pytest.raises(ValueError, match=words):
        record(tmp_path, **{kind: items[kind]})
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").touch()
    with pytest.raises(
        ValueError, match=r"file cannot be written \(.*\): something is in the way: move it"
    ):
        record(tmp_path / "file", **{kind: items[kind]})


@pytest.mark.parametrize("name", ["../x", "a/b", "..", ""])
def test_an_item_without_a_plain_name_is_refused(tmp_path, name):
    with pytest.raises(ValueError, match=f"an item is called {name!r}: its file lies in"):
        record(tmp_path / "out", **{name: pd.DataFrame({"x": [1]})})
    assert not any(tmp_path.rglob("x*"))
