"""What a refusal says: the value, the rule, and the way out."""

import math
import re

import numpy as np
import pytest

from longrope_lab.common.checks import above, unknown, whole


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
