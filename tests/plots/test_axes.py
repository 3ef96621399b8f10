"""Axes that can be read: three numbers on every log axis, nothing on top of a number."""

from __future__ import annotations

import io
import itertools

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from longrope_lab import plots
from longrope_lab.plots.axes import WIDTH, FewTicks, length_axis, small_multiples, subplots
from longrope_lab.rope import bounds
from longrope_lab.rope.methods import rope_scaling
from longrope_lab.rope.spec import RopeSpec


@given(st.floats(1e-6, 1e6), st.floats(1.001, 1e6), st.sampled_from([2, 10]))
def test_a_log_axis_has_three_to_eight_ticks(low, ratio, base):
    high = low * ratio
    ticks = FewTicks(base).tick_values(low, high)
    assert 3 <= len(ticks) <= 8
    assert all(low * 0.999 <= tick <= high * 1.001 for tick in ticks)
    assert all(one < other for one, other in itertools.pairwise(ticks))


@pytest.mark.parametrize(
    ("base", "low", "high", "ticks"),
    [
        (10, 9, 5000, [10, 100, 1000]),
        (10, 19, 220, [20, 50, 100, 200]),
        (10, 25, 80, [30, 50, 70]),
        (10, 36, 42, [36, 37, 38, 39, 40, 41, 42]),
        (2, 0.9, 9, [1, 2, 4, 8]),
        (2, 1, 2**9, [1, 4, 16, 64, 256]),
        (10, -1, 5, []),
    ],
)
def test_ticks_are_round(base, low, high, ticks):
    np.testing.assert_allclose(FewTicks(base).tick_values(low, high), ticks)


@pytest.mark.parametrize(
    ("lengths", "labels"),
    [
        ([256, 512, 4096], ["256", "512", "4k"]),
        ([512, 1024], ["512", "768", "1k"]),
        ([512, 4096], ["512", "1k", "2k", "4k"]),
        ([1024], ["512", "1k", "2k"]),
    ],
)
def test_a_length_axis_has_three_lengths_at_least(lengths, labels):
    figure, (ax,) = subplots(1, 1, height=2)
    ax.plot(lengths, lengths, "o")
    length_axis(ax, lengths)
    figure.draw_without_rendering()
    low, high = ax.get_xlim()
    shown = [
        label.get_text()
        for tick, label in zip(ax.get_xticks(), ax.get_xticklabels(), strict=True)
        if low <= tick <= high
    ]
    assert shown == labels


def test_small_multiples_are_even_rows_with_labels_below_each_column():
    figure, axes = small_multiples(5, 3, height=1.5, sharex=True, sharey=True)
    assert [ax.get_subplotspec().rowspan.start for ax in axes] == [0, 0, 0, 1, 1]
    assert figure.axes == axes  # no empty one is left
    labelled = [ax.xaxis.get_tick_params()["labelbottom"] for ax in axes]
    assert labelled == [False, False, True, True, True]
    _, four = small_multiples(4, 3, height=1.5)
    assert [ax.get_subplotspec().rowspan.start for ax in four] == [0, 0, 1, 1]


SPEC = RopeSpec(rotary_dim=64, window=512, base=10000.0)


def perplexities(lengths, low=3.0):
    rows = [
        (name, n, f"book {d}", n - 1, low + 0.1 * d + n / 4096, np.exp(low + 0.1 * d + n / 4096))
        for name in ("none", "yarn")
        for n in lengths
        for d in range(3)
    ]
    columns = ["scaling", "length", "document", "tokens", "loss", "perplexity"]
    return pd.DataFrame(rows, columns=columns)


def ratios(on):
    rows = [
        (place, name, ratio, ratio * 0.98, ratio * 1.02)
        for place in on
        for name, ratio in (("none", 0.3), ("YaRN's factors", 0.99), ("dynamic_ntk", 1.01))
    ]
    return pd.DataFrame(rows, columns=["on", "baseline", "ratio", "low", "high"])


def accuracies(count, lengths=(512, 1024, 4096)):
    rows = [
        (f"variant {k}", n, 10, k / 10, k / 20, k / 10 + 0.1) for k in range(count) for n in lengths
    ]
    columns = ["scaling", "length", "trials", "accuracy", "low", "high"]
    return pd.DataFrame(rows, columns=columns)


