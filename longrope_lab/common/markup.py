"""Names of other people's in Markdown: they stay in their line, and are shown as they are."""

from __future__ import annotations

import re


def as_markdown(text: object) -> str:
    """A text as Markdown that shows it, in one line; markup and tags lose their meaning.

    >>> print(as_markdown("a | b <b>c</b> [d](e)"))
    a \\| b &lt;b&gt;c&lt;/b&gt; \\[d\\](e)
    """
    line = " ".join(str(text).split()).replace("&", "&amp;")
    line = line.replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*\[\]|])", r"\\\1", line)
