"""Figures from tables: what is drawn, with which axes and colours."""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex

from longrope_lab import plots
from longrope_lab.plots.measured import BEHIND
from longrope_lab.plots.style import STYLES
from longrope_lab.rope.methods import rope_scaling
from longrope_lab.rope.scaling import RopeScaling
from longrope_lab.rope.spec import RopeSpec


@pytest.fixture
def losses():
    rows = [
        (
            scaling,
            length,
            f"book {document}",
            length - 1,
            loss := 3 + k + 0.1 * document + length / 4096,
            np.exp(loss),
        )
        for k, scaling in enumerate(["none", "yarn", "my own"])
        for length in (256, 512, 1024)
        for document in range(3)
    ]
    return pd.DataFrame(
        rows, columns=["scaling", "length", "document", "tokens", "loss", "perplexity"]
    )


def test_perplexity_curves_draw_the_means(losses):
    figure = plots.perplexity_curves(losses, window=512)
    (ax,) = figure.axes
    curves = {
        line.get_label(): line for line in ax.get_lines() if not line.get_label().startswith("_")
    }
    assert list(curves) == ["no scaling", "YaRN", "my own"]
    np.testing.assert_allclose(curves["YaRN"].get_xdata(), [256, 512, 1024])
    expected = [np.exp(3 + 1 + 0.1 + n / 4096) for n in (256, 512, 1024)]
    np.testing.assert_allclose(curves["YaRN"].get_ydata(), expected)
    assert curves["YaRN"].get_color() == plots.STYLES["yarn"][0]
    assert len(ax.collections) == 3  # an interval each
    assert "tokens" in ax.get_xlabel() and "perplexity" in ax.get_ylabel()
    assert [t.get_text() for t in ax.texts] == ["trained window"]


def test_perplexity_panels_share_their_axis(losses):
    both = pd.concat({"2x": losses, "8x": losses}, names=["ratio"]).reset_index(level=0)
    figure = plots.perplexity_curves(both, panels="ratio")
    assert [ax.get_title() for ax in figure.axes] == ["ratio 2x", "ratio 8x"]
    assert figure.axes[0].get_ylim() == figure.axes[1].get_ylim()


def test_a_window_out_of_sight_is_not_drawn(losses):
    (ax,) = plots.perplexity_curves(losses, window=8192).axes
    assert not ax.texts and ax.get_xlim()[1] < 8192


def passkeys(scalings, trials, failures=()):
    """A `passkey` table of two lengths and depths; failures are (length, trial)."""
    rows = [
        (scaling, length, depth, trial, "12345", "", (length, trial) not in failures)
        for scaling in scalings
        for length in (512, 1024)
        for depth in (0.0, 1.0)
        for trial in range(trials)
    ]
    columns = ["scaling", "length", "depth", "trial", "expected", "answer", "correct"]
    return pd.DataFrame(rows, columns=columns)


def test_passkey_heatmap_shows_each_share():
    figure = plots.passkey_heatmap(passkeys(["none", "yarn"], 4, {(1024, 0)}), window=512)
    panels = [ax for ax in figure.axes if ax.get_images()]
    assert [ax.get_title() for ax in panels] == ["no scaling", "YaRN"]
    np.testing.assert_allclose(panels[0].get_images()[0].get_array(), [[1, 0.75], [1, 0.75]])
    assert [t.get_text() for t in panels[0].texts] == ["4/4", "3/4", "4/4", "3/4"]
    assert [t.get_text() for t in panels[0].get_xticklabels()] == ["512", "1k"]
    assert len(panels[0].get_lines()) == 1  # the window, between the two columns
    assert panels[0].get_lines()[0].get_xdata()[0] == 0.5


def test_cells_of_many_trials_are_shares():
    (panel, _) = plots.passkey_heatmap(passkeys(["none"], 40, {(1024, 0), (1024, 1)})).axes
    assert [t.get_text() for t in panel.texts] == ["100%", "95%", "100%", "95%"]


@pytest.mark.parametrize("window", [None, 512])
def test_no_label_of_a_small_heatmap_is_cut(window):
    """One panel of few depths is the lowest figure: its labels were longer than it is high."""
    figure = plots.passkey_heatmap(passkeys(["none"], 1, {(1024, 0)}), window=window)
    figure.draw_without_rendering()
    _, bar = figure.axes
    for label in (figure._supxlabel, figure._supylabel, bar.yaxis.label):
        box = label.get_window_extent()
        assert box.x0 >= 0 and box.y0 >= 0
        assert box.x1 <= figure.bbox.width and box.y1 <= figure.bbox.height
    assert figure.get_supxlabel().endswith("; 1 prompt per cell")


