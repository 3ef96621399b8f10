"""The explorer: moving a control changes what is drawn, and what is drawn is the scaling that it says."""

import re
import time

import numpy as np
import pytest

from longrope_lab import widgets
from longrope_lab.methods import rope_scaling
from longrope_lab.rope import RopeSpec, longrope_attention_factor

SPEC = RopeSpec(rotary_dim=64, original_length=512, base=10000.0)


@pytest.fixture
def explorer():
    return widgets.explore_scaling(SPEC, method="pi", ratio=8, pair=8)


def curves(explorer):
    """The values of all lines of the figure that is shown."""
    return [np.array(line.get_ydata(), dtype=float) for ax in explorer.figure.axes for line in ax.lines]


def picture(explorer):
    return bytes(explorer.widget.children[-1].value)


def test_it_shows_a_picture_at_once(explorer):
    assert picture(explorer).startswith(b"\x89PNG")
    assert explorer.scaling == rope_scaling(SPEC, "pi", 4096)
    assert "application/vnd.jupyter.widget-view+json" in explorer._repr_mimebundle_()


@pytest.mark.parametrize(
    ("control", "value"),
    [
        ("method", "yarn"),
        ("method", "none"),
        ("ratio", 16),
        ("pair", 9),
        ("start_tokens", 16),
        ("attention_factor", widgets.YARN),
    ],
)
def test_moving_a_control_changes_what_is_drawn(explorer, control, value):
    before, seen = curves(explorer), picture(explorer)
    explorer.controls[control].value = value
    after = curves(explorer)
    assert picture(explorer) != seen
    assert len(after) != len(before) or any(not np.array_equal(a, b) for a, b in zip(before, after, strict=True))


def test_the_curve_is_that_of_the_controls(explorer):
    explorer.controls["start_tokens"].value = 16
    explorer.controls["attention_factor"].value = widgets.LONGROPE
    explorer.controls["ratio"].value = 4
    explorer.controls["pair"].value = 5
    n, theta, m = np.arange(32), 10000 ** (-5 / 32), longrope_attention_factor(SPEC, 2048)
    expected = m * np.cos(np.where(n < 16, n, n / 4) * theta)
    assert any(len(y) == 32 and np.allclose(y, expected) for y in curves(explorer))
    assert explorer.scaling.target_length == 2048
    caption = explorer.widget.children[-2].value
    assert "λ = 4," in caption and "16 start tokens" in caption and "512 → 2048" in caption


def test_the_attention_factor_of_the_method_comes_back(explorer):
    for value, m in ((widgets.ONE, 1), (widgets.YARN, 0.1 * np.log(8) + 1), (widgets.OF_THE_METHOD, 1)):
        explorer.controls["attention_factor"].value = value
        assert explorer.scaling.attention_factor == pytest.approx(m)
    explorer.controls["method"].value = "yarn"
    assert explorer.scaling.attention_factor == pytest.approx(0.1 * np.log(8) + 1)


def test_dynamic_ntk_is_shown_at_its_target(explorer):
    explorer.controls["method"].value = "dynamic_ntk"
    np.testing.assert_allclose(explorer.scaling.factors, rope_scaling(SPEC, "ntk", 4096).factors)


def test_a_redraw_is_fast(explorer):
    seconds = []
    for pair in range(5):
        started = time.process_time()  # not the wall clock: other processes share the machine
        explorer.controls["pair"].value = pair
        seconds.append(time.process_time() - started)
    assert min(seconds) < 0.4


def test_values_of_its_own_are_added_to_the_sliders():
    explorer = widgets.explore_scaling(SPEC, ratio=6, start_tokens=5)
    assert explorer.scaling.target_length == 3072
    assert explorer.scaling.start_tokens == 5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "yarm"}, "unknown method 'yarm': did you mean 'yarn'?"),
        ({"pair": 32}, "pair is 32: rotary_dim 64 has dimension pairs 0 to 31"),
        ({"ratio": 0}, "ratio is 0: the explorer takes a whole number from 1"),
        ({"ratio": 1.5}, "ratio is 1.5"),
    ],
)
def test_messages(options, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        widgets.explore_scaling(SPEC, **options)
