"""Token losses against cross-entropy of all logits at once, which are proved never to be held.

And stand-ins for a module's `forward`.
"""

import contextlib
import copy
import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import VOCABULARY, WINDOW, tiny_model
from torch.nn.attention import sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from longrope_lab.models import forward as losses_module
from longrope_lab.models.forward import (
    hidden_states,
    mean_loss,
    recomputing,
    token_losses,
)
from longrope_lab.models.generation import generate
from longrope_lab.models.head import HEAD_CHUNK, chunked_logits
from longrope_lab.models.rotary import apply_scaling, rope_spec
from longrope_lab.models.stand_in import StandIn, remove_stand_in
from longrope_lab.rope.methods import rope_scaling

IDS = torch.randint(3, VOCABULARY, (301,), generator=torch.Generator().manual_seed(2))


@torch.no_grad()
def by_full_logits(model, ids):
    return F.cross_entropy(model(ids[None]).logits[0, :-1].float(), ids[1:], reduction="none")


@pytest.mark.parametrize("chunk", [7, 60, HEAD_CHUNK])
def test_cross_entropy_of_the_full_logits(family, chunk):
    """Gemma 2 caps its logits, Cohere scales them, mixtures of experts hand on more than states."""
    model = tiny_model(family)
    ids = IDS[:60]
    losses = token_losses(model, ids, head_chunk=chunk)
    assert losses.shape == (59,)
    assert losses.dtype == torch.float32
    torch.testing.assert_close(losses, by_full_logits(model, ids), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("family", "field"), [("cohere", "logit_scale"), ("gemma2", "final_logit_softcapping")]
)
def test_what_a_model_does_to_its_logits_counts(family, field):
    """So that the test above would notice if it were left out."""
    ids = IDS[:60]
    losses = [token_losses(tiny_model(family, **{field: value}), ids) for value in (0.25, 2.0)]
    assert (losses[0] - losses[1]).abs().max() > 0.1


@pytest.mark.parametrize("count", [2, 3, 100, 101, 102, 201, 301])
def test_chunks_do_not_matter(count):
    """One token to predict, a last chunk of one row, exactly full chunks."""
    model = tiny_model()
    expected = by_full_logits(model, IDS[:count])
    for chunk in (1, 100, 1000):
        torch.testing.assert_close(
            token_losses(model, IDS[:count], head_chunk=chunk), expected, atol=1e-5, rtol=0
        )


