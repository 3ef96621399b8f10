"""`longrope-lab run`: notebooks one after the other, and what the terminal says meanwhile."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path

from nbclient.exceptions import DeadKernelError
from papermill.exceptions import PapermillExecutionError

from .forecast import Pace, recorded_seconds
from .preparing import Prepared
from .running import execute
from .terminal import complain, words_of
from .watching import Display, Watch


def run_all(prepared: Sequence[Prepared], *, resume: bool = False) -> int:
    """Run notebooks; one that fails does not stop the others.

    Args:
        prepared: the notebooks.
        resume: skip those whose results are there already.

    Returns:
        1 if one of them failed, else 0.

    Raises:
        ValueError: a notebook that is alone cannot run; of several it has failed.
        KeyboardInterrupt: stopped by hand; where is said before.
    """
    pace, alone = Pace(), len(prepared) == 1
    done = [resume and ready.is_done() for ready in prepared]
    known = [0.0 if skip else _recorded(ready) for ready, skip in zip(prepared, done, strict=True)]
    statuses, rows = [], []
    for number, (ready, skip) in enumerate(zip(prepared, done, strict=True), start=1):
        started, name = time.monotonic(), ready.notebook.stem
        if skip:
            print(f"{ready.folder}  is of this commit, profile and parameters", flush=True)
            statuses.append("skipped")
        else:
            title = name if alone else f"[{number}/{len(prepared)}] {name}"
            watch = Watch(ready, title, pace, _sum(known[number:]))
            statuses.append(_one(ready, watch, alone=alone))
        seconds = time.monotonic() - started
        rows.append(f"{name:32} {statuses[-1]:8} {seconds:8.0f}")
    if not alone:
        print(f"\n{'notebook':32} {'status':8} {'seconds':>8}", *rows, sep="\n", flush=True)
    return int("failed" in statuses)


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
    except (ValueError, OSError, RuntimeError) as error:  # the last: a kernel that does not start
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
