"""The teaching figures draw what the formulas say, and every axis says what it shows."""

import io
from dataclasses import replace

import numpy as np
import pytest
from matplotlib.colors import same_color, to_hex

from longrope_lab import plots
from longrope_lab.rope import bounds
from longrope_lab.rope.methods import rope_scaling
from longrope_lab.rope.score_fit import score_fit as fitted_scores
from longrope_lab.rope.spec import RopeSpec

SPEC = RopeSpec(rotary_dim=64, window=512, base=10000.0)
TARGET = 4096
METHODS = ("none", "pi", "ntk", "dynamic_ntk", "yarn")


@pytest.fixture(scope="module")
def scalings():
    return {name: rope_scaling(SPEC, name, TARGET).at(TARGET) for name in METHODS}


@pytest.fixture(scope="module")
def fit():
    return fitted_scores(SPEC, TARGET, points=200)


@pytest.fixture(scope="module")
def table():
    return bounds.bounds_table(SPEC, TARGET, trials=10, points=50)


def drawn(figure):
    """The figure's axes, after it was drawn once: some errors only show then."""
    figure.savefig(io.BytesIO(), format="png", dpi=40)
    return figure.axes


def line_with(ax, y):
    """The lines of an axes that hold exactly these values."""
    return [
        line
        for line in ax.lines
        if len(line.get_ydata()) == len(y) and np.allclose(line.get_ydata(), y)
    ]


def texts(ax):
    return " ".join(text.get_text() for text in ax.texts)


def test_wavelengths():
    (ax,) = drawn(plots.wavelengths(SPEC, TARGET))
    assert len(line_with(ax, 2 * np.pi * 10000 ** (np.arange(32) / 32))) == 1
    assert ax.get_yscale() == "log"
    assert "pair" in ax.get_xlabel() and "tokens" in ax.get_ylabel()
    assert ax.get_title() == "16 of 32 pairs never finish a turn inside 512 tokens"
    assert {line.get_ydata()[0] for line in ax.lines if len(line.get_ydata()) == 2} == {512, 4096}
    assert "window 512" in texts(ax) and "target 4k" in texts(ax) and "6.28 tokens" in texts(ax)
    (plain,) = drawn(plots.wavelengths(SPEC))
    assert "target" not in texts(plain)


def test_rescaled_wavelengths(scalings):
    left, right = drawn(plots.rescaled_wavelengths(scalings))
    assert len(line_with(left, 8 * SPEC.wavelengths)) == 1  # PI
    assert len(line_with(right, np.ones(32))) == 1  # PI stays in the trained range everywhere
    (none,) = line_with(right, np.full(32, 8.0))
    assert same_color(none.get_color(), plots.STYLES["none"][0])
    yarn = next(line for line in right.lines if line.get_label() == "YaRN").get_ydata()
    assert (yarn[SPEC.rotations < 1] == 1).all() and (yarn[:3] == 8).all()
    assert len(right.get_legend().get_texts()) == len(METHODS) + 1  # and the shade
    assert left.get_yscale() == right.get_yscale() == "log"
    assert "wavelength" in left.get_ylabel() and "4k" in right.get_ylabel()


def test_telling_pairs():
    fast, slow = plots.telling_pairs(SPEC, TARGET)
    assert fast == 0
    turns = TARGET * SPEC.frequencies / (2 * np.pi)
    assert slow == 24 and turns[slow] == pytest.approx(0.65, abs=0.01)


def test_phase_circles_fills_what_training_showed(scalings):
    figure = plots.phase_circles(scalings)
    axes = drawn(figure)
    assert len(axes) == 2 * len(METHODS)
    assert [ax.get_title() for ax in axes[:5]] == ["no scaling", "PI", "NTK", "Dynamic NTK", "YaRN"]
    assert "pair 0" in axes[0].get_ylabel() and "pair 24" in axes[5].get_ylabel()

    def points(ax, filled):
        found = [line for line in ax.lines if line.get_marker() == "o"]
        return sum(
            len(line.get_xdata())
            for line in found
            if (to_hex(line.get_markerfacecolor()) != "#ffffff") == filled
        )

    # A position n is inside the trained range if n / lambda <= L: counted here without angles.
    for ax, name in zip(axes[5:], METHODS, strict=True):
        inside = sum(512 * k / scalings[name].factors[24] <= 512 * (1 + 1e-9) for k in range(1, 9))
        assert (points(ax, True), points(ax, False)) == (inside, 8 - inside), name
    assert points(axes[5], True) == 1 and points(axes[6], True) == 8
    for ax in axes[:5]:  # the fast pair has seen every phase
        assert (points(ax, True), points(ax, False)) == (8, 0)
    fast_pi = next(line for line in axes[1].lines if line.get_marker() == "o")
    angles = np.unwrap(np.arctan2(fast_pi.get_ydata(), fast_pi.get_xdata()))
    np.testing.assert_allclose(
        angles, np.arange(8) / 8
    )  # an eighth of a radian a token instead of one