class Largest(TorchDispatchMode):
    """The most rows of the vocabulary that any operation returns."""

    rows = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **kwargs or {})
        for tensor in tree_leaves(out):
            if isinstance(tensor, torch.Tensor) and tensor.ndim and tensor.shape[-1] == VOCABULARY:
                self.rows = max(self.rows, tensor.numel() // VOCABULARY)
        return out


class Attention(TorchDispatchMode):
    """Counts forward passes of fused attention."""

    calls = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.calls += function in losses_module.ATTENTION
        return function(*args, **kwargs or {})


def test_full_logits_are_never_made(family):
    model = tiny_model(family)
    with Largest() as seen:
        token_losses(model, IDS, head_chunk=100)
    assert (
        seen.rows == 100
    )  # more than the 64 of a transposed head, less than the 300 of all logits
    with Largest() as seen:
        by_full_logits(model, IDS)
    assert seen.rows > 100  # the instrument works


def test_the_head_sees_each_row_once():
    model = tiny_model()
    rows = []
    hook = model.lm_head.register_forward_hook(
        lambda module, given, out: rows.append(out.shape[:-1].numel())
    )
    token_losses(model, IDS, head_chunk=128)
    hook.remove()
    assert rows == [128, 128, 44]


def test_no_cache_of_keys_is_made():
    model = tiny_model()
    caches = []
    hook = model.model.register_forward_hook(
        lambda module, given, out: caches.append(out.past_key_values)
    )
    token_losses(model, IDS)
    hook.remove()
    assert caches[0] is None


def test_under_a_scaling():
    model = tiny_model()
    plain = token_losses(model, IDS)
    with apply_scaling(model, rope_scaling(rope_spec(model), "yarn", 8 * WINDOW)):
        ours = token_losses(model, IDS)
        torch.testing.assert_close(ours, by_full_logits(model, IDS), atol=1e-5, rtol=0)
    assert (ours - plain).abs().max() > 0.1
    assert torch.equal(token_losses(model, IDS), plain)


def test_half_precision_gives_float32():
    model = tiny_model().to(torch.bfloat16)
    losses = token_losses(model, IDS)
    assert losses.dtype == torch.float32
    torch.testing.assert_close(losses, by_full_logits(model, IDS), atol=1e-3, rtol=0)
    assert not torch.equal(
        losses, losses.bfloat16().float()
    )  # the logits are rounded, the losses are not


def test_frequencies_that_a_cast_rounded_are_told():
    """Loading in bfloat16 keeps them in float32; `.to` does not, and the weights look the same."""
    loaded, cast = tiny_model(), tiny_model().to(torch.bfloat16)
    for weight in loaded.parameters():
        weight.data = weight.data.to(torch.bfloat16)
    none = rope_scaling(rope_spec(cast), "none", WINDOW)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        right = token_losses(loaded, IDS)
        with apply_scaling(cast, none):
            under_a_scaling = token_losses(cast, IDS)
    torch.testing.assert_close(under_a_scaling, right, atol=0.1, rtol=0)
    with pytest.warns(UserWarning, match="rounded this model's rotary frequencies to 16 bits"):
        token_losses(cast, IDS)
    with pytest.warns(UserWarning, match="rounded this model's rotary frequencies to 16 bits"):
        generate(cast, IDS[None, :4], None, max_new_tokens=1)


@pytest.mark.parametrize(
    "kind",
    [
        list,
        tuple,
        np.array,
        lambda ids: np.array(ids, np.int32),
        lambda ids: np.array(ids, np.uint16),
        torch.tensor,
    ],
)
def test_ids_of_any_kind(kind):
    model = tiny_model()
    assert torch.equal(token_losses(model, kind(IDS.tolist())), token_losses(model, IDS))


def test_the_order_of_kernels_changes_no_result(monkeypatch):
    """With a GPU, attention kernels are taken in our order; what a machine lacks is passed over."""
    model = tiny_model()
    expected = token_losses(model, IDS)
    asked = []

    def kernels(order, *, set_priority):
        asked.append((order, set_priority))
        return sdpa_kernel(order, set_priority=set_priority)

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(losses_module, "sdpa_kernel", kernels)
    torch.testing.assert_close(token_losses(model, IDS), expected, atol=1e-5, rtol=0)
    assert asked == [(losses_module.FASTEST_FIRST, True)]


def test_the_result_can_be_used_in_autograd():
    losses = token_losses(tiny_model(), IDS)
    assert not losses.requires_grad
    weight = torch.ones(len(losses), requires_grad=True)
    (losses * weight).sum().backward()  # an inference tensor could not be saved for this
    torch.testing.assert_close(weight.grad, losses)


def test_the_decoder_is_left_as_it_was():
    model = tiny_model()
    attributes = dict(vars(model.model))
    token_losses(model, IDS)
    assert vars(model.model) == attributes

    own = model.model.forward
    model.model.forward = lambda *args, **kwargs: own(*args, **kwargs)  # as accelerate's hooks do
    hooked = model.model.forward
    token_losses(model, IDS)
    assert model.model.forward is hooked

    model.lm_head.register_forward_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        token_losses(model, IDS)
    assert model.model.forward is hooked


def test_chunked_logits_can_be_trained_through():
    """Gradient search and fine-tuning go the same way."""
    model = tiny_model()
    hidden = hidden_states(model, IDS[None])
    logits = torch.cat([part for _, part in chunked_logits(model, hidden, 50)])
    torch.testing.assert_close(logits, model(IDS[None]).logits[0], atol=1e-5, rtol=0)
    logits.sum().backward()
    assert model.model.layers[0].self_attn.q_proj.weight.grad is not None


@pytest.mark.parametrize("last", [None, 1, 17, 59])
@pytest.mark.parametrize("chunk", [7, HEAD_CHUNK])
def test_the_mean_loss_is_the_mean_of_token_losses(family, chunk, last):
    model = tiny_model(family)
    expected = token_losses(model, IDS[:60])[-last if last else 0 :].mean()
    loss = mean_loss(model, IDS[None, :60], last=last, head_chunk=chunk)
    assert loss.shape == () and loss.dtype == torch.float32
    torch.testing.assert_close(loss.detach(), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("last", [None, 20])
def test_the_mean_loss_of_several_rows_is_the_mean_of_theirs(last, family):
    model = tiny_model(family)
    rows = torch.stack([IDS[:60], IDS[10:70]])
    expected = torch.stack([mean_loss(model, row[None], last=last) for row in rows]).mean()
    torch.testing.assert_close(
        mean_loss(model, rows, last=last, head_chunk=33), expected, atol=1e-5, rtol=0
    )


def test_of_counted_tokens_each_row_weighs_the_same():
    model, rows = tiny_model(), torch.stack([IDS[:60], IDS[20:80], IDS[5:65]])
    counted = torch.zeros(3, 60, dtype=torch.bool)
    counted[0, 50:], counted[1, [7, 31]], counted[2] = True, True, True
    losses = torch.stack([token_losses(model, row) for row in rows])  # of tokens 1 to 59
    marks = counted[:, 1:]
    expected = torch.stack([loss[mark].mean() for loss, mark in zip(losses, marks, strict=True)])
    loss = mean_loss(model, rows, counted=counted, head_chunk=33)
    torch.testing.assert_close(loss, expected.mean(), atol=1e-5, rtol=0)
    everything = mean_loss(model, rows, counted=torch.ones_like(counted))
    torch.testing.assert_close(everything, mean_loss(model, rows), atol=1e-5, rtol=0)


@pytest.mark.parametrize("again", [False, True])
@pytest.mark.parametrize("family", ["llama", "gemma2", "cohere", "gpt_oss"])
def test_the_gradient_of_the_mean_loss(family, again):
    """Of every weight, in chunks and with layers computed again, against a pass for all logits."""
    gradients = []
    for ours in (True, False):
        model = tiny_model(family)
        with recomputing(model) if ours and again else contextlib.nullcontext():
            if ours:
                loss = mean_loss(model, IDS[None, :60], last=40, head_chunk=16)
            else:
                loss = F.cross_entropy(
                    model(IDS[None, :60]).logits[0, :-1].float(), IDS[1:60], reduction="none"
                )[-40:]
            loss.mean().backward()
        gradients.append(
            {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
        )
    assert gradients[0].keys() == gradients[1].keys() and len(gradients[0]) > 10
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradient, gradients[1][name], atol=1e-5, rtol=1e-3)


def test_layers_are_computed_again_and_full_logits_never_made():
    model = tiny_model()
    counts = {}
    for again in (False, True):
        passes = []
        hook = model.model.layers[0].mlp.register_forward_pre_hook(
            lambda *_, passes=passes: passes.append(1)
        )
        with recomputing(model) if again else contextlib.nullcontext(), Largest() as seen:
            mean_loss(model, IDS[None], head_chunk=100).backward()
        hook.remove()
        counts[again] = len(passes)
        assert seen.rows == 100
    assert counts == {False: 1, True: 2}


def test_attention_is_not_computed_again():
    """Nor does it change a bit of the gradient that it is kept."""
    gradients, counts = [], []
    for again in (False, True):
        model = tiny_model()
        with recomputing(model) if again else contextlib.nullcontext(), Attention() as seen:
            mean_loss(model, IDS[None], head_chunk=100).backward()
        gradients.append([p.grad for p in model.parameters()])
        counts.append(seen.calls)
    assert counts == [len(model.model.layers)] * 2
    assert all(torch.equal(one, other) for one, other in zip(*gradients, strict=True))


def test_no_logits_are_kept_for_the_backward_pass():
    """Each chunk's are made again: kept, they would add up to full logits."""
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.shape) or t, lambda t: t):
        mean_loss(tiny_model(), IDS[None], head_chunk=100)
    assert kept and not [shape for shape in kept if shape and shape[-1] == VOCABULARY]


