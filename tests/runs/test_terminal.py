"""What the command says of an error."""

from __future__ import annotations

import errno

import pytest

from longrope_lab.runs.terminal import words_of


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(errno.ENOSPC, "No space left", "x.csv"), "x.csv: No space left: free some space"),
        (IsADirectoryError(errno.EISDIR, "Is a directory", "x"), "x: Is a directory: a folder is"),
        (PermissionError(errno.EACCES, "Permission denied", "x"), "x: Permission denied: allow it"),
        (OSError(errno.EIO, "Input/output error", "x"), "x: Input/output error"),
        (OSError("network is gone"), "network is gone"),
        (MemoryError(), "memory ran out: choose a smaller model"),
        (ValueError("two\nlines"), "two lines"),
    ],
)  # fmt: skip
def test_an_error_is_one_line_with_the_path_and_the_way_out(error, words):
    assert words_of(error).startswith(words) and "\n" not in words_of(error)
