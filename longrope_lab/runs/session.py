"""`longrope-lab run`: notebooks one after the other, and what the terminal says meanwhile."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence

from nbclient.exceptions import DeadKernelError
from papermill.exceptions import PapermillExecutionError

from ..common.progress import HOW
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
    records = [sum(recorded_seconds(ready)) for ready in prepared]
    statuses, rows = [], []
    for number, ready in enumerate(prepared):
        started, name = time.monotonic(), ready.notebook.stem
        if resume and ready.is_done():
            print(f"{ready.folder}  is of this commit, profile and parameters", flush=True)
            statuses.append("skipped")
        else:
            title = name if alone else f"[{number + 1}/{len(prepared)}] {name}"
            after = records[number + 1 :]
            later = sum(after) if after and all(after) else None
            statuses.append(_one(ready, Watch(ready, title, pace, later), alone=alone))
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
    name, started = ready.notebook.stem, time.monotonic()
    print(f"{watch.title} ({ready.profile}) ...", flush=True)
    try:
        lines = os.environ.get(HOW) == "lines"
        folder = execute(ready, Display(watch, sys.stderr, lines=lines))
    except PapermillExecutionError as error:  # its own text repeats the whole cell and traceback
        complain(
            f"{name} failed in cell {error.exec_count} of {watch.cells}: {error.ename}: "
            f"{error.evalue}\nThe notebook up to there is in {ready.folder}.failed"
        )
        return "failed"
    except DeadKernelError as error:
        complain(
            f"{name} failed in {watch.place}: {error}. Perhaps memory ran out: try shorter lengths "
            "or a smaller profile"
        )
        return "failed"
    except (ValueError, OSError, RuntimeError) as error:  # the last: a kernel that does not start
        if alone and isinstance(error, ValueError):
            raise
        complain(f"{name} failed: {words_of(error)}")
        return "failed"
    except KeyboardInterrupt:
        complain(f"{name} was stopped in {watch.place}")
        raise
    print(f"{folder}  {time.monotonic() - started:.0f} s", flush=True)
    return "done"
