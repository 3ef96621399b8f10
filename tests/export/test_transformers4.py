"""Folders as transformers 4.57 computes them, in a Python of its own: equal to 5, to the bit."""

import math
from dataclasses import replace

import numpy as np
import torch
from conftest import FAMILIES, VOCABULARY, WINDOW, tiny_model
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers4 import logits_by_version4, python_with_version4

from longrope_lab.export.folder import save_pretrained
from longrope_lab.models.loading import load_model
from longrope_lab.models.rotary import rope_spec
from longrope_lab.rope.methods import rope_scaling
from longrope_lab.rope.scaling import RopeScaling
from longrope_lab.rope.schedule import RopeSchedule

KINDS = ["none", "pi", "yarn", "dynamic_ntk", "longrope", "two sets"]
TEXT = "In the beginning 7 <|im_start|>"
# What its classes refuse, loudly.
REFUSED = {("phi3", "pi"), ("phi3", "two sets"), ("olmo2", "two sets")}


def scaling_of(kind, spec, m=1.2):
    target = 8 * spec.window
    long = RopeScaling(spec, np.linspace(1, 10, spec.rotary_dim // 2), target, attention_factor=m)
    if kind == "longrope":
        return long
    if kind == "two sets":
        short = replace(long, factors=(long.factors + 8) / 9, target_length=spec.window)
        return RopeSchedule.by_length([short, long])
    return rope_scaling(spec, kind, target)


def formula(spec):
    return math.sqrt(1 + math.log(8) / math.log(spec.window))


def assert_equal(folders, lengths, vocabulary, out):
    """Both versions' logits of random tokens, each length in turn; gives what is refused."""
    generator = torch.Generator().manual_seed(3)
    ids = [torch.randint(vocabulary, (n,), generator=generator).tolist() for n in lengths]
    theirs = logits_by_version4(folders, ids, TEXT, out)
    refused = set()
    for name, folder in folders.items():
        if isinstance(theirs[name], str):
            assert "`rope_scaling` must be a dictionary with" in theirs[name]
            refused.add(name)
            continue
        model = AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float32, attn_implementation="eager"
        ).eval()
        for tokens in ids:
            with torch.no_grad():
                ours = model(torch.tensor([tokens])).logits[0]
            assert torch.equal(theirs[name][len(tokens)], ours), (name, len(tokens))
        assert theirs[name]["tokens"] == AutoTokenizer.from_pretrained(folder)(TEXT).input_ids
    return refused


def test_the_lab_model(tmp_path):
    python_with_version4()
    model, tokenizer = load_model("lab", device="cpu")
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>"]})
    spec = rope_spec(model)
    folders = {
        kind: save_pretrained(model, tokenizer, scaling_of(kind, spec), tmp_path / kind)
        for kind in KINDS
    }
    assert not assert_equal(folders, (300, 512, 513, 1000), 4096, tmp_path / "logits")


def test_each_family(tmp_path, tokenizer):
    """Phi-3 and OLMo 2 are refused where transformers 4 cannot say what is computed."""
    python_with_version4()
    folders = {}
    for family in FAMILIES:
        model = tiny_model(family)
        spec = rope_spec(model)
        for kind in ("pi", "two sets"):
            folder = tmp_path / f"{family} {kind}"
            folders[family, kind] = save_pretrained(
                model, tokenizer, scaling_of(kind, spec), folder
            )
            card = (folder / "README.md").read_text()
            assert ("transformers 4 refuses it" in card) == ((family, kind) in REFUSED)
        if family == "phi3":  # right where m is the formula's
            scaling = scaling_of("two sets", spec, formula(spec))
            folders["formula"] = save_pretrained(model, tokenizer, scaling, tmp_path / "formula")
    named = {str(key): folder for key, folder in folders.items()}
    lengths = (WINDOW - 20, WINDOW, WINDOW + 1, 8 * WINDOW)
    refused = assert_equal(named, lengths, VOCABULARY, tmp_path / "logits")
    assert refused == {str(key) for key in REFUSED}
