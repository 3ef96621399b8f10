"""Runs a notebook with a profile's parameters and keeps what came out of it under ``results/``.

`results/<profile>/<notebook>/` holds the executed notebook, every table as CSV, every figure as PNG
and SVG, and `run.json`: parameters, versions, device, seed, git commit, wall time.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import papermill
import zmq
from jupyter_client.kernelspec import NoSuchKernel
from traitlets.config import Config

from ..common.files import UnwritableError, write_json
from ..common.identity import digests_of, source_name
from ..common.processes import alone
from ..common.progress import FOLLOWED, HOW
from ..common.scratch import ScratchFolder
from .choices import check_choices
from .memory_check import check_memory, check_sources
from .origin import describe_run, git_commit
from .preparing import Prepared, prepare
from .relations import check_relations
from .watching import Display, Watch

# A path to a socket has at most 104 characters (108 on Linux); the name there takes some.
SOCKET_FOLDER = 80


def run(
    name: str,
    profile: str = "cpu",
    parameters: Mapping[str, object] | None = None,
    results: str | os.PathLike[str] = "results",
) -> Path:
    """Execute a notebook headlessly and keep its results.

    It works in a folder beside, whose name ends in ``.running``. An earlier run is replaced only
    when the new one has succeeded; a failed one is kept in a folder whose name ends in ``.failed``.

    Args:
        name: the notebook, such as "00" or "00_quickstart".
        profile: "smoke", "cpu", "gpu", "scale" or "paper".
        parameters: set over the profile's.
        results: the folder that holds one folder per profile.

    Returns:
        ``results/<profile>/<notebook>``.

    Raises:
        ValueError: an unknown notebook, profile or parameter (the nearest name is offered), a value
            that a parameter does not take, parameters that do not fit one another, a model that
            does not fit into this machine's memory, no place for the results or another run at work
            there, or no Jupyter kernel.
        papermill.PapermillExecutionError: a cell failed.
    """
    ready = prepare(name, profile, dict(parameters or {}), results=Path(results))
    check_choices([ready])
    check_relations([ready])
    return execute(ready, Display(Watch(ready), None))


def execute(ready: Prepared, display: Display) -> Path:
    """`run`, for what `prepare` has checked, shown while it lasts."""
    check_memory(ready)
    check_sources(ready)
    folder = ready.folder
    work, before, failed = (
        folder.with_name(folder.name + end) for end in (".running", ".before", ".failed")
    )
    with _one_at_a_time(folder):
        if before.exists() and not folder.exists():  # killed between the two renames below
            before.rename(folder)
        shutil.rmtree(work, ignore_errors=True)  # what a killed run left
        work.mkdir()
        try:
            _work(ready, work, display)
        except BaseException:
            _replace(work, failed)
            raise
        if folder.exists():
            _replace(folder, before)
        work.rename(folder)
        for old in (before, failed):
            shutil.rmtree(old, ignore_errors=True)
    return folder


def _work(ready: Prepared, work: Path, display: Display) -> None:
    """Execute a notebook in the folder `work`, which then holds all of its results."""
    started, commit, inputs = time.time(), git_commit(), ready.inputs()
    executed = work / ready.notebook.name
    try:
        with _kernel_beside(display) as config:
            papermill.execute_notebook(
                str(ready.notebook),
                str(executed),
                parameters=ready.chosen | {"out": work.as_posix()},
                kernel_name="python3",
                progress_bar=False,
                # Its end is an interrupt, which a kernel that is not quite idle calls an error.
                extra_arguments=["--log-level=CRITICAL"],
                stderr_file=None,
                on_cell_start=display.watch.cell_starts,
                config=config,
            )
    except NoSuchKernel:
        raise ValueError(
            "no Jupyter kernel 'python3' on this machine: install it with "
            "python -m pip install ipykernel"
        ) from None
    text = executed.read_text(encoding="utf-8")  # it names the folder that it worked in
    text = text.replace(work.as_posix(), ready.folder.as_posix())
    executed.write_text(_without_folders(text, ready), encoding="utf-8")
    name = ready.notebook.stem
    origin = describe_run(name, ready.profile, ready.named, inputs, commit, started)
    write_json(work / "run.json", origin | {"files": digests_of(work)})


def _without_folders(text: str, ready: Prepared) -> str:
    """The executed notebook, with its own path and its parameters' as others can read them."""
    names = {path: source_name(path) for _, path in ready.paths}
    # papermill writes it down; seen from this process it would depend on where that runs.
    names[str(ready.notebook)] = "/".join(ready.notebook.parts[-2:])
    for path in sorted(names, key=len, reverse=True):  # a folder after what lies in it
        if names[path] != path:
            # Whole paths alone: "/tmp/a" is no part of "/tmp/ab", nor of "x/tmp/a".
            whole = rf"(?<![\w./~-]){re.escape(path)}(?![\w-])"
            text = re.sub(whole, names[path].replace("\\", r"\\"), text)
    return text


@contextlib.contextmanager
def _kernel_beside(display: Display) -> Iterator[Config]:
    """Settings of a kernel whose progress is shown here, in place of bars in its notebook.

    What it says to us goes through sockets in a folder that is ours alone. Over TCP, everybody on
    the machine could listen, and each kernel warns of it.
    """
    config = Config()
    with ScratchFolder() as folder:
        progress = Path(folder, "progress")
        if zmq.has("ipc") and len(folder) < SOCKET_FOLDER:
            config.KernelManager.transport = "ipc"
            config.KernelManager.connection_file = f"{folder}/kernel.json"
        with display.following(progress), _inherited({HOW: "lines", FOLLOWED: str(progress)}):
            yield config


@contextlib.contextmanager
def _inherited(variables: Mapping[str, str]) -> Iterator[None]:
    """Environment variables for what is started while the block lasts."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ |= variables
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value


def _replace(folder: Path, target: Path) -> None:
    shutil.rmtree(target, ignore_errors=True)
    folder.rename(target)


@contextlib.contextmanager
def _one_at_a_time(folder: Path) -> Iterator[None]:
    """Hold the lock on a folder of results; it ends with the process, however that ends.

    Raises:
        ValueError: another run holds it, or there is no place for the folder.
    """
    way_out = "name another folder with --results (results=)"
    with contextlib.ExitStack() as held:
        try:
            held.enter_context(alone(folder, "run", way_out))
        except UnwritableError as error:  # a file in its place, no permission, a full disk
            raise ValueError(
                f"no results can be kept in {folder} ({error.reason}): {way_out}"
            ) from None
        yield
