"""Models that are built in their own ways, against transformers' logits and losses."""

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
import transformers
from conftest import VOCABULARY, WINDOW, tiny_model
from peft import LoraConfig, PromptTuningConfig, get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText

from longrope_lab.models.forward import token_losses
from longrope_lab.models.generation import generate
from longrope_lab.models.repairs import full_attention
from longrope_lab.models.rotary import apply_scaling, rope_spec
from longrope_lab.rope.methods import rope_scaling

IDS = torch.randint(9, 60, (1, 3 * WINDOW), generator=torch.Generator().manual_seed(3))
TEXT = {
    "hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 16, "vocab_size": VOCABULARY, "initializer_range": 0.1,
    "max_position_embeddings": WINDOW, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": WINDOW}

# Positions of three axes; one complex number; layers that are called otherwise; linear attention.
KINDS = {
    "qwen3_5_text": {
        "head_dim": 32, "linear_num_key_heads": 2, "linear_num_value_heads": 2,
        "linear_key_head_dim": 16, "linear_value_head_dim": 16,
        "layer_types": ["linear_attention", "full_attention"],
        "rope_parameters": {
            "rope_type": "default", "rope_theta": 1e6, "partial_rotary_factor": 0.5,
            "mrope_section": [4, 2, 2], "mrope_interleaved": True,
        },
    },
    "deepseek_v2": {
        "q_lora_rank": None, "kv_lora_rank": 16, "qk_rope_head_dim": 16, "qk_nope_head_dim": 16,
        "v_head_dim": 16, "first_k_dense_replace": 9,
        "num_key_value_heads": 4,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e4},
    },
    "modernbert-decoder": {
        "cls_token_id": 1, "sep_token_id": 2, "num_hidden_layers": 4,
        "rope_parameters": {
            "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
            "full_attention": {"rope_type": "default", "rope_theta": 160_000.0},
        },
    },
}  # fmt: skip


def made(kind, seed=0, **fields):
    """A small random model of transformers' type of that name."""
    torch.manual_seed(seed)
    own = KINDS.get(kind, {})
    config = AutoConfig.for_model(kind, **TEXT | own | fields)
    return AutoModelForCausalLM.from_config(config).eval()


@torch.no_grad()
def logits(model):
    return model(input_ids=IDS, use_cache=False).logits


def with_yarn(kind):
    """The same, as transformers makes it with YaRN in its config."""
    before = KINDS[kind]["rope_parameters"]
    full = before.get("full_attention")
    after = before | ({"full_attention": full | YARN} if full else YARN)
    return made(kind, rope_parameters=after, max_position_embeddings=4 * WINDOW)


@pytest.mark.parametrize("kind", KINDS)
def test_our_scaling_is_the_one_transformers_builds(kind):
    model = made(kind)
    stock, spec = logits(model), rope_spec(model)
    scale = stock.abs().max()
    base = KINDS[kind]["rope_parameters"]
    assert spec.base == base.get("full_attention", base)["rope_theta"]
    with apply_scaling(model, rope_scaling(spec, "none", WINDOW)):
        assert (logits(model) - stock).abs().max() <= 5e-6 * scale
    with apply_scaling(model, rope_scaling(spec, "yarn", 4 * WINDOW)):
        ours = logits(model)
        expected = F.cross_entropy(ours[0, :-1], IDS[0, 1:], reduction="none")
        torch.testing.assert_close(token_losses(model, IDS[0]), expected, atol=1e-5, rtol=0)
    assert (ours - logits(with_yarn(kind))).abs().max() <= 5e-5 * scale
    assert (ours - stock).abs().max() > 0.01 * scale
    assert torch.equal(logits(model), stock)


def test_positions_of_an_image_are_refused():
    model = made("qwen3_5_text")
    positions = torch.arange(8).expand(4, 1, 8).clone()
    positions[2] = 0
    with (
        apply_scaling(model, rope_scaling(rope_spec(model), "pi", 2 * WINDOW)),
        pytest.raises(ValueError, match="positions differ along their three axes, as those of"),
    ):
        model(input_ids=IDS[:, :8], position_ids=positions)


