"""A config, the live model and stock transformers agree about one rotary embedding.

The models are those whose configs said something else than their frequencies did: fields that one
class reads alone, factors below 1, windows that were not trained on.
"""

import copy
import math

import numpy as np
import pytest
import torch
from conftest import VOCABULARY, WINDOW, tiny_config, tiny_model
from transformers import AutoConfig, AutoModelForCausalLM

from longrope_lab.models.estimates import projected_widths
from longrope_lab.models.read_config import scaling_from_config, spec_from_config
from longrope_lab.models.rotary import apply_scaling, rope_spec
from longrope_lab.models.write_config import config_with_scaling
from longrope_lab.rope.methods import rope_scaling
from longrope_lab.rope.schedule import RopeSchedule

SIZE = {
    "hidden_size": 64, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "vocab_size": VOCABULARY, "max_position_embeddings": 4 * WINDOW,
    "rope_theta": 10_000.0, "initializer_range": 0.1, "pad_token_id": 0,
}  # fmt: skip
ORIGINAL = {"original_max_position_embeddings": WINDOW}
ONES, RISING = [1.0] * 8, [0.9978, 1.1, 1.5, 2.0, 3.0, 4.0, 4.5, 5.0]
LATENT = {  # attention of DeepSeek
    "num_key_value_heads": 4, "moe_intermediate_size": 16, "n_routed_experts": 2, "n_group": 1,
    "num_experts_per_tok": 1, "topk_group": 1, "first_k_dense_replace": 2, "kv_lora_rank": 8,
    "q_lora_rank": 8, "qk_nope_head_dim": 8, "qk_rope_head_dim": 16, "v_head_dim": 8,
}  # fmt: skip
HEADS, EXPERTS = {"head_dim": 16}, {"num_local_experts": 2, "num_experts_per_tok": 1}
ALPHA = {"type": "dynamic", "alpha": 1000.0, "factor": 1.0, "mscale": 1.0, "mscale_all_dim": 1.0}
SETS = {"type": "longrope", "short_factor": RISING, "long_factor": RISING} | ORIGINAL
YARN = {"type": "yarn", "factor": 4.0, "beta_fast": 8, "beta_slow": 1} | ORIGINAL
MSCALES = {"mscale": 1.0, "mscale_all_dim": 1.0}
TURNS = {"low_freq_factor": 1.0, "high_freq_factor": 4.0}

