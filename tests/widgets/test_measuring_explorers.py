"""The explorers of measurements.

Edits are measured as `perplexity` measures, and prompts are those that were asked."""

import asyncio
import io
import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from conftest import VOCABULARY, WINDOW, tiny_model
from matplotlib import colormaps
from matplotlib.colors import to_hex

import longrope_lab as lab
from longrope_lab.measure.needle_prompts import passkey_sequence
from longrope_lab.measure.needles import passkey
from longrope_lab.texts.tokens import Document
from longrope_lab.widgets import edit_factors, explore_passkeys, factors

TARGET = 4 * WINDOW


@pytest.fixture(scope="module")
def model():
    return tiny_model()


@pytest.fixture(scope="module")
def document():
    return Document("<words>", np.random.default_rng(0).integers(3, VOCABULARY, TARGET))


@pytest.fixture
def start(model):
    return lab.rope_scaling(lab.rope_spec(model), "ntk", TARGET)


@pytest.fixture
def editor(model, document, start):
    return edit_factors(model, document, start, knots=4)


def measured(model, document, scaling, length):
    return lab.perplexity(model, [document], [length], {"x": scaling})["perplexity"].item()


def test_the_editor_opens_with_its_start_measured_beside_yarn(model, document, start, editor):
    assert editor.scaling == start and [edit.scaling for edit in editor.edits] == [start]
    yarn = lab.rope_scaling(start.spec, "yarn", TARGET)
    theirs, ours = (measured(model, document, s, TARGET) for s in (yarn, start))
    assert (
        f"perplexity {ours:.4g}</b> = {ours / theirs:.3f} × YaRN's {theirs:.4g}"
        in editor.caption.value
    )
    assert "&lt;words&gt;" in editor.caption.value
    assert bytes(editor.image.value).startswith(b"\x89PNG")
    pairs = len(start.factors)
    shown = [editor.controls[f"knot_{k}"].value for k in range(4)]  # in steps of a slider
    np.testing.assert_allclose(shown, start.factors[[0, 2, 5, 7]], rtol=0.01)
    assert pairs == 8


def test_a_moved_knot_is_drawn_and_measured(model, document, editor):
    before = bytes(editor.image.value)
    editor.controls["knot_2"].value = 3.5
    assert editor.scaling.factors[5] == pytest.approx(3.5)
    assert bytes(editor.image.value) != before
    (line,) = [line for line in editor.figure.axes[0].lines if line.get_label() == "custom"]
    np.testing.assert_array_equal(line.get_ydata(), editor.scaling.factors)
    assert editor.edits[-1].perplexity == pytest.approx(
        measured(model, document, editor.scaling, TARGET), rel=1e-6
    )
    editor.scaling.check_monotone()


def test_other_settings_are_part_of_the_edit(model, document, editor):
    editor.controls["start_tokens"].value = 8
    editor.controls["attention_factor"].value = 1.25
    editor.controls["length"].value = WINDOW
    assert (editor.scaling.start_tokens, editor.scaling.attention_factor) == (8, 1.25)
    assert editor.edits[-1].length == WINDOW
    assert editor.edits[-1].perplexity == pytest.approx(
        measured(model, document, editor.scaling, WINDOW), rel=1e-6
    )
    assert (
        f"first {WINDOW} tokens" in editor.caption.value
        and "n̂ = 8, m = 1.25" in editor.caption.value
    )


def test_another_length_is_told_before_what_it_is_compared_with(editor):
    said = []
    editor.caption.observe(lambda change: said.append(change["new"]), names="value")
    editor.controls["length"].value = WINDOW
    now = editor.edits[-1].perplexity
    assert [f"perplexity {now:.4g}" in words for words in said] == [
        False,
        True,
        True,
    ]  # "…", it, and the comparison
    assert "YaRN and the start are being measured" in said[1] and "× YaRN's" in said[2]


def test_buttons_go_back(editor, start):
    for value in (1.0, 2.5, 3.9):
        editor.controls["knot_1"].value = value
    best = min(editor.edits, key=lambda e: e.perplexity)
    editor.controls["best"].click()
    assert editor.scaling == best.scaling
    editor.controls["reset"].click()
    assert editor.scaling == start
    assert editor.controls["knot_1"].value == pytest.approx(start.factors[2], rel=0.01)
    count = len(editor.edits)
    editor.controls["measure"].click()
    assert len(editor.edits) == count + 1


