"""Several notebooks at a time, each as soon as those before it have left what it reads."""

from __future__ import annotations

import contextlib
import multiprocessing
import multiprocessing.connection
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from .notebooks import measures_speed
from .preparing import Prepared

if TYPE_CHECKING:
    from multiprocessing.context import ForkServerProcess

# Parameters that name a place where a notebook leaves something for those after it.
LEFT_IN = ("stages_folder", "export_to", "checkpoints")


def side_by_side(
    prepared: Sequence[Prepared], jobs: int, run: Callable[[Prepared, str], None]
) -> Iterator[tuple[int, bool, float]]:
    """Run notebooks in processes of their own.

    Args:
        prepared: the notebooks.
        jobs: how many at a time.
        run: runs one, given its number in words, and ends its process with a status. It is called
            with Ctrl-C switched off.

    Yields:
        Of each, as it ends: its number, whether its process ended well, and its seconds.
    """
    waiting = {number: needed(prepared, number) for number in range(len(prepared))}
    chain = _chains(waiting)
    # Copies of a process that has imported what they need, and has no threads.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([run.__module__])
    running: list[tuple[int, ForkServerProcess, float]] = []
    try:
        while waiting or running:
            unfinished = {number for number, _, _ in running} | set(waiting)
            able = [number for number, needs in waiting.items() if not needs & unfinished]
            for number in sorted(able, key=lambda n: -chain[n])[: jobs - len(running)]:
                process = context.Process(
                    target=run, args=(prepared[number], f"[{number + 1}/{len(prepared)}]")
                )
                with _ctrl_c_off():  # a traceback of the imports would be all that it gives
                    process.start()
                running.append((number, process, time.monotonic()))
                del waiting[number]
            multiprocessing.connection.wait([process.sentinel for _, process, _ in running])
            for each in [each for each in running if not each[1].is_alive()]:
                running.remove(each)
                number, process, started = each
                yield number, process.exitcode == 0, time.monotonic() - started
    finally:
        for _, process, _ in running:  # Ctrl-C has reached them, too
            process.join()


@contextlib.contextmanager
def _ctrl_c_off() -> Iterator[None]:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _chains(needs: Mapping[int, set[int]]) -> list[int]:
    """How many notebooks have to run one after the other from each on; longer ones begin first."""
    chain = [1] * len(needs)
    for number in sorted(needs, reverse=True):  # each needs only notebooks before it
        for before in needs[number]:
            chain[before] = max(chain[before], chain[number] + 1)
    return chain


def needed(prepared: Sequence[Prepared], number: int) -> set[int]:
    """The numbers of the notebooks that must have ended before one begins.

    Those are the ones before it that leave something where it looks. What measures speed has the
    machine for itself.
    """
    this, before = prepared[number], range(number)
    if measures_speed(this.notebook):
        return set(before)
    read = [Path(text) for text in _texts(this)]
    return {n for n in before if _leaves(prepared[n], read) or measures_speed(prepared[n].notebook)}


def _leaves(ready: Prepared, read: Sequence[Path]) -> bool:
    """Whether a notebook leaves something in one of these places, or around it."""
    named = [ready.parameters[name] for name in LEFT_IN if ready.parameters.get(name)]
    left = [ready.folder, *map(Path, named)]
    return any(place == there or there in place.parents for place in read for there in left)


def _texts(ready: Prepared) -> Iterator[str]:
    """All texts among the parameters, but for the place of its own results."""
    for name, value in ready.parameters.items():
        if name != "out":
            yield from (text for text in (value if isinstance(value, list) else [value])
                        if isinstance(text, str) and text)  # fmt: skip
