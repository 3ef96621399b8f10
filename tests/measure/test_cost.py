"""The cost tables: their columns, their order, and that they measure what they say."""

from __future__ import annotations

import math
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import tiny_model
from torch.profiler import ProfilerActivity, profile

from longrope_lab.measure import cost as cost_module
from longrope_lab.measure import meters
from longrope_lab.measure.cost import scoring_cost, training_cost, worker_cost
from longrope_lab.measure.meters import attention_share, operations_per_second
from longrope_lab.models.compiling import compiled
from longrope_lab.models.estimates import forward_flops


def test_scoring_cost_of_the_lab_model(lab):
    model = lab[0]
    table = scoring_cost(model, [512, 64], repeats=2, plain_up_to=64)
    assert table["length"].tolist() == [
        64,
        512,
    ]  # rising, so that a CPU's high-water mark means something
    assert (table["seconds"] > 0).all() and (table["peak_gib"] >= 0).all()
    np.testing.assert_allclose(table["tokens_per_second"], table["length"] / table["seconds"])
    assert np.isfinite(table["slowdown"][0]) and np.isnan(table["slowdown"][1])


def test_compiled_layers_are_measured_beside_the_others(monkeypatch):
    monkeypatch.setattr(meters, "compiled", partial(compiled, backend="eager"))
    model, compiling = tiny_model(), []
    traced = torch.compiler.is_compiling
    model.model.layers[0].mlp.register_forward_pre_hook(lambda *_: compiling.append(traced()))
    table = scoring_cost(model, [64, 32], repeats=2, with_compiled=True)
    assert any(compiling) and not all(compiling)
    assert (table["compiled_seconds"] > 0).all()
    speedup = table["seconds"] / table["compiled_seconds"]
    np.testing.assert_allclose(table["compiled_speedup"], speedup)
    assert "compiled_seconds" not in scoring_cost(model, [32], repeats=1)


def test_what_no_compiler_took_is_not_called_compiled(monkeypatch, caplog):
    def broken(*_):
        raise ZeroDivisionError

    torch._dynamo.reset()
    monkeypatch.setattr(meters, "compiled", partial(compiled, backend=broken))
    table = scoring_cost(tiny_model(), [32], repeats=1, with_compiled=True)
    assert table["compiled_seconds"].isna().all() and table["seconds"].notna().all()
    assert "not compiled" in caplog.text


def test_training_cost_of_a_tiny_model():
    """Two lengths far apart: attention's work grows with their square, all other work with them."""
    model = tiny_model()
    passes = []
    model.lm_head.register_forward_hook(lambda module, given, out: passes.append(module.training))
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    table = training_cost(model, [2048, 32], repeats=2)
    assert table.columns.tolist() == [
        "length",
        "seconds",
        "tokens_per_second",
        "peak_gib",
        "attention_share",
    ]
    assert table["length"].tolist() == [32, 2048]
    assert (table["seconds"] > 0).all() and (table["peak_gib"] >= 0).all()
    np.testing.assert_allclose(table["tokens_per_second"], table["length"] / table["seconds"])
    assert 0 < table["attention_share"][0] < table["attention_share"][1] < 1
    # One to begin, two timed, one profiled; each in 1 or 2 chunks of the head, forward and again.
    assert len(passes) == 4 * 2 * (1 + 2) and all(passes)
    assert not model.training and all(p.grad is None for p in model.parameters())
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())


def test_a_training_step_is_forward_and_backward_pass_of_fine_tuning(monkeypatch):
    """The gradients of a plain backward pass, without full logits.

    Where memory is short, layers are computed again."""
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(available=0))
    ids = torch.arange(3, 63)
    plain = tiny_model()
    logits = plain(ids[None]).logits[0, :-1]
    loss = torch.nn.functional.cross_entropy(logits, ids[1:])
    loss.backward()
    model = tiny_model()
    mlp, gradients = [], {}
    model.model.layers[0].mlp.register_forward_pre_hook(lambda *_: mlp.append(1))
    monkeypatch.setattr(
        model,
        "zero_grad",
        lambda: gradients.update({name: p.grad for name, p in model.named_parameters()}),
    )
    torch.testing.assert_close(cost_module._training_step(model, ids), loss.detach())
    assert len(mlp) == 2
    for name, p in plain.named_parameters():
        torch.testing.assert_close(gradients[name], p.grad, atol=1e-5, rtol=1e-3)


