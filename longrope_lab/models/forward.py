"""Forward passes over long sequences in bounded memory, and stand-ins for a module's `forward`.

The logits of 256k tokens over a vocabulary of 49k would take 51 GB in float32. Here the decoder
runs once over the whole sequence, and the head over its hidden states, a thousand rows at a time.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.checkpoint import checkpoint, create_selective_checkpoint_contexts

from ..texts.tokens import check_ids
from .parts import Handed, called_by_head, causal_model, check_has_weights, read_tokens

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# Head rows at a time: 1024 rows of a 49k vocabulary are 0.2 GB in float32.
HEAD_CHUNK = 1024

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


class StandIn:
    """Another `forward` on one module, until `restore()` or the end of the ``with`` block.

    It is kept on the instance, where Python finds it before the class's own. No weight, buffer or
    config changes, so restoring is exact. What stood there before (the class's, or another
    stand-in) can still be called as `stock`.

    >>> doubled = torch.nn.Identity()
    >>> with StandIn(doubled, lambda x: 2 * x):
    ...     doubled(21)
    42
    >>> doubled(21)
    21

    Args:
        module: the module whose `forward` is replaced.
        forward: what is called in its place.
    """

    def __init__(self, module: nn.Module, forward: Callable[..., Any]) -> None:
        self.module, self.forward = module, forward
        self.stock: Callable[..., Any] = module.forward
        self._before = vars(module).get("forward")
        module.forward = forward

    @property
    def in_place(self) -> bool:
        """Whether the module calls it now, and nothing else was put on top of it."""
        return vars(self.module).get("forward") is self.forward

    def restore(self) -> None:
        """Put back what stood there before, whatever stands there now."""
        remove_stand_in(self.module)
        if self._before is not None:
            self.module.forward = self._before

    def __enter__(self) -> StandIn:
        return self

    def __exit__(self, *_: object) -> None:
        self.restore()


def remove_stand_in(module: nn.Module) -> None:
    """Leave a module the `forward` of its class alone, for a copy that took a stand-in with it."""
    vars(module).pop("forward", None)


def token_losses(
    model: PreTrainedModel, ids: ArrayLike | Tensor, *, head_chunk: int = HEAD_CHUNK
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
        head_chunk: tokens whose logits are held at a time.

    Returns:
        (T - 1,), float32, on the model's device, in nats: entry t is minus the log-probability of
        token t + 1.

    Raises:
        ValueError: `ids` are not a single row of at least 2 ids of the model's vocabulary, or
            `head_chunk` is below 1; or the model reads more than the tokens, as under prompt tuning
            of peft.
    """
    ids = torch.as_tensor(ids)
    if ids.ndim != 1 or len(ids) < 2 or ids.is_floating_point() or ids.dtype == torch.bool:
        raise ValueError(
            f"ids are {ids.dtype} of shape {tuple(ids.shape)}: token losses take one row of at "
            "least 2 whole token ids"
        )
    if head_chunk < 1:
        raise ValueError(f"head_chunk is {head_chunk}: it counts tokens, so a whole number from 1")
    ids = ids.long()  # unsigned integers have no minimum in PyTorch
    check_ids(ids, model.get_input_embeddings().weight.shape[0])
    ids = ids.to(model.device)[None]  # (1, T)
    with torch.inference_mode(), fast_attention():
        hidden = hidden_states(model, ids)  # (1, T, width)
        losses = [
            F.cross_entropy(logits, ids[0, start + 1 : start + 1 + len(logits)], reduction="none")
            for start, logits in chunked_logits(model, hidden[:, :-1], head_chunk)
        ]
    return torch.cat(losses)  # put together outside inference mode: an ordinary tensor


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
    hidden = hidden_states(model, ids)[:, :-1]  # (B, T - 1, width)
    first = 0 if last is None else max(hidden.shape[1] - last, 0)
    hidden, targets = hidden[:, first:].flatten(0, 1)[None], ids[:, 1 + first :].flatten()

    def chunk_loss(rows: Tensor, expected: Tensor, weights: Tensor | None) -> Tensor:
        logits = _logits(model, rows)[0].float()
        if weights is None:
            return F.cross_entropy(logits, expected, reduction="sum")
        return F.cross_entropy(logits, expected, reduction="none") @ weights

    weights = None if counted is None else _weights(counted[:, 1 + first :])
    total = hidden.new_zeros((), dtype=torch.float32)
    for start in range(0, hidden.shape[1], head_chunk):
        chunk = slice(start, start + head_chunk)
        of_chunk = None if weights is None else weights[chunk]
        total = total + checkpoint(
            chunk_loss, hidden[:, chunk], targets[chunk], of_chunk, use_reentrant=False
        )
    return total if weights is not None else total / len(targets)


def _weights(counted: Tensor) -> Tensor:
    """What each token's loss weighs in the mean over sequences of the mean over what they count."""
    marks = counted.float()
    return (marks / marks.sum(dim=1, keepdim=True).clamp(min=1) / len(marks)).flatten()


def hidden_states(model: PreTrainedModel, ids: Tensor) -> Tensor:
    """What the decoder hands to the head, (B, T) -> (B, T, width); no keys are cached.

    Raises:
        ValueError: as of `read_tokens`; or it has no weights.
    """
    check_has_weights(model)
    forget_lengths(model)
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


def chunked_logits(
    model: PreTrainedModel, hidden: Tensor, chunk: int
) -> Iterator[tuple[int, Tensor]]:
    """(start, logits) for `chunk` rows at a time of hidden states (1, T, width).

    Logits are (rows, V), float32.
    """
    for start in range(0, hidden.shape[1], chunk):
        yield start, _logits(model, hidden[:, start : start + chunk])[0].float()


def _logits(model: PreTrainedModel, rows: Tensor) -> Tensor:
    """Logits (B, rows, V) of hidden states (B, rows, width).

    The model's own forward computes them, with a stand-in for its decoder that hands over the rows.
    Whatever a model does to its logits (a scale, a soft cap, a bias) is so done here, too.
    """
    model = causal_model(model)
    calls = []

    def hand_over(*args: object, **kwargs: object) -> Handed:
        calls.append(1)
        return Handed(last_hidden_state=rows)

    ids = torch.zeros(rows.shape[:2], dtype=torch.long, device=rows.device)
    with contextlib.ExitStack() as stand_ins:
        for part in called_by_head(model):
            stand_ins.enter_context(StandIn(part, hand_over))
        logits: Tensor = model(input_ids=ids).logits
    if not calls:  # they are logits of the ids above, which stand for nothing
        raise ValueError(f"{type(model)} does not call the part before its head: it cannot be read")
    return logits


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

    keeping_attention = partial(create_selective_checkpoint_contexts, ATTENTION)
    with contextlib.ExitStack() as stand_ins:
        for layer in model.modules():
            if isinstance(layer, GradientCheckpointingLayer):
                again = partial(
                    checkpoint, layer.forward, use_reentrant=False, context_fn=keeping_attention
                )
                stand_ins.enter_context(StandIn(layer, again))
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
