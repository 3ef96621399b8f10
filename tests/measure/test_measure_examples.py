"""The examples that open the docstrings of measurements and of `search`."""

import doctest
import sys

import pytest

import longrope_lab as lab

EXAMPLES = [lab.perplexity, lab.paired_comparison, lab.passkey, lab.search]


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.__name__)
def test_an_example_gives_what_it_says(example):
    names = vars(sys.modules[example.__module__]) | {"lab": lab}
    (test,) = doctest.DocTestFinder(recurse=False).find(example, example.__name__, globs=names)
    said = []
    assert test.examples
    assert doctest.DocTestRunner().run(test, out=said.append).failed == 0, "".join(said)
