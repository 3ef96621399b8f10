"""The public names: all there, found when asked for, and no slower than what they need."""

from __future__ import annotations

import ast
import importlib
import inspect
import pickle
import subprocess
import sys
import types
from pathlib import Path

import pytest

import longrope_lab as lab

# The public names of the release before, none of which may go without a warning first.
BEFORE = """
PLANS RECIPES BenchmarkTask Budget Document Evolution Extended FineTune Gradient LongRoPEModel Plan
Random Recipe Recover RopeScaling RopeSchedule RopeSpec Search SearchResult SearchSpace
WorkerProcesses accuracy_summary apply_scaling benchmark_summary benchmarks compose finetune
full_attention generate load_corpus load_model paired_comparison paired_scores paper passkey
passkey_prompt perplexity perplexity_summary plots progressive record register_method rope_scaling
rope_spec save_pretrained scaling_from_config scoring_cost search search_cost spec_from_config
token_losses training_cost widgets worker_cost
"""


def printed(code):
    """What a fresh Python prints, in words."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_every_name_resolves_and_is_listed():
    assert set(lab.__all__) == set(lab._public()) <= set(dir(lab))
    assert len(dir(lab)) == len(set(dir(lab)))
    for name in lab.__all__:
        found = getattr(lab, name)
        assert found is getattr(lab, name) and not isinstance(found, property)
        # A name that is a module is that module; any other is not hidden by one.
        assert isinstance(found, types.ModuleType) == (name in ("plots", "widgets"))


def test_the_list_for_type_checkers_is_the_same():
    stub = ast.parse(Path(lab.__file__).with_suffix(".pyi").read_text(encoding="utf-8"))
    (listed,) = [node.value for node in stub.body if isinstance(node, ast.Assign)]
    assert sorted(ast.literal_eval(listed)) == lab.__all__


def test_no_name_of_the_release_before_is_missing():
    assert set(BEFORE.split()) <= set(lab.__all__)
    assert {"FORMULAS", "METHODS", "PRESETS", "Formula", "Scaling"} <= set(lab.__all__)


def test_a_star_brings_them_all():
    names = {}
    exec("from longrope_lab import *", names)
    assert set(lab.__all__) <= set(names)


def test_importing_the_package_imports_nothing_slow():
    loaded = printed("import sys, longrope_lab; print(*sys.modules)")
    assert "longrope_lab" in loaded
    assert loaded.isdisjoint(
        {"torch", "transformers", "pandas", "numpy", "matplotlib", "papermill"}
    )


def test_a_name_brings_its_own_room_alone():
    loaded = printed("import sys, longrope_lab as lab; lab.rope_scaling; print(*sys.modules)")
    assert "longrope_lab.rope.methods" in loaded
    assert loaded.isdisjoint({"torch", "transformers", "longrope_lab.models"})


def test_names_that_are_not_there():
    with pytest.raises(AttributeError, match="'longrope_lab' has no attribute 'perplexitty'"):
        lab.perplexitty  # noqa: B018
    with pytest.raises(ImportError, match="cannot import name 'perplexitty'"):
        from longrope_lab import perplexitty  # noqa: F401


@pytest.mark.parametrize(("old", "new"), lab.MOVED.items())
def test_a_module_that_has_moved_is_named_by_its_new_name(old, new):
    with pytest.raises(ModuleNotFoundError, match=f"longrope_lab.{old} is now longrope_lab.{new}$"):
        importlib.import_module(f"longrope_lab.{old}")
    if old == "harness":  # an extra, which may not be installed
        pytest.importorskip("lm_eval")
    found = importlib.import_module(f"longrope_lab.{new}")
    if old in lab.__all__:  # now a public name alone, as lab.search
        assert not isinstance(getattr(lab, old), types.ModuleType)
    else:
        with pytest.warns(FutureWarning, match=f"longrope_lab.{old} is now longrope_lab.{new}"):
            assert getattr(lab, old) is found


def test_a_module_by_its_old_name_from_the_package():
    with pytest.warns(FutureWarning, match=r"bounds is now longrope_lab.rope.bounds"):
        from longrope_lab import bounds
    assert bounds.__name__ == "longrope_lab.rope.bounds"


def test_a_folder_that_an_update_left_behind_is_not_a_module(tmp_path, monkeypatch):
    """Git leaves folders with caches in them, and Python takes any folder for a package."""
    (tmp_path / "search" / "__pycache__").mkdir(parents=True)
    monkeypatch.setattr(lab, "__path__", [*lab.__path__, str(tmp_path)])
    with pytest.raises(ModuleNotFoundError, match=r"is now longrope_lab\.searches"):
        importlib.import_module("longrope_lab.search")


def test_what_it_makes_can_be_pickled():
    spec = lab.RopeSpec(8, 512, base=10_000.0)
    scaling = lab.rope_scaling(spec, "yarn", 4096)
    plan = lab.PLANS["lab"]
    functions = (lab.perplexity, lab.search, lab.Formula)
    for thing in (spec, scaling, lab.RopeSchedule.by_length([scaling]), plan, *functions):
        assert pickle.loads(pickle.dumps(thing)) == thing


# The functions themselves: at the door, what is no model would be refused first.
SEEDED = {
    "passkey": lambda tokenizer, **seed: own(lab.passkey)(None, tokenizer, [150], **seed),
    "passkey_prompt": lambda tokenizer, **seed: own(lab.passkey_prompt)(
        tokenizer, 150, 0.5, **seed
    ),
    "served_passkey": lambda tokenizer, **seed: own(lab.served_passkey)(
        {}, tokenizer, [150], **seed
    ),
    "search": lambda _, **seed: own(lab.search)(None, [], 512, "random", **seed),
    "finetune": lambda _, **seed: own(lab.finetune)(None, None, [], None, "x", **seed),
    "progressive": lambda _, **seed: own(lab.progressive)(None, None, "tiny", "x", **seed),
    "run_plans": lambda _, **seed: own(lab.run_plans)(None, None, {"a": "tiny"}, "x", **seed),
    "benchmarks": lambda _, **seed: own(lab.benchmarks)(None, None, **seed),
    "from_corpus": lambda tokenizer, **seed: lab.BenchmarkTask.from_corpus(
        "kjv", tokenizer, **seed
    ),
    "scoring_cost": lambda _, **seed: own(lab.scoring_cost)(None, [8], **seed),
    "training_cost": lambda _, **seed: own(lab.training_cost)(None, [8], **seed),
    "LongRoPEModel": lambda _, **seed: lab.LongRoPEModel(64, 2, 1, 128, **seed),
}


def own(public):
    return inspect.unwrap(public)


@pytest.mark.parametrize("door", SEEDED)
def test_a_seed_is_checked_at_every_door(door, tokenizer):
    for seed in (-1, 1.5, "x", None, 2**32):
        with pytest.raises(ValueError, match=f"^seed is '?{seed}'?: it must be "):
            SEEDED[door](tokenizer, seed=seed)