def test_phase_curves(scalings):
    left, right, slow_left, slow_right = drawn(plots.phase_curves(scalings, near=20, points=101))
    whole, far = np.arange(20), np.linspace(0, TARGET, 101)
    assert len(line_with(left, np.cos(whole / 8))) == 1  # PI on the fastest pair
    m = 0.1 * np.log(8) + 1
    assert (
        len(line_with(left, m * np.cos(whole))) == 1
    )  # YaRN: only its attention factor shows there
    assert len(line_with(slow_right, far * SPEC.frequencies[24] / (2 * np.pi))) == 1  # no scaling
    assert (
        len(line_with(slow_right, far / 8 * SPEC.frequencies[24] / (2 * np.pi))) == 2
    )  # PI and YaRN
    assert "81.5 turns in the window: every phase seen" in right.get_title()
    assert slow_right.get_title() == "seen: 0 to 0.081 turns"
    band = slow_right.patches[0]
    assert band.get_y() + band.get_height() == pytest.approx(SPEC.rotations[24])
    assert "pair 24" in slow_left.get_ylabel()
    for ax in (left, right, slow_left, slow_right):
        assert "tokens" in ax.get_xlabel() and ax.get_ylabel()
    assert any(
        line.get_xdata()[0] == 512 == line.get_xdata()[-1] for line in slow_right.lines
    )  # the trained window
    assert len(right.get_legend().get_texts()) == len(METHODS)


def test_phase_curves_jump_at_the_start_tokens(scalings):
    kept = {
        "none": scalings["none"],
        "pi": scalings["pi"],
        "kept": replace(scalings["pi"], start_tokens=16),
    }
    left, _ = drawn(plots.phase_curves(kept, pairs=[8]))
    n, theta = np.arange(32), SPEC.frequencies[8]
    assert len(line_with(left, np.cos(np.where(n < 16, n, n / 8) * theta))) == 1


def test_a_long_wave_shows_positions_in_and_out_of_the_window(scalings):
    """Pair 20 makes 0.26 turns in the window.

    Without scaling, whatever lies beyond it is hollow; under PI nothing is."""
    left, _ = drawn(
        plots.phase_curves({k: scalings[k] for k in ("none", "pi")}, pairs=[20], near=TARGET)
    )
    dots = [line for line in left.lines if line.get_marker() == "o"]
    hollow = [line for line in dots if line.get_markerfacecolor() == "white"]
    full = [line for line in dots if line.get_markerfacecolor() != "white"]
    assert len(hollow) == 1 and same_color(hollow[0].get_markeredgecolor(), plots.STYLES["none"][0])
    x, y = hollow[0].get_xdata(), hollow[0].get_ydata()
    assert len(x) == 64 and np.diff(x).tolist() == [64] * 63
    np.testing.assert_array_equal(np.isnan(y), x <= 512)
    np.testing.assert_allclose(y[x > 512], np.cos(x[x > 512] * SPEC.frequencies[20]))
    assert [np.isnan(line.get_ydata()).sum() for line in full] == [(x > 512).sum(), 0]
    assert "a dot every 64 tokens" in left.get_title()
    assert any(set(line.get_xdata()) == {512} for line in left.lines)  # the window


def test_pair_angles(scalings):
    left, right = drawn(plots.pair_angles(scalings))
    turns = TARGET * SPEC.frequencies / (2 * np.pi)
    assert len(line_with(left, turns)) == 1  # no scaling
    assert len(line_with(left, turns / 8)) == 2  # PI's line and its dots, none of them hollow
    m = 0.1 * np.log(8) + 1
    yarn = scalings["yarn"].factors
    assert len(line_with(right, m**2 * np.cos(TARGET * SPEC.frequencies / yarn))) == 2
    (grey,) = left.collections
    top = {tuple(vertex) for vertex in grey.get_paths()[0].vertices.tolist()}
    assert (20.5, pytest.approx(SPEC.rotations[20])) in [
        (x, y) for x, y in top if abs(x - 20.5) < 0.01
    ]
    hollow = [line for line in left.lines if line.get_markerfacecolor() == "white"]
    out = {
        to_hex(line.get_markeredgecolor()): np.flatnonzero(~np.isnan(line.get_ydata()))
        for line in hollow
    }
    np.testing.assert_array_equal(
        out[to_hex(plots.STYLES["none"][0])], np.flatnonzero(SPEC.rotations < 1)
    )
    assert to_hex(plots.STYLES["pi"][0]) not in out and to_hex(plots.STYLES["yarn"][0]) not in out
    assert "4,096" in left.get_title() and left.get_yscale() == "log"
    assert all("pair" in ax.get_xlabel() and ax.get_ylabel() for ax in (left, right))


