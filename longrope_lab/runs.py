"""Runs a notebook with a profile's parameters and keeps what came out of it under ``results/``.

`results/<profile>/<notebook>/` holds the executed notebook, every table as CSV, every figure as PNG and SVG,
and `run.json`: parameters, versions, device, seed, git commit, wall time.
"""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib
import pandas as pd
import yaml
from matplotlib.figure import Figure

from .errors import unknown
from .rope import RopeScaling
from .schedule import RopeSchedule

PROFILES = ("smoke", "cpu", "gpu", "paper")
NOTEBOOKS = Path(__file__).parents[1] / "notebooks"
PACKAGES = ("longrope_lab", "torch", "transformers", "tokenizers", "numpy", "pandas", "matplotlib", "papermill")


def record(out: str | os.PathLike[str], **items: pd.DataFrame | Figure | RopeScaling | RopeSchedule) -> None:
    """Save what a notebook made, under the names given: a table as CSV, a figure as PNG and SVG, a scaling as JSON.

    Raises:
        ValueError: something else.
    """
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    for name, item in items.items():
        if isinstance(item, pd.DataFrame):
            item.to_csv(folder / f"{name}.csv", index=False, float_format="%.8g", lineterminator="\n")
        elif isinstance(item, Figure):
            item.savefig(folder / f"{name}.png", dpi=150, bbox_inches="tight")
            # No date and no random ids, so that the same figure gives the same file.
            with matplotlib.rc_context({"svg.hashsalt": name}):
                item.savefig(folder / f"{name}.svg", bbox_inches="tight", metadata={"Date": None})
        elif isinstance(item, RopeScaling | RopeSchedule):
            item.save(folder / f"{name}.json")
        else:
            raise ValueError(
                f"{name} is a {type(item).__name__}: record takes DataFrames, matplotlib Figures and scalings"
            )


def notebooks() -> list[Path]:
    """The numbered notebooks of the repository, in order."""
    return sorted(NOTEBOOKS.glob("[0-9][0-9]_*.ipynb"))


def find_notebook(name: str) -> Path:
    """The notebook called `name`: its whole name, or its number alone.

    Raises:
        ValueError: no such notebook; the nearest is offered.
    """
    known = {path.stem: path for path in notebooks()}
    if not known:
        raise ValueError(f"no notebooks in {NOTEBOOKS}: run from a clone of the repository (pip install -e .)")
    matches = [path for stem, path in known.items() if name in (stem, stem[:2])]
    if not matches:
        raise unknown("notebook", name, known)
    return matches[0]


def profile_parameters(notebook: Path, profile: str) -> dict[str, Any]:
    """What `profile` sets for a notebook: the content of ``notebooks/profiles/<profile>/<notebook>.yaml``.

    Raises:
        ValueError: an unknown profile, or one that this notebook does not have.
    """
    if profile not in PROFILES:
        raise unknown("profile", profile, PROFILES)
    path = NOTEBOOKS / "profiles" / profile / f"{notebook.stem}.yaml"
    if not path.is_file():
        has = [p for p in PROFILES if (NOTEBOOKS / "profiles" / p / path.name).is_file()]
        raise ValueError(f"notebook {notebook.stem} has no profile {profile!r}: it has {', '.join(has) or 'none'}")
    return dict(yaml.safe_load(path.read_text(encoding="utf-8")) or {})


