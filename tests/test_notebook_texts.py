"""The notebooks' texts: short, and no verdict in them that was typed and not judged."""

from __future__ import annotations

import re

import nbformat
import pytest

from longrope_lab.report.experiments import EXPERIMENTS, experiments_in
from longrope_lab.runs.notebooks import notebooks

PATHS = notebooks()
EACH = pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)

LONGEST = 120  # words in a cell
SENTENCE = 30  # words in a sentence
TYPED = re.compile(
    r"\b(Tables?|Figures?|Findings?) \d+(, Figure \d+)?\W* (shows?|do(es)? not show)\b"
    r"|\b[TF]\d+ (shows|does not show)\b|\b\d\.\d+ \(\d\.\d+ to \d\.\d+\)"
)


def cells(path, kind):
    return [cell.source for cell in nbformat.read(path, 4).cells if cell.cell_type == kind]


def closing(path):
    """The source of the last code cell."""
    return cells(path, "code")[-1]


def prose(text):
    """Without formulas, tables, headings and list marks."""
    text = re.sub(r"\$\$.*?\$\$|\$[^$]*\$", "x", text, flags=re.DOTALL)
    lines = [re.sub(r"^\s*(-|\d\.) ", "\n", line) for line in text.splitlines()]
    kept = [line for line in lines if not line.startswith(("#", "|"))]
    return re.sub(r"\]\([^)]*\)", "]", "\n".join(kept))


@EACH
def test_no_text_is_long(path):
    for text in cells(path, "markdown"):
        assert len(text.split()) <= LONGEST, f"{len(text.split())} words: {text[:80]}..."


@EACH
def test_no_sentence_is_long(path):
    for text in cells(path, "markdown"):
        for sentence in re.split(r"(?<=[.?!:;])\W*\s|\n\n", prose(text)):
            assert len(sentence.split()) <= SENTENCE, sentence


@EACH
def test_no_verdict_is_typed(path):
    for text in cells(path, "markdown"):
        assert not TYPED.search(text), TYPED.search(text)


def test_typed_verdicts_are_found():
    for typed in ("**Table 9 shows partly**", "Finding 2 does not show", "0.878 (0.845 to 0.911)"):
        assert TYPED.search(typed)
    assert not TYPED.search("The paper's Table 8 asks four benchmarks")


@EACH
def test_the_closing_cell_shows_the_verdict_of_each_exhibit(path):
    code = closing(path)
    wanted = experiments_in(path.stem)
    named = re.findall(r'"([TF]\d+)"', code)
    assert sorted(named) == sorted(wanted)
    assert ("lab.verdict(" in code and ", out" in code) or not wanted


@EACH
def test_it_ends_with_why_and_exercises(path):
    *_, why, exercises = cells(path, "markdown")
    bullets = re.findall(r"^- ", why, re.MULTILINE)
    assert why.startswith("## Why") and 3 <= len(bullets) <= 5
    assert len(re.findall(r"(?<![\w`])\d+(?![\w`])", re.sub(r"`[^`]*`", "", why))) <= 5
    assert exercises.startswith("**Exercises.**")


@EACH
def test_the_first_cells_say_what_to_see_and_how_long_it_takes(path):
    first = "\n".join(cells(path, "markdown")[:2])
    assert re.search(r"You will see", first)
    assert re.search(r"\*[^*]*(minutes?|Seconds)[^*]*laptop[^*]*\*", first)


def test_every_exhibit_has_a_verdict_somewhere():
    shown = {name for path in PATHS for name in re.findall(r'"([TF]\d+)"', closing(path))}
    assert shown == set(EXPERIMENTS)
