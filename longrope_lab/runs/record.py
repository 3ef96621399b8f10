"""Keeps what a notebook made."""

from __future__ import annotations

import os
from pathlib import Path

import matplotlib
import pandas as pd
from matplotlib.figure import Figure

from ..common.files import write_table
from ..rope.schedule import Scaling


def record(out: str | os.PathLike[str], **items: pd.DataFrame | Figure | Scaling) -> None:
    """Save what a notebook made, each item under the name given.

    A table is saved as CSV, a figure as PNG and SVG, a scaling as JSON.

    Args:
        out: the folder, which is made if need be.
        items: name=item.

    Raises:
        ValueError: an item is something else.
    """
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    for name, item in items.items():
        if isinstance(item, pd.DataFrame):
            write_table(folder / f"{name}.csv", item)
        elif isinstance(item, Figure):
            item.savefig(folder / f"{name}.png", dpi=150, bbox_inches="tight")
            # No date and no random ids, so that the same figure gives the same file.
            with matplotlib.rc_context({"svg.hashsalt": name}):
                item.savefig(folder / f"{name}.svg", bbox_inches="tight", metadata={"Date": None})
        elif isinstance(item, Scaling):
            item.save(folder / f"{name}.json")
        else:
            raise ValueError(
                f"{name} is a {type(item).__name__}: record takes DataFrames, matplotlib Figures "
                "and scalings"
            )
