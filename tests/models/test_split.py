"""Attention by parts, and how a text is split: in one process. tests/searches has several."""

import pytest
import torch

from longrope_lab.models import partial_attention
from longrope_lab.models.partial_attention import CPU, Part, attend, kernel_for
from longrope_lab.models.split import Split


def heads(count, tokens, seed):
    return torch.randn(2, count, tokens, 8, generator=torch.Generator().manual_seed(seed))


def by_softmax(query, key, value, scale):
    """The last tokens of a text attend to it causally; heads of keys are repeated."""
    groups = query.shape[1] // key.shape[1]
    key, value = (each.repeat_interleave(groups, dim=1) for each in (key, value))
    products = query @ key.transpose(-1, -2) * scale
    later = torch.ones(products.shape[-2:]).triu(key.shape[2] - query.shape[2] + 1).bool()
    products = products.masked_fill(later, -torch.inf)
    return products.softmax(-1) @ value, products.logsumexp(-1)


@pytest.mark.parametrize("before", [0, 1, 13])
def test_parts_together_are_the_whole(before):
    query, key, value = heads(4, 7, 0), heads(2, before + 7, 1), heads(2, before + 7, 2)
    tensors = [each.requires_grad_() for each in (query, key, value)]
    expected = by_softmax(*tensors, 0.3)
    own, earlier = slice(before, None), slice(0, before)
    parts = [Part(key[:, :, own].detach(), value[:, :, own].detach(), causal=True)]
    if before:
        parts.append(Part(key[:, :, earlier].detach(), value[:, :, earlier].detach(), causal=False))
    with torch.no_grad():
        found = attend(CPU, query, parts, 0.3)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs.detach(), atol=1e-5, rtol=1e-5)

    gradient = heads(4, 7, 3)
    expected[0].backward(gradient)
    of_query = torch.zeros_like(query)
    for part, where in zip(parts, (own, earlier), strict=False):
        with torch.no_grad():
            its = CPU.backward(gradient, query, part, found, 0.3)
        of_query += its[0]
        for ours, tensor in zip(its[1:], (key, value), strict=True):
            torch.testing.assert_close(ours, tensor.grad[:, :, where], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(of_query, query.grad, atol=1e-5, rtol=1e-4)


def refuses(*_, **__):
    raise RuntimeError("No viable backend")


def adds_no_groups(*given, **scale):
    """Gradients of which those of keys and values are half of what they are."""
    query, key, value = CPU.back(*given, **scale)
    return query, key / 2, value / 2


def sees_later_tokens(query, key, value, dropout, causal, scale):
    return CPU.ahead(query, key, value, dropout, False, scale=scale)


WRONG = {
    "refuses": {"ahead": refuses},
    "refuses backward": {"back": refuses},
    "other gradients": {"back": adds_no_groups},
    "other results": {"ahead": sees_later_tokens},
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("wrong", WRONG)
def test_a_kernel_that_is_wrong_is_passed_over(wrong, dtype, monkeypatch):
    other = CPU._replace(name=wrong, **WRONG[wrong])
    given = [heads(4, 3, 0).to(dtype), *[heads(2, 3, 1).to(dtype)] * 2]
    partial_attention._first_that_is_right.cache_clear()
    monkeypatch.setitem(partial_attention.KERNELS, "cpu", [other, CPU])
    with torch.inference_mode():
        assert kernel_for(*given) is CPU
    partial_attention._first_that_is_right.cache_clear()
    monkeypatch.setitem(partial_attention.KERNELS, "cpu", [other])
    with pytest.raises(ValueError, match=f"no fused kernel attends to parts.*{wrong}: "):
        kernel_for(*given)


def test_heads_that_a_kernel_cannot_read_are_refused():
    with pytest.raises(ValueError, match="no fused kernel"):  # values are narrower than keys
        kernel_for(heads(4, 3, 0), heads(2, 3, 1), heads(2, 3, 1)[..., :4])


@pytest.mark.parametrize("count", [1, 2, 3, 4])
@pytest.mark.parametrize("tokens", [8, 40, 61])
def test_each_token_has_one_process_and_all_have_the_same_work(count, tokens):
    shares = [Split(tokens, rank, count) for rank in range(count)]
    gathered = torch.stack([share.positions() for share in shares])
    in_order = shares[0].in_order(gathered)
    assert torch.equal(in_order[:tokens], torch.arange(tokens))
    assert (in_order[tokens:] == tokens - 1).all()
    whole = torch.arange(len(in_order) * 3).view(-1, 3)
    for share in shares:
        assert torch.equal(share.in_order(share.by_process(whole)), whole)
    work = [sum(share.starts(share.rank)) for share in shares]  # tokens before its chunks
    assert len(set(work)) == 1
