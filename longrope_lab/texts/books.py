"""The books that committed figures rest on, and which of them are at hand."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ..common.files import at_home
from ..common.identity import digest
from .corpora import iterate_texts

# One row per book; docs/books.md says what the columns mean, and how results name these files.
BOOKS = Path(__file__).parents[2] / "docs" / "books.csv"


@dataclass(frozen=True)
class Book:
    """A row of the list.

    Args:
        split: the file that holds it: "train-00" to "train-02", "validation", "test", "long-test",
            "long-validation".
        title, author: as Project Gutenberg has them.
        characters: of its cleaned text.
        digest: of that text, UTF-8: 16 hexadecimal digits of its SHA-256.
        cleaning: what was taken away from the source.
    """

    split: str
    title: str
    author: str
    characters: int
    digest: str
    cleaning: str


@dataclass(frozen=True)
class Found:
    """A book of the list, and what a folder holds of it.

    Args:
        book: the row.
        text: "same", "other" for a text of the same title that is another one, or "missing".
        characters: of the text that is there; 0 of one that is missing.
    """

    book: Book
    text: str
    characters: int


def books() -> list[Book]:
    """The list, in the order in which the corpora hold the books.

    Raises:
        FileNotFoundError: an installation without the repository, which has the list.
    """
    if not BOOKS.is_file():
        raise FileNotFoundError(
            f"no list of books at {BOOKS}: run from a clone of the repository (pip install -e .)"
        )
    with BOOKS.open(encoding="utf-8", newline="") as file:
        return [
            Book(**row | {"characters": int(row["characters"])})  # type: ignore[arg-type]
            for row in csv.DictReader(file)
        ]


def check_books(folder: str | os.PathLike[str]) -> list[Found]:
    """Which books of the list a folder holds, one answer per book.

    A text is the same if its digest is; titles tell others. Of files without titles, such as .txt,
    the file's name is the title.

    Args:
        folder: of texts as `load_corpus` reads them, or one file.

    Raises:
        FileNotFoundError: nothing there, or no list.
        ValueError: a file that cannot be read.
    """
    listed = books()
    place = at_home(folder)
    if not place.exists():
        raise FileNotFoundError(f"no folder of books at {folder}: check the path")
    sizes: dict[str, int] = {}
    for title, text in iterate_texts(place):
        sizes |= dict.fromkeys((digest(text), _plain(title)), len(text))
    return list(_compared(listed, sizes))


def _compared(listed: list[Book], sizes: dict[str, int]) -> Iterator[Found]:
    for book in listed:
        if book.digest in sizes:
            yield Found(book, "same", sizes[book.digest])
        else:
            other = sizes.get(_plain(book.title), 0)
            yield Found(book, "other" if other else "missing", other)


def _plain(title: str) -> str:
    """A title without case, spaces and marks, which differ between collections."""
    return "".join(letter for letter in title.casefold() if letter.isalnum())
