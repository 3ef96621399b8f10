"""The examples that open the docstrings, run as a reader would run them."""

from __future__ import annotations

import doctest
import inspect
import sys

import pytest

import longrope_lab as lab
from longrope_lab.common import checks, identity
from longrope_lab.models import forward
from longrope_lab.rope.methods import METHODS

EXAMPLES = [
    lab.Plan,
    lab.RopeScaling,
    lab.RopeSchedule,
    lab.RopeSpec,
    lab.apply_scaling,
    lab.check_serving,
    lab.compose,
    lab.finetune,
    lab.load_corpus,
    lab.load_model,
    lab.paired_comparison,
    lab.passkey,
    lab.perplexity,
    lab.plan_to,
    lab.progressive,
    lab.register_method,
    lab.rope_scaling,
    lab.rope_spec,
    lab.save_gguf,
    lab.save_pretrained,
    lab.search,
    lab.served_passkey,
    lab.source_names,
    lab.token_losses,
    checks.unknown,
    checks.whole,
    forward.StandIn,
    identity.differences,
    identity.digest,
    identity.source_name,
]


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.__name__)
def test_an_example_gives_what_it_says(example, tmp_path, monkeypatch):
    """In an empty folder, for some of them write."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(METHODS, "root", None)  # which register_method's example adds
    monkeypatch.setenv("LONGROPE_LAB_PROGRESS", "lines")  # on stderr, with or without a kernel
    names = vars(sys.modules[inspect.unwrap(example).__module__]) | {"lab": lab}
    finder = doctest.DocTestFinder(recurse=False)
    (test,) = finder.find(example, example.__name__, globs=names)
    assert test.examples
    said: list[str] = []
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
    assert runner.run(test, out=said.append).failed == 0, "".join(said)
