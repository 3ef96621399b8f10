"""A bar on a screen, lines without one, and the items themselves in either case."""

import io
import sys

import pytest
import tqdm.auto

from longrope_lab.progress import LINE_EVERY, progress


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
    monkeypatch.setattr("longrope_lab.progress.time.monotonic", lambda: now[0])
    return now


def test_a_line_now_and_then(headless, clock, capsys):
    seen = []
    for item in progress("abcdefgh", "reading"):
        seen.append(item)
        clock[0] += 8
    assert seen == list("abcdefgh")
    assert capsys.readouterr().err.splitlines() == ["reading: 3 of 8 after 24 s", "reading: 6 of 8 after 48 s"]


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
    """What tqdm is called with."""
    calls = []
    monkeypatch.setattr(tqdm.auto, "tqdm", lambda items, **options: calls.append((list(items), options)) or iter(items))
    monkeypatch.delenv("LONGROPE_LAB_PROGRESS", raising=False)
    monkeypatch.delitem(sys.modules, "ipykernel", raising=False)
    return calls


def test_a_terminal_gets_a_bar(bars, monkeypatch):
    monkeypatch.setattr(sys, "stderr", Screen())
    assert list(progress([1, 2], "scoring")) == [1, 2]
    assert bars == [([1, 2], {"desc": "scoring", "leave": False})]


def test_a_live_notebook_gets_a_bar(bars, monkeypatch):
    monkeypatch.setitem(sys.modules, "ipykernel", sys)
    assert list(progress([1, 2], "scoring")) == [1, 2]
    assert len(bars) == 1


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
