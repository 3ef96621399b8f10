"""Machines that are too small for a profile."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from longrope_lab.runs import notebooks, run_one
from longrope_lab.runs.memory_check import _lengths, _of_plan, check_sources

FREE = "this machine has free"
CPU, GPU = "--profile cpu fits", "--profile gpu fits"
SMALLER = "name a smaller model or shorter lengths with -p"


@pytest.fixture
def profiles_of_sizes(own_notebooks):
    """`00_tiny` with profiles of 64 tokens, 100,000 and a million, for the lab model."""
    for profile, parameters in {
        "cpu": "seed: 1",
        "gpu": "lengths: [512, 100000]",
        "paper": "lengths: [1000000]",
    }.items():
        folder = notebooks.NOTEBOOKS / "profiles" / profile
        folder.mkdir(exist_ok=True)
        (folder / "00_tiny.yaml").write_text(parameters)
    return own_notebooks


def free(monkeypatch, gib):
    monkeypatch.setattr(
        "psutil.virtual_memory", lambda: SimpleNamespace(available=int(gib * 2**30))
    )
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)


@pytest.mark.parametrize(
    ("profile", "over", "gib", "way_out"),
    [  # Weights of 0.026 GiB in float32. Bytes per token: 4 × 2 (256 + 64) + 16 all along, and
        # 4 (2 × 256 + 3 × 1024) of an MLP; in pieces 4 (256 + 2 (256 + 128)) + 4 × 4 of attention.
        ("paper", {}, 2, f"and 6.23 GiB to score 1,000,000 tokens, and {FREE} 2 GiB: {GPU}"),
        ("paper", {}, 1, f"to score 1,000,000 tokens, and {FREE} 1 GiB: {CPU}"),
        ("gpu", {}, 1, f"and 1.58 GiB to score 100,000 tokens, and {FREE} 1 GiB: {CPU}"),
        ("gpu", {"lengths": [512, 200_000]}, 2, f"200,000 tokens, and .*: {SMALLER}"),
        ("cpu", {}, 0.02, f"for 6,950,144 weights in float32 .*: {SMALLER}"),
    ],
)
def test_a_profile_too_large_for_the_machine(
    profile, over, gib, way_out, profiles_of_sizes, no_kernel, monkeypatch
):
    free(monkeypatch, gib)
    too_large = f"'{profile}' of 00_tiny is too large for this machine: 'lab' takes at least"
    with pytest.raises(ValueError, match=f"{too_large} .*{way_out}"):
        run_one.run("00", profile, over, profiles_of_sizes)
    assert not profiles_of_sizes.exists() and no_kernel == []  # nothing was begun


def test_a_gpu_that_is_too_small(profiles_of_sizes, no_kernel, monkeypatch):
    """By the whole memory of the GPU, in bfloat16, before anything is loaded."""
    gpu = SimpleNamespace(total_memory=2**30)
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.get_device_properties", lambda device: gpu)
    words = r"'paper' of 00_tiny .* in bfloat16 and 3\.13 GiB .*, and the GPU has 1 GiB: " + GPU
    with pytest.raises(ValueError, match=words):
        run_one.run("00", "paper", None, profiles_of_sizes)
    assert no_kernel == []


def test_the_lengths_of_a_plan_count():
    """Those of its searches and trainings, whatever the lengths among the parameters."""
    parameters = {"model_name": "lab", "lengths": [512]}
    longest = {
        name: max([*_lengths(parameters), *_of_plan(name)])
        for name in ("lab", "scale", "smollm2_2048k", "paper_mistral", "no plan", None)
    }
    assert longest == {
        "lab": 16_384,
        "scale": 262_144,
        "smollm2_2048k": 262_144,  # the rest is a formula, which reads nothing
        "paper_mistral": 2_097_152,
        "no plan": 512,
        None: 512,
    }
    # Those of the extended model in 00 say nothing about model_name.
    assert _lengths(parameters | {"extended_lengths": [16_384]}) == [512]


def test_a_profile_that_fits(profiles_of_sizes, no_kernel, monkeypatch):
    free(monkeypatch, 18)
    run_one.run("00", "paper", None, profiles_of_sizes)
    free(monkeypatch, 0.001)
    run_one.run("01", "cpu", None, profiles_of_sizes)  # it has no model
    # Not downloaded: load_model will tell.
    run_one.run("00", "cpu", {"model_name": "someone/elses"}, profiles_of_sizes)
    assert no_kernel == ["00_tiny", "01_small", "00_tiny"]


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"corpus": "nope"}, "unknown corpus 'nope'"),
        ({"search_corpora": ["kjv", "/none.txt"]}, "no corpus at /none.txt"),
        ({"books": "kvj"}, "unknown corpus 'kvj': did you mean 'kjv'"),
        ({"extended": "/none"}, "no model folder at /none"),
        ({"found": ["/none.json"]}, "found: no scaling at /none.json"),
    ],
)
def test_sources_that_are_not_there(parameters, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        check_sources(SimpleNamespace(parameters=parameters))
    check_sources(SimpleNamespace(parameters={"extended": "", "found": [], "corpus": "kjv"}))


def test_they_are_looked_for_before_a_notebook_begins(no_kernel, tmp_path):
    with pytest.raises(ValueError, match="unknown corpus 'nope'"):
        run_one.run("00", "smoke", {"corpus": "nope"}, tmp_path / "results")
    assert no_kernel == [] and not (tmp_path / "results").exists()


def test_a_model_that_is_not_there(profiles_of_sizes, no_kernel):
    with pytest.raises(ValueError, match="unknown model 'lap': did you mean 'lab'"):
        run_one.run("00", "cpu", {"model_name": "lap"}, profiles_of_sizes)
    assert no_kernel == []
