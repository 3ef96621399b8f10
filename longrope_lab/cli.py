"""The command `longrope-lab`: run notebooks, list them, write the page of results, fetch SmolLM2.

What answers about names need is quick to import; everything else is imported where it is used.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import yaml

from .common.files import Json
from .report.experiments import experiment, experiments_in
from .runs import notebooks
from .runs.origin import clean_commit
from .runs.preparing import Prepared, prepare

# The statuses of a shell for a program that Ctrl-C, or a pipe closed at its other end, has stopped.
STOPPED, CLOSED_PIPE = 130, 141


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Returns:
        The exit status: 1 if a notebook failed, 2 if the user got something wrong, which is one
        line on stderr, 130 after Ctrl-C, and 141 if nobody reads the output any more.
    """
    status = _status(arguments)
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:  # Python's own None for a stream that was never open
                stream.flush()
        except OSError as error:
            # Python flushes once more as it exits, and what is left to write goes nowhere then.
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
            status = status or _refused(error)
    return status


def _status(arguments: Sequence[str] | None) -> int:
    try:
        options = _parser().parse_args(arguments)
    except SystemExit as stop:  # argparse has said what there is to say
        return int(stop.code or 0)
    try:
        return int(options.action(options))
    except (ValueError, OSError) as error:
        return _refused(error)
    except KeyboardInterrupt:
        _complain("stopped; with --resume, what has finished is not run again")
        return STOPPED


def _refused(error: Exception) -> int:
    """Say what is wrong, if anybody listens; returns the exit status."""
    if isinstance(error, BrokenPipeError):
        return CLOSED_PIPE
    _complain(_words(error))
    return 2


