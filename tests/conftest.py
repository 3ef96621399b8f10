"""Shared by all tests: no network, a cache of their own, and small models that need no download."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"  # read once, when huggingface_hub is first imported

import pytest
import torch
import transformers

from longrope_lab.models import LAB_MODEL, load_model

WINDOW = 64
VOCABULARY = 97

# What the tests know of each family without asking our code: the config's class, its own fields, how many
# dimensions turn, and the base.
FAMILIES = {
    "llama": ("LlamaConfig", {"num_key_value_heads": 2}, 16, 10_000.0),
    "mistral": ("MistralConfig", {"num_key_value_heads": 2, "sliding_window": None}, 16, 10_000.0),
    "qwen2": ("Qwen2Config", {"num_key_value_heads": 2}, 16, 10_000.0),
    "qwen3": ("Qwen3Config", {"num_key_value_heads": 2, "head_dim": 32}, 32, 10_000.0),
    "phi3": ("Phi3Config", {"num_key_value_heads": 2}, 16, 10_000.0),
    "gemma2": ("Gemma2Config", {"num_key_value_heads": 2, "head_dim": 32, "sliding_window": 16}, 32, 10_000.0),
    "gpt_neox": ("GPTNeoXConfig", {}, 4, 10_000.0),  # a quarter of 16
    "olmo2": ("Olmo2Config", {"num_key_value_heads": 2}, 16, 10_000.0),
    "stablelm": ("StableLmConfig", {"num_key_value_heads": 2}, 4, 10_000.0),  # a quarter, too
    "cohere": ("CohereConfig", {"num_key_value_heads": 2, "logit_scale": 0.5}, 16, 500_000.0),
    "gemma3": (
        "Gemma3TextConfig",
        {
            "num_key_value_heads": 2,
            "head_dim": 32,
            "sliding_window": 16,
            "layer_types": ["sliding_attention", "full_attention"],
        },
        32,
        1_000_000.0,
    ),
    "gpt_oss": (
        "GptOssConfig",
        {
            "num_key_value_heads": 2,
            "head_dim": 16,
            "num_local_experts": 2,
            "num_experts_per_tok": 1,
            "layer_types": ["full_attention", "full_attention"],
            "rope_parameters": {"rope_type": "default", "rope_theta": 150_000.0},
        },
        16,
        150_000.0,
    ),
    "glm": ("GlmConfig", {"num_key_value_heads": 2, "head_dim": 16}, 8, 10_000.0),  # a half
}


def tiny_config(family, **fields):
    name, own, _, _ = FAMILIES[family]
    common = {
        "vocab_size": VOCABULARY,
        "hidden_size": 64,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": WINDOW,
        "initializer_range": 0.1,  # five times the usual, so that attention is no plain average and positions matter
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    return getattr(transformers, name)(**common | own | fields)


def tiny_model(family="llama", *, seed=0, **fields):
    """A random model of a family; the same seed gives the same weights, whatever its rope parameters are."""
    torch.manual_seed(seed)
    return transformers.AutoModelForCausalLM.from_config(tiny_config(family, **fields)).eval()


@pytest.fixture(params=FAMILIES)
def family(request):
    """The name of each family in turn."""
    return request.param


@pytest.fixture(autouse=True)
def _threads(request):
    """Two for the lab model; the tiny ones lose more to waiting for a second thread than it does for them."""
    torch.set_num_threads(2 if "lab" in request.fixturenames else 1)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """This test's own cache folder, in place of the user's."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("LONGROPE_LAB_CACHE", str(folder))
    return folder


@pytest.fixture(autouse=True)
def _quiet_transformers():
    """Its advice on configs that are small or odd on purpose would fill the screen."""
    logging = transformers.logging
    before = logging.get_verbosity()
    logging.set_verbosity_error()
    yield
    logging.set_verbosity(before)


@pytest.fixture(scope="session")
def lab():
    """The lab model and its tokenizer; tests leave both as they are."""
    return load_model("lab", device="cpu", dtype=torch.float32)


@pytest.fixture(scope="session")
def tokenizer():
    """The lab model's tokenizer alone."""
    return transformers.AutoTokenizer.from_pretrained(LAB_MODEL)
