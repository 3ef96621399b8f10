"""What a model takes, against published sizes and what was measured on a GPU."""

from types import SimpleNamespace

import pytest
import torch
import transformers
from conftest import tiny_model
from torch.profiler import ProfilerActivity, profile

from longrope_lab.models import estimates, forward, pieces
from longrope_lab.models.estimates import activation_bytes, memory_shortage, parameter_count
from longrope_lab.models.forward import token_losses


def test_weights_are_counted_without_making_them():
    """Published sizes of the paper's two models, and one with tied embeddings."""
    assert parameter_count(transformers.LlamaConfig()) == 6_738_415_616
    assert parameter_count(transformers.MistralConfig()) == 7_241_732_096
    tied = tiny_model(tie_word_embeddings=True)
    assert parameter_count(tied.config) == tied.num_parameters()


SMOLLM2 = transformers.LlamaConfig(
    hidden_size=576,
    intermediate_size=1536,
    num_hidden_layers=30,
    num_attention_heads=9,
    num_key_value_heads=3,
)


def test_estimated_activations_are_those_measured():
    """GiB above the weights of SmolLM2-135M in bfloat16 on a GPU, all of a text at once."""
    for length, measured in ((65_536, 0.892), (262_144, 3.473), (524_288, 6.914)):
        estimated = activation_bytes(SMOLLM2, length, torch.bfloat16, in_pieces=False) / 2**30
        assert estimated == pytest.approx(measured, rel=0.04)


def test_two_million_tokens_of_smollm2_take_less_than_14_gib():
    """What attention holds then, tensor by tensor, and per token; whole, 27.5 GiB were measured."""
    embeddings = given = normed = queries = attended = 2 * 576
    keys = values = 2 * 3 * 64
    turns, numbers, denominators = 2 * 2 * 64, 2 * 8, 9 * 4
    per_token = embeddings + given + normed + queries + keys + values + attended
    per_token += turns + numbers + denominators
    found = activation_bytes(SMOLLM2, 2_097_152, torch.bfloat16)
    assert found == per_token * 2_097_152
    assert 13.3 < found / 2**30 < 14
    whole = activation_bytes(SMOLLM2, 2_097_152, torch.bfloat16, in_pieces=False)
    assert whole / 2**30 == pytest.approx(27.5, rel=0.01)


def measured_peak(model, tokens):
    """The most bytes that tensors take at once while so many tokens are scored."""
    ids = torch.arange(tokens) % model.config.vocab_size
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        token_losses(model, ids)
    changes = [e for e in profiled.profiler.kineto_results.events() if e.name() == "[memory]"]
    held = [0]
    for change in sorted(changes, key=lambda event: event.start_ns()):
        held.append(held[-1] + change.nbytes())
    return max(held)


@pytest.mark.parametrize(
    ("in_pieces", "inner", "key_heads", "dtype"),
    [
        (False, 192, 2, torch.bfloat16),
        (False, 2048, 2, torch.bfloat16),
        (True, 4096, 6, torch.float32),
    ],
)
def test_estimated_activations_are_those_of_a_small_model(
    in_pieces, inner, key_heads, dtype, monkeypatch
):
    """In pieces the MLP is made wide enough to decide: a CPU's attention has buffers of its own."""
    sizes = {"hidden_size": 96, "num_attention_heads": 6, "num_key_value_heads": key_heads}
    model = tiny_model(intermediate_size=inner, **sizes).to(dtype)
    tokens, piece, chunk = 2048, 64, 32  # small chunks of logits, which are not of the estimate
    token_losses(model, torch.arange(8))  # what is made once
    monkeypatch.setattr(forward, "head_rows", lambda *_: chunk)
    monkeypatch.setattr(pieces, "LONG", tokens // 2 if in_pieces else tokens)
    monkeypatch.setattr(estimates, "LONG", pieces.LONG)
    monkeypatch.setattr(estimates, "PIECE", piece)
    monkeypatch.setattr(forward, "in_pieces", lambda m, n: pieces.in_pieces(m, n, piece))
    estimated = activation_bytes(model.config, tokens, dtype)
    assert measured_peak(model, tokens) == pytest.approx(estimated, rel=0.08)


def test_what_a_gpu_lacks(monkeypatch):
    gpu, asked = torch.device("cuda:1"), []
    monkeypatch.setattr(
        torch.cuda,
        "get_device_properties",
        lambda d: asked.append(d) or SimpleNamespace(total_memory=16 * 2**30),
    )
    assert memory_shortage(transformers.LlamaConfig(), 4096, gpu, torch.bfloat16) is None
    assert memory_shortage(transformers.LlamaConfig(), 65_536, gpu, torch.bfloat16) == (
        "at least 12.6 GiB for 6,738,415,616 weights in bfloat16 and 6.06 GiB to score 65,536 "
        "tokens, and the GPU has 16 GiB"
    )
    assert asked == [gpu, gpu]
    quantised = transformers.LlamaConfig(quantization_config={"quant_method": "gptq", "bits": 4})
    assert memory_shortage(quantised, 65_536, gpu, torch.bfloat16) is None
