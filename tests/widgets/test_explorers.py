"""The explorers of formulas draw the scaling that they say, and another when a control moves."""

import io
import re
import time

import numpy as np
import pytest
from matplotlib.image import imread

from longrope_lab import widgets
from longrope_lab.rope.formulas import longrope_attention_factor
from longrope_lab.rope.methods import rope_scaling
from longrope_lab.rope.spec import RopeSpec
from longrope_lab.widgets import explorer as explorers
from longrope_lab.widgets.scaling import LONGROPE, OF_THE_METHOD, ONE, YARN

SPEC = RopeSpec(rotary_dim=64, window=512, base=10000.0)


@pytest.fixture
def explorer():
    return widgets.explore_scaling(SPEC, method="pi", ratio=8, pair=8)


@pytest.fixture
def angles():
    return widgets.explore_angles(SPEC, method="pi", ratio=8)


def curves(explorer):
    """The values of all lines of the figure that is shown."""
    return [
        np.array(line.get_ydata(), dtype=float) for ax in explorer.figure.axes for line in ax.lines
    ]


def picture(explorer):
    return bytes(explorer.image.value)


@pytest.mark.parametrize("make", [widgets.explore_scaling, widgets.explore_angles])
def test_it_shows_a_picture_at_once(make):
    explorer = make(SPEC, method="pi", ratio=8)
    assert picture(explorer).startswith(b"\x89PNG")
    assert explorer.scaling == rope_scaling(SPEC, "pi", 4096)
    bundle = explorer._repr_mimebundle_()
    assert "application/vnd.jupyter.widget-view+json" in bundle
    assert "shown in JupyterLab" in bundle["text/plain"]
    assert explorer.image in explorer.widget.children


@pytest.mark.parametrize("make", [widgets.explore_scaling, widgets.explore_angles])
def test_a_dead_explorer_says_to_run_its_cell_again(make, monkeypatch):
    """The words are under the explorer, and hidden while it lives; a browser test sees both."""
    shown = []
    monkeypatch.setattr(explorers, "display", lambda data, **_: shown.append(data))
    explorer = make(SPEC)
    explorer._ipython_display_()
    controls, words = shown
    assert "application/vnd.jupyter.widget-view+json" in controls
    assert "run this cell again" in words["text/plain"]
    assert words["text/plain"] in words["text/html"] and "display: none" in words["text/html"]
    assert explorers.LIVE in explorer.widget._dom_classes


def test_a_move_that_nobody_can_see_is_called_so(angles):
    angles.controls["position"].value = 512
    assert explorers.UNSEEN not in angles.caption.value
    angles.controls["start_tokens"].value = 4  # position 512 is none of them
    assert explorers.UNSEEN in angles.caption.value
    angles.controls["method"].value = "ntk"
    assert explorers.UNSEEN not in angles.caption.value


def test_pictures_look_alike_up_to_a_few_dots():
    white = np.full((40, 40, 4), 255, dtype=np.uint8)
    faint, dotted, lined = white.copy(), white.copy(), white.copy()
    faint[:, :, 0] -= 20
    dotted[3, :5, :3] = 0
    lined[3, :, :3] = 0
    assert explorers.look_alike(white, faint) and explorers.look_alike(dotted, white)
    assert not explorers.look_alike(white, lined)
    assert not explorers.look_alike(white, white[:20])


def test_a_picture_fits_beside_its_controls(explorer, angles):
    """A laptop's page of 1440 x 900 leaves an output about 1060 by 700 dots."""
    for shown in (explorer, angles):
        height, width, _ = imread(io.BytesIO(picture(shown))).shape
        assert width <= 1000 and height <= 500


@pytest.mark.parametrize(
    ("control", "value"),
    [
        ("method", "yarn"),
        ("method", "none"),
        ("ratio", 16),
        ("pair", 9),
        ("near", 512),
        ("start_tokens", 16),
        ("attention_factor", YARN),
    ],
)
def test_moving_a_control_changes_what_is_drawn(explorer, control, value):
    before, seen = curves(explorer), picture(explorer)
    explorer.controls[control].value = value
    after = curves(explorer)
    assert picture(explorer) != seen
    assert len(after) != len(before) or any(
        not np.array_equal(a, b) for a, b in zip(before, after, strict=True)
    )


def test_the_curve_is_that_of_the_controls(explorer):
    explorer.controls["start_tokens"].value = 16
    explorer.controls["attention_factor"].value = LONGROPE
    explorer.controls["ratio"].value = 4
    explorer.controls["pair"].value = 5
    n, theta, m = np.arange(32), 10000 ** (-5 / 32), longrope_attention_factor(SPEC, 2048)
    expected = m * np.cos(np.where(n < 16, n, n / 4) * theta)
    assert any(len(y) == 32 and np.allclose(y, expected) for y in curves(explorer))
    assert explorer.scaling.target_length == 2048
    caption = explorer.caption.value
    assert "λ = 4," in caption and "16 start tokens" in caption and "512 → 2048" in caption


def test_a_wave_is_no_longer_than_the_target(explorer):
    explorer.controls["near"].value = 16384
    assert explorer.figure.axes[0].get_xlim()[1] == 4096


