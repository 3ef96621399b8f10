"""llama.cpp itself: what it computes from our files, against the model with the scaling here.

Compared are the log-probabilities of all tokens after a prompt. A wrong scaling is further away by
hundreds: an unscaled file is off by 11 nats at 3,000 tokens.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import tiny_model
from gguf_files import write_gguf

import longrope_lab as lab

pytest.importorskip("xllamacpp", reason="llama.cpp comes with the extra serving")

from llama_cpp_engine import log_probs, quantized

# Of float32 weights, keys and values; of 8 bits, what their rounding costs.
NEAR, OF_8_BITS = 5e-3, 1.0
WINDOW, TARGET = 512, 4096
LENGTHS = (300, 600, 3000)


@pytest.fixture(scope="module")
def model():
    """The lab model and its tokenizer, in float32."""
    return lab.load_model("lab", device="cpu", dtype=torch.float32)


@pytest.fixture(scope="module")
def prompts(model):
    """The beginnings of a text, by length."""
    (doc,) = lab.load_corpus("kjv", model[1], min_tokens=max(LENGTHS), limit=1)
    return {length: doc.ids[:length].tolist() for length in LENGTHS}


@pytest.fixture(scope="module")
def one_set(model):
    """m is not the formula's, which is 1.1547 here."""
    spec = lab.rope_spec(model[0])
    return lab.RopeScaling(spec, np.linspace(1, 10, 32), TARGET, attention_factor=1.2)


@pytest.fixture(scope="module")
def two_sets(one_set):
    """Others for the window, with the same m."""
    short = replace(one_set, factors=np.linspace(1, 2, 32), target_length=WINDOW)
    return lab.RopeSchedule.by_length([short, one_set])


@torch.no_grad()
def ours(model, scaling, prompt):
    """The same from the model here."""
    with lab.apply_scaling(model[0], scaling):
        return model[0](torch.tensor([prompt])).logits[0, -1].log_softmax(-1).numpy()


def furthest(found, model, scaling, prompts):
    """The largest difference over prompts and tokens."""
    here = [ours(model, scaling, prompt) for prompt in prompts]
    return max(np.abs(a - b).max() for a, b in zip(found, here, strict=True))


def test_one_set_is_computed_as_here_at_every_length(model, one_set, prompts, tmp_path):
    path = lab.save_gguf(*model, one_set, tmp_path / "one.gguf")
    found = log_probs(path, prompts.values(), TARGET)
    assert furthest(found, model, one_set, prompts.values()) < NEAR
    (found,) = log_probs(path, [prompts[300]], WINDOW)
    assert furthest([found], model, one_set, [prompts[300]]) < NEAR


def test_of_two_sets_the_context_chooses(model, one_set, two_sets, prompts, tmp_path):
    """A long context takes the long set for short prompts, too; one of the window does not."""
    path = lab.save_gguf(*model, two_sets, tmp_path / "two.gguf")
    found = log_probs(path, prompts.values(), TARGET)
    assert furthest(found, model, one_set, prompts.values()) < NEAR
    found = log_probs(path, [prompts[300]], WINDOW)
    assert furthest(found, model, two_sets, [prompts[300]]) < NEAR
    assert furthest(found, model, one_set, [prompts[300]]) > 100 * NEAR


def test_a_file_without_factors_is_far_away(model, one_set, prompts, tmp_path):
    none = lab.rope_scaling(one_set.spec, "none", TARGET)  # a server takes no more than it states
    path = lab.save_gguf(*model, none, tmp_path / "none.gguf")
    found = log_probs(path, [prompts[600]], TARGET)
    assert furthest(found, model, none, [prompts[600]]) < NEAR
    assert furthest(found, model, one_set, [prompts[600]]) > 100 * NEAR


def test_a_patch_is_as_good_before_or_after_quantising(model, one_set, prompts, tmp_path):
    none = lab.rope_scaling(one_set.spec, "none", WINDOW)
    bare = lab.save_gguf(*model, none, tmp_path / "bare.gguf")
    patched = lab.add_scaling_to_gguf(bare, one_set, tmp_path / "patched.gguf")
    written = lab.save_gguf(*model, one_set, tmp_path / "written.gguf")
    before = quantized(patched, tmp_path / "before.gguf")
    bare_8 = quantized(bare, tmp_path / "bare-8.gguf")
    after = lab.add_scaling_to_gguf(bare_8, one_set, tmp_path / "after.gguf")
    given = [prompts[600]]
    found = {
        path.stem: log_probs(path, given, TARGET) for path in (patched, written, before, after)
    }
    assert (found["patched"] == found["written"]).all()
    assert (found["before"] == found["after"]).all()
    assert NEAR < furthest(found["after"], model, one_set, given) < OF_8_BITS


# --- other kinds of models, small and random ---

SMALL, LONG = 64, 256  # window and target


def random_model(family, words):
    """With biases that are not zero, where it has some."""
    torch.manual_seed(1)
    model = tiny_model(family, vocab_size=words, max_position_embeddings=SMALL)
    for name, weight in model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(weight)
    return model, None


def of_factors(model, highest, length=LONG):
    spec = lab.rope_spec(model[0])
    factors = np.linspace(1, highest, spec.rotary_dim // 2)
    return lab.RopeScaling(spec, factors, length, attention_factor=1.2)


def check_like(path, model, scaling, prompt, context=LONG):
    """llama.cpp computes this scaling, and no scaling is far from that."""
    (found,) = log_probs(path, [prompt], context)
    assert furthest([found], model, scaling, [prompt]) < NEAR
    none = lab.rope_scaling(scaling.spec, "none", LONG)
    assert furthest([found], model, none, [prompt]) > 10 * NEAR


def test_a_qwen2_written_as_a_llama(tokenizer, tmp_path):
    """Biases are kept, and turn with their queries and keys."""
    model = random_model("qwen2", len(tokenizer))
    scaling = of_factors(model, 7.3)
    path = lab.save_gguf(model[0], tokenizer, scaling, tmp_path / "a.gguf")
    for length in (40, 250):
        check_like(path, model, scaling, list(range(5, 5 + length)))


def test_a_phi3_with_two_sets(tokenizer, tmp_path):
    model = random_model("phi3", len(tokenizer))
    long, short = of_factors(model, 7.3), of_factors(model, 2, SMALL)
    sets = lab.RopeSchedule.by_length([short, long])
    path = lab.save_gguf(model[0], tokenizer, sets, tmp_path / "a.gguf")
    check_like(path, model, long, list(range(5, 255)))
    check_like(path, model, long, list(range(5, 45)))  # a long context takes the long set


@pytest.mark.parametrize(("method", "m"), [("pi", 1.0), ("yarn", None), ("yarn", 1.3)])
def test_formulas_by_keys_where_a_graph_takes_no_factors(method, m, tmp_path):
    """A searched m is written as what llama.cpp has to multiply its own by."""
    model = random_model("qwen2", 261)
    plain = tmp_path / "plain.gguf"
    write_gguf(plain, model[0], split="gpt-2", architecture="qwen2")
    scaling = lab.rope_scaling(lab.rope_spec(model[0]), method, LONG)
    scaling = scaling if m is None else replace(scaling, attention_factor=m)
    path = lab.add_scaling_to_gguf(plain, scaling, tmp_path / "a.gguf")
    for length in (40, 250):
        check_like(path, model, scaling, [3 + i % 250 for i in range(length)])
