"""Attention that slides in all layers is widened, other attention left alone; windows are true."""

import pytest
import torch
import transformers
from conftest import tiny_config, tiny_model

from longrope_lab.models.loading import load_model
from longrope_lab.models.read_config import scaling_from_config, spec_from_config
from longrope_lab.models.repairs import full_attention, state_trained_window
from longrope_lab.models.rotary import rope_spec
from longrope_lab.models.write_config import config_with_scaling
from longrope_lab.rope.methods import rope_scaling

SLIDING = {"sliding_window": 16}
SWITCHED = {"use_sliding_window": True, "sliding_window": 16, "max_window_layers": 0}
EXPERTS = {"num_local_experts": 2}
# Fields with which all layers slide, and those with which, by the class's own account, none does.
SLIDES = {
    "Mistral": (SLIDING, {"sliding_window": None}),
    "Phi3": (SLIDING, {"sliding_window": None}),
    "Starcoder2": (SLIDING, {"sliding_window": None}),
    "Mixtral": (SLIDING | EXPERTS, {"sliding_window": None} | EXPERTS),
    "Qwen2": (SWITCHED, {"use_sliding_window": False}),
    "Qwen3": (SWITCHED, {"use_sliding_window": False}),
    "Ministral": (
        SLIDING | {"head_dim": 16},
        {"head_dim": 16, "layer_types": ["full_attention"] * 2},
    ),
}


def sliding_model(name, fields, attention):
    """The same weights for each set of fields; no pad token, which two classes would look for."""
    torch.manual_seed(0)
    config = getattr(transformers, f"{name}Config")(
        vocab_size=97, hidden_size=64, intermediate_size=48, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=64,
        initializer_range=0.1, pad_token_id=None, bos_token_id=1, eos_token_id=2, **fields,
    )  # fmt: skip
    return transformers.AutoModelForCausalLM.from_config(
        config, attn_implementation=attention
    ).eval()


