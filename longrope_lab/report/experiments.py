"""The experiments of the LongRoPE paper (arXiv 2402.13753), their figures and our notebooks.

An id is the paper's own number: "T1" is its Table 1, "F6" its Figure 6. The figures themselves are
in ``paper.toml``, beside this file.
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..common.checks import unknown

if TYPE_CHECKING:
    import pandas as pd  # the command knows what "T2" means without it

# A figure of the paper, or what the paper says where it gives no number.
Cell = float | str


@dataclass(frozen=True, eq=False)
class Experiment:
    """A table or figure of the paper.

    Args:
        id: "T1" for Table 1, "F6" for Figure 6.
        title: what is measured.
        notebooks: those with a section for it.
        windows: how many trained windows long its longest text is.
        measure: what the figures are.
        finding: what the paper concludes.
        columns: headings of the figures, in the paper's order.
        rows: label -> one figure per column; labels of methods are those that `rope_scaling` and
            `search` know.
        figures_of: the id of the earlier experiment that has the same figures, or "".
    """

    id: str
    title: str
    notebooks: tuple[str, ...]
    windows: int
    measure: str
    finding: str
    columns: tuple[str, ...]
    rows: Mapping[str, tuple[Cell, ...]]
    figures_of: str

    @property
    def source(self) -> str:
        """Where the figures stand in the paper."""
        kind = {"T": "Table", "F": "Figure"}[self.id[0]]
        return f"LongRoPE, {kind} {self.id[1:]}"


def experiment(name: str) -> Experiment:
    """The experiment with this id, in capitals or not.

    Raises:
        ValueError: no such id; the nearest is offered.
    """
    if name.upper() not in EXPERIMENTS:
        raise unknown("experiment", name.upper(), EXPERIMENTS)
    return EXPERIMENTS[name.upper()]


def experiments_in(notebook: str) -> list[str]:
    """The ids of the experiments that the notebook of this name has sections for."""
    return [e.id for e in EXPERIMENTS.values() if notebook in e.notebooks]


def paper(name: str) -> pd.DataFrame:
    """The paper's own figures for an experiment, to be shown beside ours.

    ``paper("T1").pivot_table("value", "row", "column", sort=False)`` gives them the paper's shape.

    Args:
        name: "T1" (Table 1) to "F6" (Figure 6).

    Returns:
        One row per figure, in the paper's order: row and column (its labels), value (NaN where the
        paper gives no number), note (what it says instead, if anything).

    Raises:
        ValueError: no such id; the nearest is offered.
    """
    import pandas as pd

    of = experiment(name)
    figures = [
        (row, column, *((math.nan, cell) if isinstance(cell, str) else (cell, "")))
        for row, cells in of.rows.items()
        for column, cell in zip(of.columns, cells, strict=True)
    ]
    table = pd.DataFrame(figures, columns=["row", "column", "value", "note"])
    return table.astype({"row": object, "column": object, "value": float, "note": object})


def _read(path: Path) -> dict[str, Experiment]:
    tables = tomllib.loads(path.read_text(encoding="utf-8"))
    found = {}
    for name, table in tables.items():
        figures_of = table.get("figures_of", "")
        figures = tables[figures_of] if figures_of else table
        found[name] = Experiment(
            name,
            title=table["title"],
            notebooks=tuple(table["notebooks"]),
            windows=table["windows"],
            measure=table["measure"],
            finding=table["finding"],
            columns=tuple(figures.get("columns", ())),
            rows={label: tuple(cells) for label, cells in figures.get("rows", {}).items()},
            figures_of=figures_of,
        )
    return found


EXPERIMENTS: dict[str, Experiment] = _read(Path(__file__).with_name("paper.toml"))
