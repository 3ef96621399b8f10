"""Fine-tuning that is stopped, runs out of disk or finite numbers, goes on; folders of others."""

from __future__ import annotations

import dataclasses
import errno
import json
import math
import os
import re
import resource
import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import VOCABULARY, WINDOW, tiny_model
from finetuning import (
    DOCS,
    LENGTH,
    RECIPE,
    TOKENIZER,
    assert_same,
    fail_at,
    names,
    scaling_of,
    tune,
    undisturbed,
    weights,
)
from safetensors.torch import load_file, save_file

from longrope_lab.common.processes import alone
from longrope_lab.extend import trainer as trainer_module
from longrope_lab.extend.finetune import finetune
from longrope_lab.models.rotary import rope_spec
from longrope_lab.rope.methods import rope_scaling
from longrope_lab.texts.tokens import Document

pytestmark = pytest.mark.usefixtures("light_heap")

LORA = {"lora_rank": 3, "lora_modules": ("q_proj", "v_proj"), "learning_rate": 1e-2}


def failing(error):
    """A function that does nothing but raise it."""

    def fail(*args, **kwargs):
        raise error

    return fail


@pytest.mark.parametrize("call", [3, 14])
@pytest.mark.parametrize("changes", [{}, LORA, {"short_share": 1 / 3}])
def test_stopped_by_hand_the_same_call_goes_on(call, changes, tmp_path, monkeypatch):
    """With the same model, which is as it was, before the first checkpoint and after it.

    Random numbers are in use.
    """
    models = [tiny_model(attention_dropout=0.2) for _ in range(2)]
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        fail_at(call, failing(KeyboardInterrupt), patch)
        tune(models[0], tmp_path / "stopped", **changes)
    calls = fail_at(0, None, monkeypatch)
    tables = [tune(models[0], tmp_path / "stopped", **changes)]
    assert (
        len(calls) == {3: 20, 14: 12}[call]
    )  # from the beginning, or after the two steps that were kept
    tables.append(tune(models[1], tmp_path / "whole", **changes))
    assert_same(*((table, weights(model)) for table, model in zip(tables, models, strict=True)))


def test_a_finished_training_is_not_repeated(tmp_path, monkeypatch):
    expected = undisturbed(tmp_path / "run")
    fail_at(1, lambda loss: 1 / 0, monkeypatch)
    assert_same(undisturbed(tmp_path / "run"), expected)


def with_infinite_gradient(loss):
    """The same loss."""
    loss.register_hook(lambda gradient: gradient * math.inf)
    return loss


@pytest.mark.parametrize(
    ("call", "good", "action", "message"),
    [
        (2, None, lambda loss: loss * math.nan, "the loss became nan at step 1"),
        (14, 2, lambda loss: loss * math.nan, "the loss became nan at step 4"),
        (14, 2, lambda loss: loss + math.inf, "the loss became inf at step 4"),
        # Its weights have just been written, and it is they that may have given this.
        (19, 2, lambda loss: loss * math.nan, "the loss became nan at step 5"),
        (14, 2, with_infinite_gradient, "the gradient's norm became (nan|inf) at step 4"),
    ],
)
def test_what_is_not_a_number(call, good, action, message, tmp_path, monkeypatch):
    folder, model = tmp_path / "run", tiny_model()
    before = weights(model)
    state = re.escape(
        "the model before training" if good is None else str(folder / f"checkpoint-{good}")
    )
    with monkeypatch.context() as patch:
        fail_at(call, action, patch)
        with pytest.raises(
            RuntimeError, match=f"{message}: the last good state is {state}, and the same call goes"
        ):
            tune(model, folder)
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())
    assert [name for name in names(folder) if "checkpoint" in name] == (
        [] if good is None else [f"checkpoint-{good}"]
    )
    if good is not None:
        kept = load_file(folder / f"checkpoint-{good}" / "model.safetensors")
        assert kept.keys() == before.keys() and all(p.isfinite().all() for p in kept.values())
    assert_same((tune(model, folder), weights(model)), undisturbed(tmp_path / "whole"))