# Model type, fields, rope parameters; the attention factor and the window of short inputs.
MODELS = {
    "mscales": ("phimoe", EXPERTS, SETS | {"short_mscale": 1.24, "long_mscale": 1.24}, 1.24, 4),
    "two mscales": ("phimoe", EXPERTS, SETS | {"short_mscale": 1.0, "long_mscale": 1.2}, 1.0, 1),
    "alpha": ("hunyuan_v1_dense", HEADS, ALPHA, 1.0, 4),
    "one window": ("llama", {"max_position_embeddings": WINDOW}, SETS, 1.0, 1),
    "below 1": ("llama", {}, SETS, math.sqrt(1 + math.log(4) / math.log(WINDOW)), 4),
    "llama3": ("llama", {}, {"type": "llama3", "factor": 2.0} | TURNS | ORIGINAL, 1.0, 4),
    "linear": ("llama", {}, {"type": "linear", "factor": 4.0}, 1.0, 4),
    "mscale_all_dim": ("deepseek_v3", LATENT, YARN | MSCALES, 1.0, 4),
    "temperature": ("ministral3", HEADS, YARN | {"llama_4_scaling_beta": 0.1}, None, 4),
    "chunks": ("qwen2", {"dual_chunk_attention_config": ORIGINAL}, {}, 1.0, 1),
}
IDS = torch.randint(3, VOCABULARY, (1, 2 * WINDOW), generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module", params=MODELS)
def case(request):
    """(config, model, m, windows): as transformers makes it, and what is right of it."""
    model_type, fields, rope, m, windows = MODELS[request.param]
    rope = {"rope_parameters": None} if not rope else {"rope_scaling": copy.deepcopy(rope)}
    torch.manual_seed(0)
    config = AutoConfig.for_model(model_type, **SIZE | fields | rope)
    model = AutoModelForCausalLM.from_config(config).eval()
    return config, model, 0.1 * math.log(4) + 1 if m is None else m, windows * WINDOW


@torch.no_grad()
def logits(model, length=WINDOW):
    return model(input_ids=IDS[:, :length], use_cache=False).logits


def test_the_config_says_what_the_model_does(case):
    config, model, m, window = case
    live, read = rope_spec(model), scaling_from_config(config)
    short = read.at(1)
    assert live.window == window
    assert live.attention_factor == pytest.approx(m, rel=1e-6)
    assert short.attention_factor == pytest.approx(m, rel=1e-6)
    np.testing.assert_allclose(short.frequencies, live.frequencies, rtol=1e-6)
    stock = logits(model)
    for scaling in (read, rope_scaling(live, "none", live.window)):
        with apply_scaling(model, scaling):
            torch.testing.assert_close(logits(model), stock, atol=2e-5, rtol=0)


@pytest.mark.parametrize("method", ["none", "yarn"])
def test_what_is_written_is_what_stock_runs(case, method):
    """Extended further, in whatever type the class takes: the rest of attention stays as it is."""
    config, model, _, window = case
    scaling = rope_scaling(rope_spec(model), method, 2 * window)
    written = config_with_scaling(config, scaling)
    stock = AutoModelForCausalLM.from_config(written).eval()
    stock.load_state_dict(model.state_dict())
    with apply_scaling(model, scaling):
        ours = logits(model, 2 * WINDOW)
    torch.testing.assert_close(logits(stock, 2 * WINDOW), ours, atol=2e-5, rtol=0)
    assert rope_spec(stock).window == written.max_position_embeddings == 2 * window
    np.testing.assert_allclose(rope_spec(stock).frequencies, scaling.frequencies, rtol=1e-6)
    read = scaling_from_config(written)
    np.testing.assert_allclose(read.frequencies, scaling.frequencies, rtol=1e-6)


def test_two_sets_of_one_window_switch_beyond_it():
    """As stock has it where no longer input is stated; m is 1 then."""
    rope = SETS | {"type": "longrope", "rope_theta": 1e4, "short_factor": ONES}
    model = tiny_model(rope_parameters=rope, max_position_embeddings=WINDOW)
    read = scaling_from_config(model.config)
    assert isinstance(read, RopeSchedule)
    for length in (WINDOW, WINDOW + 1):
        stock = logits(model, length)
        with apply_scaling(model, read):
            torch.testing.assert_close(logits(model, length), stock, atol=2e-5, rtol=0)


def test_truncate_counts_where_transformers_looks_for_it():
    """Beside the layer types, and not among the parameters of one."""
    plain = tiny_config("gemma3").rope_parameters
    for inside in (True, False):
        full = plain["full_attention"] | YARN | {"rope_type": "yarn", "truncate": inside}
        model = tiny_model("gemma3", rope_parameters=plain | {"full_attention": full})
        np.testing.assert_allclose(
            scaling_from_config(model.config).frequencies, rope_spec(model).frequencies, rtol=1e-6
        )


@pytest.mark.parametrize("factor", [None, 4.0])
def test_of_proportional_pairs_those_that_turn(factor):
    """Gemma 4 turns the first pairs of each head, as if all of them turned, and not the rest."""
    full = {"rope_type": "proportional", "partial_rotary_factor": 0.25, "rope_theta": 1e6}
    full |= {} if factor is None else {"factor": factor}
    config = AutoConfig.for_model(
        "gemma4_text", **SIZE | HEADS, layer_types=["sliding_attention", "full_attention"],
        global_head_dim=64, vocab_size_per_layer_input=VOCABULARY, hidden_size_per_layer_input=8,
        rope_parameters={"sliding_attention": {"rope_type": "default"}, "full_attention": full},
    )  # fmt: skip
    model = AutoModelForCausalLM.from_config(config).eval()
    stock, read = model.model.rotary_emb.full_attention_inv_freq, scaling_from_config(config)
    assert (read.target_length, read.spec.rotary_dim) == (4 * WINDOW, 16)
    assert projected_widths(config) == (4 * 64, 2 * 64)  # which the memory is estimated from
    np.testing.assert_allclose(read.frequencies, stock[:8].numpy(), rtol=1e-6)
    assert (stock[8:] == 0).all() and len(stock) == 32
    live, before = rope_spec(model), logits(model)
    np.testing.assert_allclose(live.frequencies, read.frequencies, rtol=1e-6)
    assert live.window == read.target_length
    with apply_scaling(model, read):
        torch.testing.assert_close(logits(model), before, atol=2e-5, rtol=0)
    further = config_with_scaling(config, rope_scaling(read.as_spec(), "pi", 8 * WINDOW))
    again = AutoModelForCausalLM.from_config(further).model.rotary_emb.full_attention_inv_freq
    torch.testing.assert_close(again, stock / 2)
    assert scaling_from_config(further).target_length == 8 * WINDOW
    with pytest.raises(ValueError, match="proportional, slows all pairs by one factor"):
        config_with_scaling(config, rope_scaling(read.as_spec(), "yarn", 8 * WINDOW))


@pytest.mark.parametrize("stated", [WINDOW // 2, 8 * WINDOW])
def test_a_window_that_the_file_does_not_state(stated):
    """Qwen3's file says 40,960, and its card's YaRN is over 32,768: written as the card says."""
    model = tiny_model("qwen3")
    spec = rope_spec(model, window=stated)
    assert (spec.window, spec.base) == (stated, 10_000.0)
    scaling = rope_scaling(spec, "yarn", 4 * stated)
    written = config_with_scaling(model.config, scaling)
    assert written.rope_parameters["rope_type"] == "yarn"
    assert written.rope_parameters["original_max_position_embeddings"] == stated
    assert scaling_from_config(written) == scaling
    for wrong in (1, 2.5, "many"):
        with pytest.raises(ValueError, match=f"window is {wrong}: a window has at least 2 tokens"):
            rope_spec(model, window=wrong)


def test_names_of_a_class_of_its_own():
    """DBRX calls its width d_model and its window max_seq_len."""
    config = AutoConfig.for_model("dbrx", d_model=64, n_heads=4, max_seq_len=WINDOW)
    config.rope_parameters = {"rope_type": "default", "rope_theta": 5e5}
    spec = spec_from_config(config)
    assert (spec.rotary_dim, spec.window, spec.base) == (16, WINDOW, 5e5)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"max_position_embeddings": "512"}, "window is 512: a window has at least 2 tokens"),
        ({"max_position_embeddings": 512.5}, "window is 512.5: a window has at least 2 tokens"),
        ({"rope_theta": "10000.0"}, "base is 10000.0: it must be a finite number above 1"),
        ({"hidden_size": "64"}, "hidden_size is 64: it must be a whole number"),
        ({"num_attention_heads": 0}, "num_attention_heads is 0: it must be a whole number"),
        ({"partial_rotary_factor": "half"}, "llama config cannot be read: "),
        ({"dual_chunk_attention_config": 4096}, "llama config cannot be read: 'int' object"),
    ],
)
def test_values_of_another_kind_are_named(values, message):
    plain = {"model_type": "llama", "hidden_size": 64, "num_attention_heads": 2}
    plain |= {"max_position_embeddings": 512, "rope_theta": 10_000.0}
    with pytest.raises(ValueError, match=message):
        spec_from_config(plain | values)
    assert spec_from_config(plain | {"max_position_embeddings": 512.0}).window == 512
