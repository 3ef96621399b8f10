"""What a refusal says: the value, the rule, and the way out."""

import math
import re

import numpy as np
import pandas as pd
import pytest

from longrope_lab.common.checks import above, check_table, seed_of, unknown, whole


def test_unknown_offers_the_nearest_and_lists_the_rest():
    assert (
        str(unknown("method", "yarm", ["pi", "yarn"]))
        == "unknown method 'yarm': did you mean 'yarn'? Known: pi, yarn"
    )
    assert (
        str(unknown("method", "zzz", iter(["pi", "yarn"])))
        == "unknown method 'zzz': Known: pi, yarn"
    )
    assert str(unknown("option", 3, [])) == "unknown option 3: Known: (none)"
    assert isinstance(unknown("a", "b", []), ValueError)


@pytest.mark.parametrize("value", [3, 3.0, np.int64(3), np.float32(3), True + True + True])
def test_whole_numbers_become_plain_ones(value):
    assert whole("steps", value, 3) == 3
    assert type(whole("steps", value, 3)) is int


@pytest.mark.parametrize("value", [2, -1, 3.5, math.nan, math.inf, -math.inf, "3", "x", None, [3]])
def test_what_is_not_a_whole_number_from_three(value):
    message = re.escape(f"steps is {value}: it must be a whole number from 3")
    with pytest.raises(ValueError, match=message):
        whole("steps", value, 3)
    with pytest.raises(ValueError, match=re.escape(f"steps is {value}: it counts steps")):
        whole("steps", value, 3, "it counts steps")


@pytest.mark.parametrize("value", [2, 1.5, np.float32(1.5)])
def test_numbers_above_a_bound_become_plain_floats(value):
    assert above("base", value, 1) == float(value)
    assert type(above("base", value, 1)) is float


@pytest.mark.parametrize("value", [1, 0.5, -2, math.nan, math.inf, "2", None])
def test_what_is_not_a_finite_number_above_one(value):
    message = re.escape(f"base is {value}: it must be a finite number above 1")
    with pytest.raises(ValueError, match=message):
        above("base", value, 1)


def test_a_seed_is_one_that_every_generator_takes():
    for seed in (0, 7.0, np.int64(3), 2**32 - 1):
        assert seed_of(seed) == seed and type(seed_of(seed)) is int
        np.random.RandomState(seed_of(seed))
    for seed in (-1, 2**32, 0.5, None, "1"):
        with pytest.raises(ValueError, match=f"^seed is {seed}: it must be "):
            seed_of(seed)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (
            pd.DataFrame(),
            "the table has no column 'loss', 'length': pass one that perplexity returns",
        ),
        (pd.DataFrame({"loss": [1.0]}), "no column 'length': pass one that .*; this has loss"),
        (pd.DataFrame({"loss": [], "length": []}), "the table has no rows, so there is nothing to"),
        ([1, 2], "the table has no column 'loss', 'length': .*; this has none"),
    ],
)
def test_a_table_that_nothing_can_be_made_of(table, message):
    with pytest.raises(ValueError, match=message):
        check_table(table, "perplexity", "loss", "length")
    assert check_table(pd.DataFrame({"loss": [1.0], "length": [8]}), "x", "loss") is None
