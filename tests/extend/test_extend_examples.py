"""The examples that open the docstrings of plans, trainings and exports, run in order."""

from __future__ import annotations

import doctest

import pytest

import longrope_lab as lab

EXAMPLES = [lab.Plan, lab.finetune, lab.progressive, lab.save_pretrained]


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.__name__)
def test_an_example_gives_what_it_says(example, tmp_path, monkeypatch):
    """In an empty folder, for some of them write."""
    monkeypatch.chdir(tmp_path)
    names = dict(vars(__import__(example.__module__, fromlist=["_"])))
    (test,) = doctest.DocTestFinder(recurse=False).find(example, example.__name__, globs=names)
    assert test.examples
    said = []
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
    assert runner.run(test, out=said.append).failed == 0, "".join(said)