def test_what_a_browser_sends_back_is_no_edit(model, document, start):
    """It rounds a slider's value to whole steps, and sends that as if the slider had been moved."""
    found = replace(start, factors=start.factors * 1.0037, attention_factor=1.1534)
    editor = edit_factors(model, document, found, knots=8)
    for control in editor.controls.values():
        if hasattr(control, "step"):
            low, step, logs = control.min, control.step, hasattr(control, "base")
            inner = np.log2(control.value) if logs else control.value
            rounded = low + round((inner - low) / step) * step * (1 + 1e-12)
            control.value = float(2.0**rounded if logs else rounded)
    assert editor.scaling == found and [edit.scaling for edit in editor.edits] == [found]
    editor.controls["knot_3"].value *= 2 ** (
        1.01 * editor.controls["knot_3"].step
    )  # a step is a move
    assert editor.scaling != found
    assert editor.scaling.attention_factor == 1.1534


def test_factors_may_fall_where_that_is_allowed_and_are_told(editor):
    editor.controls["rising"].value = False
    editor.controls["knot_1"].value = 4.0
    assert (np.diff(editor.scaling.factors) < 0).any()
    assert "λ falls after pair 2, 3" in editor.caption.value
    editor.controls["rising"].value = True
    editor.scaling.check_monotone()
    assert "λ rises throughout" in editor.caption.value


def test_a_start_that_falls_is_kept_as_it_is(model, document, start):
    falling = replace(start, factors=start.factors[::-1])
    editor = edit_factors(model, document, falling)
    assert editor.scaling == falling and not editor.controls["rising"].value
    editor.show(start)
    assert editor.edits[-1].scaling == start
    editor.controls["rising"].value = True
    editor.show(replace(falling, start_tokens=7))  # no value of the slider
    assert editor.scaling.start_tokens == 7 == editor.controls["start_tokens"].value
    assert not editor.controls["rising"].value


def test_dragging_is_measured_once_it_rests(editor, monkeypatch):
    monkeypatch.setattr(factors, "PAUSE", 0.01)
    count = len(editor.edits)

    async def drag():
        for value in (2.0, 2.2, 2.4):
            editor.controls["knot_1"].value = value
        assert len(editor.edits) == count and "…" in editor.caption.value
        while len(editor.edits) == count:  # pytest's timeout ends it
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.05)

    asyncio.run(drag())
    assert len(editor.edits) == count + 1
    assert editor.edits[-1].scaling.factors[2] == pytest.approx(2.4)
    assert "…" not in editor.caption.value


def test_drag_moves_its_neighbourhood_and_pushes_the_rest():
    line = np.linspace(1, 8, 8)
    moved = factors.drag(line, [0, 3, 7], 1, 8.0, rising=True)
    assert (
        moved[0] == 1 and moved[3] == 8 and (moved[3:] >= 8).all() and (np.diff(moved) >= 0).all()
    )
    np.testing.assert_allclose(moved[1:3], line[1:3] * 2.0 ** (np.array([1, 2]) / 3))
    down = factors.drag(line, [0, 3, 7], 1, 1.0, rising=True)
    assert (down[:4] == 1).all() and (np.diff(down) >= 0).all()
    free = factors.drag(line, [0, 3, 7], 1, 8.0, rising=False)
    np.testing.assert_allclose(free[4:], line[4:] * 2.0 ** (np.array([3, 2, 1, 0]) / 4))


def test_a_drag_says_which_other_factors_it_moved(editor, start):
    """Control points at 0, 2, 5 and 7: pairs between two of them follow, the rest gives way."""
    assert "→" not in editor.caption.value
    editor.controls["knot_1"].value = 4.0
    before, after = start.factors, editor.scaling.factors
    assert (after[2:] >= 4).all() and (before[2:6] < after[2:6]).all()
    words = re.sub("<[^>]*>", " ", editor.caption.value)
    assert f"λ 2: {before[2]:.3g} → {after[2]:.3g}; λ 1, 3 to 4 followed" in words
    assert (after[3:7] == 4).all()  # those that would be lower
    assert "λ 3 to 6 raised so that λ does not fall" in words
    editor.controls["rising"].value = False
    editor.controls["knot_1"].value = 2.0
    assert "followed" in editor.caption.value and "so that" not in editor.caption.value
    editor.controls["reset"].click()
    assert "→" not in editor.caption.value


