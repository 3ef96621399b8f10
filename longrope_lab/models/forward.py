"""Forward passes over long sequences in bounded memory.

The logits of 256k tokens over a vocabulary of 49k would take 51 GB in float32. Here the decoder
runs once over the whole sequence, and the head over its hidden states, a few thousand at a time.
"""

from __future__ import annotations

import contextlib
import math
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager
from functools import partial
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.checkpoint import checkpoint, create_selective_checkpoint_contexts

from ..texts.tokens import check_ids
from .head import HEAD_CHUNK, chunked_losses, head_rows, logits_of
from .parts import check_has_weights, check_is_model, is_whole, read_tokens, token_rows
from .pieces import in_pieces
from .sharing import check_shared, is_shared, own_share, shared_losses, summed
from .split import as_now
from .stand_in import StandIn

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# cuDNN's kernel is the fastest on recent GPUs, then flash. The others take what these two refuse,
# such as float32 and masks.
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


def perplexity_of(loss: float) -> float:
    """The exponential of a mean loss in nats per token; infinite where it leaves the floats."""
    try:
        return math.exp(loss)
    except OverflowError:
        return math.inf


def token_losses(
    model: PreTrainedModel, ids: ArrayLike | Tensor, *, head_chunk: int | None = None
) -> Tensor:
    """The loss of each token, given all the tokens before it.

    >>> model, tokenizer = lab.load_model("lab")
    >>> ids = tokenizer("In the beginning God created").input_ids
    >>> [tokenizer.decode(i) for i in ids[1:]]
    [' the', ' beginning', ' God', ' creat', 'ed']
    >>> [round(loss, 1) for loss in lab.token_losses(model, ids).tolist()]  # "ed" had to come
    [1.8, 5.8, 9.6, 6.9, 0.1]

    Args:
        model: a Hugging Face causal language model.
        ids: token ids, shape (T,), T at least 2.
        head_chunk: tokens whose logits are held at a time; None for 1,024, and on a GPU for as many
            as 1 GiB of logits in float32 has room for, up to 8,192.

    Returns:
        (T - 1,), float32, on the model's device, in nats: entry t is minus the log-probability of
        token t + 1.

    Raises:
        ValueError: `ids` are not a single row of at least 2 ids of the model's vocabulary, or
            `head_chunk` is below 1; or the model reads more than the tokens, as under prompt tuning
            of peft.
    """
    check_is_model(model)
    ids = token_rows("ids", ids)
    if ids.ndim != 1 or len(ids) < 2 or not is_whole(ids):
        raise ValueError(
            f"ids are {ids.dtype} of shape {tuple(ids.shape)}: token losses take one row of at "
            "least 2 whole token ids"
        )
    vocabulary = model.get_input_embeddings().weight.shape[0]
    if head_chunk is None:
        head_chunk = head_rows(vocabulary, model.device)
    if head_chunk < 1:
        raise ValueError(f"head_chunk is {head_chunk}: it counts tokens, so a whole number from 1")
    ids = ids.long()  # unsigned integers have no minimum in PyTorch
    check_ids(ids, vocabulary)
    ids = ids.to(model.device)[None]  # (1, T)
    with torch.inference_mode(), fast_attention():
        if is_shared(ids.shape[1]):
            _begin_shared(model, ids, head_chunk)
            losses = shared_losses(model, ids, head_chunk)
        else:
            losses = _losses_alone(model, head_chunk, ids)
    return losses.clone()  # outside inference mode: an ordinary tensor


def _losses_alone(model: PreTrainedModel, chunk: int, ids: Tensor) -> Tensor:
    """Losses (T - 1,) of ids (1, T), all read by this process."""
    with in_pieces(model, ids.shape[1]):
        hidden = hidden_states(model, ids)  # (1, T, width)
    return chunked_losses(model, hidden[:, :-1], ids[0, 1:], chunk)


def _begin_shared(model: PreTrainedModel, ids: Tensor, chunk: int) -> None:
    """Before a text is read by several processes: see that it can be."""
    check_shared(model, ids, chunk, partial(_losses_alone, model, chunk))
    forget_lengths(model)


def mean_loss(
    model: PreTrainedModel,
    ids: Tensor,
    *,
    last: int | None = None,
    counted: Tensor | None = None,
    head_chunk: int = HEAD_CHUNK,
) -> Tensor:
    """The mean token loss of sequences of one length, differentiable.

    Logits are never held for all tokens: the backward pass computes the head again, a chunk at a
    time. Inside `recomputing` it computes the decoder's layers again, too.

    Args:
        model: a Hugging Face causal language model.
        ids: token ids, shape (B, T), T at least 2, on the model's device.
        last: count only so many tokens at the end of each sequence; None counts all T - 1.
        counted: which tokens to count, shape (B, T), of the last ones if `last` is given. Then
            every sequence weighs the same, however many of its tokens count. None counts all.
        head_chunk: tokens whose logits are held at a time.

    Returns:
        (), float32, in nats per token.
    """
    tokens = ids.shape[1]
    first = 0 if last is None else max(tokens - 1 - last, 0)
    if is_shared(tokens):
        _begin_shared(model, ids, head_chunk)
        marks = torch.ones_like(ids) if counted is None else counted
        everywhere = F.pad(_weights(marks[:, 1 + first :]), (first, 0))
        return summed(_summed_loss(model, *own_share(model, ids, everywhere), head_chunk))
    hidden, targets = hidden_states(model, ids)[:, first:-1], ids[:, 1 + first :]
    weights = None if counted is None else _weights(counted[:, 1 + first :])
    total = _summed_loss(model, hidden, targets, weights, head_chunk)
    return total if weights is not None else total / targets.numel()


