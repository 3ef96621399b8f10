"""Scalings on live models.

They are compared with transformers' own scaled models, a loop in numpy, and longer arithmetic.
"""

import copy
import math

import numpy as np
import pytest
import torch
import transformers
from conftest import FAMILIES, VOCABULARY, WINDOW, tiny_config, tiny_model
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from longrope_lab.models.find_rotary import answer_of, find_rotary
from longrope_lab.models.read_config import scaling_from_config
from longrope_lab.models.rotary import apply_scaling, rope_spec, scaled
from longrope_lab.rope.methods import rope_scaling
from longrope_lab.rope.scaling import RopeScaling, compose
from longrope_lab.rope.schedule import RopeSchedule
from longrope_lab.rope.spec import RopeSpec

IDS = torch.randint(3, VOCABULARY, (1, 4 * WINDOW), generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def logits(model, ids=None, **arguments):
    return model(IDS[:, :40] if ids is None else ids, **arguments).logits


def cos_sin(model, positions, dtype=torch.float32):
    """What the (one) rotary module of a model answers for positions (T,): two of (T, d)."""
    module = next(m for m in model.modules() if hasattr(m, "inv_freq"))
    cos, sin = module(torch.zeros(1, 1, dtype=dtype), torch.as_tensor(positions)[None])
    return cos[0], sin[0]


def with_rope(family, rope, **fields):
    """A tiny model as transformers builds it from a config, of Gemma 3 for each layer type."""
    plain = tiny_config(family).rope_parameters
    if (
        family == "phi3" and rope["rope_type"] != "longrope"
    ):  # its config takes factors alone: those of such a Llama
        theta, module = (
            tiny_model().model.rotary_emb.inv_freq,
            with_rope("llama", rope).model.rotary_emb,
        )
        factors = (theta / module.inv_freq).tolist()
        rope = {"rope_type": "longrope", "short_factor": factors, "long_factor": factors}
        rope |= {
            "attention_factor": module.attention_scaling,
            "original_max_position_embeddings": WINDOW,
        }
    if "full_attention" in plain:
        fields["rope_parameters"] = plain | {"full_attention": plain["full_attention"] | rope}
    else:
        fields["rope_parameters"] = plain | rope
    return tiny_model(family, **fields)


LINEAR = {"rope_type": "linear", "factor": 4.0}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": WINDOW}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": WINDOW,
}
DYNAMIC = {"rope_type": "dynamic", "factor": 2.0}
LONGROPE = {
    "rope_type": "longrope",
    "short_factor": [1.0, 1.0, 1.05, 1.1, 1.2, 1.3, 1.4, 1.5],
    "long_factor": [1.0, 1.1, 1.5, 2.0, 3.0, 4.0, 4.5, 5.0],
    "original_max_position_embeddings": WINDOW,
}
CARRIED = {  # rope parameters, and what the config then says of the longest input
    "linear": (LINEAR, 4 * WINDOW),  # stated for after the scaling, as in Gemma 3
    "yarn": (YARN, 4 * WINDOW),
    "llama3": (LLAMA3, 8 * WINDOW),
    "dynamic": (DYNAMIC, WINDOW),
    "longrope": (LONGROPE, 4 * WINDOW),
}


def carrying(kind):
    rope, longest = CARRIED[kind]
    return with_rope("llama", rope, max_position_embeddings=longest)


# --- reading ---


def test_the_spec_of_each_family(family):
    _, _, rotary_dim, base = FAMILIES[family]
    expected = RopeSpec(rotary_dim=rotary_dim, base=base, window=WINDOW)
    model = tiny_model(family)
    assert rope_spec(model) == expected
    with apply_scaling(model, rope_scaling(expected, "pi", 2 * WINDOW)):
        assert rope_spec(model) == expected  # a scaling in place is no part of it


@settings(deadline=None, max_examples=20)
@given(
    rotary_dim=st.integers(1, 80).map(lambda n: 2 * n),
    base=st.floats(100, 1e9),
    window=st.integers(2, 1 << 20),
)
def test_the_spec_keeps_the_base_whatever_it_is(rotary_dim, base, window):
    """The model's frequencies are float32; they must be known again for the base's."""
    config = transformers.LlamaConfig(
        vocab_size=3,
        hidden_size=2,
        intermediate_size=1,
        num_hidden_layers=0,
        num_attention_heads=1,
        head_dim=rotary_dim,
        max_position_embeddings=window,
        rope_parameters={"rope_type": "default", "rope_theta": base},
    )
    model = transformers.LlamaForCausalLM(config)
    assert rope_spec(model) == RopeSpec(rotary_dim=rotary_dim, base=base, window=window)


