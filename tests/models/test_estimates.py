"""What a model takes, against published sizes and what was measured on a GPU."""

from types import SimpleNamespace

import pytest
import torch
import transformers
from conftest import tiny_model

from longrope_lab.models.estimates import activation_bytes, memory_shortage, parameter_count


def test_weights_are_counted_without_making_them():
    """Published sizes of the paper's two models, and one with tied embeddings."""
    assert parameter_count(transformers.LlamaConfig()) == 6_738_415_616
    assert parameter_count(transformers.MistralConfig()) == 7_241_732_096
    tied = tiny_model(tie_word_embeddings=True)
    assert parameter_count(tied.config) == tied.num_parameters()


def test_estimated_activations_are_those_measured():
    """GiB above the weights of SmolLM2-135M in bfloat16 on a GPU."""
    smollm2 = transformers.LlamaConfig(
        hidden_size=576, intermediate_size=1536, num_hidden_layers=30
    )
    for length, measured in ((65_536, 0.9), (524_288, 6.9)):
        estimated = activation_bytes(smollm2, length, torch.bfloat16) / 2**30
        assert estimated == pytest.approx(measured, rel=0.1)


def test_what_a_gpu_lacks(monkeypatch):
    gpu, asked = torch.device("cuda:1"), []
    monkeypatch.setattr(
        torch.cuda,
        "get_device_properties",
        lambda d: asked.append(d) or SimpleNamespace(total_memory=16 * 2**30),
    )
    assert memory_shortage(transformers.LlamaConfig(), 4096, gpu, torch.bfloat16) is None
    assert memory_shortage(transformers.LlamaConfig(), 65_536, gpu, torch.bfloat16) == (
        "at least 12.6 GiB for 6,738,415,616 weights in bfloat16 and 6.03 GiB to score 65,536 "
        "tokens, and the GPU has 16 GiB"
    )
    assert asked == [gpu, gpu]
    quantised = transformers.LlamaConfig(quantization_config={"quant_method": "gptq", "bits": 4})
    assert memory_shortage(quantised, 65_536, gpu, torch.bfloat16) is None
