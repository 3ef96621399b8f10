"""What passes over documents gave, kept in a file: a killed measurement goes on where it was."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Generator, Sequence
from concurrent.futures import Executor
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from ..common import json_lines
from ..common.files import Json, from_json, writing
from ..common.identity import digest
from ..models.loading import ModelSource, model_digest, model_of
from ..models.sharing import rotation_digest
from ..rope.scaling import RopeScaling
from .passes import Losses, Pass, losses_of_passes

if TYPE_CHECKING:
    from transformers import PreTrainedModel

FIRST: Json = {"kind": "readings", "format": 1}


class Reading(NamedTuple):
    """How many tokens were scored, and their mean loss in nats."""

    tokens: int
    loss: float


class Readings:
    """Readings by the name of their pass, each on disk before the next pass begins.

    Names are digests of all that a reading depends on. So one file serves any number of
    measurements, and what it does not hold is measured.

    Args:
        path: the file, made if missing.

    Raises:
        ValueError: the file is something else, or damaged; or it cannot be written
            (`UnwritableError`).
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.read: dict[str, list[Reading]] = {}
        if self.path.is_dir():
            raise ValueError(f"{path} is a folder: name a file for the checkpoint")
        with writing(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.path.touch()
        whole = json_lines.whole_lines(self.path.read_bytes())
        with json_lines.refusing(self.path, "a perplexity"):
            first, *lines = map(from_json, whole.splitlines() or [json_lines.line_of(FIRST)])
            if first != FIRST:
                raise ValueError(f"its first line is {str(first)[:60]}")
            self.read = dict(map(_reading, lines))
        json_lines.drop_half_line(self.path, whole)
        if not whole:
            json_lines.append_line(self.path, FIRST)

    def add(self, name: str, found: list[Reading]) -> None:
        """Keep what a pass gave; a loss that is not finite is an error's, and not kept."""
        self.read[name] = found
        if all(math.isfinite(each.loss) for each in found):
            line = {"pass": name, "found": found}
            json_lines.append_line(self.path, line | {"check": json_lines.check_of(line)})


def readings_of(
    model: ModelSource,
    passes: Sequence[Pass],
    executor: Executor | None,
    checkpoint: str | os.PathLike[str] | None,
) -> Generator[list[Reading], None, None]:
    """What each pass gives, in order; what the checkpoint holds is not read again.

    Raises:
        ValueError, LostProcessError: as `losses_of_passes` and `Readings`.
    """
    if checkpoint is None:
        with contextlib.closing(losses_of_passes(model, passes, executor)) as found:
            yield from map(_means, found)
        return
    kept, live = Readings(checkpoint), model_of(model)
    named = [(pass_name(live, each), each) for each in passes]
    missing = {name: each for name, each in named if name not in kept.read}
    source = live if executor is None else model
    with contextlib.closing(losses_of_passes(source, [*missing.values()], executor)) as found:
        for name, _ in named:
            if name not in kept.read:
                kept.add(name, _means(next(found)))
            yield kept.read[name]


def pass_name(model: PreTrainedModel, each: Pass) -> str:
    """A digest of what a pass gives under a model."""
    return digest(
        model_digest(model),
        _rotation(model, each.scaling, max(each.lengths)),
        each.document.ids.tobytes(),
        repr((each.lengths, each.stride, each.bos)),
    )


def _rotation(model: PreTrainedModel, scaling: RopeScaling | None, tokens: int) -> str:
    if scaling is None:  # as the model stands, which a scaling in use may have changed
        return rotation_digest(model, tokens)
    return repr((scaling.spec, scaling.start_tokens, scaling.attention_factor)) + digest(
        scaling.factors.tobytes()
    )


def _means(losses: Losses) -> list[Reading]:
    return [Reading(len(each), float(each.mean())) for each in losses]


def _reading(line: Json) -> tuple[str, list[Reading]]:
    """What a line says.

    Raises:
        ValueError: it is not what was written.
    """
    line = dict(line)
    if line["check"] != json_lines.check_of(line):
        raise ValueError("a number was changed")
    return line["pass"], [Reading(tokens, loss) for tokens, loss in line["found"]]