def test_recomputing_ends_with_its_block():
    model = tiny_model()
    layers = model.model.layers
    stock = model(IDS[None, :60]).logits
    own = layers[1].forward
    layers[1].forward = lambda *args, **kwargs: own(*args, **kwargs)  # as accelerate's hooks do
    before = [dict(vars(layer)) for layer in layers]
    with pytest.raises(ZeroDivisionError), recomputing(model):
        assert all(
            vars(layer)["forward"] is not was.get("forward")
            for layer, was in zip(layers, before, strict=True)
        )
        assert not any(module.training for module in model.modules())
        assert torch.equal(model(IDS[None, :60]).logits, stock)
        raise ZeroDivisionError
    assert [dict(vars(layer)) for layer in layers] == before and "forward" not in before[0]


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ([5], r"of shape \(1,\): token losses take one row of at least 2"),
        ([], r"of shape \(0,\): token losses"),
        ([[5, 6], [7, 8]], r"of shape \(2, 2\): token losses take one row"),
        (
            [5.0, 6.5],
            r"ids are torch\.float32 of shape \(2,\): token losses take one row of at least 2 "
            r"whole token ids",
        ),
        (
            [5, VOCABULARY],
            rf"token id 97 is outside the model's vocabulary of {VOCABULARY}: tokenise with this",
        ),
        ([5, -1], r"token id -1 is outside"),
        ([True, False, True], r"ids are torch\.bool of shape \(3,\): token losses take one row"),
    ],
)
def test_ids_that_cannot_be_scored(ids, message):
    with pytest.raises(ValueError, match=message):
        token_losses(tiny_model(), ids)


