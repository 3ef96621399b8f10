"""One process goes first, and the others after it: alone, and as two real processes of one job."""

import os
import socket
import subprocess
import sys

import pytest

from longrope_lab.common.processes import is_main, main_first

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
