"""A verdict on tables just recorded: the page's own rule, and what is said of missing tables."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest

import longrope_lab as lab
from longrope_lab.measure.stats import accuracy_summary
from longrope_lab.report.claims import judge
from longrope_lab.report.experiments import EXPERIMENTS
from longrope_lab.report.notebook_verdict import verdict
from longrope_lab.report.recorded import Results, read_results

RESULTS = Path(__file__).parents[2] / "results"
N05, N07, N10 = "05_progressive_extension", "07_passkey", "10_long_documents"
ALL = read_results(RESULTS)
EACH = [
    (name, results.runs[notebook])
    for name, each in EXPERIMENTS.items()
    for results in ALL.values()
    for notebook in each.notebooks
    if notebook in results.runs and name in ("T5", "T6", "T8", "T9", "T10", "F4", "F6", "T12")
]


@pytest.mark.parametrize(("name", "run"), EACH, ids=lambda v: v if isinstance(v, str) else v.folder)
def test_it_is_what_the_page_says_of_that_folder(name, run):
    alone = Results(run.profile, {run.notebook: run})
    given = verdict(name, run.folder)
    assert (given.verdict, given.outcomes) == judge(name, alone)
    if EXPERIMENTS[name].notebooks == (run.notebook,):
        assert given.verdict == judge(name, ALL[run.profile])[0]
    for shown in (str(given), given._repr_markdown_()):
        assert given.verdict in shown and EXPERIMENTS[name].finding in shown


def copied(tmp_path, notebook, end=".running"):
    """A folder as a notebook at work has it: tables, and no ``run.json``."""
    folder = tmp_path / (notebook + end)
    shutil.copytree(RESULTS / "cpu" / notebook, folder, ignore=shutil.ignore_patterns("run.json"))
    return folder


def test_it_shows_places_figures_and_the_papers_figures():
    shown = str(lab.verdict("t9", RESULTS / "cpu" / N05))
    assert repr(lab.verdict("T9", RESULTS / "cpu" / N05)) == shown
    assert "Table 9" in shown.splitlines()[0] and "16k PI  yes  ratio to PI 0." in shown
    assert "| PI | 6.60 | 8.73 | 20.17 |" in shown  # the paper's


def test_a_running_notebook_gives_the_parameters_that_a_claim_needs(tmp_path):
    folder = copied(tmp_path, N10)
    target = json.loads((RESULTS / "cpu" / N10 / "run.json").read_text())["parameters"]["target"]
    without, given = verdict("T5", folder), verdict("T5", folder, target=target)
    assert "YaRN's target is not known" in str(without)
    assert given.outcomes == verdict("T5", RESULTS / "cpu" / N10).outcomes


def test_what_is_missing_is_said(tmp_path):
    folder = copied(tmp_path, N05, ".failed")
    (folder / "t9.csv").unlink()
    assert "not measured  t9.csv was not recorded" in str(verdict("T9", folder))
    (folder / "t9_paired.csv").unlink()
    nothing = verdict("T9", folder)
    assert nothing.verdict == "not measured" and "t9_paired.csv was not rec" in str(nothing)
    with pytest.raises(FileNotFoundError, match=r"no folder of tables at .*nowhere"):
        verdict("T9", tmp_path / "nowhere")


def test_a_damaged_table_is_refused_as_by_the_report(tmp_path):
    path = copied(tmp_path, N05) / "t9_paired.csv"
    text = path.read_text()
    path.write_text(text[:-5])
    with pytest.raises(ValueError, match=r"t9_paired\.csv is damaged.*cut off"):
        verdict("T9", path.parent)
    path.write_text(text.replace("ratio", "quotient"))
    with pytest.raises(ValueError, match="no column ratio"):
        verdict("T9", path.parent)


def test_unknown_ids_and_folders_of_no_known_notebook(tmp_path):
    with pytest.raises(ValueError, match="unknown experiment 'T21': did you mean 'T"):
        verdict("T21", tmp_path)
    with pytest.raises(ValueError, match=r"T3 is measured in 02_.* and 05_.*notebook="):
        verdict("T3", tmp_path)
    assert verdict("T3", tmp_path, notebook=N05).verdict == "not measured"


def test_keys_that_were_found_are_told_with_their_interval(tmp_path):
    rows = [(s, 512, i < n) for s, n in {"longrope": 10, "none": 0, "yarn": 1}.items()
            for i in range(10)]  # fmt: skip
    summary = accuracy_summary(pd.DataFrame(rows, columns=["scaling", "length", "correct"]))
    lab.record(tmp_path / N07, f4_summary=summary)
    shown = str(verdict("F4", tmp_path / N07))
    assert "LongRoPE at 512: 100 % (72 to 100 %); YaRN at 512: 10 % (2 to 40 %)" in shown
