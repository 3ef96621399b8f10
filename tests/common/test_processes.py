"""One process of a job goes first; and of two jobs one has a folder. Both with real processes."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from longrope_lab.common.processes import alone, is_main, main_first

# Each process notes who enters the block, and what it finds there.
WORKER = """
import sys, time
from pathlib import Path
from longrope_lab.common.processes import is_main, main_first

done = Path(sys.argv[1])
try:
    with main_first(cpu=True):
        print("found" if done.exists() else "made", is_main())
        if not done.exists():
            time.sleep(1)  # long enough for the other to get here, if it did not wait
            done.touch()
            if sys.argv[2] == "fail":
                raise ValueError("not this time")
except ValueError as error:
    print(error)
"""


def run(tmp_path, how):
    """What two processes print, the main one first."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    job = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "localhost"}
    job |= {"MASTER_PORT": str(port), "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    command = [sys.executable, "-c", WORKER, str(tmp_path / "done"), how]
    started = [
        subprocess.Popen(
            command,
            env=os.environ | job | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        return [process.communicate(timeout=200)[0].splitlines() for process in started]
    finally:
        for process in started:
            process.kill()


def test_the_others_find_done_what_the_main_process_did(tmp_path):
    assert run(tmp_path, "work") == [["made True"], ["found False"]]


def test_the_others_do_not_wait_for_ever_where_the_main_process_fails(tmp_path):
    assert run(tmp_path, "fail") == [["made True", "not this time"], ["found False"]]


def test_a_process_that_is_alone_just_goes(monkeypatch):
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    assert is_main()
    ran = []
    with main_first(cpu=True):
        ran.append(1)
    assert ran == [1]
    with pytest.raises(ValueError, match="as it is"), main_first(cpu=True):
        raise ValueError("as it is")


@pytest.mark.parametrize(("rank", "main"), [("0", True), ("1", False), ("7", False)])
def test_the_main_process_is_the_first(rank, main, monkeypatch):
    monkeypatch.setenv("RANK", rank)
    assert is_main() is main


# --- two jobs, one folder ---

HOLDER = """
import sys
from pathlib import Path
from longrope_lab.common.processes import alone

with alone(Path(sys.argv[1]), "work"):
    print("held", flush=True)
    input()
"""


@pytest.mark.parametrize("how", ["ends", "is killed"])
def test_two_jobs_in_one_folder(tmp_path, how):
    """The second is told, however the folder is called; the first may end in any way."""
    folder = tmp_path / "new" / "folder"
    command = [sys.executable, "-c", HOLDER, str(folder)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as first:
        assert first.stdout.readline() == "held\n"
        words = r"another work is writing to .*: wait for it, or name another folder"
        for same in (folder, folder.parent / ".." / "new" / "folder"):
            with pytest.raises(ValueError, match=words), alone(same, "work"):
                raise AssertionError("two at once")
        if how == "ends":
            first.communicate("\n")
        else:
            first.kill()
    with alone(folder, "work"):
        pass
    assert list(folder.parent.iterdir()) == []


def test_a_job_holds_a_folder_alone_in_its_own_process_too(tmp_path, monkeypatch):
    with alone(tmp_path / "a", "work"), alone(tmp_path / "b", "work"):
        with pytest.raises(ValueError, match="another work"), alone(tmp_path / "a", "work"):
            pass
        monkeypatch.setenv("RANK", "1")  # of the same job: the main process holds it for all
        with alone(tmp_path / "a", "work"):
            monkeypatch.undo()
    (tmp_path / "file").touch()
    words = r"folder cannot be written \(.*\): something is in the way: move it"
    with pytest.raises(ValueError, match=words), alone(tmp_path / "file" / "folder", "work"):
        pass


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="no folder that takes no files")
def test_a_folder_that_takes_no_files_is_not_called_busy():
    words = r"/proc/x cannot be written \(.*\): check the path"
    with pytest.raises(ValueError, match=words), alone(Path("/proc/x"), "export"):
        pass
