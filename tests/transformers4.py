"""What transformers 4 computes with a folder: run by a Python that has it, as `logits_by_version4`.

That Python is named by LONGROPE_LAB_TRANSFORMERS4, or stands in `.venv-transformers4`, which
`.ci/run` makes.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

PLACE = Path(__file__).parents[1] / ".venv-transformers4" / "bin" / "python"


def python_with_version4():
    """The interpreter, as a command; the test is skipped where there is none."""
    named = os.environ.get("LONGROPE_LAB_TRANSFORMERS4")
    if not named and not PLACE.is_file():
        pytest.skip(
            f"no transformers 4: set LONGROPE_LAB_TRANSFORMERS4, or let .ci/run make {PLACE}"
        )
    return named or str(PLACE)


def logits_by_version4(folders, ids, text, out):
    """By folder: logits (T, V) by length, and the "tokens" of a text; or the words of an error.

    Args:
        folders: name -> folder.
        ids: token ids of each length, lists.
        text: to tokenise.
        out: a file to write to.
    """
    import torch

    command = [python_with_version4(), __file__, str(out)]
    paths = {name: str(folder) for name, folder in folders.items()}
    job = {"folders": paths, "ids": ids, "text": text}
    done = subprocess.run(
        command, input=json.dumps(job), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return torch.load(out)


def _main():
    import torch
    import transformers
    from transformers import AutoModelForCausalLM, AutoTokenizer

    assert transformers.__version__.startswith("4."), transformers.__version__
    torch.set_num_threads(1)
    job, found = json.load(sys.stdin), {}
    for name, folder in job["folders"].items():
        try:
            model = AutoModelForCausalLM.from_pretrained(
                folder, dtype=torch.float32, attn_implementation="eager"
            ).eval()
        except ValueError as error:
            found[name] = str(error)
            continue
        with torch.no_grad():
            found[name] = {len(ids): model(torch.tensor([ids])).logits[0] for ids in job["ids"]}
        tokenizer = AutoTokenizer.from_pretrained(folder)
        found[name]["tokens"] = tokenizer(job["text"]).input_ids
    torch.save(found, sys.argv[1])


if __name__ == "__main__":
    _main()