def scores(tasks):
    names = ["none", "pi", "extended model"]
    rows = [(n, t, 0, "acc", 500, 0.4, 0.35, 0.45) for t in tasks for n in names]
    columns = ["scaling", "task", "shots", "metric", "questions", "accuracy", "low", "high"]
    summary = pd.DataFrame(rows, columns=columns)
    others = summary[summary["scaling"] != "none"].rename(columns={"accuracy": "difference"})
    return summary, others.assign(baseline="none", difference=-0.1, low=-0.2, high=0.0)


SCALINGS = {m: rope_scaling(SPEC, m, 4096).at(4096) for m in ("none", "pi", "ntk", "yarn")}
FIGURES = {
    "perplexity": lambda: plots.perplexity_curves(perplexities([512, 1024, 4096]), 512),
    "two lengths": lambda: plots.perplexity_curves(perplexities([512, 1024]), 512),
    "accuracy": lambda: plots.accuracy_curves(accuracies(5), 512),
    "ten lengths": lambda: plots.accuracy_curves(accuracies(5, [2**k for k in range(9, 19)]), 512),
    "ratios": lambda: plots.paired_ratios(ratios(["kjv, 2x", "kjv, 4x"]), "search", "on"),
    "one panel": lambda: plots.paired_ratios(ratios(["here"]), "dimensions and start tokens"),
    "scores": lambda: plots.benchmark_scores(*scores(["arc", "mmlu"]), {"arc": 0.25}),
    "factors": lambda: plots.factor_profile(SCALINGS),
    "wavelengths": lambda: plots.wavelengths(SPEC, 4096),
    "rescaled": lambda: plots.rescaled_wavelengths(SCALINGS),
    "angles": lambda: plots.pair_angles(SCALINGS),
    "phases": lambda: plots.phase_curves(SCALINGS),
    "circles": lambda: plots.phase_circles(SCALINGS),
    "bounds": lambda: plots.score_bounds(
        bounds.bounds_table(SPEC, 4096, trials=5, points=40), 512
    ),
    "cost": lambda: plots.cost_curves(
        pd.DataFrame({
            "length": [512, 1024, 2048],
            "seconds": [0.07, 0.15, 0.3],
            "plain_seconds": [0.07, 0.14, np.nan],
            "peak_gib": [0.05, 0.09, 0.17],
        })
    ),
}  # fmt: skip


def labels_of(axis):
    """The labels in sight; an axis that shares another panel's has none."""
    low, high = sorted(axis.get_view_interval())
    ticks = zip(axis.get_major_ticks(), axis.get_majorticklocs(), strict=True)
    inside = [tick.label1 for tick, at in ticks if low * 0.999 <= at <= high * 1.001]
    return [label for label in inside if label.get_visible() and label.get_text()]


@pytest.fixture(scope="module", params=FIGURES)
def figure(request):
    made = FIGURES[request.param]()
    made.draw_without_rendering()
    return made


def test_every_log_axis_has_three_numbers(figure):
    for ax in figure.axes:
        for axis in (ax.xaxis, ax.yaxis):
            if axis.get_scale() == "log" and axis.get_major_ticks()[0].label1.get_visible():
                assert len(labels_of(axis)) >= 3


def test_numbers_do_not_touch_and_nothing_is_cut_off(figure):
    edge = figure.bbox
    for words in figure.texts:
        assert edge.x0 <= words.get_window_extent().x0 and words.get_window_extent().x1 <= edge.x1
    for ax in figure.axes:
        words = [*ax.texts, ax.title, ax.xaxis.label, ax.yaxis.label]
        for axis in (ax.xaxis, ax.yaxis):
            boxes = [label.get_window_extent() for label in labels_of(axis)]
            assert not any(one.overlaps(other) for one, other in itertools.combinations(boxes, 2))
        for box in (text.get_window_extent() for text in words if text.get_text()):
            assert edge.x0 - 1 <= box.x0 and box.x1 <= edge.x1 + 1
            assert edge.y0 - 1 <= box.y0 and box.y1 <= edge.y1 + 1
        legend = ax.get_legend()
        assert legend is None or legend.get_window_extent().x1 <= edge.x1 + 1


def test_all_figures_have_one_width(figure):
    """On a page, and as `record` saves them: with a tenth of an inch on each side."""
    figure.savefig(saved := io.BytesIO(), format="png", dpi=50, bbox_inches="tight")
    for picture, width in (
        (figure._repr_png_(), WIDTH * figure.dpi),
        (saved.getvalue(), (WIDTH + 0.2) * 50),
    ):
        assert int.from_bytes(picture[16:20], "big") == round(width)