def test_a_lowered_factor_takes_those_on_its_left_along():
    line = np.linspace(1, 8, 8)
    free, moved = (factors.drag(line, [0, 3, 7], 1, 1.5, rising) for rising in (False, True))
    words = factors.moved_pairs(3, line, free, moved)
    assert words.startswith("λ 3: 4 → 1.5; λ 1 to 2, 4 to 6 followed")
    lowered = [str(k) for k in np.flatnonzero(moved < free)]
    assert lowered and words.endswith("lowered so that λ does not fall") and lowered[0] in words


def test_an_edit_is_compared_with_the_one_before(editor):
    assert "edit before" not in editor.caption.value
    first = editor.edits[-1].perplexity
    editor.controls["attention_factor"].value = 1.5
    change = editor.edits[-1].perplexity / first - 1
    told = f"{change:+.1%} since the edit before" if abs(change) >= 0.001 else "too small"
    assert told in editor.caption.value


@pytest.mark.parametrize(
    ("now", "before", "words"),
    [
        (99.0, 100.0, "-1.0% since the edit before"),
        (100.2, 100.0, "+0.2% since the edit before"),
        (100.01, 100.0, "as the edit before, to 0.1%: too small a change for one document to tell"),
        (100.0, float("inf"), ""),
    ],
)
def test_a_change_too_small_to_tell_is_called_so(now, before, words):
    assert factors.changed_by(now, before) == words


def test_sliders_stand_beside_what_was_measured(editor):
    """The picture is above both, so that all is in sight at once."""
    *_, image, row = editor.widget.children
    assert image is editor.image
    sliders, words = row.children
    assert words is editor.caption and editor.controls["knot_0"] in sliders.children