def test_pair_angles_inside_the_window_are_all_known(scalings):
    kept = {"none": scalings["none"], "pi": replace(scalings["pi"], start_tokens=100)}
    left, _ = drawn(plots.pair_angles(kept, 64))
    assert not [line for line in left.lines if line.get_markerfacecolor() == "white"]
    assert (
        len(line_with(left, 64 * SPEC.frequencies / (2 * np.pi))) == 4
    )  # both: 64 is one of the start tokens
    with pytest.raises(ValueError, match="position is 0: the first token has no angle"):
        plots.pair_angles(kept, 0)


@pytest.mark.parametrize(
    "draw",
    [
        lambda s, figure: plots.pair_angles(s, 3000 if "pi" in s else 7, figure),
        lambda s, figure: plots.phase_curves(
            s, [3 if "pi" in s else 25], 32 if "pi" in s else 900, figure=figure
        ),
        lambda s, figure: plots.factor_profile(s, figure),
    ],
)
def test_a_figure_drawn_anew_is_as_a_new_one(scalings, draw):
    """Nothing of the earlier picture is left: limits, ticks, words or legend."""
    one, other = (
        {name: scalings[name] for name in names} for names in (("none", "pi"), ("ntk", "yarn"))
    )

    def picture(figure):
        figure.set_layout_engine("none")  # its rounding would move a dot by a hair
        figure.savefig(out := io.BytesIO(), format="png", dpi=50)
        return out.getvalue()

    used = draw(one, None)
    before = picture(used)
    assert draw(other, used) is used
    assert picture(used) == picture(draw(other, None)) != before


def test_score_fit(fit):
    inside, beyond, between = drawn(plots.score_fit(fit, 512))
    curves = dict(list(fit.groupby("curve")))
    assert len(line_with(inside, curves["data"]["score"])) == 1
    assert len(line_with(inside, curves["inside"]["score"])) == 1
    for name in ("none", "pi"):
        (line,) = line_with(beyond, curves[name]["score"])
        assert same_color(line.get_color(), plots.STYLES[name][0])
    assert beyond.get_yscale() == "symlog"
    assert "trained window" in texts(beyond)
    assert (
        len(line_with(between, curves["trained"]["score"])) == 2
    )  # points, and the lines that join them
    assert all("tokens" in ax.get_xlabel() for ax in (inside, beyond, between))
    assert "score" in inside.get_ylabel() and "score" in beyond.get_ylabel()


def test_coefficient_profile():
    h = {"large": np.full(32, 3 - 4j), "small": np.full(32, 0.1j)}
    (ax,) = drawn(plots.coefficient_profile(SPEC, h))
    assert len(line_with(ax, np.full(32, 5.0))) == len(line_with(ax, np.full(32, 0.1))) == 1
    assert [text.get_text().split()[0] for text in ax.get_legend().get_texts()] == [
        "large",
        "small",
        "less",
    ]
    assert (
        ax.get_yscale() == "log" and "pair" in ax.get_xlabel() and "coefficient" in ax.get_ylabel()
    )


def test_score_bounds(table):
    (ax,) = drawn(plots.score_bounds(table, 512))
    for column in table.columns.drop(["position", "partial_sums"]):
        assert line_with(ax, table[column]), column
    assert ax.get_xscale() == ax.get_yscale() == "log"
    assert "tokens" in ax.get_xlabel() and "score" in ax.get_ylabel()
    assert "trained window" in texts(ax)
    assert len(ax.get_legend().get_texts()) == 6


def test_score_bounds_show_the_lower_bound_from_near(table):
    """In the small axes the bound, the published one and what random coefficients reach part."""
    (ax,) = plots.score_bounds(table, 512).axes
    (inset,) = ax.child_axes
    ax.figure.draw_without_rendering()
    low, high = inset.get_ylim()
    for column in ("interpolation_bound", "published_interpolation_bound", "largest_deviation"):
        assert line_with(inset, table[column]), column
        assert low < table[column].min() and table[column].max() < high
    assert 10 * high / low < ax.get_ylim()[1] / ax.get_ylim()[0]
    box = inset.get_window_extent()  # in the gap: nothing of the large axes runs below it
    for line in ax.lines:
        y = ax.transData.transform(line.get_xydata())[:, 1]
        assert not ((box.y0 <= y) & (y <= box.y1)).any() or len(y) == 2  # but the window


def test_ticks_of_a_long_axis_do_not_crowd():
    long = RopeSpec(rotary_dim=64, window=8192, base=100000.0)
    (ax,) = drawn(plots.score_bounds(bounds.bounds_table(long, 2**17, trials=2, points=30), 8192))
    assert len(ax.get_xticks()) <= 13


def test_a_model_whose_every_pair_turns():
    short = RopeSpec(rotary_dim=8, window=4096, base=10.0)
    (ax,) = drawn(plots.wavelengths(short))
    assert ax.get_title().startswith("0 of 4 pairs")
    assert not ax.patches
    drawn(plots.phase_curves({"pi": rope_scaling(short, "pi", 8192)}))
