"""How long a notebook will take here, from an earlier run of it."""

from __future__ import annotations

import json

from ..common.files import Json, from_json
from .origin import ROOT
from .preparing import Prepared

# Seconds of work until the pace of this machine counts as much as the record.
TRUST = 20.0


def recorded_seconds(ready: Prepared) -> list[float]:
    """What each code cell took in an earlier run with the same parameters, in order.

    The run is the one in the folder of the results or, if there is none, the one that the
    repository holds. Without either, the list is empty.
    """
    for folder in (ready.folder, ROOT / "results" / ready.profile / ready.notebook.stem):
        try:
            origin = from_json((folder / "run.json").read_bytes())
            if _compared(origin["parameters"]) != _compared(ready.named):
                continue
            ran = from_json((folder / ready.notebook.name).read_bytes())
            cells = [cell for cell in ran["cells"] if cell["cell_type"] == "code"]
            return [float(cell["metadata"]["papermill"]["duration"]) for cell in cells]
        except (OSError, ValueError, KeyError, TypeError):  # not what we wrote
            continue
    return []


def _compared(parameters: Json) -> object:
    """What has to be the same for two runs to take about as long."""
    return json.loads(json.dumps({k: v for k, v in parameters.items() if k != "out"}))


class Pace:
    """How long work takes here, beside what the record says of it."""

    def __init__(self) -> None:
        self.spent = self.recorded = TRUST

    def add(self, spent: float, recorded: float) -> None:
        """Some work is done: it took so many seconds here, and so many in the record."""
        self.spent += spent
        self.recorded += recorded

    @property
    def factor(self) -> float:
        """Seconds here per second of the record."""
        return self.spent / self.recorded