@pytest.mark.parametrize("kind", CARRIED)
def test_a_scaling_in_the_config_is_part_of_the_spec(kind):
    model = carrying(kind)
    module = model.model.rotary_emb
    spec = rope_spec(model)
    np.testing.assert_allclose(spec.frequencies, module.inv_freq.numpy(), rtol=1e-6)
    assert spec.attention_factor == pytest.approx(module.attention_scaling, rel=1e-6)
    # The window that these frequencies reach; those that depend on the length are read as for a
    # short input.
    reached = {"linear": 4, "yarn": 4, "llama3": 8, "dynamic": 1, "longrope": 1}[kind] * WINDOW
    assert spec.window == reached
    assert (spec.base is None) == (
        kind != "dynamic"
    )  # inside its window Dynamic NTK is no scaling at all


def test_a_long_input_before_does_not_change_what_is_read():
    for kind in ("dynamic", "longrope"):
        model = carrying(kind)
        before = rope_spec(model)
        logits(model, IDS)  # leaves the frequencies of 256 tokens in the buffer
        assert not np.allclose(
            model.model.rotary_emb.inv_freq.numpy(), before.frequencies, rtol=1e-3
        )
        assert rope_spec(model) == before


@pytest.mark.parametrize("kind", ["dynamic", "longrope"])
def test_reading_and_scaling_leave_a_stateful_module_as_it_is(kind):
    model = carrying(kind)
    spec = rope_spec(model)
    logits(model, IDS)
    module = model.model.rotary_emb
    frequencies, longest = module.inv_freq.clone(), module.max_seq_len_cached
    with apply_scaling(model, rope_scaling(spec, "ntk", 128)):
        logits(model)
    assert torch.equal(module.inv_freq, frequencies)
    assert module.max_seq_len_cached == longest


def test_frequencies_set_by_hand_are_believed():
    model = tiny_model()
    model.model.rotary_emb.inv_freq *= 0.5
    spec = rope_spec(model)
    assert spec.base is None
    np.testing.assert_array_equal(
        spec.frequencies, model.model.rotary_emb.inv_freq.double().numpy()
    )
    stock = logits(model)
    with apply_scaling(model, rope_scaling(spec, "none", WINDOW)):
        torch.testing.assert_close(logits(model), stock, atol=2e-5, rtol=0)
    # Half the frequencies is PI by 2, and scalings of the untouched config fit as well: they
    # replace it all.
    with apply_scaling(model, rope_scaling(rope_spec(tiny_model()), "pi", 2 * WINDOW)):
        torch.testing.assert_close(logits(model), stock, atol=2e-5, rtol=0)


class Homemade(nn.Module):
    """A rotary module of no known class, that cannot be made from a config."""

    def __init__(self, theta, spread):
        super().__init__()
        self.register_buffer("inv_freq", theta)
        self.spread = spread

    def forward(self, x, position_ids):
        angles = self.spread(position_ids[..., None] * self.inv_freq)
        return angles.cos().to(x.dtype), angles.sin().to(x.dtype)


def test_a_module_is_known_by_what_it_does():
    theta = 1 / torch.arange(1.0, 9.0)
    model = tiny_model()
    model.model.rotary_emb = Homemade(theta, lambda a: torch.cat((a, a), -1))
    spec = rope_spec(model)
    assert spec.base_frequencies == tuple(theta.double().tolist())
    with apply_scaling(model, rope_scaling(spec, "pi", 2 * WINDOW)):
        cos, _ = cos_sin(model, [3])
    torch.testing.assert_close(cos[0, :8], (3 * theta / 2).cos())


def test_a_layout_that_is_not_known_is_refused():
    model = tiny_model()
    model.model.rotary_emb = Homemade(1 / torch.arange(1.0, 9.0), lambda a: torch.cat((a, -a), -1))
    with pytest.raises(
        ValueError, match=r"rotary_emb' \(Homemade\) lays out cos and sin of shape \(1, 8, 16\)"
    ):
        rope_spec(model)


# --- scaling ---


def test_none_gives_the_stock_logits(family):
    model = tiny_model(family)
    stock = logits(model)
    spec = rope_spec(model)
    with apply_scaling(model, rope_scaling(spec, "none", 4 * WINDOW)):
        ours = logits(model)
    # The model's angles are rounded to float32, ours are not: that is the difference.
    assert (ours - stock).abs().max() <= 1e-6 * max(1, stock.abs().max())
    with apply_scaling(model, rope_scaling(spec, "pi", 2 * WINDOW)):
        assert (
            logits(model) - stock
        ).abs().max() > 1e-3 * stock.abs().max()  # positions do matter to this model


@pytest.mark.parametrize("kind", CARRIED)
def test_none_on_a_model_whose_config_carries_a_scaling(kind):
    model = carrying(kind)
    stock = logits(model)
    with apply_scaling(model, rope_scaling(rope_spec(model), "none", 16 * WINDOW)):
        assert (logits(model) - stock).abs().max() <= 1e-6 * max(1, stock.abs().max())


