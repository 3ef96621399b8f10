"""The paper's experiments: all there, true to the paper, and in step with the notebooks."""

from __future__ import annotations

import inspect
import math
import re

import nbformat
import pytest

import longrope_lab as lab
from longrope_lab.cli import _notebooks
from longrope_lab.report.experiments import EXPERIMENTS, experiment, experiments_in, paper
from longrope_lab.runs import notebooks as runs

IDS = [
    "T1", "T2", "T3", "F3", "T5", "T6", "F1", "T7", "F4", "T8", "T9", "T10", "T11", "T12", "F5",
    "F6",
]  # fmt: skip


def test_every_experiment_of_the_paper_has_a_notebook():
    assert list(EXPERIMENTS) == IDS
    for name, entry in EXPERIMENTS.items():
        assert entry.id == name
        assert entry.notebooks and entry.title and entry.measure and entry.finding
        assert entry.source == f"LongRoPE, {'Table' if name[0] == 'T' else 'Figure'} {name[1:]}"
    assert experiments_in("02_nonuniformity") == ["T1", "T2", "T3", "T11"]
    assert experiments_in("00_quickstart") == []


def test_figures_are_a_tidy_table():
    for name, entry in EXPERIMENTS.items():
        table = paper(name)
        assert list(table) == ["row", "column", "value", "note"] and table["value"].dtype == float
        assert len(table) == len(entry.rows) * len(entry.columns)
        assert not table.duplicated(["row", "column"]).any()
        numbers = table["value"].notna()
        assert (numbers <= (table["note"] == "")).all()  # a number, or words in its place
    assert inspect.unwrap(lab.paper) is paper


def wide(name):
    return paper(name).pivot_table("value", "row", "column", sort=False)


def test_figures_are_the_papers():
    """Read off the paper by hand, and what its text says about them."""
    assert wide("T1").loc["search"].tolist() == [9.37, 11.34, 3.45, 3.13]
    assert (wide("T1").idxmin() == "search").all()
    assert wide("T2").loc["256"].tolist() == [11.74, 34.65, 10.62, 90.99]
    assert wide("T2").idxmin().tolist() == ["64", "16", "128", "16"]
    assert wide("T3").loc["yarn"].tolist() == [4.15, 2.42]
    assert wide("T5").loc["LLaMA2 ft256k", "256k"] == 1.87
    assert wide("T6").loc["LLaMA2 ft128k", ["8k", "2048k"]].tolist() == [6.55, 7.80]
    on = wide("T10").loc["LLaMA2 ft128k, on"]
    assert on[["Proof-pile 4k", "Proof-pile 8k"]].tolist() == [3.71, 3.50]
    assert wide("F6").loc["64x (256k)"].tolist() == [273.27, 118.47]
    # Tables that show the same model in the same place agree: in table 5 recovery is on, table 9 is
    # table 6 at its end.
    for here, there in [
        (
            wide("T10").loc["LLaMA2 ft256k, on", ["Proof-pile 4k", "Proof-pile 8k"]],
            wide("T5").loc["LLaMA2 ft256k", ["4k", "8k"]],
        ),
        (wide("T9").loc["search"], wide("T6").loc["LLaMA2 ft256k", ["512k", "1024k", "2048k"]]),
        (
            wide("T11").loc[["pi", "dimensions"], "Books3 2048k"],
            wide("T9").loc[["pi", "search"], "2048k"],
        ),
    ]:
        assert here.tolist() == there.tolist()
    assert wide("T8").loc["LLaMA2 ft128k"].mean() == pytest.approx(52.9)
    assert wide("F1").equals(wide("T6")) and wide("F5").equals(wide("T12"))


def test_where_the_paper_gives_words():
    yarn = paper("T6").query("row == 'LLaMA2 YaRN s=32'")
    assert yarn["note"].tolist() == [""] * 5 + ["over 10⁴"] * 4
    assert [math.isnan(v) for v in yarn["value"]] == [False] * 5 + [True] * 4
    assert paper("F3").empty and "only LongRoPE" in experiment("F3").finding


def test_experiments_that_share_figures():
    shared = {name: entry.figures_of for name, entry in EXPERIMENTS.items() if entry.figures_of}
    assert shared == {"F1": "T6", "F5": "T12"}
    for name, other in shared.items():
        assert EXPERIMENTS[name].rows == EXPERIMENTS[other].rows
        assert IDS.index(other) < IDS.index(name)  # the page refers back to it


def test_unknown_ids():
    assert experiment("t2") is EXPERIMENTS["T2"]
    with pytest.raises(ValueError, match="unknown experiment 'T21': did you mean 'T"):
        paper("T21")


def headings(path):
    cells = nbformat.read(path, as_version=4).cells
    texts = "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    return [line for line in texts.splitlines() if line.startswith("#")]


def names_it(heading, name):
    """ "T11", "Table 11", "Tables 3 and 11"; the same with F and Figure."""
    kind = {"T": "Tables?", "F": "Figures?"}[name[0]]
    numbers = rf"{kind} (\d+(?:, | and |, and ))*{name[1:]}\b"
    return re.search(rf"\b{name}\b|\b{numbers}", heading) is not None


@pytest.mark.parametrize("path", runs.notebooks(), ids=lambda p: p.stem)
def test_a_notebook_has_a_section_for_each_of_its_experiments(path):
    for name in experiments_in(path.stem):
        missing = f"no heading of {path.name} names {name}"
        assert any(names_it(heading, name) for heading in headings(path)), missing


def test_headings_that_name_an_experiment():
    assert all(names_it("## Finding 3 (Tables 3 and 11)", name) for name in ("T3", "T11"))
    assert names_it("## T9: a second extension", "T9") and names_it("## Figure 6", "F6")
    others = {"## Table 11": "T1", "## Figure 3": "T3", "## At 3": "T3"}
    assert not any(names_it(heading, name) for heading, name in others.items())


# --- which notebooks an id means ---


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Notebooks 02, 05 and 09 alone, with nothing in them."""
    for name in ("02_nonuniformity", "05_progressive_extension", "09_two_nonuniformities"):
        (tmp_path / f"{name}.ipynb").touch()
    monkeypatch.setattr(runs, "NOTEBOOKS", tmp_path)


def found(*names):
    return [path.stem for path in _notebooks(names)]


def test_notebooks_of_an_experiment(folder):
    assert found("T2") == ["02_nonuniformity"]
    assert found("t3") == ["02_nonuniformity", "05_progressive_extension"]
    once = ["02_nonuniformity", "09_two_nonuniformities"]
    assert found("T1", "T2", "02", "T11") == once
    assert found("all") == [once[0], "05_progressive_extension", once[1]]


def test_an_experiment_whose_notebook_is_not_there(folder):
    words = r"F6 \(validation .*\) needs the notebook 03_search, which is not in .*[^;]$"
    with pytest.raises(ValueError, match=words):
        found("F6")
    words = "T5 .* 10_long_documents, .*; 05_progressive_extension can be run by name"
    with pytest.raises(ValueError, match=words):
        found("T5")
