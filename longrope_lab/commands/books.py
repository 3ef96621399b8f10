"""`longrope-lab books check`: which of the books behind the committed figures a folder holds."""

from __future__ import annotations

import argparse
from collections import Counter

from ..texts.books import Found, check_books

# Titles that are named of each split; the rest is counted.
NAMED = 10


def books(options: argparse.Namespace) -> int:
    """Print what is there, by split.

    Returns:
        The exit status: 1 if no book of the list is there.

    Raises:
        ValueError, OSError: what cannot be read.
    """
    found = check_books(options.folder)
    for split in dict.fromkeys(each.book.split for each in found):
        _say(split, [each for each in found if each.book.split == split])
    return 0 if any(each.text == "same" for each in found) else 1


def _say(split: str, found: list[Found]) -> None:
    count = Counter(each.text for each in found)
    print(
        f"{split}: {count['same']} of {len(found)} books with the same text, "
        f"{count['other']} with another, {count['missing']} missing"
    )
    if count["missing"] == len(found):
        return
    unlike = [each for each in found if each.text != "same"]
    for each in unlike[:NAMED]:
        what = "missing"
        if each.text == "other":
            what = f"{each.characters:,} characters where {each.book.characters:,} were read"
        print(f"  {each.book.title} ({each.book.author}): {what}")
    if len(unlike) > NAMED:
        print(f"  and {len(unlike) - NAMED} more")
