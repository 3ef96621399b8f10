"""Times, lengths and large numbers, as people say them."""

from __future__ import annotations

import doctest

import pytest

from longrope_lab.common import quantities
from longrope_lab.common.quantities import amount, duration, length_in


def test_the_examples():
    failed, tried = doctest.testmod(quantities)
    assert tried == 3 and failed == 0


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (-1, "0 s"), (0, "0 s"), (0.034, "0 s"), (5, "5 s"), (9.9, "9.9 s"), (9.96, "10 s"),
        (99.4, "99 s"), (99.6, "2 min"), (3570, "1 h"), (3600, "1 h"), (3659, "1 h 1 min"),
        (86_400, "24 h"), (47 * 3600 + 3599, "2 days"), (10 * 86_400, "10 days"),
    ],
)  # fmt: skip
def test_times(seconds, words):
    assert duration(seconds) == words


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (0, "0"), (7, "7"), (999, "999"), (999.6, "1 k"), (1000, "1 k"), (12_345, "12.3 k"),
        (123_456, "123 k"), (999_999, "1 M"), (4.5e18, "4.5 E"), (2e22, "20000 E"),
    ],
)  # fmt: skip
def test_amounts(number, words):
    assert amount(number) == words


def test_units():
    assert amount(0, "FLOP") == "0 FLOP" and amount(3.21e13, "FLOP") == "32.1 TFLOP"


@pytest.mark.parametrize(
    ("text", "tokens"),
    [("512", 512), (" 16,384", 16_384), ("2,097,152", 2**21), ("128K", 2**17), ("2 M", 2**21)],
)
def test_lengths(text, tokens):
    assert length_in(text) == tokens


@pytest.mark.parametrize(
    "text", ["", "4.5k", "-512", "4,09", "1,2,3", "k", "512kk", "4 096", "١٢z"]
)
def test_what_is_no_length(text):
    with pytest.raises(ValueError, match=r"the length '.*' is no whole number of tokens: write it"):
        length_in(text)
