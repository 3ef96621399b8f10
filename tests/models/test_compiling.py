"""Compiled layers, by a compiler that only traces: values, how many are compiled, and ways back."""

import logging

import pytest
import torch
from conftest import VOCABULARY, WINDOW, tiny_model
from torch._dynamo.utils import counters

from longrope_lab.models import compiling
from longrope_lab.models.compiling import compiled, losses_of_chunk
from longrope_lab.models.forward import mean_loss, token_losses
from longrope_lab.models.head import GPU_LOGITS, HEAD_CHUNK, MOST_ROWS, head_rows, losses_of
from longrope_lab.models.rotary import apply_scaling, rope_spec
from longrope_lab.rope.methods import rope_scaling

IDS = torch.randint(3, VOCABULARY, (120,), generator=torch.Generator().manual_seed(4))


@pytest.fixture(autouse=True)
def _nothing_compiled():
    torch._dynamo.reset()
    counters.clear()


@pytest.mark.parametrize("family", ["llama", "gemma3", "gpt_oss", "glm"])
def test_losses_are_those_of_the_layers_as_they_are(family):
    model = tiny_model(family)
    expected = [token_losses(model, IDS[:length]) for length in (120, 70)]
    with compiled(model, backend="eager"):
        found = [token_losses(model, IDS[:length]) for length in (120, 70)]
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)
    assert counters["stats"]["unique_graphs"] >= 2


def test_layers_are_compiled_once_for_all_lengths_and_blocks():
    model = tiny_model(num_hidden_layers=5)
    for length in (120, 70, 99):
        with compiled(model, backend="eager"):
            token_losses(model, IDS[:length])
    assert counters["stats"]["unique_graphs"] == 2  # a layer, and the losses
    assert not counters["graph_break"]


def test_under_a_scaling():
    model = tiny_model()
    with apply_scaling(model, rope_scaling(rope_spec(model), "yarn", 2 * WINDOW)):
        expected = token_losses(model, IDS)
        with compiled(model, backend="eager"):
            torch.testing.assert_close(token_losses(model, IDS), expected, atol=1e-5, rtol=0)


def test_gradients_and_caches_go_through_the_layers_as_they_are():
    model = tiny_model()
    expected = mean_loss(model, IDS[None]).item()
    answer = model.generate(IDS[None, :20], max_new_tokens=4, do_sample=False)
    with compiled(model, backend="eager"):
        loss = mean_loss(model, IDS[None])
        loss.backward()
        again = model.generate(IDS[None, :20], max_new_tokens=4, do_sample=False)
    assert loss.item() == expected and torch.equal(again, answer)
    assert not counters["stats"]


def test_a_compiler_that_fails_costs_a_warning(caplog):
    model = tiny_model()
    expected = token_losses(model, IDS)

    def broken(graph, inputs):
        raise OSError("no C++ compiler")

    with caplog.at_level(logging.WARNING), compiled(model, backend=broken):
        assert torch.equal(token_losses(model, IDS), expected)
        assert torch.equal(token_losses(model, IDS[:50]), expected[:49])
    ours = [r for r in caplog.records if r.name == compiling.__name__]
    assert len(ours) == 1 and "no C++ compiler" in ours[0].getMessage()


def test_the_block_ends():
    model = tiny_model()
    with pytest.raises(ZeroDivisionError), compiled(model, backend="eager"):
        raise ZeroDivisionError
    token_losses(model, IDS)
    assert not counters["stats"] and "forward" not in vars(model.model.layers[0])


def test_a_model_without_layers_is_refused():
    with pytest.raises(ValueError, match="leave out compiled"), compiled(torch.nn.Linear(2, 2)):
        pass


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_losses_of_logits(dtype):
    logits = 20 * torch.randn(30, VOCABULARY, generator=torch.Generator().manual_seed(1))
    logits, targets = logits.to(dtype), IDS[:30]
    expected = -logits.double().log_softmax(-1)[range(30), targets].float()
    for function in (losses_of, losses_of_chunk):
        losses = function(logits, targets)
        assert losses.dtype == torch.float32
        torch.testing.assert_close(losses, expected, atol=1e-5, rtol=0)


def test_rows_of_a_head():
    gpu = torch.device("cuda")
    assert head_rows(49_152, torch.device("cpu")) == HEAD_CHUNK
    assert head_rows(1_000, gpu) == MOST_ROWS
    assert head_rows(1_000_000, gpu) == HEAD_CHUNK
    assert 4096 <= head_rows(49_152, gpu) <= GPU_LOGITS / 49_152