@pytest.mark.parametrize("chunk", [0, -5])
def test_a_chunk_of_nothing(chunk):
    with pytest.raises(ValueError, match=f"head_chunk is {chunk}"):
        token_losses(tiny_model(), IDS, head_chunk=chunk)


def test_the_lab_model(lab):
    """Beyond its own window and with more rows than one chunk of the head."""
    model, tokenizer = lab
    ids = torch.tensor(
        tokenizer("It was the best of times, it was the worst of times. " * 100)["input_ids"]
    )[:1100]
    torch.testing.assert_close(
        token_losses(model, ids), by_full_logits(model, ids), atol=1e-4, rtol=0
    )


# --- stand-ins ---


def twice(x):
    return 2 * x


def test_a_stand_in_is_called_until_the_block_ends():
    module = torch.nn.Identity()
    with StandIn(module, twice) as stand_in:
        assert module(21) == 42
        assert stand_in.stock(21) == 21
        assert stand_in.in_place
    assert module(21) == 21
    assert not stand_in.in_place
    assert "forward" not in vars(module)


def test_a_stand_in_gives_way_after_an_error():
    module = torch.nn.Identity()
    with pytest.raises(ValueError, match="inside"), StandIn(module, twice):
        raise ValueError("inside")
    assert "forward" not in vars(module)


def test_stand_ins_are_put_on_top_of_each_other():
    module = torch.nn.Identity()
    lower = StandIn(module, twice)
    upper = StandIn(module, lambda x: 10 + lower.forward(x))
    assert (module(1), upper.stock(1)) == (12, 2)
    assert upper.in_place and not lower.in_place
    upper.restore()
    assert module(1) == 2 and lower.in_place
    lower.restore()
    assert module(1) == 1


def test_a_copy_takes_a_stand_in_with_it_until_that_is_removed():
    module = torch.nn.Identity()
    with StandIn(module, twice):
        taken = copy.deepcopy(module)
        assert taken(21) == 42
        remove_stand_in(taken)
        assert taken(21) == 21 and module(21) == 42
    remove_stand_in(module)  # there is none to remove


def test_a_stand_in_changes_nothing_of_a_model():
    model = tiny_model()
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    with StandIn(model, lambda **_: None):
        assert model.state_dict().keys() == before.keys()
        assert all(torch.equal(model.state_dict()[name], w) for name, w in before.items())


def test_what_a_text_gives_does_not_depend_on_those_before_it():
    """Under the "dynamic" type transformers goes on with the base of a longer text."""
    rope = {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 10_000.0}
    texts = [torch.arange(n) % VOCABULARY for n in (WINDOW, 2 * WINDOW, WINDOW + 9, WINDOW - 9)]
    alone = [token_losses(tiny_model(rope_parameters=rope), text) for text in texts]
    one = tiny_model(rope_parameters=rope)
    for order in ((1, 0), (1, 2), (1, 3), (0, 1), (2, 2)):
        for i in order:
            torch.testing.assert_close(token_losses(one, texts[i]), alone[i], rtol=0, atol=0)
    stock = tiny_model(rope_parameters=rope)
    with torch.no_grad():
        first = stock(texts[2][None]).logits
        stock(texts[1][None])
        assert not torch.equal(stock(texts[2][None]).logits, first)  # as transformers has it
