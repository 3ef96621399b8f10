"""Parity with transformers' own initialisers, on its own configs, over random settings."""

import json
import math
import re
from contextlib import ExitStack, contextmanager
from unittest import mock

import numpy as np
import pytest
import torch
from conftest import tiny_config
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from transformers import (
    DeepseekV3Config,
    Gemma3Config,
    Gemma3TextConfig,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    LlamaForCausalLM,
    Phi3Config,
    StableLmConfig,
)
from transformers import logging as transformers_logging
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

import longrope_lab as lab
from longrope_lab.models.read_config import scaling_from_config, spec_from_config
from longrope_lab.models.write_config import config_with_scaling
from longrope_lab.rope.methods import METHODS, rope_scaling
from longrope_lab.rope.scaling import RopeScaling
from longrope_lab.rope.schedule import DynamicNTK, LengthSchedule, RopeSchedule
from longrope_lab.rope.spec import RopeSpec


@pytest.fixture(autouse=True, scope="module")
def _quiet():
    """The configs below are odd on purpose; transformers says so at length."""
    before = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    yield
    transformers_logging.set_verbosity(before)


@contextmanager
def in_double_precision():
    """transformers rounds to float32 on the way, by up to 1e-7 times s; asked are its formulas."""
    with ExitStack() as stack:
        for name in ("float", "float32"):
            stack.enter_context(mock.patch.object(torch, name, torch.float64))
        stack.enter_context(mock.patch.object(torch.Tensor, "float", torch.Tensor.double))
        yield


def stock(config, kind, seq_len=None, layer_type=None):
    """transformers' inverse frequencies (d/2,) and attention factor."""
    with in_double_precision():
        frequencies, m = ROPE_INIT_FUNCTIONS[kind](
            config, torch.device("cpu"), seq_len=seq_len, layer_type=layer_type
        )
    assert frequencies.dtype == torch.float64
    return frequencies.numpy(), m


def assert_parity(ours, theirs):
    frequencies, m = theirs
    np.testing.assert_allclose(ours.frequencies, frequencies, rtol=1e-9)  # asked for: 1e-6
    assert ours.spec.attention_factor * ours.attention_factor == pytest.approx(m, rel=1e-12)


finite_ratios = st.floats(1, 64)
windows = st.integers(64, 131072)


