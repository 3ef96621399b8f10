"""Runs a notebook with a profile's parameters and keeps what came out of it under ``results/``.

`results/<profile>/<notebook>/` holds the executed notebook, every table as CSV, every figure as PNG
and SVG, and `run.json`: parameters, versions, device, seed, git commit, wall time."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..common.files import Json, write_json
from .notebooks import PROFILES, check_parameter, find_notebook, parameters_of, profile_parameters
from .origin import clean_commit, describe_run, git_commit


@dataclass(frozen=True, eq=False)
class Prepared:
    """A notebook that is ready to run: it has the profile and the parameters.

    Args:
        notebook: its path.
        profile: whose parameters it takes.
        over: set over the profile's.
        chosen: the profile's, and those over them.
        parameters: all, with the notebook's defaults for the others, as ``run.json`` records them.
        folder: of its results.
    """

    notebook: Path
    profile: str
    over: Json
    chosen: Json
    parameters: Json
    folder: Path

    def is_done(self) -> bool:
        """Whether `folder` holds a finished run of this commit, profile and parameters.

        Code that differs from its commit is never done: nobody knows what ran.
        """
        path, commit = self.folder / "run.json", clean_commit()
        if commit is None or not path.is_file():
            return False
        wanted = {"commit": commit, "profile": self.profile, "parameters": self.parameters}
        try:
            origin = json.loads(path.read_text(encoding="utf-8"))
            return bool({name: origin[name] for name in wanted} == json.loads(json.dumps(wanted)))
        except (ValueError, KeyError, TypeError):  # damaged: run again
            return False


def prepare(
    name: str,
    profile: str = "cpu",
    parameters: Mapping[str, Any] | None = None,
    results: str | os.PathLike[str] = "results",
) -> Prepared:
    """Check what a run needs; the arguments are `run`'s.

    Raises:
        ValueError: an unknown notebook, profile or parameter; the nearest name is offered.
    """
    notebook = find_notebook(name)
    defaults = parameters_of(notebook)
    over = dict(parameters or {})
    chosen = profile_parameters(notebook, profile) | over
    for parameter, value in chosen.items():
        check_parameter(notebook, parameter, value, defaults)
    folder = Path(results) / profile / notebook.stem
    return Prepared(
        notebook, profile, over, chosen, {**defaults, **chosen, "out": folder.as_posix()}, folder
    )


def run(
    name: str,
    profile: str = "cpu",
    parameters: Mapping[str, Any] | None = None,
    results: str | os.PathLike[str] = "results",
) -> Path:
    """Execute a notebook headlessly and keep its results.

    It works in a folder beside, whose name ends in ``.running``. An earlier run is replaced only
    when the new one has succeeded; a failed one is kept in a folder that ends in ``.failed``.

    Args:
        name: the notebook, such as "00" or "00_quickstart".
        profile: "smoke", "cpu", "gpu" or "paper".
        parameters: set over the profile's.
        results: the folder that holds a folder for each profile.

    Returns:
        ``results/<profile>/<notebook>``.

    Raises:
        ValueError: an unknown notebook, profile or parameter (the nearest name is offered), a model
            that does not fit into this machine's memory, or another run at work in the same place.
        papermill.PapermillExecutionError: a cell failed.
    """
    return execute(prepare(name, profile, parameters, results))


def execute(ready: Prepared) -> Path:
    """`run`, for what `prepare` has checked."""
    import papermill

    check_memory(ready)
    folder, name = ready.folder, ready.notebook.name
    work, before, failed = (
        folder.with_name(folder.name + end) for end in (".running", ".before", ".failed")
    )
    with _one_at_a_time(folder):
        if before.exists() and not folder.exists():  # killed between the two renames below
            before.rename(folder)
        shutil.rmtree(work, ignore_errors=True)  # what a killed run left
        work.mkdir()
        started, commit = time.time(), git_commit()
        try:
            os.environ["LONGROPE_LAB_PROGRESS"] = (
                "lines"  # the kernel inherits it: no bars in an executed notebook
            )
            papermill.execute_notebook(
                os.path.relpath(ready.notebook),  # papermill writes the path into the executed notebook
                str(work / name), parameters=ready.chosen | {"out": work.as_posix()}, kernel_name="python3",
                progress_bar=False, stderr_file=None,
            )  # fmt: skip
            description = describe_run(
                ready.notebook.stem, ready.profile, ready.parameters, commit, started
            )
            write_json(work / "run.json", description)
        except BaseException:
            _replace(work, failed)
            raise
        finally:
            os.environ.pop("LONGROPE_LAB_PROGRESS", None)
        executed = (work / name).read_text(encoding="utf-8")  # names the folder that it worked in
        (work / name).write_text(
            executed.replace(work.as_posix(), folder.as_posix()), encoding="utf-8"
        )
        if folder.exists():
            _replace(folder, before)
        work.rename(folder)
        for old in (before, failed):
            shutil.rmtree(old, ignore_errors=True)
    return folder


def _replace(folder: Path, target: Path) -> None:
    shutil.rmtree(target, ignore_errors=True)
    folder.rename(target)


@contextlib.contextmanager
def _one_at_a_time(folder: Path) -> Iterator[None]:
    """Hold the lock on a folder of results; it ends with the process, however that ends.

    Raises:
        ValueError: another run holds it.
    """
    path = folder.with_name(f".{folder.name}.lock")
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            ours = os.path.samestat(os.fstat(lock.fileno()), path.stat())
        except (BlockingIOError, FileNotFoundError):
            ours = False
        if not ours:  # held, or removed by a run that has just ended
            raise ValueError(
                f"another run is writing to {folder}: wait for it, or name another folder with --results (results=)"
            )
        try:
            yield
        finally:
            path.unlink()


def check_memory(ready: Prepared) -> None:
    """Refuse a run whose model cannot fit, at the longest of the lengths among its parameters.

    Raises:
        ValueError: it cannot; the numbers, and a smaller profile that can.
    """
    shortage = _memory_shortage(ready.parameters)
    if shortage is None:
        return
    smaller = [p for p in PROFILES[: PROFILES.index(ready.profile)] if _fits(ready, p)]
    way_out = (
        f"--profile {smaller[-1]} fits"
        if smaller
        else "name a smaller model or shorter lengths with -p"
    )
    raise ValueError(
        f"the profile {ready.profile!r} of {ready.notebook.stem} is too large for this machine: "
        f"{ready.parameters['model']!r} takes {shortage}: {way_out}"
    )


def _fits(ready: Prepared, profile: str) -> bool:
    try:
        smaller = prepare(ready.notebook.stem, profile, ready.over)
    except ValueError:  # this notebook has no such profile
        return False
    return _memory_shortage(smaller.parameters) is None


def _memory_shortage(parameters: Mapping[str, Any]) -> str | None:
    from ..models.loading import too_large

    if not isinstance(parameters.get("model"), str):
        return None
    lengths = [v for name, v in parameters.items() if "length" in name or "target" in name]
    numbers = [
        n for v in lengths for n in (v if isinstance(v, list) else [v]) if isinstance(n, int)
    ]
    return too_large(parameters["model"], max(numbers, default=0))