def test_sixteen_bits_are_measured_in_thirty_two_and_given_back(monkeypatch):
    model = tiny_model().to(torch.bfloat16)
    seen, stock = [], cost_module.mean_loss
    monkeypatch.setattr(
        cost_module,
        "mean_loss",
        lambda model, ids: (seen.append(model.lm_head.weight.dtype), stock(model, ids))[1],
    )
    training_cost(model, [32], repeats=1)
    assert set(seen) == {torch.float32} and {p.dtype for p in model.parameters()} == {
        torch.bfloat16
    }


def operation(name, self_cpu, cpu, self_device=0.0, device=0.0, inside=None, on="CPU"):
    return SimpleNamespace(
        name=name,
        device_type=SimpleNamespace(name=on),
        self_cpu_time_total=self_cpu,
        cpu_time_total=cpu,
        self_device_time_total=self_device,
        device_time_total=device,
        cpu_parent=inside,
    )


def test_operations_per_second_are_those_of_the_quickest_pass(monkeypatch):
    model, seconds = tiny_model(), iter([9.0, 4.0, 2.0, 8.0])
    monkeypatch.setattr("longrope_lab.measure.meters.seconds_of", lambda *_: next(seconds))
    assert operations_per_second(model, 200) == forward_flops(model, 200) / 2  # the 9 warmed up


def test_the_share_of_attention_by_hand():
    """On a GPU the time is that of kernels, which are listed once more by themselves."""
    product = operation("aten::mm", 10, 10, 50, 50)
    outer = operation(
        "aten::scaled_dot_product_attention", 1, 9, 0, 20
    )  # with the casts of autocast
    inner = operation("aten::scaled_dot_product_attention", 1, 8, 0, 20, outer)
    flash = operation("aten::_scaled_dot_product_flash_attention", 2, 7, 0, 20, inner)
    kernel = operation("aten::_flash_attention_forward", 5, 5, 20, 20, flash)
    node = operation("ScaledDotProductFlashAttentionBackward0", 4, 21, 0, 30)
    back = operation("aten::_scaled_dot_product_flash_attention_backward", 5, 17, 0, 30, node)
    back_kernel = operation("aten::_flash_attention_backward", 12, 12, 30, 30, back)
    kernels = [
        operation(name, 0, 0, t, t, on="CUDA")
        for name, t in (("fwd", 20), ("bwd", 30), ("gemm", 50))
    ]
    operations = [product, outer, inner, flash, kernel, node, back, back_kernel, *kernels]
    assert attention_share(operations, "cpu") == (9 + 17) / 40
    assert attention_share(operations, "device") == (20 + 30) / 100
    assert attention_share([product], "cpu") == 0
    assert np.isnan(attention_share([node], "device"))


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize(
    ("kind", "least", "most"), [("attention", 0.5, 1.0), ("product", 0.0, 0.0)]
)
def test_the_share_of_attention_in_a_profile(kind, least, most, autocast):
    """Of nothing but attention, most; of a product of matrices, nothing."""
    q = torch.randn(1, 4, 512, 16, requires_grad=True)
    with profile(activities=[ProfilerActivity.CPU]) as profiled:
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            if kind == "attention":
                out = torch.nn.functional.scaled_dot_product_attention(q, q, q, is_causal=True)
            else:
                out = q @ q.transpose(2, 3)
        out.sum().backward()
    assert least <= attention_share(profiled.events(), "cpu") <= most


def test_attention_that_goes_another_way_has_no_share():
    assert training_cost(tiny_model(attn_implementation="eager"), [32], repeats=1)[
        "attention_share"
    ].tolist() == [0]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: scoring_cost(None, [64, 1.5]), "length is 1.5: it must be a whole number from 2"),
        (lambda: scoring_cost(None, [64], repeats=0), "repeats is 0: it must be a whole number"),
        (lambda: training_cost(None, [64, 1]), "length is 1: it must be a whole number from 2"),
        (lambda: training_cost(None, [64], repeats=math.nan), "repeats is nan: it must be"),
        (lambda: worker_cost("lab", [], 64, counts=[1, 0]), "a count of workers is 0: it must be"),
        (lambda: worker_cost("lab", [], 64, candidates=2.5), "candidates is 2.5: it must be"),
    ],
)
def test_numbers_that_measure_nothing(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_without_lengths_there_is_no_cost():
    for measure in (scoring_cost, training_cost):
        with pytest.raises(ValueError, match="lengths is empty: name at least one"):
            measure(None, [])
    with pytest.raises(ValueError, match="counts is empty: name at least one number of workers"):
        worker_cost("lab", [], 512, counts=[])
