"""A folder belongs to one run: whose it is, what differs, and what is not a run's at all."""

import hashlib
import json
import re
from pathlib import Path

import pytest

from longrope_lab.common.identity import (
    SHOWN,
    differences,
    digest,
    digest_at,
    is_taken,
    source_name,
    source_names,
    take,
)

MINE = {"format": 2, "model": "abc", "seed": 0, "lengths": (64, 128), "preset": None}


def test_a_digest_is_the_beginning_of_the_sha256():
    assert digest("λ", b"\x00") == hashlib.sha256("λ".encode() + b"\x00").hexdigest()[:16]
    assert digest() == hashlib.sha256().hexdigest()[:16]
    assert digest("ab") == digest("a", "b") != digest("ba")


def test_a_folder_is_told_by_the_names_and_contents_of_all_in_it(tmp_path):
    folder = tmp_path / "books"
    (folder / "more").mkdir(parents=True)
    (folder / "a.txt").write_text("a")
    (folder / "more" / "b.txt").write_text("b")
    seen = [digest_at(folder)]
    assert digest_at(folder.rename(tmp_path / "moved")) == seen[0]
    folder = tmp_path / "moved"
    (folder / "more" / "b.txt").write_text("c")
    seen.append(digest_at(folder))
    (folder / "a.txt").rename(folder / "c.txt")
    seen.append(digest_at(folder))
    assert len(set(seen)) == 3 and digest_at(folder / "c.txt") == digest("a")


def test_a_source_loses_the_folders_of_a_machine(tmp_path, monkeypatch):
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    for source, name in {
        "kjv": "kjv",
        "owner/name": "owner/name",
        "books/test.parquet": "books/test.parquet",
        f"{here}/books/test.parquet": "books/test.parquet",
        f"{tmp_path}/books/": "books",
        "../books/*.parquet": "*.parquet",
        "~/books": "books",
        "~nobody.of.this.name/books": "~nobody.of.this.name/books",
        str(here): "here",
        "/": "/",
    }.items():
        assert source_name(source) == name, source
    assert source_name(Path("/data/model.gguf")) == "model.gguf"


def test_two_sources_of_one_name_are_refused():
    assert source_names(["kjv", "/a/test.parquet"]) == ["kjv", "test.parquet"]
    words = "/a/test.parquet and /b/test.parquet would both be called 'test.parquet'"
    with pytest.raises(ValueError, match=words):
        source_names(["/a/test.parquet", "kjv", "/b/test.parquet"])


def test_differences_name_each_field_once():
    there = {"seed": 0, "model": "lab", "steps": 400, "gone": [1]}
    here = {"seed": 1, "model": "lab", "steps": 400, "new": "x"}
    assert differences(there, here) == (
        "seed: 0 there, 1 here; new: nothing there, x here; gone: [1] there, nothing here"
    )
    assert differences(there, dict(there)) == ""


def test_long_values_are_cut():
    words = differences({"a": "x" * (SHOWN + 1), "b": "y" * SHOWN}, {})
    assert words == f"a: {'x' * (SHOWN - 3)}... there, nothing here; " + (
        f"b: {'y' * SHOWN} there, nothing here"
    )


@pytest.fixture
def path(tmp_path):
    return tmp_path / "run" / "identity.json"


def test_a_new_folder_is_taken_and_known_again(path):
    take(path, "plan", MINE)
    content = path.read_bytes()
    assert json.loads(content) == MINE | {"lengths": [64, 128]}
    (path.parent / "weights").write_text("anything")
    take(path, "plan", MINE)  # tuples are lists in JSON: the same, all the same
    assert path.read_bytes() == content


def test_whether_a_folder_is_taken_changes_nothing(path):
    assert not is_taken(path, "plan", MINE) and not path.parent.exists()
    take(path, "plan", MINE)
    assert is_taken(path, "plan", MINE)
    with pytest.raises(ValueError, match="holds another plan"):
        is_taken(path, "plan", MINE | {"seed": 3})


def test_what_a_killed_write_left_is_no_obstacle(path):
    path.parent.mkdir()
    (path.parent / "identity.json.12345678.part").write_text("{")
    take(path, "plan", MINE)
    assert path.is_file()


def test_another_run_is_refused_with_what_differs(path):
    take(path, "plan", MINE)
    with pytest.raises(
        ValueError,
        match=r"run holds another plan \(seed: 0 there, 3 here\): name another folder, or remove",
    ):
        take(path, "plan", MINE | {"seed": 3})
    with pytest.raises(ValueError, match=r"\(depth: nothing there, 2 here\)"):
        take(path, "plan", MINE | {"depth": 2})
    assert json.loads(path.read_text())["seed"] == 0


@pytest.mark.parametrize(("theirs", "said"), [(1, 1), (None, 1), (3, 3)])
def test_another_version_is_refused_by_its_format(theirs, said, path):
    path.parent.mkdir()
    written = {name: value for name, value in MINE.items() if name != "format"}
    path.write_text(json.dumps(written if theirs is None else written | {"format": theirs}))
    message = (
        f"run holds a plan of another version of longrope_lab (format {said}, and this one writes "
        "2), whose files mean something else: name another folder, or remove this one"
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        take(path, "plan", MINE | {"seed": 3})  # the format is looked at first


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            "",
            r"does not describe a plan: it is damaged \(Expecting .*\); remove .*, and the same",
        ),
        ('{"format": 2, ', r"identity\.json does not describe a plan"),
        ("[2]", r"does not describe a plan: it is damaged \(it holds no object\); remove"),
        ("null", r"identity\.json does not describe a plan"),
        ('{"seed": 0, "seed": 1}', r"the key 'seed' is there twice"),
    ],
)
def test_a_damaged_identity_is_refused(content, message, path):
    path.parent.mkdir()
    path.write_text(content)
    with pytest.raises(ValueError, match=message):
        take(path, "plan", MINE)
    assert path.read_text() == content


def test_a_folder_of_something_else_is_refused(path):
    path.parent.mkdir()
    (path.parent / "thesis.tex").write_text("years of work")
    with pytest.raises(ValueError, match="run is not empty and holds no plan: name another folder"):
        take(path, "plan", MINE)
    assert [p.name for p in path.parent.iterdir()] == ["thesis.tex"]