def longer_text(length=50):
    return torch.randint(3, 97, (1, length), generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def with_and_without_a_cache(model):
    """Logits of a text of three windows in one pass, and of its end over a cache of the rest."""
    ids = longer_text()
    cache = model(ids[:, :40], use_cache=True).past_key_values
    return model(ids).logits, model(ids[:, 40:], past_key_values=cache).logits


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("name", SLIDES)
def test_attention_that_slides_in_all_layers_is_widened(name, attention, caplog):
    slides, full = SLIDES[name]
    model, plain = sliding_model(name, slides, attention), sliding_model(name, full, attention)
    expected = with_and_without_a_cache(plain)
    before = with_and_without_a_cache(model)
    # Inside the window it makes no difference.
    torch.testing.assert_close(before[0][:, :16], expected[0][:, :16])
    assert (before[0][:, 20:] - expected[0][:, 20:]).abs().max() > 0.1
    assert full_attention(model)
    assert caplog.messages == [
        f"{name}ForCausalLM: every layer's attention slid over 16 tokens; it is full now, so that "
        "all is read"
    ]
    for ours, theirs in zip(with_and_without_a_cache(model), expected, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)
    # Nothing is left that would have a mask made for it, which of a long text is larger than the
    # model.
    kept = [(name, value) for m in model.modules() for name, value in vars(m).items()]
    assert not any(
        value for name, value in kept if "sliding" in name or value == "sliding_attention"
    )
    assert not full_attention(model)  # there is nothing left to do
    torch.testing.assert_close(expected[0][:, 40:], expected[1], atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", ["Mistral", "Qwen2"])
def test_loading_widens_and_saving_keeps_it(name, tmp_path, tokenizer):
    slides, full = SLIDES[name]
    sliding_model(name, slides, "sdpa").save_pretrained(tmp_path / "slides")
    tokenizer.save_pretrained(tmp_path / "slides")
    model, _ = load_model(tmp_path / "slides", device="cpu")
    expected = with_and_without_a_cache(sliding_model(name, full, "sdpa"))[0]
    torch.testing.assert_close(with_and_without_a_cache(model)[0], expected, atol=1e-5, rtol=0)
    model.save_pretrained(tmp_path / "widened")
    stock = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "widened").eval()
    torch.testing.assert_close(with_and_without_a_cache(stock)[0], expected, atol=1e-5, rtol=0)


LEFT_ALONE = {
    "some layers see all by design": lambda: tiny_model("gemma2"),
    "each kind of layer has its frequencies": lambda: tiny_model("gemma3"),
    "even where all of them slide": lambda: tiny_model(
        "gemma3", layer_types=["sliding_attention"] * 2
    ),
    "experts too": lambda: tiny_model(
        "gpt_oss", layer_types=["sliding_attention", "full_attention"], sliding_window=16
    ),
    "a share of the layers": lambda: sliding_model(
        "Qwen2", SWITCHED | {"max_window_layers": 1}, "sdpa"
    ),
    "none": lambda: tiny_model("llama"),
    "no rotary embedding at all": lambda: transformers.GPT2LMHeadModel(
        transformers.GPT2Config(vocab_size=97, n_embd=64, n_layer=2, n_head=4, n_positions=64)
    ).eval(),
}


@pytest.mark.parametrize("why", LEFT_ALONE)
def test_other_attention_is_left_alone(why):
    model = LEFT_ALONE[why]()
    config = model.config.to_dict()
    with torch.no_grad():
        before = model(longer_text()).logits
        assert not full_attention(model)
        assert model.config.to_dict() == config
        assert torch.equal(model(longer_text()).logits, before)


def test_the_window_that_mistral_was_trained_on():
    """By its paper's table 1; the later versions are known by what their configs say otherwise."""
    first = transformers.MistralConfig(max_position_embeddings=32_768, sliding_window=4096)
    second = transformers.MistralConfig(
        max_position_embeddings=32_768,
        sliding_window=None,
        rope_parameters={"rope_type": "default", "rope_theta": 1e6},
    )
    other = transformers.MistralConfig(
        max_position_embeddings=32_768, sliding_window=4096, hidden_size=64
    )
    for config, window in ((first, 8192), (second, 32_768), (other, 32_768)):
        state_trained_window(config)
        assert spec_from_config(config).window == window


@pytest.mark.parametrize(
    ("family", "stated", "said"),
    [("llama", {}, True), ("llama", {"original_max_position_embeddings": 16}, False),
     ("gemma3", {}, False)],
)  # fmt: skip
def test_a_linear_factor_over_one_window_is_not_read_in_silence(family, stated, said, caplog):
    """Most such files state the window after the scaling, a few the one before."""
    rope = {"rope_type": "linear", "factor": 4.0, "rope_theta": 1e4} | stated
    if family == "gemma3":
        rope = {"full_attention": rope, "sliding_attention": {"rope_type": "default"}}
    config = tiny_config(family, rope_parameters=rope)
    state_trained_window(config)
    assert ("if they are the one before, load it with window=256" in caplog.text) == said
    caplog.clear()
    state_trained_window(config, 256)
    assert not caplog.text


def test_a_window_that_was_stated_stays_with_the_model():
    """In every later spec, but not among what transformers' formulas divide by."""
    model, _ = load_model("lab", device="cpu", window=256)
    assert rope_spec(model).window == spec_from_config(model.config).window == 256
    assert model.config.max_position_embeddings == 512
    extended = config_with_scaling(model.config, rope_scaling(rope_spec(model), "none", 2048))
    assert spec_from_config(extended).window == 2048  # which is what counts from there on
    rope = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}
    model = tiny_model(rope_parameters=rope)
    state_trained_window(model.config, 32)
    assert (rope_spec(model).window, scaling_from_config(model.config).spec.window) == (32, 64)
    with pytest.raises(ValueError, match=r"window is 0\.5: a window has at least 2 tokens"):
        load_model("lab", window=0.5)
