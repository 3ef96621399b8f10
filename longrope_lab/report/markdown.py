"""Tables of numbers as Markdown: three or four digits, and never wider than a page."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import pandas as pd

from ..common.markup import as_markdown
from .claims import at
from .experiments import Experiment, paper

# Columns beside the labels: a table with more is turned on its side.
WIDEST = 7


def rows_of(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown, with an empty line after it."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join("| " + " | ".join(map(_in_row, line)) + " |\n" for line in lines)


def _in_row(cell: str) -> str:
    """A cell that does not end its row."""
    return re.sub(r"(?<!\\)\|", r"\\|", cell.replace("\n", " "))


def grid(
    table: pd.DataFrame,
    rows: Sequence[str],
    columns: Sequence[str],
    cell: str,
    source: object = "the table",
) -> str:
    """A long table as rows and columns, in its own order; whichever are fewer go across.

    Args:
        rows, columns: the columns of `table` whose values label them.
        cell: the column of texts to show.
        source: where the table comes from, for the error.

    Raises:
        ValueError: two cells share a place.
    """
    down, across = (_labels(table, names) for names in (rows, columns))
    texts: dict[tuple[str, str], str] = {}
    for place in zip(down, across, table[cell], strict=True):
        if place[:2] in texts:
            labels = ", ".join([*rows, *columns])
            raise ValueError(f"{' / '.join(place[:2])} stands twice in {source}, by {labels}")
        texts[place[:2]] = place[2]
    heads, stubs = list(dict.fromkeys(across)), list(dict.fromkeys(down))
    if len(heads) > max(WIDEST, len(stubs)) or len(stubs) <= WIDEST < len(heads):
        texts, heads, stubs = {(b, a): text for (a, b), text in texts.items()}, stubs, heads
    lines = [[stub, *(texts.get((stub, head), "") for head in heads)] for stub in stubs]
    return rows_of(["", *heads], lines)


def _labels(table: pd.DataFrame, names: Sequence[str]) -> list[str]:
    """One label per row; lengths, which alone are numbers of tokens, as people say them."""
    parts = [table[name].map(at if name in ("length", "target") else _name) for name in names]
    return [" ".join(each) for each in zip(*parts, strict=True)]


def _name(value: object) -> str:
    return as_markdown(at(value) if isinstance(value, str) else value)


def papers_figures(each: Experiment, link: Callable[[str], str] | None = None) -> str:
    """The paper's own figures for an experiment, or a line that says where they stand.

    Args:
        link: makes a link to another experiment of its id.
    """
    if not each.rows:
        return f"It shows {each.measure}.\n"
    if first := each.figures_of:
        return f"Its figures are those of {link(first) if link else first}.\n"
    table = paper(each.id)
    decimals = max(len(f"{value:g}".partition(".")[2]) for value in table["value"].dropna())
    numbers = (
        table["value"].map(lambda value: f"{value:.{decimals}f}", na_action="ignore").fillna("")
    )
    cells = [note or value for value, note in zip(numbers, table["note"], strict=True)]
    heads = [" ".join(map(at, column.split(" "))) for column in table["column"]]  # "pi 8k"
    figures = grid(table.assign(cell=cells, column=heads), ("row",), ("column",), "cell")
    return f"Its figures ({each.measure}):\n\n{figures}"


def number(value: float, digits: int = 3) -> str:
    """As text, with so many significant digits, but never fewer than those before the point.

    From 100,000 on, it is a power of ten.
    """
    if math.isnan(value):
        return ""
    if math.isinf(value) or abs(value) >= 1e5:
        return f"{value:.1e}"
    if value == 0:
        return "0"
    decimals = max(0, digits - 1 - math.floor(math.log10(abs(value))))
    return f"{value:,.{decimals}f}"


def with_interval(row: Mapping[Hashable, Any], measure: str) -> str:
    """A measured value, and its interval where the row has one."""
    digits = 4 if measure == "ratio" else 3
    text = number(row[measure], digits)
    if math.isnan(row.get("low", math.nan)) or math.isnan(row.get("high", math.nan)):
        return text
    return f"{text} ({number(row['low'], digits)} to {number(row['high'], digits)})"
