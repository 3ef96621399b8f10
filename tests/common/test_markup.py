"""Other people's names in Markdown."""

from __future__ import annotations

import pytest

from longrope_lab.common.markup import as_markdown


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("kjv, 4,096 tokens", "kjv, 4,096 tokens"),
        ("dynamic_ntk", "dynamic_ntk"),
        ("a\nb\r\nc", "a b c"),
        ("a|b", r"a\|b"),
        ("<script>&", "&lt;script&gt;&amp;"),
        ("[x](javascript:y) *z* `q` \\", r"\[x\](javascript:y) \*z\* \`q\` \\"),
        (512, "512"),
    ],
)
def test_a_name_is_shown_as_it_is(text, shown):
    assert as_markdown(text) == shown
