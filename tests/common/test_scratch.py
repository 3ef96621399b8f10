"""Temporary folders of processes that were killed, with real processes."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from longrope_lab.common.files import UnwritableError
from longrope_lab.common.scratch import LOCK, NEW, ScratchFolder

HOLD = """
import sys
from longrope_lab.common.scratch import ScratchFolder

folder = ScratchFolder()
print(folder.name, flush=True)
sys.stdin.read()
"""


@pytest.fixture
def place(monkeypatch, tmp_path):
    """Where temporary folders are made, by this process and those that it starts."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    return tmp_path


def held():
    """A process with a folder, and the folder."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    return process, Path(process.stdout.readline().strip())


def age(folder):
    then = time.time() - 2 * NEW
    os.utime(folder, (then, then))


def test_what_a_killed_process_left_goes_when_the_next_begins(place):
    (killed, left), (living, kept) = held(), held()
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    with ScratchFolder() as young:
        assert left.exists()  # it may be in the making
    for folder in (left, kept):
        age(folder)
    with ScratchFolder() as own:
        assert not left.exists()
        assert kept.exists()
        living.communicate("")
        assert not kept.exists()
        assert Path(own).exists()
    assert not Path(own).exists() and not Path(young).exists()


def test_folders_of_others_stay(place):
    """A user may call one as ours are called."""
    theirs, linked, aside = place / "longrope-lab-theirs", place / "longrope-lab-x", place / "aside"
    for folder in (theirs, aside):
        folder.mkdir()
        (folder / "results.csv").touch()
    (aside / LOCK).touch()
    linked.symlink_to(aside)
    age(theirs)
    age(aside)
    with ScratchFolder():
        assert (theirs / "results.csv").exists()
        assert (aside / "results.csv").exists()


def test_no_place_for_temporary_files(place, monkeypatch):
    """The error says which setting names the place."""
    nowhere = str(place / "nowhere")
    monkeypatch.setattr(tempfile, "_candidate_tempdir_list", lambda: [nowhere])
    with pytest.raises(
        UnwritableError, match=r"temporary files \(TMPDIR\) cannot be written \(No us"
    ):
        ScratchFolder()
