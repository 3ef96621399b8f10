"""Says which stage of a plan begins, and how long the rest may take."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from ..common.processes import is_main
from ..common.progress import announce
from ..common.quantities import duration
from .plan_run import is_finished
from .stages import Stage


class Announcer:
    """Announces stages in the main process, while a ``with`` block lasts for each.

    The stages that were run so far give the pace, operation by operation; before the first has
    ended there is no estimate.

    Args:
        flops: operations of each stage, by the name of its folder, in order.
    """

    def __init__(self, flops: Mapping[str, float]) -> None:
        self.flops = flops
        self.seconds = self.done = 0.0

    @contextlib.contextmanager
    def stage(self, place: Path, stage: Stage) -> Iterator[None]:
        """Say that a stage begins in its folder, or was finished there before."""
        finished, began = is_finished(place), time.monotonic()
        if is_main():
            announce(self._words(place.name, stage, finished))
        yield
        if not finished:
            self.seconds += time.monotonic() - began
            self.done += self.flops[place.name]

    def _words(self, name: str, stage: Stage, finished: bool) -> str:
        names = list(self.flops)
        number = names.index(name)
        words = f"stage {number + 1} of {len(names)}, {name}: {stage}"
        if finished:
            return f"{words}; done before"
        if not self.done:
            return words
        left = self.seconds / self.done * sum(self.flops[each] for each in names[number:])
        return f"{words}; about {duration(left)} left in all"
