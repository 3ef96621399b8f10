"""The examples that open the docstrings, run as a reader would run them."""

import doctest

import pytest

import longrope_lab as lab
from longrope_lab.common import checks, identity
from longrope_lab.models import forward
from longrope_lab.rope.methods import METHODS

EXAMPLES = [
    lab.RopeScaling,
    lab.RopeSchedule,
    lab.RopeSpec,
    lab.apply_scaling,
    lab.compose,
    lab.load_corpus,
    lab.load_model,
    lab.register_method,
    lab.rope_scaling,
    lab.rope_spec,
    lab.token_losses,
    checks.unknown,
    checks.whole,
    forward.StandIn,
    identity.digest,
    identity.differences,
]


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.__name__)
def test_an_example_gives_what_it_says(example, monkeypatch):
    monkeypatch.setitem(METHODS, "root", None)  # which register_method's example adds
    names = vars(__import__(example.__module__, fromlist=["_"])) | {"lab": lab}
    finder = doctest.DocTestFinder(recurse=False)
    (test,) = finder.find(example, example.__name__, globs=names)
    assert test.examples
    said = []
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
    assert runner.run(test, out=said.append).failed == 0, "".join(said)
