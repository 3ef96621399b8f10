"""The list of books behind the committed figures, and which of them a folder holds."""

from __future__ import annotations

import csv
import hashlib
import json
import re
from pathlib import Path

import pytest

import longrope_lab as lab
from longrope_lab import cli
from longrope_lab.texts import books

RESULTS = Path(__file__).parents[2] / "results"


@pytest.fixture
def listed(tmp_path, monkeypatch):
    """A list of three books."""
    path = tmp_path / "books.csv"
    rows = [("test", "Emma", "one"), ("test", "Moby Dick; Or, The Whale", "two")]
    rows.append(("train-00", "Dracula", "three"))
    with path.open("w", newline="") as file:
        out = csv.writer(file)
        out.writerow(["split", "title", "author", "characters", "digest", "cleaning"])
        for split, title, text in rows:
            digest = hashlib.sha256(text.encode()).hexdigest()[:16]
            out.writerow([split, title, "A. Author", len(text), digest, "none"])
    monkeypatch.setattr(books, "BOOKS", path)


def write(folder, **texts):
    folder.mkdir()
    rows = [json.dumps({"title": t.replace("_", " "), "text": text}) for t, text in texts.items()]
    (folder / "some.jsonl").write_text("\n".join(rows))
    return folder


def test_a_text_is_the_same_another_or_missing(listed, tmp_path):
    folder = write(tmp_path / "texts", Another_name="one", moby_dick_OR_the_whale="two and more")
    found = lab.check_books(folder)
    assert [(f.book.title, f.text, f.characters) for f in found] == [
        ("Emma", "same", 3),
        ("Moby Dick; Or, The Whale", "other", 12),
        ("Dracula", "missing", 0),
    ]


def test_the_command_counts_each_split_and_answers_by_its_status(listed, tmp_path, capsys):
    folder = write(tmp_path / "texts", Emma="one", moby_dick_or_the_whale="two and more")
    assert cli.main(["books", "check", str(folder)]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "test: 1 of 2 books with the same text, 1 with another, 0 missing",
        "  Moby Dick; Or, The Whale (A. Author): 12 characters where 3 were read",
        "train-00: 0 of 1 books with the same text, 0 with another, 1 missing",
    ]
    assert cli.main(["books", "check", str(write(tmp_path / "none", Ulysses="four"))]) == 1
    assert cli.main(["books", "check", str(tmp_path / "nowhere")]) == 2
    assert "no folder of books at" in capsys.readouterr().err


def test_an_installation_without_the_list(monkeypatch, tmp_path):
    monkeypatch.setattr(books, "BOOKS", tmp_path / "books.csv")
    with pytest.raises(FileNotFoundError, match="run from a clone"):
        lab.check_books(tmp_path)


def test_the_list_is_whole():
    listed = books.books()
    assert len(listed) == 1203 and len({book.digest for book in listed}) == 1203
    for book in listed:
        assert book.split and book.title and book.author and book.characters and book.cleaning
        assert re.fullmatch("[0-9a-f]{16}", book.digest)


def test_every_book_of_a_committed_table_is_listed():
    titles = {book.title for book in books.books()}
    tables = [*RESULTS.glob("gpu/*/*.csv"), *RESULTS.glob("scale/*/*.csv")]
    seen = set()
    for path in tables:
        with path.open(encoding="utf-8", newline="") as file:
            rows = [row for row in csv.DictReader(file) if "document" in row]
        seen |= {row["document"] for row in rows if row.get("corpus") != "python"}
    assert len(seen) > 16 and seen <= titles, seen - titles


def test_committed_results_name_no_folder_of_a_machine():
    for path in RESULTS.rglob("run.json"):
        if {"scratch", "checkpoints", "stages", "extended"}.isdisjoint(path.parts):
            values = json.loads(path.read_text())["parameters"].values()
            texts = [v for value in values for v in (value if isinstance(value, list) else [value])]
            assert not [t for t in texts if str(t).startswith(("/", "~", "..")) or ":\\" in str(t)]