def run(
    name: str,
    profile: str = "cpu",
    parameters: Mapping[str, Any] | None = None,
    results: str | os.PathLike[str] = "results",
) -> Path:
    """Execute a notebook headlessly and keep its results.

    An earlier run in the same place is replaced only when the new one has succeeded; a failed run is kept
    beside it, in a folder that ends in ``.failed``.

    Args:
        name: the notebook, such as "00" or "00_quickstart".
        profile: "smoke", "cpu", "gpu" or "paper".
        parameters: set over the profile's.
        results: the folder that holds a folder for each profile.

    Returns:
        ``results/<profile>/<notebook>``.

    Raises:
        ValueError: an unknown notebook, profile or parameter; the nearest name is offered.
        papermill.PapermillExecutionError: a cell failed.
    """
    import papermill

    notebook = find_notebook(name)
    inferred = papermill.inspect_notebook(str(notebook))
    chosen = {**profile_parameters(notebook, profile), **(parameters or {})}
    _check_parameters(notebook, chosen, inferred)
    folder = Path(results) / profile / notebook.stem
    chosen["out"] = folder.as_posix()
    before, failed = folder.with_suffix(".before"), folder.with_suffix(".failed")
    if before.exists() and not (folder / "run.json").is_file():  # a run was killed: what it replaced is still good
        shutil.rmtree(folder, ignore_errors=True)
        before.rename(folder)
    for leftover in (before, failed):
        shutil.rmtree(leftover, ignore_errors=True)
    if folder.exists():
        folder.rename(before)
    folder.mkdir(parents=True)
    started = time.time()
    try:
        os.environ["LONGROPE_LAB_PROGRESS"] = "lines"  # the kernel inherits it: no bars in an executed notebook
        papermill.execute_notebook(
            os.path.relpath(notebook),  # papermill writes the path into the executed notebook
            str(folder / notebook.name), parameters=chosen, kernel_name="python3",
            progress_bar=False, stderr_file=None,
        )  # fmt: skip
    except BaseException:
        folder.rename(failed)
        if before.exists():
            before.rename(folder)
        raise
    finally:
        os.environ.pop("LONGROPE_LAB_PROGRESS", None)
    defaults = {k: yaml.safe_load(str(v["default"])) for k, v in inferred.items()}
    description = describe_run(notebook.stem, profile, {**defaults, **chosen}, started)
    (folder / "run.json").write_text(json.dumps(description, indent=1) + "\n", encoding="utf-8")
    shutil.rmtree(before, ignore_errors=True)
    return folder


def _check_parameters(notebook: Path, chosen: Mapping[str, Any], inferred: Mapping[str, Any]) -> None:
    for parameter, value in chosen.items():
        if parameter not in inferred:
            raise unknown(f"parameter of {notebook.stem}", parameter, inferred)
        if parameter == "out":
            raise ValueError("the runner sets 'out' itself: name the folder of the results with --results (results=)")
        default = yaml.safe_load(str(inferred[parameter]["default"]))
        if isinstance(default, list) != isinstance(value, list):
            wanted = f"a list, such as {default}" if isinstance(default, list) else f"one value, such as {default!r}"
            raise ValueError(f"parameter {parameter!r} of {notebook.stem} is {value!r}: it takes {wanted}")


def describe_run(notebook: str, profile: str, parameters: Mapping[str, Any], started: float) -> dict[str, Any]:
    """What `run.json` holds."""
    import torch

    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:  # run from a checkout that is not installed
            versions[package] = "not installed"
    gpu = torch.cuda.is_available()
    return {
        "notebook": notebook,
        "profile": profile,
        "parameters": dict(parameters),
        "seed": parameters.get("seed"),
        "commit": git_commit(),
        "started": datetime.datetime.fromtimestamp(started, datetime.UTC).isoformat(timespec="seconds"),
        "wall_seconds": round(time.time() - started, 1),
        "device": torch.cuda.get_device_name() if gpu else f"CPU, {torch.get_num_threads()} threads",
        "machine": platform.machine(),
        "versions": versions,
    }


def git_commit() -> str:
    """The commit of the code that runs, with "+changes" if the package or the notebooks differ from it.

    For a copied tree, which has no repository or another one's, the variable ``LONGROPE_LAB_COMMIT`` says it.
    """
    if "LONGROPE_LAB_COMMIT" in os.environ:
        return os.environ["LONGROPE_LAB_COMMIT"]
    root = NOTEBOOKS.parent

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(root), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        commit = git("rev-parse", "HEAD")
        return commit + ("+changes" if git("status", "--porcelain", "--", "longrope_lab", "notebooks") else "")
    except (subprocess.CalledProcessError, FileNotFoundError):
        return "unknown"
