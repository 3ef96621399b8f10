"""Reads what runs left in a folder of results; an error names the file that is damaged."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

import numpy as np
import pandas as pd

from ..common.files import Json, from_json
from ..common.identity import digest_of
from ..runs.notebooks import PROFILES

# The notebooks that hold the paper's experiments.
NONUNIFORMITY, SEARCH, WITHOUT = "02_nonuniformity", "03_search", "04_without_finetuning"
EXTENSION, RECOVERY = "05_progressive_extension", "06_short_context_recovery"
PASSKEY, BENCHMARKS = "07_passkey", "08_short_context_benchmarks"
ONE_BY_ONE, LONG = "09_two_nonuniformities", "10_long_documents"

# A smoke run shows that a notebook works, and its numbers mean nothing.
MEASURING = tuple(profile for profile in PROFILES if profile != "smoke")

# Columns of the tables that `stats.paired_comparison` and `perplexity` make.
PAIRED = ("baseline", "length", "documents", "ratio", "low", "high")
LOSSES = ("scaling", "length", "document", "loss")

# Columns that hold names, also where a name looks like a number or like a missing value ("None").
NAMES = frozenset([
    "scaling", "baseline", "corpus", "document", "method", "part", "to", "search", "fine-tuning",
    "task", "question",
])  # fmt: skip
# Columns of measured numbers.
NUMBERS = frozenset([
    "length", "documents", "loss", "perplexity", "ratio", "accuracy", "trials", "score",
    "questions", "difference", "round", "best_perplexity",
])  # fmt: skip
# Of these, the ones that count something.
COUNTS = frozenset(["length", "documents", "trials", "questions", "round"])
# Bounds are missing for a single document, which has no interval.
BOUNDS = frozenset(["low", "high"])

# What the page needs of a ``run.json``, and its types.
SAID = {
    "parameters": dict,
    "versions": dict,
    "device": str,
    "commit": str,
    "wall_seconds": int | float,
}


class NotMeasuredError(Exception):
    """What is asked for was not recorded, or says nothing."""


@dataclass(frozen=True, eq=False)
class Run:
    """One notebook's results.

    Args:
        folder: ``<results>/<profile>/<notebook>``.
        origin: what its ``run.json`` says.
    """

    folder: Path
    origin: Json

    @property
    def notebook(self) -> str:
        return self.folder.name

    @property
    def profile(self) -> str:
        return self.folder.parent.name

    @property
    def parameters(self) -> Json:
        parameters: Json = self.origin["parameters"]
        return parameters

    def check(self, path: Path) -> None:
        """See whether a file is as the run left it. Runs of before say nothing of that.

        Raises:
            ValueError: it is not.
        """
        left = self.origin.get("files", {})
        if path.name in left and left[path.name] != digest_of(path):
            raise ValueError(
                f"{path} is not as its run left it (a part is missing, or was edited): run the "
                "notebook again, or restore it"
            )

    @property
    def model(self) -> str:
        """The name of the model, or "" of a notebook without one."""
        name = self.parameters.get("model_name", self.parameters.get("model"))  # the older name
        return "" if name is None else str(name)

    @property
    def texts(self) -> list[str]:
        """The names of the corpora that it read, each once."""
        of_corpora = [
            value
            for name, value in self.parameters.items()
            if name.endswith(("corpus", "corpora")) or name == "books"
        ]
        named = [each for value in of_corpora for each in np.atleast_1d(value)]
        return [str(name) for name in dict.fromkeys(named) if name]


@dataclass(frozen=True, eq=False)
class Results:
    """All runs of a profile, by the name of their notebook."""

    profile: str
    runs: Mapping[str, Run]

    def run(self, notebook: str) -> Run:
        """Raises NotMeasuredError: this profile has no run of it."""
        if notebook not in self.runs:
            raise NotMeasuredError(f"{notebook} was not run")
        return self.runs[notebook]

    def table(self, name: str, *notebooks: str, needs: Sequence[str] = ()) -> pd.DataFrame:
        """A recorded table, of the first of `notebooks` that has it.

        Args:
            name: of the CSV, without its suffix.
            needs: columns that it must have.

        Raises:
            NotMeasuredError: none has it, or it has no rows.
            ValueError: it is damaged; the file is named.
        """
        for notebook in notebooks:
            if notebook not in self.runs:
                continue
            path = self.runs[notebook].folder / f"{name}.csv"
            if path.is_file():
                self.runs[notebook].check(path)
                table = read_table(path, needs)
                if table.empty:
                    raise NotMeasuredError(f"{path} has no rows")
                return table
        raise NotMeasuredError(f"{name}.csv was not recorded")


def read_results(folder: str | os.PathLike[str]) -> dict[str, Results]:
    """The finished runs in a folder of results, by profile.

    Smoke runs are left out, and profiles without a run.

    Raises:
        FileNotFoundError: no such folder, no run in it, or a notebook's results without their
            ``run.json``.
        ValueError: a damaged ``run.json``.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"no folder of results at {folder}: name one with --results")
    found = {profile: _runs(folder / profile) for profile in MEASURING}
    if not any(found.values()):
        raise FileNotFoundError(
            f"{folder} holds no run of the profiles {', '.join(MEASURING)}: make one first, "
            "for example with longrope-lab run 02 --profile cpu"
        )
    return {profile: Results(profile, runs) for profile, runs in found.items() if runs}


