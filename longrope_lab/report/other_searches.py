"""What searches of other people find, for comparison with ours."""

from __future__ import annotations

import math
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd


def other_searches() -> pd.DataFrame:
    """Microsoft's released search beside ours of the same day, on the same documents.

    The figures are in ``others.toml``, beside this file, with their sources. They were measured
    once, on one H200, and are not made anew.

    Returns:
        One row per point of a search's curve: search, forwards (passes of one document),
        best_perplexity on the documents searched, ratio (perplexity over YaRN's on documents that
        no search saw; of the last point), setting, source.
    """
    import pandas as pd

    path = Path(__file__).with_name("others.toml")
    rows = []
    for each in tomllib.loads(path.read_text(encoding="utf-8")).values():
        about = {name: each[name] for name in ("search", "setting", "source")}
        points = sorted((int(passes), lowest) for passes, lowest in each["curve"].items())
        for passes, lowest in points:
            ratio = each["ratio"] if passes == points[-1][0] else math.nan
            point = {"forwards": passes, "best_perplexity": lowest, "ratio": ratio}
            rows.append(about | point)
    columns = ["search", "forwards", "best_perplexity", "ratio", "setting", "source"]
    return pd.DataFrame(rows, columns=columns)