def test_weights_that_overflow_are_not_kept(tmp_path):
    with pytest.raises(
        RuntimeError, match=r"became (nan|inf) at step 2: the last good state is the model before"
    ):
        tune(tiny_model(), tmp_path / "run", learning_rate=1e30, save_every=1)
    assert names(tmp_path / "run") == ["finetune.json", "loss.csv", "scaling.json"]


@pytest.fixture
def largest_file():
    """Sets the largest file that this process can write, in bytes: a real failure."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("place", ["weights", "moments", "errno", "loss.csv"])
def test_a_full_disk(place, tmp_path, monkeypatch, largest_file):
    """Whatever is written when it is full, what was kept is whole.

    The same call goes on from there.
    """
    folder, model = tmp_path / "run", tiny_model()
    size = 4 * sum(p.numel() for p in model.parameters())
    no_space = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def fill(loss):
        if place == "errno":
            patch.setattr(trainer_module, "save_file", failing(no_space))
        elif place == "loss.csv":
            patch.setattr(pd.DataFrame, "to_csv", failing(no_space))
        else:
            largest_file({"weights": size // 2, "moments": size * 3 // 2}[place])
        return loss

    what = r"loss\.csv" if place == "loss.csv" else "the checkpoint of step 4"
    reason = "No space left" if place in ("errno", "loss.csv") else ""
    where = rf"{re.escape(str(folder))} \(.*{reason}.*\)"
    with monkeypatch.context() as patch:
        fail_at(10, fill, patch)  # in the third step
        with pytest.raises(
            RuntimeError, match=rf"{what} cannot be written to {where}: free some space"
        ):
            tune(model, folder)
    largest_file(resource.RLIM_INFINITY)
    assert names(folder) == ["checkpoint-2", "finetune.json", "loss.csv", "scaling.json"]
    assert_same((tune(model, folder), weights(model)), undisturbed(tmp_path / "whole"))


def test_a_folder_of_the_version_before(run_before, tmp_path):
    """Its finetune.json had no "format", and another digest of the scaling."""
    folder = tmp_path / "run"
    folder.mkdir()
    theirs = json.loads((run_before / "finetune.json").read_text())
    del theirs["format"]
    (folder / "finetune.json").write_text(json.dumps(theirs))
    message = r"run holds a fine-tuning of another version of longrope_lab \(format 1, and this one"
    with pytest.raises(ValueError, match=message):
        tune(tiny_model(), folder, steps=2)
    assert json.loads((folder / "finetune.json").read_text()) == theirs
    assert names(folder) == ["finetune.json"]


@pytest.fixture(scope="module")
def run_before(tmp_path_factory):
    """The folder of a fine-tuning of two steps."""
    folder = tmp_path_factory.mktemp("before") / "run"
    tune(tiny_model(), folder, steps=2)
    return folder


OTHERS = {
    "model": {"model": lambda: tiny_model(seed=1)},
    "data": {"docs": DOCS[::-1]},
    "length": {"length": WINDOW},
    "scaling": {
        "scaling": lambda model: rope_scaling(rope_spec(model), "pi", 2 * LENGTH),
        "length": LENGTH,
    },
    "seed": {"seed": 1},
    "steps": {"steps": 3},
    "batch": {"batch": 2},
    "learning_rate": {"learning_rate": 2e-3},
    "decay": {"decay": "cosine"},
    "warmup": {"warmup": 1},
    "lora_rank": {"lora_rank": 2},
    "lora_modules": {"lora_modules": ("q_proj",)},
    "save_every": {"save_every": 9},
}


@pytest.mark.parametrize("what", OTHERS)
def test_the_folder_of_another_fine_tuning(what, run_before):
    content = (run_before / "finetune.json").read_bytes()
    changes = {"steps": 2} | OTHERS[what]
    model = changes.pop("model", tiny_model)()
    scaling = changes.pop("scaling", scaling_of)(model)
    docs, length, seed = (
        changes.pop("docs", DOCS),
        changes.pop("length", None),
        changes.pop("seed", 0),
    )
    recipe = dataclasses.replace(RECIPE, **changes)
    with pytest.raises(
        ValueError, match=r"run holds another fine-tuning \(.*\): name another folder"
    ) as caught:
        finetune(
            model, TOKENIZER, docs, scaling, run_before, length=length, recipe=recipe, seed=seed
        )
    differ = re.findall(r"(?:[(]|; )(\w+): (?:.*?) there, (?:.*?) here", str(caught.value))
    assert differ == (["data", "length"] if what == "length" else [what])
    assert (run_before / "finetune.json").read_bytes() == content


def test_another_fine_tuning_is_told_by_values(run_before):
    with pytest.raises(
        ValueError, match=r"steps: 2 there, 4 here; learning_rate: 0\.001 there, 0\.5 here"
    ):
        tune(tiny_model(), run_before, steps=4, learning_rate=0.5)


def test_a_folder_of_something_else(tmp_path):
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(
        ValueError, match="is not empty and holds no fine-tuning: name another folder"
    ):
        tune(tiny_model(), tmp_path)
    assert names(tmp_path) == ["thesis.tex"]


def test_a_checkpoint_of_other_weights(tmp_path):
    """As another version of transformers, with other names, would have written it."""
    tune(tiny_model(), tmp_path / "run", steps=2)
    path = tmp_path / "run" / "checkpoint-2" / "model.safetensors"
    kept = load_file(path)
    kept["model.tokens.weight"] = kept.pop("model.embed_tokens.weight")
    save_file(kept, path)
    (path.parent / "digests.json").unlink()
    with pytest.raises(
        ValueError,
        match=r"checkpoint-2 holds other weights than those to train, such as model\.embed",
    ):
        tune(tiny_model(), tmp_path / "run", steps=2)


@pytest.mark.parametrize("old", [False, True], ids=["", "of the version before"])
@pytest.mark.parametrize("name", ["optimizer.pt", "scheduler.pt", "trainer_state.json"])
def test_a_checkpoint_that_lacks_a_file(name, old, tmp_path):
    """transformers would go on with a new optimizer, and other weights come out."""
    tune(tiny_model(), tmp_path / "run", steps=2)
    last = tmp_path / "run" / "checkpoint-2"
    (last / name).unlink()
    if old:
        (last / "digests.json").unlink()
    with pytest.raises(ValueError, match=rf"checkpoint-2 is not as it was written \({name}\): rem"):
        tune(tiny_model(), tmp_path / "run", steps=2)


def test_a_checkpoint_with_one_bit_flipped(tmp_path):
    """With that folder removed, the same call goes on from the one before, to the same weights."""
    model = tiny_model()
    whole = tune(model, tmp_path / "run", steps=2), weights(model)
    last = tmp_path / "run" / "checkpoint-2"
    content = bytearray((last / "model.safetensors").read_bytes())
    content[-7] ^= 1
    (last / "model.safetensors").write_bytes(content)
    with pytest.raises(ValueError, match=r"is not as it was written \(model\.safetensors\)"):
        tune(tiny_model(), tmp_path / "run", steps=2)
    shutil.rmtree(last)
    again = tiny_model()
    assert_same((tune(again, tmp_path / "run", steps=2), weights(again)), whole)


def test_a_checkpoint_holds_what_is_trained(tmp_path):
    """Of a model with low-rank updates neither its frozen weights nor their moments."""
    docs = [Document("a", np.random.default_rng(0).integers(3, VOCABULARY, 600))]
    tune(tiny_model(), tmp_path / "run", docs=docs, steps=1, **LORA)
    kept = load_file(tmp_path / "run" / "checkpoint-1" / "model.safetensors")
    assert (
        len(kept) == 2 * 2 * 2 + 2 * 2 + 2
    )  # A and B of two projections, two norms a layer; last norm, embedding
    assert not any(name.endswith("base_layer.weight") or "mlp" in name for name in kept)


def test_a_folder_that_another_process_trains_in(tmp_path):
    """Nothing is written there, and once the other is done the call can be made again."""
    folder, model = tmp_path / "run", tiny_model()
    before = weights(model)
    words = r"another fine-tuning is writing to .*run: wait for it, or name another folder"
    with alone(folder, "fine-tuning"), pytest.raises(ValueError, match=words):
        tune(model, folder)
    assert not folder.exists() and list(tmp_path.iterdir()) == []
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())
    tune(model, folder, steps=1)
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