@pytest.mark.parametrize(("method", "rope"), [("pi", LINEAR), ("yarn", YARN)])
def test_our_scaling_is_the_one_transformers_builds(family, method, rope):
    """The same weights twice: scaled by us, and built by transformers from a scaled config."""
    theirs = with_rope(family, rope, max_position_embeddings=4 * WINDOW)
    model = tiny_model(family)
    assert torch.equal(model.get_input_embeddings().weight, theirs.get_input_embeddings().weight)
    plain, expected = logits(model, IDS), logits(theirs, IDS)
    with apply_scaling(model, rope_scaling(rope_spec(model), method, 4 * WINDOW)):
        ours = logits(model, IDS)
    scale = plain.abs().max()
    torch.testing.assert_close(ours / scale, expected / scale, atol=2e-5, rtol=0)
    assert ((plain - expected) / scale).abs().max() > 0.01


@pytest.mark.parametrize("kind", ["linear", "yarn", "dynamic", "longrope"])
@pytest.mark.parametrize("length", [WINDOW - 1, WINDOW, WINDOW + 1, 2 * WINDOW])
def test_a_scaling_read_from_a_config_acts_like_it(kind, length):
    """On both sides of the window, where "dynamic" and "longrope" change."""
    theirs, model = carrying(kind), tiny_model()
    expected = logits(theirs, IDS[:, :length])
    with apply_scaling(model, scaling_from_config(theirs.config)):
        torch.testing.assert_close(logits(model, IDS[:, :length]), expected, atol=5e-5, rtol=0)
    # On the scaled model itself it replaces what the config does, and does not add up.
    with apply_scaling(theirs, scaling_from_config(theirs.config)):
        torch.testing.assert_close(logits(theirs, IDS[:, :length]), expected, atol=5e-5, rtol=0)


def test_a_phi3_with_longrope_factors():
    theirs = with_rope(
        "phi3",
        LONGROPE,
        max_position_embeddings=4 * WINDOW,
        original_max_position_embeddings=WINDOW,
    )
    model = tiny_model("phi3")
    with apply_scaling(model, scaling_from_config(theirs.config)):
        for length in (WINDOW, WINDOW + 1):
            ids = IDS[:, :length]
            torch.testing.assert_close(logits(model, ids), logits(theirs, ids), atol=5e-5, rtol=0)


def test_extending_a_model_that_was_extended_before():
    """PI by 4 in the config and by 2 on top is PI by 8, and `compose` says so in one scaling."""
    once = carrying("linear")
    again = rope_scaling(rope_spec(once), "pi", 8 * WINDOW)
    with apply_scaling(once, again):
        ours = logits(once, IDS)
    expected = logits(with_rope("llama", LINEAR | {"factor": 8.0}), IDS)
    torch.testing.assert_close(ours, expected, atol=5e-5, rtol=0)
    plain = tiny_model()
    first = rope_scaling(rope_spec(plain), "pi", 4 * WINDOW)
    with apply_scaling(plain, compose(first, again)):
        torch.testing.assert_close(logits(plain, IDS), expected, atol=5e-5, rtol=0)


def test_gemma3_local_layers_are_left_alone():
    model = tiny_model("gemma3")
    module = model.get_decoder().rotary_emb
    x, positions = torch.zeros(1, 1), torch.arange(100)[None]
    local, full = (
        module(x, positions, layer_type=kind) for kind in ("sliding_attention", "full_attention")
    )
    with apply_scaling(model, rope_scaling(rope_spec(model), "pi", 2 * WINDOW)):
        for ours, stock in zip(
            module(x, positions, layer_type="sliding_attention"), local, strict=True
        ):
            assert torch.equal(ours, stock)
        cos, sin = module(x, positions, layer_type="full_attention")
    torch.testing.assert_close(cos[0, ::2], full[0][0, :50])  # position 2n at half the speed
    torch.testing.assert_close(sin[0, ::2], full[1][0, :50])


