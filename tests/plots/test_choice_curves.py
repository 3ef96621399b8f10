"""Figures of answers by choice: what is drawn, where guessing lies, and what is refused."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from longrope_lab import plots
from longrope_lab.measure.choices import SUMMARY


def summary(tasks=("rule", "mapping"), lengths=(256, 512, 1024), examples=12.0):
    """No scaling reads half of what is asked at 1,024 tokens, and the extended model all."""
    rows = [
        (name, task, length, 40, examples * length / 256, length, share, share - 0.1, share + 0.1,
         0.25, share > 0.35, 1.0 if length < 1024 or name != "none" else 0.625, 1.0, 0.9, 1.1, 1.39)
        for name, share in (("none", 0.3), ("extended model", 0.6))
        for task in tasks
        for length in lengths
    ]  # fmt: skip
    return pd.DataFrame(rows, columns=["scaling", "task", "length", *SUMMARY])


def named(ax):
    """The lines that the legend names, by their names."""
    return {line.get_label(): line for line in ax.get_lines() if line.get_label()[0] != "_"}


def test_accuracy_has_guessing_and_a_perfect_reader():
    figure = plots.choice_curves(summary(), window=512)
    assert [ax.get_title() for ax in figure.axes] == ["rule", "mapping"]
    for ax in figure.axes:
        lines = named(ax)
        assert {*lines} == {"no scaling", "extended model", "a perfect reader", "guessing"}
        assert set(lines["guessing"].get_ydata()) == {0.25}
        np.testing.assert_allclose(lines["extended model"].get_ydata(), 0.6)
        possible = [tuple(line.get_ydata()) for line in ax.get_lines()]
        assert (1.0, 1.0, 0.625) in possible and (1.0, 1.0, 1.0) in possible
    figure.draw_without_rendering()
    labels = [text.get_text() for text in figure.axes[0].get_xticklabels()]
    assert labels == ["256\n12", "512\n24", "1k\n48"]
    assert "40 questions" in figure.get_supylabel()


def test_losses_have_no_perfect_reader():
    (ax,) = plots.choice_curves(summary(("rule",)), value="loss").axes
    assert {*named(ax)} == {"no scaling", "extended model", "no preference"}
    assert set(named(ax)["no preference"].get_ydata()) == {1.39}


def test_books_have_no_examples_under_their_lengths():
    figure = plots.choice_curves(summary(examples=0.0))
    figure.draw_without_rendering()
    assert [text.get_text() for text in figure.axes[0].get_xticklabels()] == ["256", "512", "1k"]


def test_what_cannot_be_drawn():
    with pytest.raises(ValueError, match="unknown value 'los': did you mean 'loss'"):
        plots.choice_curves(summary(), value="los")
    with pytest.raises(ValueError, match="no column 'possible': pass one that choice_summary"):
        plots.choice_curves(summary().drop(columns="possible"))
    with pytest.raises(ValueError, match="has no rows"):
        plots.choice_curves(summary()[:0])