@st.composite
def shapes(draw):
    """Fields of a Llama config that say how many dimensions turn, and common rope parameters."""
    head_dim = 2 * draw(st.integers(2, 80))
    heads = draw(st.integers(1, 4))
    fields = {
        "hidden_size": head_dim * heads,
        "num_attention_heads": heads,
        "num_key_value_heads": heads,
    }
    rope = {"rope_theta": math.exp(draw(st.floats(math.log(500), math.log(1e7))))}
    if draw(st.booleans()):
        fields["head_dim"] = head_dim = 2 * draw(
            st.integers(2, 80)
        )  # need not be hidden_size / heads
    if draw(st.booleans()):
        rope["partial_rotary_factor"] = 2 * draw(st.integers(2, head_dim // 2)) / head_dim
    rotated = int(head_dim * rope.get("partial_rotary_factor", 1.0))
    assume(rotated % 2 == 0)  # a share just below a whole number may lose a dimension
    return fields, rope, rotated


parity = settings(deadline=None, max_examples=100)


@parity
@given(shape=shapes(), window=windows, factor=finite_ratios, stated=st.booleans())
def test_linear(shape, window, factor, stated):
    """Its longest input counts after the scaling, unless the window before it is stated, too."""
    fields, rope, rotated = shape
    rope = rope | {"rope_type": "linear", "factor": factor}
    longest = window if stated else round(window * factor)
    if stated:
        rope["original_max_position_embeddings"] = window
    config = LlamaConfig(**fields, max_position_embeddings=longest, rope_parameters=rope)
    ours = scaling_from_config(config)
    assert_parity(ours, stock(config, "linear"))
    assert (ours.method, ours.spec.rotary_dim) == ("pi", rotated)
    assert abs(ours.spec.window - window) <= (0 if stated else 1)  # tokens are whole
    assert abs(ours.target_length - window * factor) <= 0.5


@parity
@given(shape=shapes(), window=windows, factor=finite_ratios, stretch=st.floats(0.01, 64))
def test_dynamic(shape, window, factor, stretch):
    fields, rope, _ = shape
    config = LlamaConfig(
        **fields,
        max_position_embeddings=window,
        rope_parameters=rope | {"rope_type": "dynamic", "factor": factor},
    )
    ours = scaling_from_config(config)
    assert isinstance(ours, DynamicNTK)
    for length in (max(1, int(window * stretch)), window - 1, window, window + 1):
        assert_parity(ours.at(length), stock(config, "dynamic", seq_len=length))


@parity
@given(
    shape=shapes(),
    window=windows,
    factor=finite_ratios,
    stated=st.fixed_dictionaries(
        {},
        optional={
            "beta_fast": st.floats(8, 64),
            "beta_slow": st.floats(0.25, 8),
            "truncate": st.booleans(),
            "attention_factor": st.floats(0.5, 2),
            "mscale": st.floats(0.5, 2),
            "mscale_all_dim": st.floats(0.5, 2),
        },
    ),
    implied=st.booleans(),
)
def test_yarn(shape, window, factor, stated, implied):
    fields, rope, _ = shape
    longest = int(window * factor)
    rope = (
        rope
        | stated
        | {"rope_type": "yarn", "factor": factor, "original_max_position_embeddings": window}
    )
    config = LlamaConfig(**fields, max_position_embeddings=longest, rope_parameters=rope)
    if implied:  # DeepSeek: the ratio of the two windows, where no factor is stated
        config.rope_parameters["factor"] = None
    ours = scaling_from_config(config)
    assert_parity(ours, stock(config, "yarn"))
    assert (ours.method, ours.spec.window) == ("yarn", window)
    assert abs(ours.target_length - window * factor) <= (1 if implied else 0.5)


@st.composite
def longrope_settings(draw):
    fields, rope, rotated = draw(shapes())
    window = draw(windows)
    longest = draw(st.integers(window, 64 * window))  # MiniCPM4's two windows are the same
    factors = st.lists(st.floats(0.95, 80), min_size=rotated // 2, max_size=rotated // 2)
    rope = rope | {"short_factor": draw(factors), "long_factor": draw(factors)}
    if draw(st.booleans()):
        rope["attention_factor"] = draw(st.floats(0.5, 2))
    return fields, rope, window, longest


@parity
@given(
    setting=longrope_settings(), factor=st.none() | st.floats(0.5, 64), stretch=st.floats(0.01, 64)
)
def test_longrope(setting, factor, stretch):
    fields, rope, window, longest = setting
    rope = rope | {"rope_type": "longrope", "original_max_position_embeddings": window}
    if factor is not None:
        rope["factor"] = factor
    config = LlamaConfig(**fields, max_position_embeddings=longest, rope_parameters=rope)
    ours = scaling_from_config(config)
    assert isinstance(
        ours, RopeScaling if rope["short_factor"] == rope["long_factor"] else LengthSchedule
    )
    assert ours.spec.window == window
    for length in (max(1, int(window * stretch)), window, window + 1, longest + 1):
        assert_parity(ours.at(length), stock(config, "longrope", seq_len=length))


@parity
@given(setting=longrope_settings(), kind=st.sampled_from(["su", "yarn", "longrope"]))
def test_phi3_of_transformers_4(setting, kind):
    fields, rope, window, longest = setting
    head_dim = fields["hidden_size"] // fields["num_attention_heads"]
    assume("head_dim" not in fields)  # Phi-3 has none
    old = fields | {
        "max_position_embeddings": longest,
        "original_max_position_embeddings": window,
        "rope_theta": rope["rope_theta"],
        "partial_rotary_factor": rope.get("partial_rotary_factor", 1.0),
        "rope_scaling": {
            "type": kind,
            "short_factor": rope["short_factor"],
            "long_factor": rope["long_factor"],
        },
    }
    assert int(head_dim * old["partial_rotary_factor"]) // 2 == len(rope["short_factor"])
    # transformers 5.23 can no longer read "su" itself; "longrope" is what it has called the same
    # thing since.
    newer = old | {"rope_scaling": old["rope_scaling"] | {"type": kind.replace("su", "longrope")}}
    config = Phi3Config(**json.loads(json.dumps(newer)), pad_token_id=0)
    ours = scaling_from_config(config)
    for length in (1, window, window + 1, longest):
        assert_parity(ours.at(length), stock(config, "longrope", seq_len=length))
    assert scaling_from_config(old) == ours  # the dict as it stands in config.json


@pytest.mark.parametrize(
    "old",
    [
        {"type": "linear", "factor": 2.5},
        {"type": "dynamic", "factor": 2.0},
        {"rope_type": "linear", "factor": 4},
    ],
)
def test_llama_of_transformers_4(old):
    values = {
        "model_type": "llama",
        "hidden_size": 64,
        "num_attention_heads": 2,
        "max_position_embeddings": 4096,
        "rope_theta": 500000.0,
        "rope_scaling": old,
    }
    config = LlamaConfig(**json.loads(json.dumps(values)))
    for source in (values, config, config.to_dict()):
        ours = scaling_from_config(source)
        assert_parity(
            ours.at(9000), stock(config, config.rope_parameters["rope_type"], seq_len=9000)
        )


FULL = {"rope_type": "linear", "factor": 8.0, "rope_theta": 1_000_000.0}
YARN = {
    "rope_type": "yarn",
    "factor": 4.0,
    "rope_theta": 5e5,
    "original_max_position_embeddings": 4096,
}


@pytest.mark.parametrize("full", [FULL, YARN])
def test_gemma3_takes_the_parameters_of_full_attention(full):
    local = {"rope_type": "default", "rope_theta": 10_000.0}
    text = Gemma3TextConfig(
        head_dim=32, rope_parameters={"sliding_attention": local, "full_attention": dict(full)}
    )
    for config in (text, text.to_dict(), Gemma3Config(text_config=text.to_dict())):
        assert_parity(
            scaling_from_config(config), stock(text, full["rope_type"], layer_type="full_attention")
        )
        assert spec_from_config(config).base == full["rope_theta"]


def test_gemma3_of_transformers_4():
    old = {
        "head_dim": 32,
        "max_position_embeddings": 4096,
        "rope_theta": 1e6,
        "rope_local_base_freq": 1e4,
    }
    old |= {"rope_scaling": {"rope_type": "linear", "factor": 8.0}, "model_type": "gemma3_text"}
    config = Gemma3TextConfig(**json.loads(json.dumps(old)))
    for source in (old, config):
        assert_parity(
            scaling_from_config(source), stock(config, "linear", layer_type="full_attention")
        )


def test_deepseek_rotates_a_part_of_its_head_with_a_quotient_of_mscales():
    rope = {
        "rope_type": "yarn",
        "factor": 40.0,
        "original_max_position_embeddings": 4096,
        "rope_theta": 10000.0,
    }
    rope |= {"beta_fast": 32, "beta_slow": 1, "mscale": 1.0, "mscale_all_dim": 0.5}
    config = DeepseekV3Config(
        rope_parameters=rope, qk_rope_head_dim=64, max_position_embeddings=163840
    )
    values = {k: v for k, v in config.to_dict().items() if k != "head_dim"}  # as in its config.json
    for source in (config, values):
        ours = scaling_from_config(source)
        assert_parity(ours, stock(config, "yarn"))
        assert ours.spec.rotary_dim == 64
    assert ours.attention_factor == pytest.approx(
        (0.1 * math.log(40) + 1) / (0.05 * math.log(40) + 1)
    )


SIZE = {"hidden_size": 128, "num_attention_heads": 2, "max_position_embeddings": 3000}


@pytest.mark.parametrize(
    ("config", "rotary_dim", "base"),
    [
        (GPTNeoXConfig(**SIZE), 16, 10000.0),
        (GPTNeoXConfig(**SIZE, rotary_pct=0.5, rotary_emb_base=5000), 32, 5000.0),
        (SIZE | {"rotary_pct": 0.5, "rotary_emb_base": 5000}, 32, 5000.0),
        (StableLmConfig(**SIZE), 16, 10000.0),
        (SIZE | {"partial_rotary_factor": 0.75, "rope_theta": 1e6}, 48, 1e6),
        (LlamaConfig(**SIZE, head_dim=None), 64, 10000.0),
        (LlamaConfig(**SIZE, head_dim=16), 16, 10000.0),
    ],
)
def test_the_share_of_dimensions_that_turn(config, rotary_dim, base):
    assert spec_from_config(config) == RopeSpec(rotary_dim, 3000, base)


def test_a_plain_config_has_no_scaling():
    config = LlamaConfig(**SIZE)
    ours = scaling_from_config(config)
    assert isinstance(ours, RopeScaling)
    assert (ours.method, ours.target_length, ours.attention_factor) == ("none", 3000, 1.0)
    assert (ours.factors == 1).all()
    assert ours.spec == spec_from_config(config)


def test_phi3_without_longrope_has_the_window_it_states():
    # Its class keeps original_max_position_embeddings at 4096 all the same.
    config = Phi3Config(
        hidden_size=64, num_attention_heads=2, max_position_embeddings=256, pad_token_id=0
    )
    assert config.original_max_position_embeddings == 4096
    assert spec_from_config(config).window == 256
    assert scaling_from_config(config).target_length == 256


def test_dynamic_counts_from_the_window_whatever_else_is_stated():
    rope = {
        "rope_type": "dynamic",
        "factor": 2.0,
        "rope_theta": 1e4,
        "original_max_position_embeddings": 512,
    }
    config = LlamaConfig(
        hidden_size=64, num_attention_heads=2, max_position_embeddings=2048, rope_parameters=rope
    )
    for length in (1024, 4096):
        assert_parity(
            scaling_from_config(config).at(length), stock(config, "dynamic", seq_len=length)
        )


@pytest.mark.parametrize(
    ("rope", "length"),
    [
        ({"rope_type": "linear", "factor": 8.0}, 5000),
        ({"rope_type": "dynamic", "factor": 2.0}, 40_000),
        ({"rope_type": "yarn", "factor": 8.0, "original_max_position_embeddings": 4096}, 5000),
        ({"rope_type": "longrope", "factor": 8.0, "original_max_position_embeddings": 4096}, 4097),
    ],
)
def test_parity_with_transformers_as_it_is(rope, length):
    """No patching here, as a model would call it: float32, and still within 1e-6."""
    rope = rope | {"rope_theta": 10000.0}
    if rope["rope_type"] == "longrope":
        rope |= {"short_factor": [1.0] * 32, "long_factor": np.linspace(1, 10, 32).tolist()}
    config = LlamaConfig(
        hidden_size=128, num_attention_heads=2, max_position_embeddings=32768, rope_parameters=rope
    )
    frequencies, m = ROPE_INIT_FUNCTIONS[rope["rope_type"]](
        config, torch.device("cpu"), seq_len=length
    )
    assert frequencies.dtype == torch.float32
    ours = scaling_from_config(config).at(length)
    np.testing.assert_allclose(ours.frequencies, frequencies.numpy(), rtol=1e-6)
    assert ours.attention_factor == pytest.approx(m, rel=1e-6)


def test_two_sets_that_are_one():
    """They act at every length: one scaling, whose window is the target."""
    rope = {
        "rope_type": "longrope",
        "rope_theta": 1e4,
        "factor": 4.0,
        "original_max_position_embeddings": 1024,
    }
    rope |= {
        "short_factor": [1.0, 2.0, 3.0, 4.0],
        "long_factor": [1.0, 2.0, 3.0, 4.0],
        "attention_factor": 1.1,
    }
    config = LlamaConfig(
        hidden_size=16, num_attention_heads=2, max_position_embeddings=4096, rope_parameters=rope
    )
    spec = RopeSpec(8, 1024, 1e4)
    assert scaling_from_config(config) == RopeScaling(
        spec, [1, 2, 3, 4], 4096, attention_factor=1.1
    )


# --- writing ---


@st.composite
def written(draw):
    """(config, scaling for it): any of those that a config can express."""
    fields, rope, rotated = draw(shapes())
    window = draw(windows)
    config = LlamaConfig(
        **fields, max_position_embeddings=window, rope_parameters=rope | {"rope_type": "default"}
    )
    spec = RopeSpec(rotated, window, rope["rope_theta"])
    target = draw(st.integers(window, 64 * window))
    kind = draw(st.sampled_from([*METHODS, "stages"]))
    factors = st.lists(st.floats(1, 80), min_size=rotated // 2, max_size=rotated // 2)
    m = draw(st.floats(0.5, 2))
    if kind not in ("longrope", "stages"):
        return config, rope_scaling(spec, kind, target)
    long = RopeScaling(spec, draw(factors), target + 1, attention_factor=m)
    if kind == "longrope":
        return config, long
    switch = draw(st.integers(window, target))
    return config, RopeSchedule.by_length(
        [RopeScaling(spec, draw(factors), switch, attention_factor=m), long]
    )


@parity
@given(setting=written(), stretch=st.floats(0.01, 64))
def test_what_is_written_is_what_transformers_and_we_read(setting, stretch):
    config, scaling = setting
    before = json.dumps(config.to_dict(), default=str)
    made = config_with_scaling(config, scaling)
    assert json.dumps(config.to_dict(), default=str) == before
    made = LlamaConfig(**json.loads(json.dumps(made.to_dict())))
    kind, window = made.rope_parameters["rope_type"], scaling.spec.window
    switch = made.rope_parameters.get("original_max_position_embeddings", window)
    for length in (max(1, int(window * stretch)), window, window + 1, switch, switch + 1):
        ours = scaling.at(length)
        if kind != "default":  # which has no entry in transformers' table
            assert_near(ours, *stock(made, kind, seq_len=length))
        read = scaling_from_config(made).at(length)
        assert_near(read, ours.frequencies, ours.attention_factor)


def assert_near(ours, frequencies, m):
    np.testing.assert_allclose(
        ours.frequencies, frequencies, rtol=1e-6
    )  # as near as the writing takes a formula for it
    assert ours.attention_factor == pytest.approx(m, rel=1e-6)


PARTS = {
    "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
    "full_attention": dict(FULL),
}


def test_writing_touches_full_attention_alone():
    config = Gemma3TextConfig(head_dim=32, max_position_embeddings=2048, rope_parameters=PARTS)
    scaling = rope_scaling(RopeSpec(32, 2048, 1e6), "yarn", 8192)
    for made in (config, Gemma3Config(text_config=config.to_dict())):
        text = config_with_scaling(made, scaling).get_text_config()
        assert text.rope_parameters["sliding_attention"] == PARTS["sliding_attention"]
        assert text.rope_parameters["full_attention"].keys() == {
            "rope_type", "rope_theta", "factor", "original_max_position_embeddings",
            "attention_factor",
        }  # fmt: skip
        assert scaling_from_config(text) == scaling
        assert text.max_position_embeddings == 8192
    assert config.rope_parameters["full_attention"] == FULL  # the config that was given stays


def test_phi3_counts_from_the_window_beside_its_parameters():
    config = Phi3Config(
        hidden_size=64, num_attention_heads=2, max_position_embeddings=256, pad_token_id=0
    )
    assert config.original_max_position_embeddings == 4096
    scaling = rope_scaling(spec_from_config(config), "pi", 1024)
    made = Phi3Config(**json.loads(json.dumps(config_with_scaling(config, scaling).to_dict())))
    assert (
        made.rope_parameters["original_max_position_embeddings"]
        == made.original_max_position_embeddings
        == 256
    )
    assert scaling_from_config(made) == RopeScaling(scaling.spec, scaling.factors, 1024)


def test_a_scaling_written_twice_leaves_nothing_of_the_first():
    config = LlamaConfig(hidden_size=64, num_attention_heads=2, max_position_embeddings=256)
    spec = spec_from_config(config)
    for kind in ("pi", "yarn", "dynamic_ntk", "none"):
        config = config_with_scaling(config, rope_scaling(spec, kind, 1024))
    assert config.rope_parameters == {"rope_type": "default", "rope_theta": 10000.0}
    assert spec_from_config(config) == RopeSpec(32, 1024, 10000.0)


# --- messages ---

PLAIN = {
    "model_type": "llama",
    "hidden_size": 64,
    "num_attention_heads": 2,
    "max_position_embeddings": 4096,
    "rope_theta": 10000.0,
}


@pytest.mark.parametrize(
    ("rope", "message"),
    [
        ({"rope_type": "llama3", "factor": 8.0}, "rope type 'llama3' lacks 'low_freq_factor'"),
        ({"rope_type": "axial"}, "unknown rope type 'axial': Known: default, linear, dynamic"),
        (
            {"rope_type": "axial"},
            "a loaded model's own frequencies: rope_spec(model)",
        ),
        ({"rope_type": "longrop"}, "unknown rope type 'longrop': did you mean 'longrope'?"),
        ({"rope_type": "linear"}, "the config's rope type 'linear' lacks 'factor'"),
        (
            {"rope_type": "dynamic", "factor": None},
            "the config's rope type 'dynamic' lacks 'factor'",
        ),
        (
            {"rope_type": "linear", "factor": "big"},
            "'linear' cannot be read: factor is big: it must be a finite number above 0",
        ),
        ({"rope_type": "linear", "factor": math.nan}, "'linear' cannot be read: factor is nan"),
        (
            {"rope_type": "linear", "factor": 0.5},
            "'linear' cannot be read: factor is 0.5: it must be",
        ),
        ({"rope_type": "yarn", "factor": 0.5}, "'yarn' cannot be read: factor is 0.5: it must be"),
        ({"rope_type": "linear", "factor": math.inf}, "'linear' cannot be read: factor is inf"),
        (
            {"rope_type": "dynamic", "factor": 0.5},
            "alpha is 0.5: it must be a finite number of at least 1",
        ),
        (
            {"rope_type": "yarn", "factor": 4.0, "beta_fast": 1, "beta_slow": 2},
            "'yarn' cannot be read: beta_fast is 1",
        ),
        ({"rope_type": "yarn", "factor": 4.0, "attention_factor": 0.0}, "attention_factor is 0.0"),
        (
            {"rope_type": "longrope", "factor": 4.0},
            "the config's rope type 'longrope' lacks 'short_factor'",
        ),
        (
            {"type": "longrope", "short_factor": [1.0] * 16, "factor": 4.0},
            "rope type 'longrope' lacks 'long_factor'",
        ),
        ({"rope_type": "yarn"}, "the config's rope type 'yarn' lacks 'factor'"),
        (
            {"rope_type": "yarn", "factor": 4.0, "attn_factor": 1.2},
            "unknown field of the config's rope parameters 'attn_factor': did you mean 'attention",
        ),
        (
            {"rope_type": "dynamic", "factor": 1.0, "alpha": 1000.0},
            "have alpha, which transformers reads in hunyuan models alone, and this is a llama con",
        ),
        (
            {"rope_type": "yarn", "factor": 4.0, "attn_factor": 1.2, "attention_factor": 1.2},
            "attn_factor 1.2, by which other engines come to another attention factor than attenti",
        ),
        (
            {"rope_type": "longrope", "short_mscale": 1.2, "attention_factor": 1.3},
            "have short_mscale, which transformers reads in phimoe models alone",
        ),
        (
            {"rope_type": "longrope", "short_mscale": 1.2},
            "have short_mscale, which transformers reads in phimoe models alone",
        ),
        ("linear", "the config's rope parameters are 'linear': they must be a dict"),
        ({"rope_type": "linear", "factor": [4]}, "'linear' cannot be read: factor is [4]: it must"),
        (
            {"type": "su", "factor": 4.0, "short_factor": "1.0", "long_factor": [1.0] * 16},
            "the config's rope type 'longrope' cannot be read: factors must be numbers",
        ),
        (
            {"type": "su", "factor": 4.0, "short_factor": [1.0] * 15, "long_factor": [1.0] * 16},
            "factors have shape (15,)",
        ),
        (
            {"type": "su", "factor": 4.0, "short_factor": [0.9] * 16, "long_factor": [1.0] * 16},
            "factor 0 is 0.9",
        ),
        (
            {"sliding_attention": {"rope_type": "default"}, "chunked": {"rope_type": "default"}},
            "rope parameters for sliding_attention, chunked, none of them 'full_attention'",
        ),
    ],
)
def test_parameters_that_cannot_be_used(rope, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        scaling_from_config(PLAIN | {"rope_scaling": rope})


def test_configs_that_describe_no_rotary_embedding():
    for config in (GPT2Config(), {"model_type": "gpt2", "n_embd": 64}):
        with pytest.raises(
            ValueError,
            match=r"gpt2 config names no rope_theta: it has no rotary embedding to rescale",
        ):
            spec_from_config(config)
    for missing in ("max_position_embeddings", "num_attention_heads"):
        with pytest.raises(ValueError, match=f"llama config lacks '{missing}'"):
            scaling_from_config({k: v for k, v in PLAIN.items() if k != missing})
    with pytest.raises(ValueError, match=r"base is 0\.5: it must be a finite number above 1"):
        spec_from_config(PLAIN | {"rope_theta": 0.5})
    with pytest.raises(ValueError, match="rotary_dim is 19: it must be even"):
        spec_from_config(PLAIN | {"partial_rotary_factor": 0.6})


def test_a_model_is_not_a_config():
    config = LlamaConfig(
        hidden_size=16,
        num_attention_heads=2,
        num_hidden_layers=1,
        intermediate_size=16,
        vocab_size=8,
    )
    with pytest.raises(
        ValueError, match=r"LlamaForCausalLM is not a config: pass model\.config, or its dict"
    ):
        spec_from_config(LlamaForCausalLM(config))


@pytest.mark.parametrize(
    "rope",
    [
        {"rope_type": "yarn", "factor": 4.0, "attn_factor": 1.0},
        {"type": "yarn", "factor": 4.0, "attn_factor": 1.5 / (0.1 * math.log(4) + 1)},
    ],
)
def test_a_field_of_other_engines_that_says_the_same(rope):
    """Older vLLM multiplies the formula's attention factor by it."""
    stated = {"attention_factor": 1.5} if rope["attn_factor"] != 1 else {}
    ours = scaling_from_config(PLAIN | {"rope_scaling": rope | stated})
    assert ours.attention_factor == stated.get("attention_factor", 0.1 * math.log(4) + 1)


def test_the_fields_of_a_config_are_taken_at_the_door_too():
    """A dict, as config.json holds it, and nothing that holds no fields."""
    config = tiny_config("llama")
    assert lab.spec_from_config(config.to_dict()) == lab.spec_from_config(config)
    assert lab.scaling_from_config(config.to_dict()) == lab.scaling_from_config(config)
    with pytest.raises(ValueError, match=r"config is \[\]: it must be a PreTrainedConfig or a"):
        lab.spec_from_config([])
