"""The command `longrope-lab`: notebooks and their results, models extended and compared.

What answers about names need is quick to import; everything else is imported where it is used.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import yaml

from .commands.options import (
    add_books,
    add_compare,
    add_extend,
    add_gguf,
    add_results,
    add_run,
    add_serve_check,
)
from .common.checks import whole
from .common.files import Json, not_too_deep
from .report.experiments import experiment, experiments_in
from .runs import notebooks
from .runs.origin import clean_commit
from .runs.preparing import prepare
from .runs.terminal import STOPPED, complain, words_of

Parser = argparse.ArgumentParser

# The status of a shell for a program that a pipe closed at its other end has stopped.
CLOSED_PIPE = 141


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Returns:
        The exit status: 1 if a notebook failed, or the answer to a question was no; 2 if the user
        got something wrong, which is one line on stderr; 130 after Ctrl-C, and 141 if nobody reads
        the output any more.
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
        _check_texts(vars(options))
        return int(options.action(options))
    except (ValueError, OSError, MemoryError) as error:
        return _refused(error)
    except KeyboardInterrupt:
        complain(options.stopped)
        return STOPPED


def _check_texts(options: Mapping[str, object]) -> None:
    """Refuse an option of no characters (it would mean the current folder), or with a null one."""
    for name, value in options.items():
        for text in value if isinstance(value, list) else [value]:
            if isinstance(text, str) and (not text or "\0" in text):
                raise ValueError(
                    f"{name} is {text!r}: give it at least one character, none of them null, or "
                    "leave it out"
                )


def _refused(error: Exception) -> int:
    """Say what is wrong, if anybody listens; returns the exit status."""
    if isinstance(error, BrokenPipeError):
        return CLOSED_PIPE
    complain(words_of(error))
    return 2


def _run(options: argparse.Namespace) -> int:
    """Run notebooks; one that fails does not stop the others."""
    jobs = whole("--jobs", options.jobs, 1)
    paths = _notebooks(options.notebook)
    if options.list:
        return _show(paths)
    parameters = _shared(_assignments(options.parameter), paths)
    # All are checked before the first begins.
    prepared = [
        prepare(path.stem, options.profile, parameters[path], results=options.results)
        for path in paths
    ]
    if options.resume and clean_commit() is None:
        complain("the code differs from its commit, so no earlier run counts as done")
    from .runs.run_many import run_all

    return run_all(prepared, resume=options.resume, jobs=jobs)


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


def _assignments(texts: Sequence[str]) -> Json:
    """The parameters of all -p; of one that is set twice, the last would win and nobody be told."""
    found: Json = {}
    for name, value in map(_assignment, texts):
        if name in found:
            raise ValueError(f"-p sets {name!r} twice: keep the one that is meant")
        found[name] = value
    return found


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
        with not_too_deep():
            return name, yaml.safe_load(value) if value else ""
    except (yaml.YAMLError, ValueError) as error:  # "2026-13-01" is a date, almost
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


def _fetch(options: argparse.Namespace) -> int:
    from .models.smollm2 import fetch_smollm2

    def fetch(_: argparse.Namespace) -> int:
        print(fetch_smollm2())
        return 0

    return _in_one_line(fetch, options)


def _extend(options: argparse.Namespace) -> int:
    from .commands.extend import extend

    return _in_one_line(extend, options)


def _compare(options: argparse.Namespace) -> int:
    from .commands.compare import compare

    return _in_one_line(compare, options)


def _gguf(options: argparse.Namespace) -> int:
    from .commands.gguf import gguf

    return _in_one_line(gguf, options)


def _serve_check(options: argparse.Namespace) -> int:
    from .commands.serve_check import serve_check

    return _in_one_line(serve_check, options)


def _books(options: argparse.Namespace) -> int:
    from .commands.books import books

    return _in_one_line(books, options)


def _in_one_line(action: Callable[[argparse.Namespace], int], options: argparse.Namespace) -> int:
    """Do it, and turn what only then shows (a full disk, too little memory) into a refusal."""
    try:
        return action(options)
    except RuntimeError as error:
        raise ValueError(" ".join(str(error).split())) from error


def _parser() -> Parser:
    parser = Parser(
        prog="longrope-lab",
        description="Run the notebooks of longrope_lab, extend models, compare them.",
    )
    parser.set_defaults(stopped="stopped")
    actions = parser.add_subparsers(required=True, metavar="ACTION")

    def offer(name: str, action: Callable[..., int], words: str, **defaults: str) -> Parser:
        offered = actions.add_parser(name, help=words)
        offered.set_defaults(action=action, **defaults)
        return offered

    again = "stopped; with --resume, what has finished is not run again"
    add_run(offer("run", _run, "run notebooks and keep their results", stopped=again))
    listing = "list the notebooks, with the paper's tables and figures that they hold"
    offer("list", _list, listing)
    page = "write a page of results: the paper's figures, ours, what showed"
    add_results(offer("report", _report, page))
    fetch = offer("fetch", _fetch, "download a model once, to have it without a network")
    fetch.add_argument("model", choices=["smollm2"])
    again = "stopped; the same command goes on where it was"
    extend = "extend a model's window, and save it as a folder"
    add_extend(offer("extend", _extend, extend, stopped=again))
    compare = "perplexity and passkeys of models, side by side"
    add_compare(offer("compare", _compare, compare))
    add_gguf(offer("gguf", _gguf, "write a model with a scaling for llama.cpp"))
    check = "does an engine compute a model's scaling?"
    add_serve_check(offer("serve-check", _serve_check, check))
    add_books(offer("books", _books, "which books of the committed figures are here?"))
    return parser


if __name__ == "__main__":
    sys.exit(main())
