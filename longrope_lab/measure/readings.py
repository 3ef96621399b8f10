"""What passes over documents gave, kept in a file: a killed measurement goes on where it was."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Generator, Sequence
from concurrent.futures import Executor
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch.distributed as dist

from ..common import json_lines
from ..common.files import Json, from_json, writing
from ..common.identity import digest
from ..common.processes import is_main
from ..models.loading import ModelSource, model_digest, model_of
from ..models.rotary import scaled
from ..models.sharing import rotation_digest, weights_digest
from ..rope.scaling import RopeScaling
from ..searches.sequence_parallel import SequenceParallel
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
        path: the file, made if missing; None keeps nothing on disk.

    Raises:
        ValueError: the file is something else, or damaged; or it cannot be written
            (`UnwritableError`).
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.read: dict[str, list[Reading]] = {}
        if path is not None:
            self._read(path)

    def _read(self, path: Path) -> None:
        with writing(path):
            path.touch()
        with json_lines.refusing(path, "a perplexity"):
            json_lines.check_begins(path, json_lines.line_of(FIRST))
            whole = json_lines.whole_lines(path.read_bytes())
            self.read = dict(_reading(from_json(line)) for line in whole.splitlines()[1:])
        json_lines.drop_half_line(path, whole)
        if not whole:
            json_lines.append_line(path, FIRST)

    def add(self, name: str, found: list[Reading]) -> None:
        """Keep what a pass gave; a loss that is not finite is an error's, and not kept."""
        self.read[name] = found
        if self.path is not None and all(math.isfinite(each.loss) for each in found):
            json_lines.append_line(self.path, json_lines.checked({"pass": name, "found": found}))


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
    with json_lines.taken(checkpoint, "measurement") as place:
        kept, (source, names) = _opened(place, executor), _named(model, passes, executor)
        named = zip(names, passes, strict=True)
        missing = {name: each for name, each in named if name not in kept.read}
        with contextlib.closing(losses_of_passes(source, [*missing.values()], executor)) as found:
            for name in names:
                if name not in kept.read:
                    kept.add(name, _means(next(found)))
                yield kept.read[name]


def _opened(place: Path | None, executor: Executor | None) -> Readings:
    """The readings in a file; of a launcher's processes, the main one reads and writes for all."""
    if not (isinstance(executor, SequenceParallel) and executor.launched):
        return Readings(place)
    kept = Readings(place if is_main() else None)
    box = [kept.read]
    dist.broadcast_object_list(box)
    kept.read = box[0]
    return kept


def _named(
    model: ModelSource, passes: Sequence[Pass], executor: Executor | None
) -> tuple[ModelSource, list[str]]:
    """The model as it is to be read, and a name for what each pass gives under it."""
    live = model_of(model)
    attention = str(getattr(live.config, "_attn_implementation", None))
    same = digest(model_digest(live), weights_digest(live), attention)
    names = [pass_name(live, same, each) for each in passes]
    return (live if executor is None else model), names  # the executor's processes have their own


def pass_name(model: PreTrainedModel, same: str, each: Pass) -> str:
    """A digest of what a pass gives under a model, whose weights `same` tells from others."""
    with scaled(model, each.scaling):  # as the model stands: another scaling may be in use
        rotation = rotation_digest(model, max(each.lengths))
    return digest(
        same,
        rotation,
        _told(each.scaling),
        each.document.ids.tobytes(),
        repr((each.lengths, each.stride, each.bos)),
    )


def _told(scaling: RopeScaling | None) -> str:
    """All of a scaling, of which some positions alone may not tell."""
    if scaling is None:
        return ""
    factors = digest(scaling.factors.tobytes())
    return repr((scaling.spec, scaling.start_tokens, scaling.attention_factor)) + factors


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
