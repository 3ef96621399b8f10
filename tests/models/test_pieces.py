"""Long texts read in pieces, against the same texts read whole."""

from contextlib import contextmanager

import pytest
import torch
from conftest import FAMILIES, VOCABULARY, tiny_model
from torch import nn

from longrope_lab.models import forward, pieces
from longrope_lab.models.forward import token_losses
from longrope_lab.models.pieces import in_pieces

IDS = torch.randint(3, VOCABULARY, (61,), generator=torch.Generator().manual_seed(3))
PIECE = 16


@contextmanager
def small_pieces(monkeypatch, **options):
    """Texts of more than 40 tokens are long ones."""
    with monkeypatch.context() as patched:
        patched.setattr(pieces, "LONG", 40)
        patched.setattr(forward, "in_pieces", lambda m, n: in_pieces(m, n, PIECE, **options))
        yield


def most_tokens(module, model, monkeypatch, **options):
    """The most tokens that a module is given at once, and the losses."""
    seen = []
    hook = module.register_forward_pre_hook(lambda _, args: seen.append(args[0].shape[1]))
    with small_pieces(monkeypatch, **options):
        losses = token_losses(model, IDS)
    hook.remove()
    return max(seen), losses


def test_losses_are_those_of_the_whole_text(family, monkeypatch):
    model = tiny_model(family)
    expected = token_losses(model, IDS)
    with small_pieces(monkeypatch):
        losses = token_losses(model, IDS)
    torch.testing.assert_close(losses, expected, atol=1e-5, rtol=0)
    assert torch.equal(token_losses(model, IDS), expected)  # and nothing stays


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt_neox", "phi3"])
def test_no_mlp_reads_more_than_a_piece(family, monkeypatch):
    model = tiny_model(family)
    layer = next(m for m in model.modules() if hasattr(m, "mlp"))
    assert most_tokens(layer.mlp, model, monkeypatch)[0] == len(IDS)  # hooks see the call
    inner = next(m for m in layer.mlp.modules() if isinstance(m, nn.Linear))
    assert most_tokens(inner, model, monkeypatch)[0] == PIECE


def test_the_last_norm_reads_no_more_than_a_piece(monkeypatch):
    """It computes in float32: of a whole text that would be more than attention holds."""
    model, seen = tiny_model(), []
    norm = model.model.norm
    stock = type(norm).forward
    monkeypatch.setattr(
        type(norm), "forward", lambda self, x: (seen.append((self, x.shape[1])), stock(self, x))[1]
    )
    with small_pieces(monkeypatch):
        token_losses(model, IDS)
    assert max(tokens for module, tokens in seen if module is norm) == PIECE


@pytest.mark.parametrize("attention", [True, False])
def test_no_projection_reads_more_than_a_piece(attention, monkeypatch):
    model = tiny_model()
    most, _ = most_tokens(
        model.model.layers[0].self_attn.q_proj, model, monkeypatch, attention=attention
    )
    assert most == (PIECE if attention else len(IDS))


def test_attention_acts_once_on_the_whole_text(monkeypatch):
    """Besides the few tokens on which each layer is tried, whole and in halves."""
    lengths = []
    attend = torch.nn.functional.scaled_dot_product_attention

    def spy(query, *args, **kwargs):
        lengths.append(query.shape[2])
        return attend(query, *args, **kwargs)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", spy)
    model = tiny_model()
    with small_pieces(monkeypatch):
        token_losses(model, IDS)
    assert lengths == [pieces.TRIED, pieces.TRIED, len(IDS)] * len(model.model.layers)


class Running(nn.Linear):
    """A layer that is not what it looks like: each token gets the sum of all before it, too."""

    def forward(self, x):
        return super().forward(x).cumsum(dim=1)


def test_what_looks_back_is_read_whole(monkeypatch):
    model = tiny_model()
    model.model.layers[0].mlp = Running(64, 64)
    expected = token_losses(model, IDS)
    most, losses = most_tokens(model.model.layers[0].mlp, model, monkeypatch)
    assert most == len(IDS) and torch.equal(losses, expected)


def test_experts_and_masks_are_read_whole(monkeypatch):
    """What a few tokens do not show is not tried: the experts of GPT-OSS, Gemma 2's near layers."""
    for family in ("gpt_oss", "gemma2"):
        model, calls = tiny_model(family), []
        monkeypatch.setattr(pieces, "_read", lambda *_, calls=calls: calls.append(1))
        with small_pieces(monkeypatch):
            token_losses(model, IDS)
        assert not calls


def test_short_texts_and_backward_passes_are_left_alone(monkeypatch):
    model = tiny_model()
    with small_pieces(monkeypatch), in_pieces(model, 40):
        assert "forward" not in vars(model.model.layers[0].mlp)
    monkeypatch.setattr(pieces, "LONG", 40)
    expected = model(IDS[None]).logits
    with in_pieces(model, len(IDS), PIECE):
        logits = model(IDS[None]).logits
    assert logits.requires_grad and torch.equal(logits, expected)


def test_a_config_is_as_before_after_an_error(monkeypatch):
    model = tiny_model()
    before = model.config._attn_implementation

    def fail(*_):
        raise ZeroDivisionError

    model.model.layers[1].self_attn.o_proj.forward = fail
    with small_pieces(monkeypatch), pytest.raises(ZeroDivisionError):
        token_losses(model, IDS)
    assert model.config._attn_implementation == before
    assert "forward" not in vars(model.model.layers[0].self_attn)


def test_the_families_above_are_the_ones_tested():
    """That is, most of them do read attention in pieces."""
    assert len(FAMILIES) >= 13
