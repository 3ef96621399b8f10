"""Keeps what a notebook made."""

from __future__ import annotations

import os
from pathlib import Path

import matplotlib
import pandas as pd
from matplotlib.figure import Figure

from ..common.files import replacing, write_table, writing
from ..rope.schedule import Scaling


def record(out: str | os.PathLike[str], **items: pd.DataFrame | Figure | Scaling) -> None:
    """Save what a notebook made, each item under the name given.

    A table is saved as CSV, a figure as PNG and SVG, a scaling as JSON.

    Args:
        out: the folder, which is made if need be.
        items: name=item.

    Raises:
        ValueError: an item is something else, has no plain name, or cannot be written
            (`UnwritableError`).
    """
    folder = Path(out)
    for name in items:
        if Path(name).name != name or name in ("", "..") or "\0" in name:
            raise ValueError(
                f"an item is called {name!r}: its file lies in {folder}, so leave out '/' and '..'"
            )
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    for name, item in items.items():
        if isinstance(item, pd.DataFrame):
            write_table(folder / f"{name}.csv", item)
        elif isinstance(item, Figure):
            _save_figure(item, folder, name)
        elif isinstance(item, Scaling):
            item.save(folder / f"{name}.json")
        else:
            raise ValueError(
                f"{name} is a {type(item).__name__}: record takes DataFrames, matplotlib Figures "
                "and scalings"
            )


def _save_figure(figure: Figure, folder: Path, name: str) -> None:
    """As PNG and SVG: without a date or random ids, so that the same figure gives the same file."""
    with replacing(folder / f"{name}.png") as part:
        figure.savefig(part, format="png", dpi=150, bbox_inches="tight")
    with (
        replacing(folder / f"{name}.svg") as part,
        matplotlib.rc_context({"svg.hashsalt": name}),
    ):
        figure.savefig(part, format="svg", bbox_inches="tight", metadata={"Date": None})
