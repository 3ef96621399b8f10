"""`longrope-lab run`: notebooks in turn or side by side, and what the terminal says meanwhile."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from nbclient.exceptions import DeadKernelError
from papermill.exceptions import PapermillExecutionError

from ..common.progress import HOW
from .choices import check_choices
from .forecast import Pace, recorded_seconds
from .preparing import Prepared
from .relations import check_relations
from .run_one import execute
from .side_by_side import side_by_side
from .terminal import STOPPED, complain, words_of
from .watching import Display, Watch


def run_all(prepared: Sequence[Prepared], *, resume: bool = False, jobs: int = 1) -> int:
    """Run notebooks; one that fails does not stop the others.

    Args:
        prepared: the notebooks.
        resume: skip those whose results are there already.
        jobs: how many at a time; see `side_by_side`.

    Returns:
        1 if one of them failed, else 0.

    Raises:
        ValueError: a parameter names what there is not, or a notebook that is alone cannot run; of
            several it has failed.
        KeyboardInterrupt: stopped by hand; where is said before.
    """
    check_choices(prepared)
    check_relations(prepared)
    done = [resume and ready.is_done() for ready in prepared]
    for ready in (ready for ready, skip in zip(prepared, done, strict=True) if skip):
        print(f"{ready.folder}  is of this commit, profile and parameters", flush=True)
    todo = [ready for ready, skip in zip(prepared, done, strict=True) if not skip]
    outcomes = {ready.notebook: ("skipped", 0.0) for ready in prepared}
    outcomes |= _at_once(todo, jobs) if jobs > 1 else _in_turn(todo, alone=len(prepared) == 1)
    if len(prepared) > 1:
        rows = [f"{path.stem:32} {how:8} {took:8.0f}" for path, (how, took) in outcomes.items()]
        print(f"\n{'notebook':32} {'status':8} {'seconds':>8}", *rows, sep="\n", flush=True)
    return int("failed" in [how for how, _ in outcomes.values()])


def _in_turn(prepared: Sequence[Prepared], *, alone: bool) -> dict[Path, tuple[str, float]]:
    """Run notebooks one after the other; what became of each, and its seconds."""
    pace, known = Pace(), [_recorded(ready) for ready in prepared]
    outcomes = {}
    for number, ready in enumerate(prepared, start=1):
        started, name = time.monotonic(), ready.notebook.stem
        title = name if alone else f"[{number}/{len(prepared)}] {name}"
        watch = Watch(ready, title, pace, _sum(known[number:]))
        outcomes[ready.notebook] = _one(ready, watch, alone=alone), time.monotonic() - started
    return outcomes


def _at_once(prepared: Sequence[Prepared], jobs: int) -> dict[Path, tuple[str, float]]:
    """`_in_turn`, so many at a time."""
    outcomes = {}
    for number, well, seconds in side_by_side(prepared, jobs, _in_process):
        outcomes[prepared[number].notebook] = "done" if well else "failed", seconds
    return outcomes


def _in_process(ready: Prepared, count: str) -> None:
    """`_one` as a process of its own, beside others."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    # Two lines that are drawn again and again would overwrite each other.
    os.environ[HOW] = "lines"
    # A thread that waits for the next piece of work leaves its core to the others.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    try:
        status = _one(ready, Watch(ready, f"{count} {ready.notebook.stem}"), alone=False)
    except KeyboardInterrupt:
        sys.exit(STOPPED)
    sys.exit(status != "done")


def _one(ready: Prepared, watch: Watch, *, alone: bool) -> str:
    """Run a notebook and say how it went.

    Returns:
        "done" or "failed".

    Raises:
        ValueError: it cannot run, and is alone.
    """
    name = ready.notebook.stem
    print(f"{watch.title} ({ready.profile}) ...", flush=True)
    try:
        folder = execute(ready, Display(watch, sys.stderr))
    except (PapermillExecutionError, DeadKernelError) as error:
        complain(f"{name} failed {_where(watch)}: {_why(error, ready.folder)}")
        return "failed"
    except (ValueError, OSError, MemoryError, RuntimeError) as error:  # a kernel may not start
        if alone and isinstance(error, ValueError):
            raise
        complain(f"{name} failed: {words_of(error)}")
        return "failed"
    except KeyboardInterrupt:
        complain(f"{name} was stopped {_where(watch)}")
        raise
    print(f"{folder}  {watch.spent}", flush=True)
    return "done"


def _where(watch: Watch) -> str:
    """How far a notebook came, in words."""
    place = f"in {watch.place}" if watch.cell else "before its first cell"
    return f"{place}, after {watch.spent}"


def _why(error: PapermillExecutionError | DeadKernelError, folder: Path) -> str:
    """What stopped a cell; papermill's own text repeats the whole cell and traceback."""
    if isinstance(error, PapermillExecutionError):
        kept = f"The notebook up to there is in {folder}.failed"
        return f"{error.ename}: {error.evalue}\n{kept}"
    return f"{error}. Perhaps memory ran out: try shorter lengths or a smaller profile"


def _recorded(ready: Prepared) -> float | None:
    """Seconds that a notebook took in an earlier run; None without one."""
    return sum(recorded_seconds(ready)) or None


def _sum(seconds: Sequence[float | None]) -> float | None:
    """Their sum; None if one is not known, or there are none."""
    known = [value for value in seconds if value is not None]
    return sum(known) if known and len(known) == len(seconds) else None