def _words(error: Exception) -> str:
    """An error in one line; of the system's own, the file and what is wrong with it."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return str(error)


def _complain(words: str) -> None:
    with contextlib.suppress(BrokenPipeError):  # the status still says it
        print(f"longrope-lab: {words}", file=sys.stderr, flush=True)


def _run(options: argparse.Namespace) -> int:
    """Run notebooks one after the other; one that fails does not stop the others."""
    paths = _notebooks(options.notebook)
    if options.list:
        return _show(paths)
    parameters = _shared(dict(_assignment(text) for text in options.parameter), paths)
    # All are checked before the first begins.
    prepared = [
        prepare(path.stem, options.profile, parameters[path], results=options.results)
        for path in paths
    ]
    if options.resume and clean_commit() is None:
        _complain("the code differs from its commit, so no earlier run counts as done")
    statuses, rows = [], []
    for ready in prepared:
        started = time.monotonic()
        if options.resume and ready.is_done():
            print(f"{ready.folder}  is of this commit, profile and parameters", flush=True)
            statuses.append("skipped")
        else:
            statuses.append(_one(ready, alone=len(prepared) == 1))
        seconds = time.monotonic() - started
        rows.append(f"{ready.notebook.stem:32} {statuses[-1]:8} {seconds:8.0f}")
    if len(rows) > 1:
        print(f"\n{'notebook':32} {'status':8} {'seconds':>8}", *rows, sep="\n", flush=True)
    return int("failed" in statuses)


def _notebooks(names: Sequence[str]) -> list[Path]:
    """The notebooks that are meant, each once.

    Args:
        names: numbers, names, ids of experiments ("T2"), or "all".

    Raises:
        ValueError: no such notebook or experiment (the nearest is offered), or an experiment whose
            notebook is not here.
    """
    found: list[Path] = []
    for name in names:
        if name == "all":
            found += notebooks.notebooks()
        elif re.fullmatch(r"[TF]\d+", name.upper()):
            found += _notebooks_of(name)
        else:
            found.append(notebooks.find_notebook(name))
    return list(dict.fromkeys(found))


def _notebooks_of(name: str) -> list[Path]:
    wanted = experiment(name)
    known = {path.stem: path for path in notebooks.notebooks()}
    missing = [stem for stem in wanted.notebooks if stem not in known]
    if missing:
        here = [stem for stem in wanted.notebooks if stem in known]
        rest = f"; {', '.join(here)} can be run by name" if here else ""
        raise ValueError(
            f"{wanted.id} ({wanted.title}) needs the notebook {', '.join(missing)}, which is not "
            f"in {notebooks.NOTEBOOKS}{rest}"
        )
    return [known[stem] for stem in wanted.notebooks]


def _one(ready: Prepared, *, alone: bool) -> str:
    """Run a notebook and say how it went.

    Returns:
        "done" or "failed".

    Raises:
        ValueError: it cannot run, and is alone: of several it has failed.
    """
    name, started = ready.notebook.stem, time.monotonic()
    print(f"{name} ({ready.profile}) ...", flush=True)
    from nbclient.exceptions import DeadKernelError
    from papermill.exceptions import PapermillExecutionError

    from .runs.running import execute

    try:
        folder = execute(ready)
    except PapermillExecutionError as error:  # its own text repeats the whole cell and traceback
        _complain(
            f"{name} failed in cell {error.exec_count}: {error.ename}: {error.evalue}\n"
            f"The notebook up to there is in {ready.folder}.failed"
        )
        return "failed"
    except DeadKernelError as error:
        _complain(
            f"{name}: {error}. Perhaps memory ran out: try shorter lengths or a smaller profile"
        )
        return "failed"
    except (ValueError, OSError, RuntimeError) as error:  # the last: a kernel that does not start
        if alone and isinstance(error, ValueError):
            raise
        _complain(f"{name} failed: {_words(error)}")
        return "failed"
    print(f"{folder}  {time.monotonic() - started:.0f} s", flush=True)
    return "done"


def _shared(parameters: Json, paths: Sequence[Path]) -> Mapping[Path, Json]:
    """The parameters for each notebook.

    Of several notebooks, a parameter goes to those that have it, and the others are named.

    Raises:
        ValueError: none of several has it.
    """
    if len(paths) == 1:
        return {paths[0]: parameters}
    known = {path: notebooks.parameters_of(path) for path in paths}
    for name in parameters:
        without = [path.stem for path in paths if name not in known[path]]
        if len(without) == len(paths):
            every = {name: None for has in known.values() for name in has}
            raise notebooks.unknown_parameter("parameter", name, every)
        if without:
            print(f"{name} is not a parameter of {', '.join(without)}", flush=True)
    return {
        path: {name: v for name, v in parameters.items() if name in known[path]} for path in paths
    }


def _assignment(text: str) -> tuple[str, object]:
    """``name=value``, the value as YAML: numbers and [lists] are what they look like.

    Nothing after the equals sign is the empty text.
    """
    name, equals, value = text.partition("=")
    if not equals:
        raise ValueError(
            f"-p takes name=value, got {text!r}: for example -p model_name=smollm2 or "
            "-p 'lengths=[512,1024]'"
        )
    try:
        return name, yaml.safe_load(value) if value else ""
    except yaml.YAMLError as error:
        reason = " ".join(str(error).split())
        raise ValueError(
            f"the value of {name!r} is not YAML ({reason}): quote it, or write lists as [1,2]"
        ) from None


def _list(_: argparse.Namespace) -> int:
    return _show(notebooks.notebooks())


def _show(paths: Sequence[Path]) -> int:
    """Each notebook with its title and the experiments of the paper that it holds."""
    for path in paths:
        experiments = " ".join(experiments_in(path.stem))
        print(f"{path.stem:32} {experiments:16} {notebooks.title_of(path)}")
    return 0


def _report(options: argparse.Namespace) -> int:
    from .report.page import write_report

    print(write_report(options.results))
    return 0


def _fetch(_: argparse.Namespace) -> int:
    from .models.smollm2 import fetch_smollm2

    print(fetch_smollm2())
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="longrope-lab", description="Run the notebooks of longrope_lab headlessly."
    )
    actions = parser.add_subparsers(required=True, metavar="ACTION")
    run = actions.add_parser("run", help="run notebooks and keep their results")
    _add_run_options(run)
    listing = actions.add_parser(
        "list", help="list the notebooks, with the paper's tables and figures that they hold"
    )
    listing.set_defaults(action=_list)
    report = actions.add_parser(
        "report", help="write a page of results: the paper's figures, ours, what showed"
    )
    _add_results(report)
    report.set_defaults(action=_report)
    fetch = actions.add_parser("fetch", help="download a model once, to have it without a network")
    fetch.add_argument("model", choices=["smollm2"])
    fetch.set_defaults(action=_fetch)
    return parser


def _add_run_options(run: argparse.ArgumentParser) -> None:
    run.add_argument(
        "notebook",
        nargs="+",
        help="such as 00, 00_quickstart, or T2 for those with the paper's Table 2; 'all' of them",
    )
    run.add_argument(
        "--profile", default="cpu", help=f"one of {', '.join(notebooks.PROFILES)} (default: cpu)"
    )
    run.add_argument(
        "-p", "--parameter", action="append", default=[], metavar="NAME=VALUE",
        help="set over the profile's, for those of the notebooks that have it",
    )  # fmt: skip
    _add_results(run)
    run.add_argument(
        "--resume",
        action="store_true",
        help="skip what is there already: of this commit, profile and parameters",
    )
    run.add_argument(
        "--list",
        action="store_true",
        help="show these notebooks, with their experiments, in place of running",
    )
    run.set_defaults(action=_run)


def _add_results(action: argparse.ArgumentParser) -> None:
    action.add_argument(
        "--results", default="results", help="folder of the results (default: results)"
    )


if __name__ == "__main__":
    sys.exit(main())
