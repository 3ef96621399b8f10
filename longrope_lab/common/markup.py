"""Markdown: names of other people's stay in their line, and tables find their place in a page."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path


def as_markdown(text: object) -> str:
    """A text as Markdown that shows it, in one line; markup and tags lose their meaning.

    >>> print(as_markdown("a | b <b>c</b> [d](e)"))
    a \\| b &lt;b&gt;c&lt;/b&gt; \\[d\\](e)
    """
    line = " ".join(str(text).split()).replace("&", "&amp;")
    line = line.replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*\[\]|])", r"\\\1", line)


def print_or_put(text: str, files: Iterable[Path], begin: str, end: str) -> None:
    """A table between two marks of each page; onto the screen where no page is named."""
    files = list(files)
    if not files:
        print(text)
    for path in files:
        before, _, rest = path.read_text(encoding="utf-8").partition(begin)
        after = end + rest.partition(end)[2]
        path.write_text(f"{before}{begin}{text}\n\n{after}", encoding="utf-8")
