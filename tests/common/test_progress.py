"""A bar on a screen, lines without one, and the items themselves in either case."""

import io
import sys

import pytest
import tqdm.auto

from longrope_lab.common.progress import LINE_EVERY, Progress, progress


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
        "reading: 3 of 8 after 24 s",
        "reading: 6 of 8 after 48 s",
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
        {"desc": "scoring", "total": 2, "leave": False},
        ("update", 1),
        ("update", 1),
        ("close",),
    ]


def test_a_live_notebook_gets_a_bar(bars, monkeypatch):
    monkeypatch.setitem(sys.modules, "ipykernel", sys)
    assert list(progress([1, 2], "scoring")) == [1, 2]
    assert bars[0] == {"desc": "scoring", "total": 2, "leave": False}


def test_notes_and_words_beside_a_bar(bars, monkeypatch):
    monkeypatch.setattr(sys, "stderr", Screen())
    with pytest.raises(KeyError), Progress("searching") as shown:
        shown.advance(3, "best 12")
        shown.advance(0)
        shown.say("stopped")
        raise KeyError
    assert bars == [
        {"desc": "searching", "total": None, "leave": False},
        ("update", 3),
        ("set_postfix_str", "best 12"),
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
        "searching: 5 of 50 after 30 s, best 11",
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
