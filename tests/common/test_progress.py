"""A bar on a screen, lines without one, a runner's file, and the items themselves in any case."""

import io
import json
import sys

import pytest
import tqdm.auto

from longrope_lab.common.progress import KNOWN_END, LINE_EVERY, Progress, announce, progress


class Screen(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def headless(monkeypatch):
    monkeypatch.setenv("LONGROPE_LAB_PROGRESS", "lines")


@pytest.fixture
def clock(monkeypatch):
    """Time that passes only when a test says so."""
    now = [1000.0]
    monkeypatch.setattr("longrope_lab.common.progress.time.monotonic", lambda: now[0])
    return now


def test_a_line_now_and_then(headless, clock, capsys):
    seen = []
    for item in progress("abcdefgh", "reading"):
        seen.append(item)
        clock[0] += 8
    assert seen == list("abcdefgh")
    assert capsys.readouterr().err.splitlines() == [
        "reading: 3 of 8 after 24 s, about 40 s left",
        "reading: 6 of 8 after 48 s, about 16 s left",
    ]


def test_a_quick_run_says_nothing(headless, clock, capsys):
    for _ in progress(range(1000), "reading"):
        clock[0] += LINE_EVERY / 1000
    assert capsys.readouterr() == ("", "")


def test_items_are_not_taken_ahead(headless, clock):
    iterator = progress([1, 2, 3], "x")
    assert (next(iterator), next(iterator)) == (1, 2)
    assert list(iterator) == [3]
    assert list(progress([], "x")) == []


@pytest.fixture
def bars(monkeypatch):
    """What tqdm is called with, and what its bars are told."""
    calls = []

    class Bar:
        def __init__(self, **options):
            calls.append(options)

        def __getattr__(self, name):
            return lambda *args, **options: calls.append((name, *args))

    monkeypatch.setattr(tqdm.auto, "tqdm", Bar)
    monkeypatch.delenv("LONGROPE_LAB_PROGRESS", raising=False)
    monkeypatch.delitem(sys.modules, "ipykernel", raising=False)
    return calls


def test_a_terminal_gets_a_bar(bars, monkeypatch):
    monkeypatch.setattr(sys, "stderr", Screen())
    assert list(progress([1, 2], "scoring")) == [1, 2]
    assert bars == [
        {"desc": "scoring", "total": 2, "leave": False, "bar_format": KNOWN_END},
        ("update", 1),
        ("update", 1),
        ("close",),
    ]


def test_a_bar_says_how_much_is_left(bars, clock, monkeypatch):
    monkeypatch.setattr(sys, "stderr", Screen())
    with Progress("scoring", 4) as shown:
        clock[0] += 100
        shown.advance(1, "best 12")
    assert ("set_postfix_str", "about 5 min left, best 12") in bars


def test_a_live_notebook_gets_a_bar(bars, monkeypatch):
    monkeypatch.setitem(sys.modules, "ipykernel", sys)
    assert list(progress([1, 2], "scoring")) == [1, 2]
    assert bars[0] == {"desc": "scoring", "total": 2, "leave": False, "bar_format": KNOWN_END}


def test_notes_and_words_beside_a_bar(bars, monkeypatch):
    monkeypatch.setattr(sys, "stderr", Screen())
    with pytest.raises(KeyError), Progress("searching") as shown:
        shown.advance(3, "best 12")
        shown.advance(0)
        shown.say("stopped")
        raise KeyError
    assert bars == [
        {"desc": "searching", "total": None, "leave": False, "bar_format": None},
        ("set_postfix_str", "best 12"),
        ("update", 3),
        ("update", 0),
        ("write", "searching: stopped"),
        ("close",),
    ]
    assert shown.done == 3


def test_notes_and_words_without_a_bar(headless, clock, capsys):
    with Progress("searching") as shown:
        for note in ("", "best 12"):
            clock[0] += 21
            shown.advance(4, note)
        shown.advance(1, "too soon to tell")
        shown.say("stopped")
    with Progress("searching", 50) as shown:
        clock[0] += 30
        shown.advance(5, "best 11")
    assert capsys.readouterr().err.splitlines() == [
        "searching: 4 after 21 s",
        "searching: 8 after 42 s, best 12",
        "searching: stopped",
        "searching: 5 of 50 after 30 s, about 4 min left, best 11",
    ]


def test_a_headless_notebook_does_not(bars, monkeypatch, headless):
    monkeypatch.setitem(sys.modules, "ipykernel", sys)
    monkeypatch.setattr(sys, "stderr", Screen())
    assert list(progress([1, 2], "scoring")) == [1, 2]
    assert bars == []


def test_a_file_does_not(bars):
    assert list(progress([1, 2], "scoring")) == [1, 2]
    assert bars == []


def test_a_real_bar(monkeypatch):
    monkeypatch.delenv("LONGROPE_LAB_PROGRESS", raising=False)
    monkeypatch.delitem(sys.modules, "ipykernel", raising=False)
    screen = Screen()
    monkeypatch.setattr(sys, "stderr", screen)
    assert list(progress(range(3), "scoring")) == [0, 1, 2]
    assert "scoring" in screen.getvalue()


def test_words_above_a_real_bar(monkeypatch):
    monkeypatch.delenv("LONGROPE_LAB_PROGRESS", raising=False)
    monkeypatch.delitem(sys.modules, "ipykernel", raising=False)
    screen = Screen()
    monkeypatch.setattr(sys, "stderr", screen)
    with Progress("searching", 9) as shown:
        shown.advance(2, "best 12")
        shown.say("stopped by hand")
    assert "searching: stopped by hand\n" in screen.getvalue() and "best 12" in screen.getvalue()


def test_items_of_different_sizes(headless, clock, capsys):
    """Three quarters of the work take three quarters of the time, however many items they are."""
    for size in progress([100, 100, 600], "reading", sizes=[100, 100, 600]):
        clock[0] += size / 4
    assert capsys.readouterr().err.splitlines() == [
        "reading: 1 of 3 after 25 s, about 3 min left",
        "reading: 2 of 3 after 50 s, about 2 min left",
        "reading: 3 of 3 after 3 min",
    ]


def test_what_was_done_before_says_nothing_about_the_pace(headless, clock, capsys):
    with Progress("searching", 100) as shown:
        clock[0] += 5
        shown.skip(80)
        assert shown.left is None
        clock[0] += 30
        shown.advance(10)
        assert shown.left == 30
    assert "searching: 90 of 100 after 35 s, about 30 s left" in capsys.readouterr().err


def test_nobody_knows_the_end(headless, clock):
    with Progress("searching") as shown:
        clock[0] += 30
        shown.advance(10)
        assert shown.left is None
        shown.advance(10, share=0.5)  # of a budget
        assert shown.left == 30
        shown.advance(10, share=1.5)
        assert shown.left == 0


@pytest.fixture
def runner(tmp_path, monkeypatch):
    """What a runner's file holds."""
    file = tmp_path / "progress"
    file.touch()
    monkeypatch.setenv("LONGROPE_LAB_PROGRESS_FILE", str(file))
    return lambda: [json.loads(line) for line in file.read_text().splitlines()]


def test_a_runner_is_told_and_nothing_else_is(runner, clock, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "ipykernel", sys)
    announce("stage 1 of 2")
    for _ in progress("abc", "reading"):
        clock[0] += 30
    state = {"what": "reading", "total": 3, "note": ""}
    assert runner() == [
        {"say": "stage 1 of 2"},
        state | {"done": 0, "left": None},
        state | {"done": 1, "left": 60},
        state | {"done": 2, "left": 30},
        state | {"done": 3, "left": 0},
        {"over": "reading"},
    ]
    assert capsys.readouterr() == ("", "")


def test_a_runner_is_not_told_of_every_item(runner, clock):
    for _ in progress(range(1000), "reading"):
        clock[0] += 0.001
    assert len(runner()) < 10


def test_words_stay_with_the_work_under_a_runner(runner, capsys):
    with Progress("searching") as shown:
        shown.say("stopped by hand")
    assert capsys.readouterr().err == "searching: stopped by hand\n"


def test_a_runner_that_is_gone(tmp_path, headless, clock, capsys, monkeypatch):
    """Nothing is written where nobody looks, and lines take its place."""
    monkeypatch.setenv("LONGROPE_LAB_PROGRESS_FILE", str(tmp_path / "gone"))
    for _ in progress("ab", "reading"):
        clock[0] += 30
    announce("stage 1 of 2")
    assert list(tmp_path.iterdir()) == []
    assert capsys.readouterr().err.splitlines() == [
        "reading: 1 of 2 after 30 s, about 30 s left",
        "reading: 2 of 2 after 60 s",
        "stage 1 of 2",
    ]


def test_what_begins_is_said_above_the_bars(monkeypatch):
    monkeypatch.delenv("LONGROPE_LAB_PROGRESS", raising=False)
    monkeypatch.delitem(sys.modules, "ipykernel", raising=False)
    screen = Screen()
    monkeypatch.setattr(sys, "stderr", screen)
    announce("stage 1 of 2")
    assert "stage 1 of 2\n" in screen.getvalue()


def test_what_begins_is_no_error_of_a_live_notebook(monkeypatch, capsys):
    monkeypatch.delenv("LONGROPE_LAB_PROGRESS", raising=False)
    monkeypatch.setitem(sys.modules, "ipykernel", sys)
    announce("stage 1 of 2")
    assert capsys.readouterr() == ("stage 1 of 2\n", "")


@pytest.mark.parametrize("note", ["", "best perplexity 12.34, 17 candidates dropped so far"])
def test_a_bar_fits_a_narrow_terminal(note, monkeypatch):
    monkeypatch.delenv("LONGROPE_LAB_PROGRESS", raising=False)
    monkeypatch.delitem(sys.modules, "ipykernel", raising=False)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("LINES", "24")
    screen = Screen()
    monkeypatch.setattr(sys, "stderr", screen)
    with Progress("gradient search", 40) as shown:
        for _ in range(40):
            shown.advance(1, note)
    assert max(map(len, screen.getvalue().split("\r"))) <= 80