# --- text through models that read images, too ---

SIGHT = {
    "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
    "image_size": 28, "patch_size": 14,
}  # fmt: skip


def wrapper(kind):
    """A small model for text and images."""
    fields = {
        "gemma3": {
            "text_config": TEXT | {"model_type": "gemma3_text", "num_hidden_layers": 6},
            "vision_config": SIGHT | {"model_type": "siglip_vision_model"},
            "mm_tokens_per_image": 4,
        },
        "mistral3": {
            "text_config": TEXT | {"model_type": "mistral", "sliding_window": None},
            "vision_config": SIGHT | {"model_type": "pixtral"},
        },
        "qwen2_5_vl": {
            "text_config": TEXT
            | {
                "model_type": "qwen2_5_vl_text",
                "rope_parameters": {
                    "rope_type": "default", "rope_theta": 1e6, "mrope_section": [2, 3, 3],
                },
            },
            "vision_config": {
                "depth": 1, "hidden_size": 32, "intermediate_size": 32, "num_heads": 2,
                "out_hidden_size": 64,
            },
        },
    }[kind]  # fmt: skip
    # What stands for an image: ids that the text does not have.
    names = ("image_token_index", "boi_token_index", "eoi_token_index", "image_token_id",
             "video_token_id", "vision_start_token_id", "vision_end_token_id")  # fmt: skip
    marks = dict(zip(names, range(70, 80), strict=False))
    torch.manual_seed(0)
    config = AutoConfig.for_model(kind, **fields | marks)
    return AutoModelForImageTextToText.from_config(config).eval()


def mllama():
    """The text model of Llama 3.2 Vision, which names its part otherwise than it says."""
    config = AutoConfig.for_model("mllama").text_config
    for name, value in (TEXT | {"cross_attention_layers": []}).items():
        setattr(config, name, value)
    config.rope_parameters = {"rope_type": "default", "rope_theta": 5e5}
    torch.manual_seed(0)
    return transformers.MllamaForCausalLM(config).eval()


@pytest.mark.parametrize("kind", ["gemma3", "mistral3", "qwen2_5_vl", "mllama"])
def test_text_through_a_model_that_reads_images(kind):
    model = mllama() if kind == "mllama" else wrapper(kind)
    stock = logits(model)
    expected = F.cross_entropy(stock[0, :-1].float(), IDS[0, 1:], reduction="none")
    torch.testing.assert_close(token_losses(model, IDS[0]), expected, atol=1e-5, rtol=0)
    with apply_scaling(model, rope_scaling(rope_spec(model), "yarn", 4 * WINDOW)):
        scaled = logits(model)
        expected = F.cross_entropy(scaled[0, :-1].float(), IDS[0, 1:], reduction="none")
        torch.testing.assert_close(token_losses(model, IDS[0]), expected, atol=1e-5, rtol=0)
    assert (scaled - stock).abs().max() > 1e-3 * stock.abs().max()


def test_a_head_that_calls_the_decoder_inside_its_body():
    """BART's logits would be those of the ids that stand for nothing."""
    config = transformers.BartConfig(
        d_model=16, decoder_layers=1, decoder_attention_heads=2, decoder_ffn_dim=16,
        vocab_size=VOCABULARY, max_position_embeddings=4 * WINDOW, is_decoder=True, init_std=0.5,
    )  # fmt: skip
    model = transformers.BartForCausalLM(config).eval()
    expected = F.cross_entropy(logits(model)[0, :-1], IDS[0, 1:], reduction="none")
    torch.testing.assert_close(token_losses(model, IDS[0]), expected, atol=1e-5, rtol=0)