def reference_logits(model, ids, angles, m):
    """A Llama's logits (T, V) in float64, by head and by position; angles (T, d/2)."""
    weights = {name: w.double().numpy() for name, w in model.state_dict().items()}
    config, count = model.config, len(ids)
    heads, kv_heads = config.num_attention_heads, config.num_key_value_heads
    turn = m * np.exp(1j * angles)

    def norm(x, name):
        return x / np.sqrt((x * x).mean(-1, keepdims=True) + config.rms_norm_eps) * weights[name]

    def rotated(x, n):  # dimension i and i + d/2 are the parts of one complex number
        return (x[: len(x) // 2] + 1j * x[len(x) // 2 :]) * turn[n]

    x = weights["model.embed_tokens.weight"][ids]
    for layer in range(config.num_hidden_layers):
        prefix = f"model.layers.{layer}."
        h = norm(x, prefix + "input_layernorm.weight")
        q, k, v = (
            (h @ weights[f"{prefix}self_attn.{part}_proj.weight"].T).reshape(count, n, -1)
            for part, n in (("q", heads), ("k", kv_heads), ("v", kv_heads))
        )
        out = np.zeros_like(q)
        for head in range(heads):
            shared = head // (heads // kv_heads)
            for t in range(count):
                scores = np.array(
                    [
                        (rotated(q[t, head], t) @ rotated(k[u, shared], u).conj()).real
                        for u in range(t + 1)
                    ]
                )
                p = np.exp(scores / math.sqrt(q.shape[-1]))
                out[t, head] = (p / p.sum()) @ v[: t + 1, shared]
        x = x + out.reshape(count, -1) @ weights[prefix + "self_attn.o_proj.weight"].T
        h = norm(x, prefix + "post_attention_layernorm.weight")
        gate, up = (h @ weights[f"{prefix}mlp.{part}_proj.weight"].T for part in ("gate", "up"))
        x = x + (gate / (1 + np.exp(-gate)) * up) @ weights[prefix + "mlp.down_proj.weight"].T
    return norm(x, "model.norm.weight") @ weights["lm_head.weight"].T


@pytest.mark.parametrize("start_tokens", [0, 5, 100])
def test_start_tokens_in_every_attention_score(start_tokens):
    """LongRoPE's Eq. 3 position by position, keys and queries alike, written out as a loop."""
    model = tiny_model()
    factors, m = np.linspace(1.5, 6, 8), 1.2
    theta = 10_000.0 ** -(np.arange(8) / 8)
    angles = np.array([n * theta / (factors if n >= start_tokens else 1) for n in range(24)])
    expected = reference_logits(model, IDS[0, :24].numpy(), angles, m)
    scaling = RopeScaling(
        rope_spec(model), factors, 6 * WINDOW, start_tokens=start_tokens, attention_factor=m
    )
    with apply_scaling(model, scaling):
        ours = logits(model, IDS[:, :24])[0]
    np.testing.assert_allclose(ours.numpy(), expected, atol=2e-5)


@settings(deadline=None, max_examples=30)
@given(
    factors=st.lists(st.floats(1, 100), min_size=8, max_size=8),
    start_tokens=st.integers(0, 20),
    m=st.floats(0.5, 2),
    positions=st.lists(st.integers(0, 1 << 21), min_size=1, max_size=20),
    layout=st.sampled_from(["llama", "cohere", "gpt_oss"]),
)
def test_cos_and_sin_of_any_scaling(factors, start_tokens, m, positions, layout):
    """In numpy's longest float, from the formula alone: to a rounding of float32 everywhere."""
    model = _layout_model(layout)
    base = FAMILIES[layout][3]
    wide = np.longdouble
    theta = wide(base) ** -(np.arange(8, dtype=wide) / 8)
    angles = np.array(
        [n * (theta if n < start_tokens else theta / np.array(factors, wide)) for n in positions]
    )
    spread = {
        "llama": lambda a: np.hstack((a, a)),
        "cohere": lambda a: np.repeat(a, 2, -1),
        "gpt_oss": lambda a: a,
    }
    angles = spread[layout](angles)
    scaling = RopeScaling(
        rope_spec(model), np.array(factors), 1 << 21, start_tokens=start_tokens, attention_factor=m
    )
    with apply_scaling(model, scaling):
        cos, sin = cos_sin(model, positions)
    np.testing.assert_allclose(cos.numpy(), m * np.cos(angles), atol=2e-7)
    np.testing.assert_allclose(sin.numpy(), m * np.sin(angles), atol=2e-7)


_MODELS = {}


def _layout_model(layout):
    if layout not in _MODELS:
        _MODELS[layout] = tiny_model(layout)
    return _MODELS[layout]


def test_angles_near_two_million_are_not_rounded():
    model = tiny_model()
    positions = np.arange(2_000_000, 2_000_064)
    theta = np.longdouble(10_000) ** -(np.arange(8, dtype=np.longdouble) / 8)
    angles = positions[:, None] * theta / np.longdouble(1.7)
    scaling = RopeScaling(rope_spec(model), np.full(8, 1.7), 1 << 21)
    with apply_scaling(model, scaling):
        cos, sin = cos_sin(model, positions)
    for ours, function in ((cos, np.cos), (sin, np.sin)):
        np.testing.assert_allclose(ours[:, :8].numpy(), function(angles), atol=1e-7)
    # transformers' own PI, in float32, is off by what can be seen.
    stock, _ = cos_sin(with_rope("llama", {"rope_type": "linear", "factor": 1.7}), positions)
    assert np.abs(stock[:, :8].numpy() - np.cos(angles)).max() > 0.03


# --- installing and restoring ---


def test_with_and_without_a_block():
    model = tiny_model()
    stock = logits(model)
    pi = rope_scaling(rope_spec(model), "pi", 2 * WINDOW)
    with apply_scaling(model, pi):
        inside = logits(model)
    assert torch.equal(logits(model), stock)
    assert not torch.equal(inside, stock)

    handle = apply_scaling(model, pi)
    assert torch.equal(logits(model), inside)
    handle.restore()
    assert torch.equal(logits(model), stock)
    handle.restore()  # a second time changes nothing
    assert torch.equal(logits(model), stock)

    with pytest.raises(KeyError), apply_scaling(model, pi):
        raise KeyError
    assert torch.equal(logits(model), stock)

    with scaled(model, None):
        assert torch.equal(logits(model), stock)
    with scaled(model, pi):
        assert torch.equal(logits(model), inside)


def test_restoring_is_exact(family):
    model = tiny_model(family)
    module = find_rotary(model)[0].module
    attributes, config = dict(vars(module)), model.config.to_dict()
    state = {name: t.clone() for name, t in [*model.named_parameters(), *model.named_buffers()]}
    with apply_scaling(model, rope_scaling(rope_spec(model), "yarn", 4 * WINDOW)):
        logits(model)
    assert vars(module) == attributes
    assert model.config.to_dict() == config
    for name, t in [*model.named_parameters(), *model.named_buffers()]:
        assert torch.equal(t, state[name]), name


def test_a_forward_that_somebody_else_put_there_comes_back():
    model = tiny_model()
    module = model.model.rotary_emb
    own = module.forward
    module.forward = lambda x, position_ids: own(x, position_ids)
    hooked = module.forward
    with apply_scaling(model, rope_scaling(rope_spec(model), "pi", 2 * WINDOW)):
        assert module.forward is not hooked
    assert module.forward is hooked


def test_nested_scalings_replace_each_other():
    model = tiny_model()
    spec = rope_spec(model)
    pi, ntk = (rope_scaling(spec, method, 4 * WINDOW) for method in ("pi", "ntk"))
    stock = logits(model)
    with apply_scaling(model, ntk):
        alone = logits(model)
    with apply_scaling(model, pi):
        outer = logits(model)
        with apply_scaling(model, ntk):
            assert torch.equal(logits(model), alone)
        assert torch.equal(logits(model), outer)
    assert torch.equal(logits(model), stock)


def test_restoring_out_of_order_is_refused():
    model = tiny_model()
    spec = rope_spec(model)
    stock = logits(model)
    first = apply_scaling(model, rope_scaling(spec, "pi", 4 * WINDOW))
    second = apply_scaling(model, rope_scaling(spec, "ntk", 4 * WINDOW))
    with pytest.raises(RuntimeError, match="another scaling was applied after this one"):
        first.restore()
    second.restore()
    first.restore()
    assert torch.equal(logits(model), stock)


# --- data types ---


def test_a_cast_that_rounds_the_frequencies_is_seen_through(family):
    """`model.to(bfloat16)` rounds inv_freq, and loading in bfloat16 does not; ours never does."""
    cast = tiny_model(family).to(torch.bfloat16)
    loaded = tiny_model(family)
    for weight in loaded.parameters():
        weight.data = weight.data.to(torch.bfloat16)
    spec = rope_spec(cast)
    assert spec == rope_spec(tiny_model(family))
    with apply_scaling(cast, rope_scaling(spec, "none", WINDOW)):
        ours = logits(cast).float()
    expected = logits(loaded).float()
    assert ours.dtype == torch.float32
    assert (
        ours - expected
    ).abs().max() <= 0.03 * expected.abs().max()  # a few roundings of bfloat16


def test_rounded_frequencies_matter_far_out():
    """Which the test above could not tell: near position 1000 the stock cast is far off."""
    cast = tiny_model().to(torch.bfloat16)
    expected, _ = cos_sin(tiny_model(), [1000])
    stock, _ = cos_sin(cast, [1000])
    with apply_scaling(cast, rope_scaling(rope_spec(cast), "none", WINDOW)):
        ours, _ = cos_sin(cast, [1000], torch.bfloat16)
    assert ours.dtype == torch.bfloat16
    assert torch.equal(ours, expected.to(torch.bfloat16))
    assert (stock.float() - expected).abs().max() > 0.1


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_there_and_back(dtype):
    model = tiny_model().to(dtype).float()  # rounded values in a float32 buffer
    assert rope_spec(model).base == 10_000.0


def test_the_data_type_of_cos_and_sin_is_the_models_own():
    for family, expected in (
        ("llama", torch.bfloat16),
        ("olmo2", torch.float32),
    ):  # OLMo 2 rotates in float32
        model = tiny_model(family)
        stock, _ = cos_sin(model, [5], torch.bfloat16)
        with apply_scaling(model, rope_scaling(rope_spec(model), "none", WINDOW)):
            ours, _ = cos_sin(model, [5], torch.bfloat16)
        assert stock.dtype == ours.dtype == expected


# --- caches, schedules, batches ---


@torch.no_grad()
def step_by_step(model, ids, prompt):
    """Logits of the last positions, from a prompt's pass and then token by token over the cache."""
    out = model(ids[:, :prompt], use_cache=True)
    steps = [out.logits[:, -1]]
    for t in range(prompt, ids.shape[1]):
        out = model(ids[:, t : t + 1], past_key_values=out.past_key_values, use_cache=True)
        steps.append(out.logits[:, -1])
    return torch.stack(steps, 1)


def test_generation_over_a_cache_is_the_full_forward(family):
    model = tiny_model(family)
    spec = rope_spec(model)
    factors = np.linspace(1, 4, spec.rotary_dim // 2)
    ids = IDS[:, : WINDOW + 10]
    with apply_scaling(
        model, RopeScaling(spec, factors, 4 * WINDOW, start_tokens=6, attention_factor=1.1)
    ):
        full = logits(model, ids)[:, 2:]
        cached = step_by_step(model, ids, 3)  # from before the start tokens end
    scale = full.abs().max()
    torch.testing.assert_close(cached / scale, full / scale, atol=1e-5, rtol=0)


def recovery(spec, border=WINDOW):
    """No scaling up to `border` tokens, PI by 4 beyond."""
    short = RopeScaling(spec, np.ones(spec.rotary_dim // 2), border)
    return RopeSchedule.by_length([short, rope_scaling(spec, "pi", 4 * WINDOW)])


def test_a_schedule_takes_the_scaling_of_each_length():
    model = tiny_model()
    schedule = recovery(rope_spec(model))
    for length in (WINDOW, WINDOW + 1):
        ids = IDS[:, :length]
        with apply_scaling(model, schedule.at(length)):
            expected = logits(model, ids)
        with apply_scaling(model, schedule):
            assert torch.equal(logits(model, ids), expected)
    with apply_scaling(model, schedule, length=WINDOW + 1):  # fixed: short inputs get it as well
        short = logits(model)
    with apply_scaling(model, schedule.at(WINDOW + 1)):
        assert torch.equal(logits(model), short)


def test_a_schedule_does_not_change_factors_over_cached_keys():
    model = tiny_model()
    schedule = recovery(rope_spec(model))
    ids = IDS[:, : WINDOW + 3]
    with apply_scaling(model, schedule):
        step_by_step(model, ids[:, :WINDOW], WINDOW - 5)  # up to the border
        with pytest.raises(
            RuntimeError, match=r"factors for 64 tokens, .* calls for those of 256: fix .* length="
        ):
            step_by_step(model, ids, WINDOW - 5)
        logits(model, ids)  # a new sequence may be of any length
        step_by_step(model, ids, WINDOW + 1)
    with apply_scaling(model, schedule, length=WINDOW + 3):
        full, cached = logits(model, ids)[:, WINDOW - 6 :], step_by_step(model, ids, WINDOW - 5)
    torch.testing.assert_close(cached, full, atol=2e-5, rtol=0)


def test_generate_with_a_schedule():
    model = tiny_model()
    prompt = IDS[:, : WINDOW - 2]
    options = {"max_new_tokens": 6, "min_new_tokens": 6, "do_sample": False}
    schedule = recovery(rope_spec(model))
    with apply_scaling(model, schedule), pytest.raises(RuntimeError, match="length="):
        model.generate(prompt, **options)
    with apply_scaling(model, schedule, length=WINDOW + 4):
        fixed = model.generate(prompt, **options)
    with apply_scaling(model, schedule.at(WINDOW + 4)):
        ids = prompt
        for _ in range(6):  # greedy, with no cache
            row = logits(model, ids)[:, -1]
            row[:, model.config.eos_token_id] = -math.inf
            ids = torch.cat((ids, row.argmax(-1, keepdim=True)), 1)
    assert torch.equal(fixed, ids)


def test_rows_on_both_sides_of_a_border():
    """A batch of 70 and 40 tokens, padded on the left: each row gets the factors of its length."""
    model = tiny_model()
    schedule = recovery(rope_spec(model))
    long, short = IDS[:, :70], IDS[:, 100:140]
    ids = torch.cat((long, torch.cat((torch.zeros(1, 30, dtype=torch.long), short), 1)))
    mask = (ids > 0).long()
    positions = torch.stack((torch.arange(70), (torch.arange(70) - 30).clamp(min=0)))
    with apply_scaling(model, schedule):
        together = logits(model, ids, attention_mask=mask, position_ids=positions)
        apart = logits(model, long), logits(model, short)
    torch.testing.assert_close(together[:1], apart[0], atol=2e-5, rtol=0)
    torch.testing.assert_close(together[1:, 30:], apart[1], atol=2e-5, rtol=0)
    with apply_scaling(model, schedule, length=70):
        one_for_all = logits(model, ids, attention_mask=mask, position_ids=positions)
    assert (
        one_for_all[1, 30:] - apart[1][0]
    ).abs().max() > 0.01  # what a longest row's factors would do


def test_one_row_that_crosses_the_border_is_enough():
    model = tiny_model()
    module = model.model.rotary_emb
    x = torch.zeros(2, 1)
    with apply_scaling(model, recovery(rope_spec(model))):
        module(x, padded(20, 65))
        module(x, torch.tensor([[20], [65]]))  # the second was beyond from the start
        module(x, padded(20, 64))
        with pytest.raises(RuntimeError, match="factors for 64 tokens"):
            module(x, torch.tensor([[20], [64]]))


def test_tokens_taken_back_do_not_hide_the_border():
    """Assisted decoding tries tokens 60 to 62, keeps one, and goes on from 61 to 65.

    The keys are those of the short set."""
    model = tiny_model()
    module = model.model.rotary_emb
    x = torch.zeros(1, 1)
    with apply_scaling(model, recovery(rope_spec(model))):
        module(x, torch.arange(60)[None])
        module(x, torch.arange(60, 63)[None])
        module(x, torch.arange(61, 64)[None])
        with pytest.raises(RuntimeError, match="factors for 64 tokens"):
            module(x, torch.arange(61, 66)[None])


def padded(*lengths):
    """Positions (B, T) of rows of these lengths, padded on the left."""
    longest = max(lengths)
    return torch.stack([(torch.arange(longest) - (longest - n)).clamp(min=0) for n in lengths])


@pytest.mark.parametrize("repeats", [1, 3])
def test_a_length_for_each_row(repeats):
    """Rows of very different lengths, each with its own n-hat and m; repeated, as by beams."""
    model = tiny_model()
    spec = rope_spec(model)
    schedule = RopeSchedule.by_length(
        [
            RopeScaling(spec, np.ones(8), WINDOW),
            RopeScaling(spec, np.linspace(1, 2, 8), 100, start_tokens=4, attention_factor=1.2),
            RopeScaling(spec, np.linspace(2, 4, 8), 4 * WINDOW, start_tokens=9),
        ]
    )
    lengths = np.array([200, 30, 90])
    ids = torch.stack([IDS[0, i : i + 40] for i in range(3 * repeats)])
    with apply_scaling(model, schedule, length=lengths):
        together = logits(model, ids)
    for row, each in enumerate(together):
        with apply_scaling(model, schedule.at(lengths[row // repeats])):
            torch.testing.assert_close(
                each[None], logits(model, ids[row : row + 1]), atol=2e-5, rtol=0
            )
    with apply_scaling(model, schedule):
        assert (
            together[0] - logits(model, ids)[0]
        ).abs().max() > 0.01  # their own length is 40 for all


def test_lengths_that_are_none():
    model = tiny_model()
    schedule = recovery(rope_spec(model))
    with pytest.raises(ValueError, match="length is 'long': it must be a number, or a list or"):
        apply_scaling(model, schedule, length="long")
    for length in (0, -3, [], [5, 0], 2.5, [[5]]):
        with pytest.raises(
            ValueError,
            match=r"length is .*: it counts tokens, a whole number from 1 for all rows or",
        ):
            apply_scaling(model, schedule, length=length)
    assert "forward" not in vars(model.model.rotary_emb)
    with apply_scaling(model, schedule, length=[40, 70]):
        with pytest.raises(
            ValueError, match="2 lengths were given, one per row, and this batch has 3 rows"
        ):
            logits(model, IDS[:, :10].expand(3, -1))
        with pytest.raises(
            ValueError, match="2 lengths were given, one per row, and this batch has 1 rows"
        ):
            logits(model)


# --- refusals ---


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            transformers.GPT2Config(n_embd=8, n_layer=1, n_head=1, vocab_size=9),
            r"GPT2LMHeadModel has no rotary embedding that can be rescaled .* such as Llama",
        ),
        (
            transformers.GPTJConfig(n_embd=8, n_layer=1, n_head=1, vocab_size=9, rotary_dim=4),
            r"GPTJForCausalLM has no rotary embedding that can be rescaled",
        ),
        (
            tiny_config("gemma3", layer_types=["sliding_attention"] * 2),
            r"serves layer types \['sliding_attention'\], none of them 'full_attention'",
        ),
    ],
    ids=["gpt2", "gptj", "gemma3 with local layers only"],
)
def test_models_that_cannot_be_rescaled(config, message):
    model = transformers.AutoModelForCausalLM.from_config(config)
    with pytest.raises(ValueError, match=message):
        rope_spec(model)
    with pytest.raises(ValueError, match=message):
        apply_scaling(model, rope_scaling(RopeSpec(8, 64, base=10_000.0), "pi", 128))


def test_modules_with_different_frequencies_are_refused():
    model = tiny_model()
    other = LlamaRotaryEmbedding(
        tiny_config("llama", rope_parameters={"rope_type": "default", "rope_theta": 500.0})
    )
    model.model.layers[1].rotary_emb = other
    with pytest.raises(
        ValueError, match=r"different frequencies \(rotary_emb and layers\.1\.rotary_emb|layers\.1"
    ):
        rope_spec(model)
    model.model.layers[1].rotary_emb = copy.deepcopy(model.model.rotary_emb)
    assert len(find_rotary(model)) == 2  # the same twice is no trouble


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (
            RopeSpec(16, WINDOW, base=500.0),
            "this scaling is for rotary_dim 16, base 500; the model has .* base 10000:",
        ),
        (
            RopeSpec(8, WINDOW, base=10_000.0),
            "for rotary_dim 8, base 10000; the model has rotary_dim 16",
        ),
        (
            RopeSpec(16, WINDOW, base_frequencies=tuple(np.linspace(1, 0.1, 8))),
            r"frequencies 1 to 0\.1; the model has .*: make it from rope_spec\(model\)",
        ),
        (
            RopeSpec(16, WINDOW, base=10_000.0, attention_factor=1.5),
            r"base 10000 and attention factor 1\.5; the model",
        ),
    ],
)
def test_a_scaling_for_another_embedding(spec, message):
    model = tiny_model()
    with pytest.raises(ValueError, match=message):
        apply_scaling(model, rope_scaling(spec, "pi", 2 * WINDOW))
    assert "forward" not in vars(model.model.rotary_emb)


def test_a_spec_that_forgets_the_models_attention_factor_is_refused():
    """The logits would lose YaRN's factor without a word."""
    model = carrying("yarn")
    spec = rope_spec(model)
    assert spec.attention_factor == pytest.approx(0.1 * math.log(4) + 1)
    forgetful = RopeSpec(16, 4 * WINDOW, base_frequencies=spec.base_frequencies)
    with pytest.raises(ValueError, match=r"the model has .* and attention factor 1\.139"):
        apply_scaling(model, rope_scaling(forgetful, "pi", 8 * WINDOW))


# --- offsets ---


@pytest.mark.parametrize("start_tokens", [0, 20])
def test_offsets_are_added_to_the_logarithms(start_tokens, family):
    """Of the factors and of m; tokens that keep their angles keep them."""
    model = tiny_model(family)
    spec = rope_spec(model)
    pairs = spec.rotary_dim // 2
    factors, m = np.linspace(1.2, 3, pairs), 1.1
    moved, moved_m = np.linspace(0.3, -0.1, pairs), -0.2
    scaling = RopeScaling(spec, factors, 4 * WINDOW, start_tokens=start_tokens, attention_factor=m)
    expected = RopeScaling(
        spec,
        factors * np.exp(moved),
        4 * WINDOW,
        start_tokens=start_tokens,
        attention_factor=m * math.exp(moved_m),
    )
    with apply_scaling(model, expected):
        theirs = logits(model)
    offsets = torch.from_numpy(moved), torch.tensor(moved_m, dtype=torch.float64)
    with apply_scaling(model, scaling, log_offsets=offsets):
        torch.testing.assert_close(logits(model), theirs, atol=2e-5, rtol=1e-5)
    with apply_scaling(
        model, scaling, log_offsets=(torch.zeros(pairs).double(), torch.zeros(()).double())
    ):
        none = logits(model)
    with apply_scaling(model, scaling):
        assert torch.equal(logits(model), none)
        assert (none - theirs).abs().max() > 1e-3
    assert "forward" not in vars(find_rotary(model)[0].module)


def test_gradients_flow_to_the_offsets():
    """In closed form: d cos(n theta exp(-x)) / dx = n theta sin(n theta).

    And m is its own derivative by its logarithm."""
    model = tiny_model()
    scaling = RopeScaling(
        rope_spec(model), np.linspace(1, 3, 8), 4 * WINDOW, start_tokens=4, attention_factor=1.3
    )
    offsets = (
        torch.zeros(8, dtype=torch.float64, requires_grad=True),
        torch.zeros(()).double().requires_grad_(),
    )
    for n in (3, 4, 50):
        with apply_scaling(model, scaling, log_offsets=offsets):
            cos, _ = cos_sin(model, [n], torch.float64)
        by_factors, by_m = torch.autograd.grad(cos.sum(), offsets)
        angles = n * scaling.frequencies
        expected = 2 * 1.3 * angles * np.sin(angles) * (n >= 4)  # each angle serves two dimensions
        np.testing.assert_allclose(by_factors.numpy(), expected, atol=1e-9)
        assert by_m.item() == pytest.approx(cos.sum().item())


def test_a_module_that_takes_three_axes_alone_is_asked_so():
    """As those of models for images in transformers 5.17."""

    def rotary(x, positions, *layer):
        axes, rows, tokens = positions.shape
        assert (axes, rows, tokens, layer) == (3, 2, 5, ("full_attention",))
        assert (positions == positions[0]).all()
        return positions[0].cos(), positions[0].sin()

    positions = torch.arange(10).reshape(2, 5)
    cos, sin = answer_of(rotary, torch.zeros(1), positions, "full_attention")
    assert torch.equal(cos, positions.cos()) and torch.equal(sin, positions.sin())
    with pytest.raises(TypeError, match="but 2 were given"):
        answer_of(lambda x: None, torch.zeros(1), positions, None)


def test_what_is_no_model_of_transformers():
    with pytest.raises(ValueError, match=r"Linear is no Hugging Face model \(it has no config\)"):
        rope_spec(nn.Linear(2, 2))
