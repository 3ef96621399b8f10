"""The options of each action. Nothing here is slow to import: they are needed for ``--help``."""

from __future__ import annotations

import argparse

from ..runs.notebooks import PROFILES

MODEL = "'lab', 'lab-256k', 'smollm2', a folder, a .gguf file or a hub id such as owner/name"
CORPUS = "'kjv', 'python', a file or folder of texts, or a data set of the hub"
LENGTH = "in tokens, such as 4096, 4,096 or 4k"


def add_run(run: argparse.ArgumentParser) -> None:
    """The options of `run`."""
    run.add_argument(
        "notebook",
        nargs="+",
        help="such as 00, 00_quickstart, or T2 for those with the paper's Table 2; 'all' of them",
    )
    run.add_argument(
        "--profile", default="cpu", help=f"one of {', '.join(PROFILES)} (default: cpu)"
    )
    run.add_argument(
        "-p", "--parameter", action="append", default=[], metavar="NAME=VALUE",
        help="set over the profile's, for those of the notebooks that have it",
    )  # fmt: skip
    add_results(run)
    run.add_argument(
        "--resume",
        action="store_true",
        help="skip what is there already: of this commit, profile and parameters",
    )
    run.add_argument(
        "--jobs", type=int, default=1, metavar="N",
        help="notebooks at a time, where cores and memory are to spare (default: 1)",
    )  # fmt: skip
    run.add_argument(
        "--list",
        action="store_true",
        help="show these notebooks, with their experiments, in place of running",
    )


def add_results(action: argparse.ArgumentParser) -> None:
    """Where results are."""
    action.add_argument(
        "--results", default="results", help="folder of the results (default: results)"
    )


def add_extend(extend: argparse.ArgumentParser) -> None:
    """The options of `extend`."""
    add = extend.add_argument
    add("model", help=MODEL)
    target = extend.add_mutually_exclusive_group(required=True)
    target.add_argument(
        "--to", nargs="+", metavar="LENGTH",
        help=f"search and train at this length, {LENGTH}; several are taken in turn",
    )  # fmt: skip
    target.add_argument(
        "--plan", metavar="NAME", help="follow a plan that is ready, such as 'lab' or 'smollm2'"
    )
    add("--corpus", required=True, help=f"to search and train on: {CORPUS} (split 'validation')")
    add("--documents", type=int, metavar="N", help="use so many of the corpus (default: all)")
    _add_column(extend)
    _add_window(extend)
    add(
        "--out", required=True, metavar="FOLDER",
        help="gets the model; new or empty. The stages are kept beside it, in FOLDER-stages",
    )  # fmt: skip
    add("--recipe", metavar="NAME", help="of each training, with --to (default: small)")
    add("--seed", type=int, default=0, help="of searches and trainings (default: 0)")
    add(
        "--fold-attention-factor", action="store_true",
        help="move what no formula gives of the attention factor into the query weights, for "
        "engines that do not read it; see docs/serving.md",
    )  # fmt: skip
    add("--yes", action="store_true", help="begin without asking")
    _add_device(extend)


def add_compare(compare: argparse.ArgumentParser) -> None:
    """The options of `compare`."""
    add = compare.add_argument
    add("models", nargs="+", metavar="MODEL", help=MODEL)
    add(
        "--lengths", nargs="+", metavar="LENGTH",
        help=f"{LENGTH} (default: doubled from below the shortest window up to the longest)",
    )  # fmt: skip
    add(
        "--corpus", default="kjv",
        help=f"to read for perplexity: {CORPUS} (split 'test'; default: kjv)",
    )  # fmt: skip
    add("--documents", type=int, default=4, metavar="N", help="of the corpus (default: 4)")
    _add_column(compare)
    _add_window(compare)
    add("--trials", type=int, default=2, metavar="N", help="passkeys per depth (default: 2)")
    add("--seed", type=int, default=0, help="of the passkeys (default: 0)")
    add(
        "--chat", action="store_true",
        help="ask for passkeys through chat templates, of models tuned to instructions",
    )  # fmt: skip
    add("--out", metavar="FOLDER", help="keep tables (CSV) and figures (PNG, SVG); new or empty")
    _add_device(compare)


def add_gguf(gguf: argparse.ArgumentParser) -> None:
    """The options of `gguf`."""
    add = gguf.add_argument
    add("model", metavar="MODEL", help=f"{MODEL}; a .gguf file may be quantised")
    add(
        "--scaling", required=True, metavar="JSON",
        help="what it gets, as .save writes it; a folder that was extended has it as scaling.json",
    )  # fmt: skip
    add("-o", "--out", required=True, metavar="FILE", help="the new .gguf file")
    _add_window(gguf)
    add("--overwrite", action="store_true", help="take the place of a file that is there")


def add_serve_check(check: argparse.ArgumentParser) -> None:
    """The options of `serve-check`."""
    add = check.add_argument
    add("model", metavar="FOLDER_OR_GGUF", help="an extended model; its config holds the scaling")
    add(
        "engine",
        help="address of a server (vLLM, SGLang, llama-server), or llama.cpp, mlx-lm, ctranslate2, "
        "with or without :PATH",
    )
    add("--scaling", metavar="JSON", help="in place of the config's, as .save writes it")
    add(
        "--lengths", nargs="+", metavar="LENGTH",
        help=f"{LENGTH} (default: inside the window, just past it, the target)",
    )  # fmt: skip
    add(
        "--tolerance", type=float, default=0.03, metavar="NATS",
        help="mean difference that passes for rounding (default: 0.03; about 0.2 for 4 bits)",
    )  # fmt: skip


def add_books(books: argparse.ArgumentParser) -> None:
    """The options of `books`."""
    books.add_argument("what", choices=["check"], help="compare with docs/books.csv")
    books.add_argument("folder", metavar="FOLDER", help="of texts, or one file")


def _add_column(action: argparse.ArgumentParser) -> None:
    action.add_argument(
        "--column", metavar="NAME", help="of the corpus, where it is not 'text' or 'content'"
    )


def _add_window(action: argparse.ArgumentParser) -> None:
    action.add_argument(
        "--window", metavar="LENGTH",
        help=f"{LENGTH}: what was trained on, where a model's config states another window",
    )  # fmt: skip


def _add_device(action: argparse.ArgumentParser) -> None:
    action.add_argument("--device", help="such as cpu or cuda (default: a GPU if there is one)")
