"""The command `longrope-lab`: run notebooks, list them, fetch SmolLM2."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence

import yaml
from nbclient.exceptions import DeadKernelError
from papermill.exceptions import PapermillExecutionError

from . import runs


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status. What a user got wrong is one line on stderr, and status 2."""
    options = _parser().parse_args(arguments)
    try:
        return int(options.action(options))
    except (ValueError, FileNotFoundError) as error:
        print(f"longrope-lab: {error}", file=sys.stderr)
        return 2


def _run(options: argparse.Namespace) -> int:
    parameters = dict(_assignment(text) for text in options.parameter)
    names = [path.stem for path in runs.notebooks()]
    for name in names if options.notebook == ["all"] else options.notebook:
        started = time.monotonic()
        print(f"{name} ({options.profile}) ...", flush=True)
        try:
            folder = runs.run(name, options.profile, parameters, options.results)
        except PapermillExecutionError as error:  # its own text repeats the whole cell and traceback
            failed = f"{options.results}/{options.profile}/{runs.find_notebook(name).stem}.failed"
            print(
                f"longrope-lab: {name} failed in cell {error.exec_count}: {error.ename}: {error.evalue}\n"
                f"The notebook up to there is in {failed}",
                file=sys.stderr,
            )
            return 1
        except DeadKernelError as error:
            print(
                f"longrope-lab: {name}: {error}. Perhaps memory ran out: try shorter lengths or a smaller profile",
                file=sys.stderr,
            )
            return 1
        print(f"{folder}  {time.monotonic() - started:.0f} s", flush=True)
    return 0


def _assignment(text: str) -> tuple[str, object]:
    """``name=value``, the value as YAML, so that numbers and [lists] are what they look like."""
    name, equals, value = text.partition("=")
    if not equals:
        raise ValueError(f"-p takes name=value, got {text!r}: for example -p model=smollm2 or -p 'lengths=[512,1024]'")
    try:
        return name, yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise ValueError(f"the value of {name!r} is not YAML ({error}): quote it, or write lists as [1,2]") from None


def _list(options: argparse.Namespace) -> int:
    import nbformat

    for path in runs.notebooks():
        title = nbformat.read(path, as_version=4).cells[0].source.splitlines()[0].lstrip("# ")
        print(f"{path.stem:32} {title}")
    return 0


def _fetch(options: argparse.Namespace) -> int:
    from .models import fetch_smollm2

    print(fetch_smollm2())
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="longrope-lab", description="Run the notebooks of longrope_lab headlessly.")
    actions = parser.add_subparsers(required=True, metavar="ACTION")
    run = actions.add_parser("run", help="run notebooks and keep their results")
    run.add_argument("notebook", nargs="+", help="such as 00 or 00_quickstart; 'all' for every one")
    run.add_argument("--profile", default="cpu", help=f"one of {', '.join(runs.PROFILES)} (default: cpu)")
    run.add_argument(
        "-p", "--parameter", action="append", default=[], metavar="NAME=VALUE", help="set over the profile's"
    )
    run.add_argument("--results", default="results", help="folder of the results (default: results)")
    run.set_defaults(action=_run)
    listing = actions.add_parser("list", help="list the notebooks")
    listing.set_defaults(action=_list)
    fetch = actions.add_parser("fetch", help="download a model that no installation can do without a network")
    fetch.add_argument("model", choices=["smollm2"])
    fetch.set_defaults(action=_fetch)
    return parser


if __name__ == "__main__":
    sys.exit(main())