def _runs(folder: Path) -> dict[str, Run]:
    """The finished runs; a folder with a dot in its name is at work or failed (``.failed``)."""
    if not folder.is_dir():
        return {}
    finished = sorted(path for path in folder.iterdir() if path.is_dir() and "." not in path.name)
    return {path.name: Run(path, read_origin(path / "run.json")) for path in finished}


def read_origin(path: Path) -> Json:
    """What a ``run.json`` says.

    Raises:
        FileNotFoundError: it is not there.
        ValueError: it is damaged.
    """
    again = f"run it again: longrope-lab run {path.parent.name} --profile {path.parent.parent.name}"
    if not path.is_file():
        raise FileNotFoundError(
            f"{path.parent} has no run.json, so nobody knows where its tables come from: {again}"
        )
    try:
        origin = from_json(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}): {again}") from None
    said = origin if isinstance(origin, dict) else {}
    wrong = [name for name, kind in SAID.items() if not isinstance(said.get(name), kind)]
    wrong += [] if isinstance(said.get("files", {}), dict) else ["files"]
    if wrong:
        raise ValueError(f"{path} is damaged (no {', '.join(wrong)}): {again}")
    return said


def read_table(path: Path, needs: Sequence[str] = ()) -> pd.DataFrame:
    """A CSV as `lab.record` writes it: names as text, measured values as numbers.

    Raises:
        ValueError: it is cut off or lacks a column, or what stands for a measured value is not a
            number.
    """
    damaged = f"{path} is damaged: run the notebook again, or restore it"
    try:
        text = path.read_text(encoding="utf-8")
        # Names stay texts: pandas would take "0" for a number, and "None" for a missing value.
        table = pd.read_csv(
            StringIO(text), dtype=dict.fromkeys(NAMES, str), keep_default_na=False, na_values=[""]
        )
    except (ValueError, pd.errors.ParserError) as error:
        raise ValueError(f"{damaged} ({error})") from None
    if not text.endswith("\n"):
        raise ValueError(f"{damaged} (its last line is cut off)")
    missing = [column for column in needs if column not in table]
    if missing:
        columns = ", ".join(map(str, table))
        raise ValueError(f"{damaged} (it has no column {', '.join(missing)}; it has: {columns})")
    for column in [name for name in table if name in NUMBERS | BOUNDS]:
        table[column] = _numbers(table[column], column, damaged)
    names = [name for name in table if name in NAMES]
    return table.fillna(dict.fromkeys(names, ""))


def _numbers(values: pd.Series, column: str, damaged: str) -> pd.Series:
    """A column of measured numbers.

    Raises:
        ValueError: one is not a number; the message begins with `damaged`.
    """
    numbers = pd.to_numeric(values, errors="coerce")
    bad = ~np.isfinite(numbers) & ~(values.isna() & (column in BOUNDS))
    if column in COUNTS:
        bad |= (numbers != np.floor(numbers)) | (numbers < 0)
    elif column != "loss":  # what is infinite as a perplexity is finite as a loss
        bad &= ~np.isposinf(numbers)
    if bad.any():
        row = int(bad.to_numpy().argmax())
        value, kind = str(values.iloc[row]), "whole number" if column in COUNTS else "number"
        raise ValueError(f"{damaged} (row {row + 1}: {column} is {value!r}, not a {kind})")
    return numbers