def test_a_heatmap_of_many_scalings_keeps_room_for_its_words():
    names = [f"variant {k}" for k in range(7)]
    table = passkeys(names, 10)
    some = table[~((table["scaling"] == "variant 3") & (table["length"] == 1024))]
    figure = plots.passkey_heatmap(some, window=512)
    figure.draw_without_rendering()
    panels = [ax for ax in figure.axes if ax.get_images()]
    assert len(panels) == 7 and len(panels[3].texts) == 2  # what was not measured is left empty
    for ax in panels:
        cell = ax.get_window_extent().width / 2
        assert all(words.get_window_extent().width < 0.9 * cell for words in ax.texts)


def test_factor_profile_marks_the_critical_pair_where_factors_exceed_s():
    """LongRoPE2's are above s from there on; formulas, which are not, leave the figure as it is."""
    spec = RopeSpec(64, 512, base=10_000.0)
    pi = rope_scaling(spec, "pi", 4096)
    slow = np.arange(32) >= 16
    over = RopeScaling(spec, np.where(slow, 12.0, 8.0 ** (np.arange(32) / 32)), 4096)
    (plain,) = plots.factor_profile({"pi": pi}).axes
    (marked,) = plots.factor_profile({"pi": pi, "longrope": over}).axes
    assert not plain.texts
    assert {text.get_text() for text in marked.texts} == {"critical pair 16", "s = 8"}
    lines = [line.get_xydata().tolist() for line in marked.lines]
    assert [[0, 8], [1, 8]] in lines and [[16, 0], [16, 1]] in lines


def test_factor_profile_draws_factors_and_shades_unfinished_pairs():
    spec = RopeSpec(rotary_dim=64, base=10000.0, window=512)
    scalings = [rope_scaling(spec, m, 4096) for m in ("pi", "yarn")]
    (ax,) = plots.factor_profile(scalings).axes
    for line, scaling in zip(ax.get_lines(), scalings, strict=True):
        np.testing.assert_allclose(line.get_ydata(), scaling.factors)
    first_unfinished = int(np.flatnonzero(spec.rotations < 1)[0])
    (shade,) = [p for p in ax.patches if to_hex(p.get_facecolor()) == "#efefef"]
    assert shade.get_x() == first_unfinished - 0.5


def test_cost_curves_show_both_ways():
    table = pd.DataFrame(
        {
            "length": [512, 1024],
            "seconds": [1.0, 2.0],
            "plain_seconds": [1.1, np.nan],
            "peak_gib": [0.1, 0.2],
        }
    )
    time, memory = plots.cost_curves(table).axes
    assert [line.get_label() for line in time.get_lines()] == [
        "in chunks (token_losses)",
        "all logits at once",
    ]
    np.testing.assert_allclose(memory.get_lines()[0].get_ydata(), [0.1, 0.2])
    time, _ = plots.cost_curves(table.assign(compiled_seconds=[0.5, 1.5])).axes
    compiled = time.get_lines()[2]
    assert compiled.get_label() == "in chunks, compiled layers"
    np.testing.assert_allclose(compiled.get_ydata(), [0.5, 1.5])


@pytest.mark.parametrize(
    ("count", "words"), [(512, "512"), (1024, "1k"), (1536, "1.5k"), (2**21, "2M"), (3000, "2.93k")]
)
def test_tokens(count, words):
    assert plots.tokens(count) == words


def test_loss_curves_smooth_over_an_eighth_of_the_steps():
    rows = [("yarn", step, 5 + (-1) ** step, 1e-4, 2048 * step) for step in range(1, 17)]
    rows += [("control", step, 4.0, 1e-4, 2048 * step) for step in range(1, 4)]
    table = pd.DataFrame(rows, columns=["scaling", "step", "loss", "learning_rate", "tokens"])
    (ax,) = plots.loss_curves(table).axes
    yarn, control = ax.get_lines()
    assert [yarn.get_label(), control.get_label()] == ["YaRN", "control"]
    np.testing.assert_allclose(yarn.get_ydata()[1:], 5)  # each with a neighbour: the zigzag is gone
    np.testing.assert_allclose(control.get_xdata(), [2048, 4096, 6144])
    assert ax.get_xlabel() == "tokens trained on" and "nats" in ax.get_ylabel()


