"""Token losses of a long sequence in bounded memory: the one place that runs a model forward for
    scoring.

The logits of 256k tokens over a vocabulary of 49k would take 51 GB in float32. Here the decoder
runs once over the whole sequence, and the head runs over its hidden states a few hundred rows at a
time."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.checkpoint import checkpoint, create_selective_checkpoint_contexts

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# Head rows at a time: 1024 rows of a 49k vocabulary are 0.2 GB in float32.
HEAD_CHUNK = 1024

# cuDNN's kernel is the fastest on recent GPUs, then flash; the others take what these two refuse
# (float32, masks).
FASTEST_FIRST = [
    SDPBackend.CUDNN_ATTENTION,
    SDPBackend.FLASH_ATTENTION,
    SDPBackend.EFFICIENT_ATTENTION,
    SDPBackend.MATH,
]

# What `recomputing` keeps the results of: PyTorch's fused attention, by any kernel.
ATTENTION = [
    torch.ops.aten._scaled_dot_product_cudnn_attention.default,
    torch.ops.aten._scaled_dot_product_flash_attention.default,
    torch.ops.aten._scaled_dot_product_efficient_attention.default,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default,
]


def token_losses(
    model: PreTrainedModel, ids: ArrayLike | Tensor, *, head_chunk: int = HEAD_CHUNK
) -> Tensor:
    """The loss of each token given all before it.

    Args:
        model: a Hugging Face causal language model.
        ids: token ids, shape (T,), T at least 2.
        head_chunk: tokens whose logits are held at a time.

    Returns:
        (T - 1,) float32 on the model's device, in nats: entry t is minus the log-probability of
        token t + 1.

    Raises:
        ValueError: not a single row of at least 2 token ids of the model's vocabulary, or
            head_chunk below 1.
    """
    ids = torch.as_tensor(ids)
    if ids.ndim != 1 or len(ids) < 2 or ids.is_floating_point():
        raise ValueError(
            f"ids are {ids.dtype} of shape {tuple(ids.shape)}: token losses take one row of at least 2 whole token ids"
        )
    if head_chunk < 1:
        raise ValueError(f"head_chunk is {head_chunk}: it counts tokens, so a whole number from 1")
    ids = ids.long()  # unsigned integers have no minimum in PyTorch
    vocabulary = model.get_input_embeddings().weight.shape[0]
    low, high = int(ids.min()), int(ids.max())
    if low < 0 or high >= vocabulary:
        raise ValueError(
            f"token id {low if low < 0 else high} is outside the model's vocabulary of {vocabulary}: "
            "tokenise with this model's own tokenizer"
        )
    ids = ids.to(model.device)[None]  # (1, T)
    with torch.inference_mode(), fast_attention():
        hidden = hidden_states(model, ids)  # (1, T, width)
        losses = [
            F.cross_entropy(logits, ids[0, start + 1 : start + 1 + len(logits)], reduction="none")
            for start, logits in chunked_logits(model, hidden[:, :-1], head_chunk)
        ]
    return torch.cat(losses)  # put together outside inference mode: an ordinary tensor


def mean_loss(
    model: PreTrainedModel, ids: Tensor, *, last: int | None = None, head_chunk: int = HEAD_CHUNK
) -> Tensor:
    """The mean token loss of sequences of one length, differentiable, in the memory of the hidden
    states.

    The backward pass computes the head again, a chunk at a time; inside `recomputing` the decoder's
    layers too.

    Args:
        model: a Hugging Face causal language model.
        ids: token ids, shape (B, T), T at least 2, on the model's device.
        last: count only so many tokens at the end of each; None: all T - 1.
        head_chunk: tokens whose logits are held at a time.

    Returns:
        (), float32, nats a token.
    """
    hidden = hidden_states(model, ids)[:, :-1]  # (B, T - 1, width)
    first = 0 if last is None else max(hidden.shape[1] - last, 0)
    hidden, targets = hidden[:, first:].flatten(0, 1)[None], ids[:, 1 + first :].flatten()

    def chunk_loss(rows: Tensor, expected: Tensor) -> Tensor:
        return F.cross_entropy(_logits(model, rows)[0].float(), expected, reduction="sum")

    total = hidden.new_zeros((), dtype=torch.float32)
    for start in range(0, hidden.shape[1], head_chunk):
        rows, expected = hidden[:, start : start + head_chunk], targets[start : start + head_chunk]
        total = total + checkpoint(chunk_loss, rows, expected, use_reentrant=False)
    return total / len(targets)


def hidden_states(model: PreTrainedModel, ids: Tensor) -> Tensor:
    """What the decoder hands to the head, (B, T) -> (B, T, width), without a key-value cache."""
    hidden: Tensor = model.base_model(input_ids=ids, use_cache=False).last_hidden_state
    return hidden


def chunked_logits(
    model: PreTrainedModel, hidden: Tensor, chunk: int
) -> Iterator[tuple[int, Tensor]]:
    """(start, logits) for `chunk` rows at a time of hidden (1, T, width); logits (rows, V), float32."""
    for start in range(0, hidden.shape[1], chunk):
        yield start, _logits(model, hidden[:, start : start + chunk])[0].float()


def _logits(model: PreTrainedModel, rows: Tensor) -> Tensor:
    """Logits (B, rows, V) of hidden states (B, rows, width).

    The model's own forward computes them, with its decoder replaced by a stand-in that hands over
    the rows: whatever a model does to its logits (a scale, a soft cap, a bias) is so done here too.
    """
    from transformers.modeling_outputs import (
        MoeModelOutputWithPast,
    )  # a mixture of experts looks for router_logits

    decoder: nn.Module = model.base_model
    before = decoder.__dict__.get("forward")
    decoder.forward = lambda *args, **kwargs: MoeModelOutputWithPast(last_hidden_state=rows)
    try:
        logits: Tensor = model(
            input_ids=torch.zeros(rows.shape[:2], dtype=torch.long, device=rows.device)
        ).logits
    finally:
        if before is None:
            del decoder.__dict__["forward"]
        else:
            decoder.forward = before
    return logits


@contextlib.contextmanager
def recomputing(model: PreTrainedModel) -> Iterator[None]:
    """Keep only the inputs of the decoder's layers and what attention gave; the backward pass
    computes the rest again.

    Of a long text attention is nearly all the work, and what it gives is about as large as a
    layer's input: to compute it once saves up to two ninths of a gradient's time.

    transformers' own switch acts in training mode alone, where a model may also drop activations at
    random, and leaves a hook at the embedding; here the layers that it would wrap are wrapped, and
    nothing else changes."""
    from transformers.modeling_layers import GradientCheckpointingLayer

    keeping_attention = partial(create_selective_checkpoint_contexts, ATTENTION)
    layers = [
        module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)
    ]
    before = [layer.__dict__.get("forward") for layer in layers]
    try:
        for layer in layers:
            layer.forward = partial(
                checkpoint, layer.forward, use_reentrant=False, context_fn=keeping_attention
            )
        yield
    finally:
        for layer, forward in zip(layers, before, strict=True):
            if forward is None:
                del layer.__dict__["forward"]
            else:
                layer.forward = forward


@contextlib.contextmanager
def in_float32(model: PreTrainedModel) -> Iterator[None]:
    """Hold weights of 16 bits in 32 while they are trained: in 16, most small updates would be
        rounded away.

    Buffers stay as they are: a frequency of a rotary embedding that is rounded once is not put
    right again."""
    halves = [
        (p, p.dtype) for p in model.parameters() if p.dtype in (torch.bfloat16, torch.float16)
    ]
    for p, _ in halves:
        p.data = p.data.float()
    try:
        yield
    finally:
        for p, dtype in halves:
            p.grad = None
            p.data = p.data.to(dtype)


@contextlib.contextmanager
def fast_attention() -> Iterator[None]:
    """Prefer the fastest attention kernels that the machine has."""
    if not torch.cuda.is_available():
        yield
        return
    with sdpa_kernel(FASTEST_FIRST, set_priority=True):
        yield
