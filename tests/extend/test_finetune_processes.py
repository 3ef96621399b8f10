"""Fine-tuning in processes of its own: killed in the middle, and on two processes at once."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import tiny_model
from finetuning import assert_same, names, tune, undisturbed, weights

pytestmark = pytest.mark.usefixtures("light_heap")


def python(*arguments):
    """What a Python of its own prints, with this folder's modules at hand."""
    path = os.pathsep.join([str(Path(__file__).parent), str(Path(__file__).parents[1]), *sys.path])
    done = subprocess.run(
        [sys.executable, *map(str, arguments)],
        env=os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


# Two children are killed: one in the third of five steps, the next while it writes the checkpoint
# of the fourth.
KILLED = """
import os, signal, sys
from pathlib import Path
import torch
torch.set_num_threads(1)
import finetuning
from longrope_lab.extend import trainer

def kill(*args, **kwargs):
    os.kill(os.getpid(), signal.SIGKILL)

folder = Path(sys.argv[1])
for place, when in (("mean_loss", 11), ("save", 1)):
    child = os.fork()
    if not child:
        if place == "save":
            torch.save = kill  # the weights are written, the optimiser's moments are next
        else:
            calls, stock = [], trainer.mean_loss
            def loss(*args, **options):
                calls.append(1)
                return kill() if len(calls) == when else stock(*args, **options)
            trainer.mean_loss = loss
        finetuning.undisturbed(folder)
        os._exit(0)
    print(os.WTERMSIG(os.waitpid(child, 0)[1]), *sorted(path.name for path in folder.glob("*/*")))
"""


def test_killed_twice(tmp_path):
    folder = tmp_path / "killed"
    first, second = (line.split() for line in python("-c", KILLED, folder).splitlines())
    assert first[0] == second[0] == str(int(signal.SIGKILL))
    whole = [
        "digests.json",
        "model.safetensors",
        "optimizer.pt",
        "rng_state.pth",
        "scheduler.pt",
        "trainer_state.json",
    ]
    assert sorted(first[1:]) == whole
    assert sorted(second[1:]) == sorted(
        ["checkpoint-4", *whole]
    )  # half of one more, under `unfinished`
    assert (folder / "unfinished" / "checkpoint-4" / "model.safetensors").is_file()
    assert len(pd.read_csv(folder / "loss.csv")) == 4
    assert_same(undisturbed(folder), undisturbed(tmp_path / "whole"))
    assert names(folder) == names(tmp_path / "whole")
    for name in ("loss.csv", "finetune.json", "checkpoint-5/model.safetensors"):
        assert (folder / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


# Each process keeps what it got in a file of its own.
SCRIPT = """
import shutil, sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from accelerate import PartialState
from conftest import tiny_model
from finetuning import fail_at, tune, weights
import pytest

place, state = Path(sys.argv[1]), PartialState(cpu=True)
errors = []


def attempt(folder, **changes):
    try:
        tune(tiny_model(), place / folder, **changes)
    except (ValueError, RuntimeError) as error:
        errors.append(str(error))


attempt("odd", batch=3)
attempt("foreign")
attempt("single", steps=4)
# Not a number on the second process alone, in the fourth step.
with pytest.MonkeyPatch.context() as patch:
    calls = fail_at(7 if state.process_index else 0, lambda loss: loss * float("nan"), patch)
    attempt("full")
if state.is_main_process:
    shutil.copytree(place / "full", place / "handed")
state.wait_for_everyone()
model, low_rank = tiny_model(), tiny_model()
table = tune(model, place / "full")
tune(low_rank, place / "low_rank", lora_rank=2, steps=2, short_share=1 / 3)
kept = {
    "processes": state.num_processes,
    "errors": errors,
    "calls": len(calls),
    "table": table.to_dict("list"),
    "full": weights(model),
    "low_rank": weights(low_rank),
}
torch.save(kept, place / f"{state.process_index}.pt")
"""


def assert_close(found, expected, start):
    """To a hundredth of what training has moved."""
    assert found.keys() == expected.keys()
    for name, p in expected.items():
        assert (found[name] - p).norm() <= 0.01 * (p - start[name]).norm(), name


def test_two_processes(tmp_path):
    """The same script under `accelerate launch` takes the same steps.

    Each process has two of their four segments.
    """
    (tmp_path / "script.py").write_text(SCRIPT)
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "thesis.tex").write_text("precious")
    start, low_rank = weights(tiny_model()), tiny_model()
    table, full = undisturbed(tmp_path / "single")
    tune(low_rank, tmp_path / "single_low_rank", lora_rank=2, steps=2, short_share=1 / 3)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # With --cpu accelerate starts one process, whatever --num_processes says; with --multi_gpu two
    # also without a GPU.
    launch = (
        "accelerate.commands.launch",
        "--multi_gpu",
        "--num_processes",
        2,
        "--num_machines",
        1,
    )
    python(
        "-m",
        *launch,
        "--mixed_precision",
        "no",
        "--main_process_port",
        port,
        tmp_path / "script.py",
        tmp_path,
    )
    seen = [torch.load(tmp_path / f"{n}.pt") for n in (0, 1)]
    for one in seen:
        assert one["processes"] == 2
        odd, foreign, other, nan = one[
            "errors"
        ]  # both processes see each error, and neither waits for the other
        assert "batch is 3, and 2 processes cannot share it evenly: take a multiple of 2" in odd
        assert "is not empty and holds no fine-tuning" in foreign
        assert "holds another fine-tuning (steps: 5 there, 4 here)" in other
        assert (
            "the loss became nan at step 4: the last good state is" in nan
            and "checkpoint-2, and the same" in nan
        )
        assert one["calls"] == 8
        # Gradients of segments are added up in another order than in one process, and Adam divides
        # by their size.
        np.testing.assert_allclose(one["table"]["loss"], table["loss"], rtol=1e-4)
        assert one["table"]["learning_rate"] == table["learning_rate"].tolist()
        assert one["table"]["tokens"] == table["tokens"].tolist()
    for kind, alone in (("full", full), ("low_rank", weights(low_rank))):
        first, second = (one[kind] for one in seen)
        assert all(torch.equal(p, second[name]) for name, p in first.items())
        assert_close(first, alone, start)
    _, handed = undisturbed(tmp_path / "handed")  # what two began, one ends
    assert_close(handed, full, start)
    assert names(tmp_path / "full") == names(tmp_path / "single")
    parts = [
        "digests.json",
        "model.safetensors",
        "optimizer.pt",
        "rng_state_0.pth",
        "rng_state_1.pth",
        "scheduler.pt",
    ]
    assert names(tmp_path / "full" / "checkpoint-5") == [*parts, "trainer_state.json"]
    kept = pd.read_csv(tmp_path / "full" / "loss.csv")
    pd.testing.assert_frame_equal(kept, pd.DataFrame(seen[0]["table"]), rtol=1e-7)
    assert names(tmp_path / "foreign") == ["thesis.tex"] and not (tmp_path / "odd").exists()