def test_a_head_that_calls_nothing_before_it_is_refused(monkeypatch):
    model = tiny_model()
    none = SimpleNamespace(logits=torch.zeros(1, IDS.shape[1] - 1, VOCABULARY))
    monkeypatch.setattr(model, "forward", lambda input_ids: none)
    with pytest.raises(ValueError, match="does not call the part before its head: it"):
        token_losses(model, IDS[0])


# --- rotary embeddings that are not used, or in near layers alone ---


def test_a_rotary_module_that_no_layer_uses():
    """Falcon 1B has one, and tells tokens apart by ALiBi."""
    models = [
        AutoModelForCausalLM.from_config(
            transformers.FalconConfig(
                hidden_size=64, num_hidden_layers=2, num_attention_heads=4, vocab_size=VOCABULARY,
                alibi=alibi, max_position_embeddings=WINDOW,
            )
        )
        for alibi in (True, False)
    ]  # fmt: skip
    with pytest.raises(ValueError, match="has a rotary embedding that no layer uses"):
        rope_spec(models[0])
    assert rope_spec(models[1]).window == WINDOW


NEAR = {"sliding_window": 16, "layer_types": ["sliding_attention"] * 3 + ["full_attention"]}
LLAMA4 = {
    "attention_chunk_size": 16, "layer_types": ["chunked_attention"] * 3 + ["full_attention"],
    "no_rope_layers": [1, 1, 1, 0], "intermediate_size_mlp": 64, "num_local_experts": 2,
}  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "fields", "near"),
    [
        ("cohere2", NEAR, True),
        ("exaone4", NEAR, True),
        ("llama4_text", LLAMA4, True),
        ("smollm3", {"no_rope_layers": [0, 1, 1, 1]}, False),
        ("gemma2", NEAR, False),
    ],
)
def test_a_rotary_embedding_of_near_layers_alone(kind, fields, near, caplog):
    model = made(kind, num_hidden_layers=4, **fields)
    spec = rope_spec(model)
    with apply_scaling(model, rope_scaling(spec, "none", WINDOW)):
        pass
    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == near, messages  # said once
    if near:
        assert "turns layers that look back 16 tokens, and the layers that read the" in messages[0]


def test_a_model_that_slides_everywhere(caplog):
    model = tiny_model("mistral", sliding_window=16)
    rope_spec(model)
    assert "look back 16 tokens, and no layer looks further" in caplog.text
    caplog.clear()
    full_attention(model)
    caplog.clear()
    rope_spec(tiny_model("mistral", sliding_window=2 * WINDOW))
    assert not caplog.records


def test_looking_at_a_model_leaves_no_trace():
    model = tiny_model(attention_dropout=0.5).train()
    hooks = [len(module._forward_pre_hooks) for module in model.modules()]
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    rope_spec(model)
    assert torch.equal(torch.rand(3), expected)
    assert [len(module._forward_pre_hooks) for module in model.modules()] == hooks
    assert not any("forward" in vars(module) for module in model.modules())


# --- peft ---


def test_learned_tokens_before_a_text_are_refused():
    config = PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)
    model = get_peft_model(tiny_model(), config)
    message = "the model has prompt tuning of peft, which puts learned tokens before each text"
    with pytest.raises(ValueError, match=message):
        token_losses(model, IDS[0])
    scaling = rope_scaling(rope_spec(tiny_model()), "yarn", 2 * WINDOW)
    with pytest.raises(ValueError, match=message):
        generate(model, IDS[:, :8], scaling, max_new_tokens=2)


def test_adapters_in_the_layers_are_scored():
    torch.manual_seed(0)
    config = LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj"], init_lora_weights=False)
    model = get_peft_model(tiny_model(), config).eval()
    expected = F.cross_entropy(logits(model)[0, :-1], IDS[0, 1:], reduction="none")
    ours = token_losses(model, IDS[0])
    torch.testing.assert_close(ours, expected, atol=1e-5, rtol=0)
    assert (ours - token_losses(tiny_model(), IDS[0])).abs().max() > 1e-3
