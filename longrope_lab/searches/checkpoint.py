"""The log of a search: what each trial measured, so that a killed search goes on where it was.

A search decides from its seed and the measurements alone, so only the measurements are kept. To go
on means to ask again, and to take from the log what was measured already.
"""

from __future__ import annotations

import json
from pathlib import Path

from ..common.files import Json, from_json
from ..common.identity import differences
from ..common.json_lines import (
    append_line,
    check_begins,
    check_of,
    checked,
    drop_half_line,
    line_of,
    refusing,
    whole_lines,
)
from .objective import Measured, Trial

# Of the lines and of the identity in the first one; 1 called the window of a space's spec
# "original_length".
FORMAT = 2

# Of each file, whatever its format.
BEGIN = b'{"format": '


class Log:
    """Measurements by (round, number in the round), in memory and, if there is a path, on disk.

    The file has one JSON line per measurement, after a first line that holds the identity. A line
    counts once its end is written: a search killed half way through one measures that trial again.

    Args:
        path: the file, made if missing, in a folder that is there; None keeps nothing on disk.
        identity: what tells this search from another: flat, JSON.

    Raises:
        ValueError: the file is another search's, another version's, or not a log; or it cannot be
            written (`UnwritableError`).
    """

    def __init__(self, path: Path | None, identity: Json) -> None:
        self.path = path
        self.measured: dict[tuple[int, int], tuple[str, Measured, float]] = {}
        if self.path is None:
            return
        identity = json.loads(json.dumps({"format": FORMAT} | identity))
        if self.path.exists() and self.path.stat().st_size:
            self._read(self.path, identity)
        else:
            append_line(self.path, identity)

    @property
    def seconds(self) -> float:
        """How long all the measurements took."""
        return sum(seconds for _, _, seconds in self.measured.values())

    def get(self, place: tuple[int, int], trial: Trial) -> Measured | None:
        """What was measured at this place before; None if nothing was.

        Raises:
            ValueError: it was another trial: the log is another version's.
        """
        if place not in self.measured:
            return None
        asked, measured, _ = self.measured[place]
        if asked != trial.digest:
            raise ValueError(
                f"{self.path} holds another trial at round {place[0]}, number {place[1]}: it was "
                "written by another version of longrope_lab; remove it, or name another checkpoint"
            )
        return measured

    def add(self, place: tuple[int, int], trial: Trial, measured: Measured, seconds: float) -> None:
        """Keep a measurement; it is on disk when this returns."""
        self.measured[place] = trial.digest, measured, seconds
        if self.path is not None:
            line = {
                "round": place[0],
                "number": place[1],
                "trial": trial.digest,
                "losses": measured.losses,
                "gradient": measured.gradient,
                "dropped": measured.dropped,
                "seconds": seconds,
            }
            append_line(self.path, checked(line, "seconds"))

    def _read(self, path: Path, identity: Json) -> None:
        with refusing(path, "a search"):
            check_begins(path, BEGIN)
        content = path.read_bytes()
        whole = whole_lines(content)
        with refusing(path, "a search"):
            if not whole and not line_of(identity).startswith(content):
                raise ValueError("it has no whole line")
            first, *lines = [from_json(line) for line in whole.splitlines()] or [identity]
            theirs = dict(first)
            version = theirs["format"]
        if version != FORMAT:
            raise ValueError(
                f"{path} was written by another version of longrope_lab (format {version}, and "
                f"this one writes {FORMAT}): name another checkpoint, or remove this one"
            )
        if differ := differences(theirs, identity):
            raise ValueError(
                f"{path} is the checkpoint of another search ({differ}): name another checkpoint, "
                "or remove this one"
            )
        with refusing(path, "a search"):
            self.measured = dict(map(_measurement, lines))
        drop_half_line(path, whole)
        if not whole:
            append_line(path, identity)


def _measurement(line: Json) -> tuple[tuple[int, int], tuple[str, Measured, float]]:
    """What a line says, as an item of `Log.measured`.

    Raises:
        ValueError: it is not what was written. Lines of the version before have nothing to tell by.
    """
    line = dict(line)
    check = check_of(line, "seconds")
    if line.get("check", check) != check:
        raise ValueError(f"a number of round {line['round']} was changed")
    gradient = None if line["gradient"] is None else tuple(line["gradient"])
    measured = Measured(tuple(line["losses"]), gradient, line["dropped"])
    return (line["round"], line["number"]), (line["trial"], measured, line["seconds"])
