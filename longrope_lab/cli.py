"""The command `longrope-lab`: run notebooks, list them, write the page of results, fetch SmolLM2."""

from __future__ import annotations

import argparse
import re
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import yaml
from nbclient.exceptions import DeadKernelError
from papermill.exceptions import PapermillExecutionError

from .common.checks import unknown
from .common.files import Json
from .report.experiments import experiment, experiments_in
from .runs import notebooks, running
from .runs.origin import clean_commit


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status.

    What a user got wrong is one line on stderr, and status 2; a notebook that failed is status 1;
    Ctrl-C 130."""
    options = _parser().parse_args(arguments)
    try:
        return int(options.action(options))
    except (ValueError, FileNotFoundError) as error:
        print(f"longrope-lab: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(
            "longrope-lab: stopped; with --resume, what has finished is not run again",
            file=sys.stderr,
        )
        return 130


def _run(options: argparse.Namespace) -> int:
    """Run notebooks one after the other; one that fails does not stop the others."""
    paths = _notebooks(options.notebook)
    if options.list:
        return _show(paths)
    parameters = _shared(dict(_assignment(text) for text in options.parameter), paths)
    # All are checked before the first begins.
    prepared = [
        running.prepare(path.stem, options.profile, parameters[path], options.results)
        for path in paths
    ]
    if options.resume and clean_commit() is None:
        print(
            "longrope-lab: the code differs from its commit, so no earlier run counts as done",
            file=sys.stderr,
        )
    rows, failed = [], False
    for ready in prepared:
        started = time.monotonic()
        try:
            status = _one(ready, options.resume)
        except (
            ValueError,
            OSError,
            RuntimeError,
        ) as error:  # the last: a kernel that does not even start
            if len(prepared) == 1:
                raise
            print(f"longrope-lab: {ready.notebook.stem} failed: {error}", file=sys.stderr)
            status = "failed"
        rows.append(f"{ready.notebook.stem:32} {status:8} {time.monotonic() - started:8.0f}")
        failed = failed or status == "failed"
    if len(rows) > 1:
        print(f"\n{'notebook':32} {'status':8} {'seconds':>8}", *rows, sep="\n", flush=True)
    return int(failed)


def _notebooks(names: Sequence[str]) -> list[Path]:
    """The notebooks that are meant, each once: by number, by name, by the id of an experiment
        ("T2"), or "all".

    Raises:
        ValueError: no such notebook or experiment (the nearest is offered), or one whose notebook
            is not here.
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
            f"{wanted.id} ({wanted.title}) needs the notebook {', '.join(missing)}, which is not in "
            f"{notebooks.NOTEBOOKS}{rest}"
        )
    return [known[stem] for stem in wanted.notebooks]


def _one(ready: running.Prepared, resume: bool) -> str:
    """Run a notebook and say how it went; returns "done", "failed" or "skipped"."""
    name, started = ready.notebook.stem, time.monotonic()
    if resume and ready.is_done():
        print(f"{ready.folder}  is of this commit, profile and parameters", flush=True)
        return "skipped"
    print(f"{name} ({ready.profile}) ...", flush=True)
    try:
        folder = running.execute(ready)
    except PapermillExecutionError as error:  # its own text repeats the whole cell and traceback
        print(
            f"longrope-lab: {name} failed in cell {error.exec_count}: {error.ename}: {error.evalue}\n"
            f"The notebook up to there is in {ready.folder}.failed",
            file=sys.stderr,
        )
        return "failed"
    except DeadKernelError as error:
        print(
            f"longrope-lab: {name}: {error}. Perhaps memory ran out: try shorter lengths or a smaller profile",
            file=sys.stderr,
        )
        return "failed"
    print(f"{folder}  {time.monotonic() - started:.0f} s", flush=True)
    return "done"


def _shared(parameters: Json, paths: Sequence[Path]) -> Mapping[Path, Json]:
    """The parameters for each notebook: of several, a parameter goes to those that have it, and the
        others are named.

    Raises:
        ValueError: none of several has it.
    """
    if len(paths) == 1:
        return {paths[0]: parameters}
    known = {path: notebooks.parameters_of(path) for path in paths}
    for name in parameters:
        without = [path.stem for path in paths if name not in known[path]]
        if len(without) == len(paths):
            raise unknown(
                "parameter", name, dict.fromkeys(name for has in known.values() for name in has)
            )
        if without:
            print(f"{name} is no parameter of {', '.join(without)}", flush=True)
    return {
        path: {name: v for name, v in parameters.items() if name in known[path]} for path in paths
    }


def _assignment(text: str) -> tuple[str, object]:
    """``name=value``, the value as YAML, so that numbers and [lists] are what they look like."""
    name, equals, value = text.partition("=")
    if not equals:
        raise ValueError(
            f"-p takes name=value, got {text!r}: for example -p model=smollm2 or -p 'lengths=[512,1024]'"
        )
    try:
        return name, yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise ValueError(
            f"the value of {name!r} is not YAML ({error}): quote it, or write lists as [1,2]"
        ) from None


def _list(_: argparse.Namespace) -> int:
    return _show(notebooks.notebooks())


def _show(paths: Sequence[Path]) -> int:
    """Each notebook with its title and the experiments of the paper that it holds."""
    import nbformat

    for path in paths:
        title = nbformat.read(path, as_version=4).cells[0].source.splitlines()[0].lstrip("# ")
        print(f"{path.stem:32} {' '.join(experiments_in(path.stem)):16} {title}")
    return 0


def _report(options: argparse.Namespace) -> int:
    from .report import write_report

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
    run.add_argument(
        "notebook",
        nargs="+",
        help="such as 00, 00_quickstart, or T2: those with the paper's Table 2; 'all' for every one",
    )
    run.add_argument(
        "--profile", default="cpu", help=f"one of {', '.join(notebooks.PROFILES)} (default: cpu)"
    )
    run.add_argument(
        "-p", "--parameter", action="append", default=[], metavar="NAME=VALUE",
        help="set over the profile's, for those of the notebooks that have it",
    )  # fmt: skip
    run.add_argument(
        "--results", default="results", help="folder of the results (default: results)"
    )
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
    listing = actions.add_parser(
        "list", help="list the notebooks, with the paper's tables and figures that they hold"
    )
    listing.set_defaults(action=_list)
    report = actions.add_parser(
        "report", help="write a page of results: the paper's figures, ours, what showed"
    )
    report.add_argument(
        "--results", default="results", help="folder of the results (default: results)"
    )
    report.set_defaults(action=_report)
    fetch = actions.add_parser(
        "fetch", help="download a model that no installation can do without a network"
    )
    fetch.add_argument("model", choices=["smollm2"])
    fetch.set_defaults(action=_fetch)
    return parser


if __name__ == "__main__":
    sys.exit(main())
