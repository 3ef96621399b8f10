"""Where a result comes from: what ``run.json`` says of the code, its versions and the machine."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
import re
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path

from ..common.files import Json

ROOT = Path(__file__).parents[2]
PACKAGES = (
    "longrope_lab", "torch", "transformers", "tokenizers", "numpy", "pandas", "matplotlib",
    "papermill",
)  # fmt: skip


def describe_run(
    notebook: str,
    profile: str,
    parameters: Mapping[str, object],
    inputs: Mapping[str, str],
    commit: str,
    started: float,
) -> Json:
    """What ``run.json`` holds.

    Args:
        notebook, profile, parameters: of the run; paths as results name them.
        inputs: the digests of the files and folders that it read, by those names.
        commit: the one that the run began with.
        started: when, in seconds since the epoch.
    """
    import torch

    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:  # run from a checkout that is not installed
            versions[package] = "not installed"
    threads = f"CPU, {torch.get_num_threads()} threads"
    began = datetime.datetime.fromtimestamp(started, datetime.UTC)
    return {
        "notebook": notebook,
        "profile": profile,
        "parameters": dict(parameters),
        "inputs": dict(inputs),
        "seed": parameters.get("seed"),
        "commit": commit,
        "started": began.isoformat(timespec="seconds"),
        "wall_seconds": round(time.time() - started, 1),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else threads,
        "machine": platform.machine(),
        "versions": versions,
    }


def git_commit() -> str:
    """The commit of the code that runs, or "unknown".

    It ends in "+changes" if the package or the notebooks differ from it. Of a copied tree, which
    has no repository of its own, the variable ``LONGROPE_LAB_COMMIT`` says it.
    """
    if "LONGROPE_LAB_COMMIT" in os.environ:
        return os.environ["LONGROPE_LAB_COMMIT"]

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(ROOT), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        commit = git("rev-parse", "HEAD")
        changes = git("status", "--porcelain", "--", "longrope_lab", "notebooks")
    except (subprocess.CalledProcessError, OSError):
        return "unknown"
    return f"{commit}+changes" if changes else commit


def clean_commit() -> str | None:
    """The commit of the code that runs; None if the code differs from it or has no repository."""
    commit = git_commit()
    return commit if re.fullmatch("[0-9a-f]+", commit) else None