def test_the_model_is_left_as_it_was(model, document, editor):
    before = lab.perplexity(model, [document], [TARGET])
    editor.controls["knot_0"].value = 2.0
    pd.testing.assert_frame_equal(before, lab.perplexity(model, [document], [TARGET]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"length": 1}, "length is 1: give from 2 to the 256 tokens of '<words>'"),
        ({"length": 257}, "length is 257: give from 2 to the 256 tokens"),
        ({"knots": 1}, "knots is 1: from 2 to 8 control points for 8 dimension pairs"),
        ({"knots": 9}, "knots is 9"),
    ],
)
def test_messages_of_the_editor(model, document, start, options, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        edit_factors(model, document, start, **options)


def test_the_editor_refuses_another_embedding(model, document, editor):
    other = lab.rope_scaling(lab.RopeSpec(16, WINDOW, base=500.0), "pi", TARGET)
    with pytest.raises(ValueError, match=r"make it from rope_spec\(model\)"):
        edit_factors(model, document, other)
    with pytest.raises(ValueError, match="this editor is for the embedding and the target of"):
        editor.show(other)


# Passkeys


@pytest.fixture(scope="module")
def table(tokenizer):
    """Answers of nobody: the prompts' keys, one trial of each cell beyond 256 tokens wrong."""
    rows = []
    for scaling in ("none", "yarn"):
        for length in (256, 512, 1024):
            for depth in (0.0, 0.5):
                for trial in range(3):
                    rng = np.random.default_rng([7, length, round(depth * 1e6), trial])
                    _, key = passkey_sequence(tokenizer, length, depth, rng)
                    right = scaling == "yarn" and (trial != 1 or length == 256)
                    rows.append(
                        (
                            scaling,
                            length,
                            depth,
                            trial,
                            key,
                            f"{key}." if right else "<none>",
                            right,
                        )
                    )
    return pd.DataFrame(
        rows, columns=["scaling", "length", "depth", "trial", "expected", "answer", "correct"]
    )


@pytest.fixture
def explorer(table, tokenizer):
    return explore_passkeys(table, tokenizer, window=512, seed=7)


def text_of(explorer):
    return re.sub("<[^>]*>", "", explorer.text.value)


def test_cells_are_the_heatmap(explorer):
    explorer.controls["scaling"].value = "yarn"
    assert list(explorer.cells) == [(n, d) for n in (256, 512, 1024) for d in (0.0, 0.5)]
    assert (
        explorer.cells[256, 0.5].description == "3/3"
        and explorer.cells[1024, 0.0].description == "2/3"
    )
    for button, share in ((explorer.cells[256, 0.0], 1.0), (explorer.cells[512, 0.0], 2 / 3)):
        assert button.style.button_color == to_hex(colormaps["cividis"](share))
    dashed = {
        n
        for (n, _), button in explorer.cells.items()
        if "dashed" in (button.layout.border_left or "")
    }
    assert dashed == {1024}


def test_a_click_shows_prompt_and_answer(explorer, table, tokenizer):
    explorer.controls["scaling"].value = "yarn"
    explorer.cells[512, 0.5].click()
    assert explorer.row["trial"] == 1 and not explorer.row["correct"]  # the failure first
    expected = explorer.row["expected"]
    assert expected in explorer.caption.value and "&lt;none&gt;" in explorer.caption.value
    explorer.controls["whole"].value = True
    rng = np.random.default_rng([7, 512, 500_000, 1])
    ids, key = passkey_sequence(tokenizer, 512, 0.5, rng)
    assert key == expected
    assert text_of(explorer) == f"{tokenizer.decode(ids)} &lt;none&gt;"
    assert explorer.text.value.count(f'<mark style="background: #F0E442">{key}</mark>') == 2


def test_markup_in_the_table_is_shown_as_it_is(table, tokenizer):
    expected = table["expected"].where(table["trial"] == 0, "<img src=x>")
    explorer = explore_passkeys(table.assign(expected=expected), tokenizer, window=512, seed=7)
    with pytest.raises(ValueError, match="the table expects <img"):
        explorer.controls["trial"].value = 1
    assert "&lt;img" in explorer.caption.value and "<img" not in explorer.caption.value


def test_other_trials_and_scalings_keep_the_place(explorer):
    explorer.cells[512, 0.5].click()
    first = explorer.text.value
    explorer.controls["trial"].value = 2
    assert explorer.row["trial"] == 2 and explorer.text.value != first
    explorer.controls["scaling"].value = "yarn"
    assert (explorer.row["scaling"], explorer.row["length"], explorer.row["depth"]) == (
        "yarn",
        512,
        0.5,
    )
    assert [label for label, _ in explorer.controls["trial"].options] == ["0 ✓", "1 ✗", "2 ✓"]


def test_what_is_left_out_of_a_long_prompt_is_counted(explorer, tokenizer):
    explorer.cells[1024, 0.5].click()
    short = text_of(explorer)
    counts = [int(n.replace(",", "")) for n in re.findall(r"\[…([\d,]+) more characters…\]", short)]
    explorer.controls["whole"].value = True
    pieces = re.split(r" \[…[\d,]+ more characters…\] ", short)
    assert len(counts) == 2 and sum(map(len, pieces)) + sum(counts) == len(text_of(explorer))
    assert all(piece in text_of(explorer) for piece in pieces)


def test_a_table_read_back_shows_the_same(explorer, table, tokenizer):
    again = pd.read_csv(io.StringIO(table.to_csv(index=False)))
    assert explore_passkeys(again, tokenizer, window=512, seed=7).text.value == explorer.text.value


def test_prompts_in_other_filler(lab, tokenizer):
    filler = [Document("a", np.arange(100, 700)), Document("b", np.arange(300, 900))]
    table = passkey(lab[0], tokenizer, [256], [0.5], 2, filler=filler, seed=3)
    shown = explore_passkeys(table, tokenizer, filler=filler, seed=3)
    assert shown.row["expected"] in shown.text.value
    with pytest.raises(ValueError, match="pass the tokenizer, seed and filler that made the table"):
        explore_passkeys(table, tokenizer, filler=filler, seed=4)


def test_an_empty_table_and_a_cell_that_was_not_measured(table, tokenizer):
    with pytest.raises(ValueError, match="no rows"):
        explore_passkeys(table[:0], tokenizer)
    some = table[~((table["length"] == 512) & (table["depth"] == 0.5))]
    shown = explore_passkeys(some, tokenizer, seed=7)
    assert len(shown.cells) == 5 and (512, 0.5) not in shown.cells