def test_the_angles_are_those_of_the_controls(angles):
    angles.controls["position"].value = 64
    angles.controls["ratio"].value = 4
    angles.controls["attention_factor"].value = YARN
    m = 0.1 * np.log(4) + 1
    expected = 64 / 4 * SPEC.frequencies
    assert any(len(y) == 32 and np.allclose(y, expected / (2 * np.pi)) for y in curves(angles))
    assert any(len(y) == 32 and np.allclose(y, m**2 * np.cos(expected)) for y in curves(angles))
    assert "512 → 2048" in angles.caption.value and "position 64" in angles.caption.value
    angles.controls["start_tokens"].value = 128  # now this position is one of those left alone
    assert any(
        len(y) == 32 and np.allclose(y, 64 * SPEC.frequencies / (2 * np.pi))
        for y in curves(angles)[1:]
    )


@pytest.mark.parametrize(("method", "beyond"), [("none", 16), ("pi", 0), ("yarn", 0)])
def test_the_angles_beyond_training_are_counted(angles, method, beyond):
    angles.controls["method"].value = method
    assert f"{beyond} of 32 pairs are beyond" in angles.caption.value


@pytest.mark.parametrize(
    "control", ["method", "ratio", "position", "start_tokens", "attention_factor"]
)
def test_every_control_of_the_angles_acts(angles, control):
    angles.controls["position"].value = 19
    seen = picture(angles)
    values = {
        "method": "ntk",
        "ratio": 2,
        "position": 54,
        "start_tokens": 64,
        "attention_factor": YARN,
    }
    angles.controls[control].value = values[control]
    assert picture(angles) != seen


def test_the_attention_factor_of_the_method_comes_back(explorer):
    for value, m in ((ONE, 1), (YARN, 0.1 * np.log(8) + 1), (OF_THE_METHOD, 1)):
        explorer.controls["attention_factor"].value = value
        assert explorer.scaling.attention_factor == pytest.approx(m)
    explorer.controls["method"].value = "yarn"
    assert explorer.scaling.attention_factor == pytest.approx(0.1 * np.log(8) + 1)


def test_dynamic_ntk_is_shown_at_its_target(explorer):
    explorer.controls["method"].value = "dynamic_ntk"
    np.testing.assert_allclose(explorer.scaling.factors, rope_scaling(SPEC, "ntk", 4096).factors)


@pytest.mark.parametrize("name", ["explorer", "angles"])
def test_a_redraw_is_fast(name, request):
    shown = request.getfixturevalue(name)
    seconds = []
    for ratio in (2, 4, 8, 16, 32, 64):
        started = time.process_time()  # not the wall clock: other processes share the machine
        shown.controls["ratio"].value = ratio
        seconds.append(time.process_time() - started)
    assert (
        min(seconds) < 0.2
    )  # 0.04 on a quiet machine; a figure made anew takes several times as long


def test_a_drag_leaves_nothing_of_the_earlier_picture():
    """Painted over a copy of axes that stay, the picture is that of an explorer opened there."""
    pixels = {}
    for position in (1000, 700, 850):  # all within the same decades
        angles = widgets.explore_angles(SPEC, method="pi", ratio=8, position=position)
        pixels[position] = imread(io.BytesIO(picture(angles)))
    moved = widgets.explore_angles(SPEC, method="pi", ratio=8, position=1000)
    moved.controls["position"].options = [700, 850, 1000]
    for position in (700, 1000, 850):
        moved.controls["position"].value = position
        away = {
            other: np.abs(imread(io.BytesIO(picture(moved))) - own).mean()
            for other, own in pixels.items()
        }
        assert (
            away[position] < 1e-4 < 1e-3 < min(away[other] for other in away if other != position)
        )


def test_values_of_its_own_are_added_to_the_sliders():
    explorer = widgets.explore_scaling(SPEC, ratio=6, start_tokens=5, near=100)
    assert explorer.scaling.target_length == 3072
    assert explorer.scaling.start_tokens == 5
    assert explorer.controls["near"].value == 100
    assert widgets.explore_angles(SPEC, position=1000).controls["position"].value == 1000


@pytest.mark.parametrize(
    ("make", "options", "message"),
    [
        (
            widgets.explore_scaling,
            {"method": "yarm"},
            "unknown method 'yarm': did you mean 'yarn'?",
        ),
        (
            widgets.explore_scaling,
            {"pair": 32},
            "pair is 32: rotary_dim 64 has dimension pairs 0 to 31",
        ),
        (
            widgets.explore_scaling,
            {"ratio": 0},
            "ratio is 0: the explorer takes a whole number from 1",
        ),
        (widgets.explore_scaling, {"ratio": 1.5}, "ratio is 1.5"),
        (widgets.explore_scaling, {"near": 1}, "near is 1: a wave takes at least 2 tokens"),
        (widgets.explore_angles, {"method": "yarm"}, "unknown method 'yarm': did you mean 'yarn'?"),
        (
            widgets.explore_angles,
            {"ratio": 0},
            "ratio is 0: the explorer takes a whole number from 1",
        ),
        (widgets.explore_angles, {"position": 0}, "position is 0: the first token has no angle"),
    ],
)
def test_messages(make, options, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        make(SPEC, **options)