def _summed_loss(
    model: PreTrainedModel, hidden: Tensor, targets: Tensor, weights: Tensor | None, head_chunk: int
) -> Tensor:
    """The sum of losses, weighted by (B, N), of hidden states (B, N, width) and targets (B, N)."""
    hidden, targets = hidden.flatten(0, 1)[None], targets.flatten()

    def chunk_loss(rows: Tensor, expected: Tensor, weights: Tensor | None) -> Tensor:
        logits = logits_of(model, rows)[0].float()
        if weights is None:
            return F.cross_entropy(logits, expected, reduction="sum")
        return F.cross_entropy(logits, expected, reduction="none") @ weights

    total = hidden.new_zeros((), dtype=torch.float32)
    for start in range(0, hidden.shape[1], head_chunk):
        chunk = slice(start, start + head_chunk)
        of_chunk = None if weights is None else weights.flatten()[chunk]
        total = total + checkpoint(
            chunk_loss, hidden[:, chunk], targets[chunk], of_chunk, use_reentrant=False
        )
    return total


def _weights(counted: Tensor) -> Tensor:
    """What each token's loss weighs in the mean over sequences of the mean over what they count."""
    marks = counted.float()
    return marks / marks.sum(dim=1, keepdim=True).clamp(min=1) / len(marks)


def hidden_states(model: PreTrainedModel, ids: Tensor) -> Tensor:
    """What the decoder hands to the head, (B, T) -> (B, T, width); no keys are cached.

    Raises:
        ValueError: as of `read_tokens`; or it has no weights.
    """
    check_has_weights(model)
    forget_lengths(model)
    warn_of_rounded_frequencies(model)
    return read_tokens(model, ids)


def forget_lengths(model: PreTrainedModel) -> None:
    """Let a model of transformers' "dynamic" type begin anew, as if it had read nothing yet.

    A base that it stretched for one text it keeps for those after it, unless they are shorter than
    the window. So what a text gives would depend on what was read before.
    """
    if not hasattr(model, "config"):  # a stand-in, which has no base
        return
    parameters = getattr(model.config.get_text_config(), "rope_parameters", None) or {}
    kinds = [p.get("rope_type") for p in (parameters, *parameters.values()) if isinstance(p, dict)]
    if "dynamic" not in kinds:
        return
    for module in model.modules():
        for name in [name for name in vars(module) if name.endswith("max_seq_len_cached")]:
            kind, window = name.removesuffix("max_seq_len_cached"), module.original_max_seq_len
            if getattr(module, name) > window:
                setattr(module, name, window)
                device = getattr(module, f"{kind}inv_freq").device
                at_first = getattr(module, f"{kind}original_inv_freq").to(device)
                module.register_buffer(f"{kind}inv_freq", at_first, persistent=False)


def warn_of_rounded_frequencies(model: PreTrainedModel) -> None:
    """Say it where the model turns by frequencies of 16 bits, as a cast leaves them.

    ``model.to(torch.bfloat16)`` keeps 8 bits of them: at position 100,000 an angle is then off by
    tens of radians. Loading in bfloat16 keeps them whole, and so does a scaling that is in place.
    """
    if not hasattr(model, "config"):  # a stand-in, which turns by nothing
        return
    for module in model.modules():
        rounded = any(
            name.endswith("inv_freq") and buffer.dtype in (torch.bfloat16, torch.float16)
            for name, buffer in module.named_buffers(recurse=False)
        )
        if rounded and "forward" not in vars(module):
            warnings.warn(
                "a cast has rounded this model's rotary frequencies to 16 bits, so that its angles "
                "are wrong far out: load it with dtype=..., or apply a scaling ('none' is one)",
                stacklevel=2,
            )
            return


@contextlib.contextmanager
def recomputing(model: PreTrainedModel) -> Iterator[None]:
    """Compute most of each layer again in the backward pass, to save memory.

    Kept are only the inputs of the decoder's layers and what attention gave. Over a long text,
    attention is nearly all the work, and what it gives is about as large as a layer's input: to
    compute it once saves up to two ninths of a gradient's time.

    transformers' own switch acts in training mode alone, where a model may also drop activations at
    random, and leaves a hook at the embedding. Here the layers that it would wrap are wrapped, and
    nothing else changes.
    """
    from transformers.modeling_layers import GradientCheckpointingLayer

    with contextlib.ExitStack() as stand_ins:
        for layer in model.modules():
            if isinstance(layer, GradientCheckpointingLayer):
                again = partial(
                    checkpoint, layer.forward, use_reentrant=False, context_fn=_keeping_attention
                )
                stand_ins.enter_context(StandIn(layer, again))
        yield


def _keeping_attention() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """What is around a layer at first, and when it is computed again: after the text was read."""
    ahead, again = create_selective_checkpoint_contexts(ATTENTION)  # type: ignore[no-untyped-call]
    return ahead, _one_after_other(as_now(), again)


@contextlib.contextmanager
def _one_after_other(*contexts: AbstractContextManager[None]) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        for each in contexts:
            stack.enter_context(each)
        yield


@contextlib.contextmanager
def in_float32(model: PreTrainedModel) -> Iterator[None]:
    """Hold weights of 16 bits in 32 while they are trained: in 16, small updates are rounded away.

    Buffers stay as they are: a frequency of a rotary embedding that was rounded once does not get
    its digits back.
    """
    halves = [p for p in model.parameters() if p.dtype in (torch.bfloat16, torch.float16)]
    dtypes = [p.dtype for p in halves]
    for p in halves:
        p.data = p.data.float()
    try:
        yield
    finally:
        for p, dtype in zip(halves, dtypes, strict=True):
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