def test_loss_curves_of_millions_of_tokens_have_room_for_their_numbers():
    table = pd.DataFrame({"scaling": "yarn", "loss": [3.2, 3.1], "tokens": [1_000_000, 7_000_000]})
    figure = plots.loss_curves(table)
    figure.draw_without_rendering()
    (ax,) = figure.axes
    boxes = [label.get_window_extent() for label in ax.get_xticklabels()]
    assert all(left.x1 < right.x0 for left, right in itertools.pairwise(boxes))
    assert "4" in [label.get_text() for label in ax.get_xticklabels()] and ax.get_xlabel().endswith(
        "on (millions)"
    )


def test_documents_are_counted_per_panel(losses):
    both = pd.concat(
        {"a": losses, "b": losses.assign(document="other " + losses["document"])}, names=["corpus"]
    )
    figure = plots.perplexity_curves(both.reset_index(level=0), panels="corpus")
    assert figure.axes[0].get_ylabel() == "perplexity (log scale), 3 documents"


def test_accuracy_curves_are_a_panel_each_with_the_others_behind():
    rows = [
        ("none", 512, 10, 1.0, 0.72, 1.0),
        ("none", 1024, 10, 0.0, 0.0, 0.28),
        ("yarn", 512, 10, 0.9, 0.6, 0.98),
    ]
    table = pd.DataFrame(rows, columns=["scaling", "length", "trials", "accuracy", "low", "high"])
    figure = plots.accuracy_curves(table, window=512)
    none, yarn = figure.axes
    assert [ax.get_title() for ax in figure.axes] == ["no scaling", "YaRN"]
    own = [line for line in none.lines if line.get_color() == STYLES["none"].colour]
    np.testing.assert_array_equal(own[0].get_xydata(), [[512, 1], [1024, 0]])
    behind = [line for line in yarn.lines if line.get_color() == BEHIND]
    np.testing.assert_array_equal(behind[0].get_xydata(), own[0].get_xydata())
    bars = none.collections[0].get_segments()
    np.testing.assert_allclose([bar[:, 1] for bar in bars], [[0.72, 1], [0, 0.28]])
    assert "10 trials per length" in figure.get_supylabel()
    assert "trained window of 512" in figure.get_supxlabel()
    assert all(any(set(line.get_xdata()) == {512} for line in ax.lines) for ax in figure.axes)
    beyond = plots.accuracy_curves(table, window=8192).axes[0]  # a window out of sight
    assert not any(set(line.get_xdata()) == {8192} for line in beyond.lines)


TABLES = {
    plots.perplexity_curves: ("perplexity", ["scaling", "length", "document", "loss"]),
    plots.passkey_heatmap: ("passkey", ["scaling", "length", "depth", "correct"]),
    plots.accuracy_curves: (
        "accuracy_summary",
        ["scaling", "length", "trials", "accuracy", "low", "high"],
    ),
    plots.cost_curves: ("scoring_cost", ["length", "seconds", "plain_seconds", "peak_gib"]),
    plots.benchmark_scores: (
        "benchmark_summary",
        ["task", "scaling", "accuracy", "low", "high"],
    ),
    plots.search_curves: (r"search \(its history\)", ["search", "forwards", "best_perplexity"]),
    plots.loss_curves: ("finetune", ["scaling", "tokens", "loss"]),
    plots.start_token_curves: (
        "start_token_ratios",
        ["method", "target", "start_tokens", "ratio", "low", "high"],
    ),
}


@pytest.mark.parametrize("draw", TABLES, ids=lambda draw: draw.__name__)
def test_a_table_that_there_is_nothing_to_draw_of(draw):
    made_by, columns = TABLES[draw]
    with pytest.raises(ValueError, match=rf"has no rows.*nothing to show: pass one that {made_by}"):
        draw(pd.DataFrame(columns=columns))
    for missing in columns:
        with pytest.raises(ValueError, match=f"the table has no column '{missing}': pass one that"):
            draw(pd.DataFrame(columns=columns).drop(columns=missing))


def test_a_window_or_a_panel_that_is_none(losses):
    table = passkeys(["none"], 1)
    trained, whole = "it is the trained window", "it must be a whole number"
    for window, rule in ((-5, trained), (0, trained), (1.5, whole), ("512", whole)):
        for draw, of in ((plots.perplexity_curves, losses), (plots.passkey_heatmap, table)):
            with pytest.raises(ValueError, match=f"window is {window!r}: {rule}"):
                draw(of, window)
    with pytest.raises(ValueError, match="unknown column for panels 'corpos': "):
        plots.perplexity_curves(losses.assign(corpus="kjv"), panels="corpos")


def test_a_heatmap_of_answers_that_contain_the_key():
    table = passkeys(["none"], 4).assign(contains=False)
    (panel, _) = plots.passkey_heatmap(table, judged="contains").axes
    assert [t.get_text() for t in panel.texts] == ["0/4"] * 4
