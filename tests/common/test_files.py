"""Files are written whole or not at all, by two processes at once too; a damaged one is named."""

import errno
import json
import os
import pickle
import re
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from longrope_lab.common.files import (
    cache_dir,
    from_json,
    not_ours,
    read_json,
    replacing,
    write_json,
    write_table,
)

ROUNDS = 150


def test_a_file_is_replaced_whole(tmp_path):
    path = tmp_path / "made" / "x.txt"  # the folder is made
    with replacing(path) as part:
        part.write_text("one")
        assert not path.exists()
    with replacing(path) as part:
        part.write_text("two")
        assert path.read_text() == "one"  # until the block ends
        assert part.parent == path.parent  # on the same disk, so that it can take the place at once
    assert path.read_text() == "two"
    assert [p.name for p in path.parent.iterdir()] == ["x.txt"]


@pytest.mark.parametrize("error", [OSError("no space left on device"), KeyboardInterrupt()])
def test_after_an_error_the_old_file_stands_alone(error, tmp_path):
    path = tmp_path / "x.txt"
    path.write_text("old")

    def fail():
        with replacing(path) as part:
            part.write_text("half")
            raise error

    with pytest.raises(type(error)):
        fail()
    assert [p.read_text() for p in tmp_path.iterdir()] == ["old"]


@pytest.mark.parametrize(
    ("number", "way_out"),
    [
        (errno.ENOSPC, "free some space, or name another place"),
        (errno.EACCES, "allow it there, or name another place"),
        (errno.EISDIR, "a folder is in the way: move it, or name another place"),
        (errno.EIO, "name another place"),
    ],
)
def test_what_the_system_refuses_is_named_with_the_way_out(tmp_path, monkeypatch, number, way_out):
    """Of a full disk the system's own error names no file."""

    def refuse(*_, **__):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(Path, "write_text", refuse)
    for write in (
        lambda path: write_json(path, {}),
        lambda path: write_table(path, pd.DataFrame({"x": [1]})),
    ):
        words = f"{tmp_path}/x.json cannot be written ({os.strerror(number)}): {way_out}"
        with pytest.raises(ValueError, match=f"^{re.escape(words)}$") as caught:
            write(tmp_path / "x.json")
        assert isinstance(caught.value, OSError)  # for whoever waits for that
        again = pickle.loads(pickle.dumps(caught.value))  # as a worker process sends it
        assert (str(again), again.reason) == (words, os.strerror(number))
    assert list(tmp_path.iterdir()) == []


def test_a_file_in_the_place_of_a_folder_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(
        ValueError, match=r"file/x.json cannot be written (.*): something is in the way: move it"
    ):
        write_json(tmp_path / "file" / "x.json", {})


def test_what_is_not_json_leaves_nothing(tmp_path):
    with pytest.raises(TypeError, match="not JSON serializable"):
        write_json(tmp_path / "x.json", {"a": {1, 2}})
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_cannot_take_its_place_leaves_nothing(tmp_path):
    (tmp_path / "taken" / "inside").mkdir(parents=True)  # a folder lies where the file should
    with pytest.raises(OSError, match="taken"):
        write_json(tmp_path / "taken", {})
    assert [p.name for p in tmp_path.iterdir()] == ["taken"]


def test_two_processes_that_write_one_file_never_leave_a_half(tmp_path):
    path = tmp_path / "shared.json"
    code = (
        "import sys; from longrope_lab.common.files import write_json\n"
        f"for n in range({ROUNDS}): write_json(sys.argv[1], {{sys.argv[2]: [n] * 5000}})"
    )
    writers = [
        subprocess.Popen([sys.executable, "-c", code, str(path), name], stderr=subprocess.PIPE)
        for name in ("a", "b")
    ]
    seen = set()
    while any(writer.poll() is None for writer in writers):
        if path.exists():
            ((name, numbers),) = json.loads(path.read_text()).items()
            assert numbers == numbers[:1] * 5000
            seen.add(name)
    assert [writer.communicate()[1] for writer in writers] == [b"", b""]
    assert [writer.returncode for writer in writers] == [0, 0]
    assert seen <= {"a", "b"} and seen
    ((_, numbers),) = json.loads(path.read_text()).items()
    assert numbers == [ROUNDS - 1] * 5000  # of whichever finished last
    assert [p.name for p in tmp_path.iterdir()] == ["shared.json"]


def test_tables_have_eight_digits_and_the_same_bytes_everywhere(tmp_path):
    table = pd.DataFrame({"length": [512], "loss": [3.14159265358979]})
    write_table(tmp_path / "t.csv", table)
    assert (tmp_path / "t.csv").read_bytes() == b"length,loss\n512,3.1415927\n"


def test_what_cannot_be_read_is_named(tmp_path):
    path = tmp_path / "x.json"
    with pytest.raises(FileNotFoundError, match=r"no plan at .*x\.json: save one with \.save"):
        read_json(path, "plan")
    for damaged in (b"", b'{"a": ', b"\xff\xfe"):
        path.write_bytes(damaged)
        with pytest.raises(
            ValueError, match=r"x\.json is not readable JSON .*: the plan is damaged; remove it"
        ):
            read_json(path, "plan")
    assert read_json(write_json(path, {"λ": [1.5, None]}), "plan") == {"λ": [1.5, None]}


@pytest.mark.parametrize("text", [100_000 * "[", 100_000 * '{"a":', 100_000 * b"[", b"\xff", ""])
def test_a_text_that_is_no_json_is_a_value_error(text):
    """However deeply it is nested: whoever reads files asks for nothing else."""
    with pytest.raises(ValueError, match=r"nested too deeply|utf-8|Expecting value"):
        from_json(text)
    assert from_json(b'{"\xce\xbb": [1]}') == {"λ": [1]}


def test_what_is_missing_is_named():
    assert str(not_ours("x.json", "plan", KeyError("spec"))) == (
        "x.json is not a plan that longrope_lab wrote: it has no 'spec'"
    )
    assert str(not_ours("x.json", "plan", ValueError("base is 0"))).endswith(": base is 0")


def test_the_cache_can_be_moved(monkeypatch, tmp_path):
    monkeypatch.setenv("LONGROPE_LAB_CACHE", str(tmp_path / "elsewhere"))
    assert cache_dir() == tmp_path / "elsewhere"
    monkeypatch.delenv("LONGROPE_LAB_CACHE")
    assert cache_dir().name == "longrope_lab"
    assert cache_dir().is_relative_to(Path.home())


@pytest.mark.parametrize("text", ["a\rb", "a\nb", 'a "b", c', "a\r\nb", " a "])
def test_a_text_of_any_kind_comes_back(tmp_path, text):
    """A model may answer with a carriage return, which pandas alone would read as a new row."""
    table = pd.DataFrame({"answer": [text, "plain"], "number": [1, 2]})
    write_table(tmp_path / "t.csv", table)
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "t.csv"), table)
