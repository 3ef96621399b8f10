"""What the terminal says while a notebook runs."""

from __future__ import annotations

import io
import json
import time
from types import SimpleNamespace

import pytest

from longrope_lab.runs import notebooks, run_one, watching
from longrope_lab.runs.forecast import Pace
from longrope_lab.runs.preparing import prepare
from longrope_lab.runs.terminal import fitting
from longrope_lab.runs.watching import CLEAR, Display, Watch

CODE, TEXT = SimpleNamespace(cell_type="code"), SimpleNamespace(cell_type="markdown")
SEARCH = {"what": "gradient search", "done": 12, "total": 40, "left": 45, "note": "best 12.4"}


class Screen(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def clock(monkeypatch):
    """Time that passes only when a test says so."""
    now = [1000.0]
    monkeypatch.setattr(watching.time, "monotonic", lambda: now[0])
    return now


@pytest.fixture
def ready(own_notebooks):
    """`00_tiny`: two cells of code, and the parameters chosen, which papermill adds."""
    return prepare("00", "cpu", None, results=own_notebooks)


def recorded(monkeypatch, *seconds):
    monkeypatch.setattr(watching, "recorded_seconds", lambda ready: list(seconds))


def start_cells(watch, clock, *seconds):
    """Let cells of code begin; each takes so many seconds, and texts come between them."""
    for spent in seconds:
        watch.cell_starts(cell=TEXT, cell_index=0)
        watch.cell_starts(cell=CODE, cell_index=1)
        clock[0] += spent


def test_without_an_earlier_run(ready, clock):
    watch = Watch(ready)
    assert watch.status() == "00_tiny, starting"
    start_cells(watch, clock, 5, 60)
    assert watch.place == "cell 2 of 3" and watch.left is None
    assert watch.status() == "00_tiny, cell 2 of 3 after 65 s"
    assert watch.take(SEARCH) is None
    clock[0] += 5
    assert watch.status() == (
        "00_tiny, cell 2 of 3 after 70 s; gradient search 12 of 40, about 40 s left, best 12.4"
    )
    watch.take({"over": "something inside it"})
    assert "gradient search" in watch.status()
    watch.take({"over": "gradient search"})
    assert watch.status() == "00_tiny, cell 2 of 3 after 70 s"


def test_an_unknown_end(ready, clock):
    watch = Watch(ready)
    start_cells(watch, clock, 1)
    watch.take(SEARCH | {"total": None, "left": None, "note": ""})
    assert watch.status() == "00_tiny, cell 1 of 3 after 1 s; gradient search 12"


def test_a_new_cell_has_nothing_inside(ready, clock):
    watch = Watch(ready)
    start_cells(watch, clock, 1)
    watch.take(SEARCH)
    start_cells(watch, clock, 1)
    assert watch.status() == "00_tiny, cell 2 of 3 after 2 s"


def test_the_rest_by_an_earlier_run(ready, clock, monkeypatch):
    recorded(monkeypatch, 10, 100, 50)
    watch = Watch(ready, "[2/5] 00_tiny", later=600)
    assert watch.left == 160
    start_cells(watch, clock, 10)
    start_cells(watch, clock, 40)  # the first took what it should
    assert watch.left == 110
    assert watch.status() == "[2/5] 00_tiny, cell 2 of 3, about 2 min left (all: 12 min)"
    watch.take(SEARCH | {"left": 90})  # this time the cell takes longer
    assert watch.left == 140
    clock[0] += 500
    assert watch.left == 50  # it cannot take less than nothing


def test_the_pace_of_this_machine(ready, clock, monkeypatch):
    """It takes three times as long as the record says, in this notebook and in the next."""
    recorded(monkeypatch, 100, 100, 100)
    pace = Pace()
    watch = Watch(ready, pace=pace)
    start_cells(watch, clock, 300, 0)
    assert 300 < watch.left < 600
    assert Watch(ready, pace=pace).left == pytest.approx(1.5 * watch.left)


def test_longer_than_the_record_says(ready, clock, monkeypatch):
    """Nobody is told that nothing is left."""
    recorded(monkeypatch, 1, 1, 1)
    watch = Watch(ready, later=60)
    start_cells(watch, clock, 1, 1, 100)
    assert watch.status() == "00_tiny, cell 3 of 3 after 2 min (all: 60 s)"
    watch.take(SEARCH)
    assert watch.status(79) == (
        "00_tiny, cell 3 of 3, about 45 s left; gradient search 12 of 40, best 12.4"
    )


def test_a_record_of_other_cells(ready, clock, monkeypatch):
    recorded(monkeypatch, 1, 2)
    assert Watch(ready).left is None


@pytest.mark.parametrize("later", [None, 600])
@pytest.mark.parametrize("seconds", [(), (10, 100, 50)])
@pytest.mark.parametrize("width", [200, 79, 60, 40, 20, 5])
def test_it_fits(width, seconds, later, ready, clock, monkeypatch):
    recorded(monkeypatch, *seconds)
    watch = Watch(ready, "[12/12] 00_tiny", later=later)
    start_cells(watch, clock, 1000)
    watch.take(SEARCH | {"note": "best perplexity 12.41, and some more words that are long"})
    status = watch.status(width)
    assert len(status) <= width
    assert width < 20 or "cell 1 of 3" in status
    assert width < 79 or ("cell 1 of 3" in status and "gradient search 12 of 40" in status)


def test_a_text_that_nothing_fits_is_cut():
    assert fitting(["long words", "words"], 4) == "wor…"
    assert fitting(["long words", "words"], None) == "long words"


def test_a_terminal_has_one_line(ready, tmp_path, monkeypatch):
    monkeypatch.setattr(watching, "LOOK_EVERY", 0.01)
    screen, watch = Screen(), Watch(ready)
    with Display(watch, screen).following(tmp_path / "progress"):
        watch.cell_starts(cell=CODE, cell_index=0)
        with (tmp_path / "progress").open("a") as file:
            file.write(json.dumps({"say": "stage 1 of 2"}) + "\n" + json.dumps(SEARCH) + "\n")
            file.write("a process killed\n" + json.dumps({"say": "half of"})[:9])
        wait_for(lambda: "gradient search 12 of 40" in screen.getvalue())
        with (tmp_path / "progress").open("a") as file:
            file.write(json.dumps({"say": "half of"})[9:] + "\n")
    shown = screen.getvalue()
    assert f"{CLEAR}00_tiny: stage 1 of 2\n" in shown and "00_tiny: half of\n" in shown
    assert shown.count("\n") == 2 and shown.endswith(CLEAR)  # nothing is left of the line
    assert all(len(line) < 80 for line in shown.split(CLEAR))


def wait_for(condition, seconds=30):
    """Until it holds, which an impatient thread brings about."""
    for _ in range(100 * seconds):
        if condition():
            return
        time.sleep(0.01)
    raise AssertionError("it took too long")


@pytest.mark.parametrize(("stream", "how"), [(io.StringIO, ""), (Screen, "lines")])
def test_without_a_terminal_there_are_lines(stream, how, ready, tmp_path, monkeypatch):
    monkeypatch.setattr(watching, "LOOK_EVERY", 0.01)
    monkeypatch.setattr(watching, "LINE_EVERY", 0.05)
    monkeypatch.setenv("LONGROPE_LAB_PROGRESS", how)
    file, watch = stream(), Watch(ready)
    with Display(watch, file).following(tmp_path / "progress"):
        watch.cell_starts(cell=CODE, cell_index=0)
        (tmp_path / "progress").write_text(json.dumps({"say": "stage 1 of 2"}) + "\n")
        wait_for(lambda: file.getvalue().count("cell 1 of 3") >= 2)
    assert "00_tiny: stage 1 of 2\n" in file.getvalue()
    assert file.getvalue().replace("\n", "").isprintable()  # no control characters


def test_a_quick_notebook_says_nothing(ready, tmp_path):
    file = io.StringIO()
    with Display(Watch(ready), file).following(tmp_path / "progress"):
        pass
    assert file.getvalue() == ""


def test_a_terminal_without_control_characters(ready, monkeypatch):
    monkeypatch.setenv("TERM", "dumb")
    assert Display(Watch(ready), Screen()).clear == ""


def test_nobody_listens(ready, tmp_path, monkeypatch):
    """A closed stderr does not stop a notebook."""

    class Closed(Screen):
        def write(self, text):
            raise BrokenPipeError

    monkeypatch.setattr(watching, "LOOK_EVERY", 0.01)
    with Display(Watch(ready), Closed()).following(tmp_path / "progress"):
        time.sleep(0.05)
    with Display(Watch(ready), None).following(tmp_path / "progress"):
        pass


def test_what_a_kernel_tells(own_notebooks, tmp_path, monkeypatch, capfd):
    """From `Progress` in the notebook to a screen here; nothing of it is in the notebook.

    The kernel does not warn of its sockets.
    """
    path = notebooks.find_notebook("01")
    text = json.loads(path.read_text())
    text["cells"][-1]["source"] = (
        "import time\nfrom longrope_lab.common.progress import Progress, announce\n"
        "announce('stage 1 of 2')\n"
        "with Progress('counting', 9) as shown:\n"
        "    shown.advance(4, 'so far')\n    time.sleep(0.3)\n    shown.advance(1, 'so far')\n"
        "    time.sleep(0.3)\n"
        "print('done')"
    )
    path.write_text(json.dumps(text))
    monkeypatch.setattr(watching, "LOOK_EVERY", 0.05)
    screen, ready = Screen(), prepare("01", "cpu", None, results=own_notebooks)
    folder = run_one.execute(ready, Display(Watch(ready), screen))
    assert "01_small: stage 1 of 2\n" in screen.getvalue()
    assert "cell 3 of 3" in screen.getvalue() and "; counting 5 of 9, so far" in screen.getvalue()
    executed = json.loads((folder / "01_small.ipynb").read_text())
    assert executed["cells"][-1]["outputs"] == [
        {"name": "stdout", "output_type": "stream", "text": ["done\n"]}
    ]
    assert [p.name for p in folder.iterdir() if p.suffix != ".ipynb"] == ["run.json"]
    assert capfd.readouterr() == ("", "")
