"""One long text, read by several processes together, a GPU each.

A text of T tokens is cut into twice as many chunks as there are processes. The first process has
the first chunk and the last one, the second the second and the last but one, and so on: with causal
attention all then have the same work. What a layer does token by token, each does for its own
tokens. For attention they hand one another their keys and values; grouped heads stay grouped.

Collective calls of `torch.distributed` do that, and PyTorch's fused kernels attend. Nothing here
knows a model by name: attention is taken where transformers looks it up, and the rotary module is
asked for the whole text's positions, of which each process picks its own.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx

from .find_rotary import Answer, find_rotary
from .partial_attention import Part, attend, kernel_for
from .parts import read_tokens
from .stand_in import StandIn, attending

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# By this name transformers finds the function below in place of its attention.
NAME = "longrope_lab_split"


@dataclass(frozen=True)
class Split:
    """How a text is split among processes, as one of them sees it.

    Args:
        tokens: of the text.
        rank: of this process, from 0.
        count: of processes.
    """

    tokens: int
    rank: int
    count: int

    @classmethod
    def here(cls, tokens: int) -> Split:
        """Among all processes of `torch.distributed`."""
        return cls(tokens, dist.get_rank(), dist.get_world_size())

    @property
    def chunk(self) -> int:
        """Tokens of a chunk; the last ones of the last chunk may lie beyond the text."""
        return -(-self.tokens // (2 * self.count))

    def starts(self, rank: int) -> tuple[int, int]:
        """Where the two chunks of a process begin."""
        return rank * self.chunk, (2 * self.count - 1 - rank) * self.chunk

    def positions(self) -> Tensor:
        """This process's tokens, (2 * chunk,); beyond the text they are its last one."""
        chunks = [torch.arange(start, start + self.chunk) for start in self.starts(self.rank)]
        return torch.cat(chunks).clamp(max=self.tokens - 1)

    def in_order(self, gathered: Tensor) -> Tensor:
        """What all processes hold (count, 2 * chunk, ...), in the text's order (tokens', ...)."""
        chunks = gathered.reshape(self.count, 2, self.chunk, *gathered.shape[2:])
        return torch.cat([chunks[:, 0], chunks[:, 1].flip(0)]).flatten(0, 1)

    def by_process(self, whole: Tensor) -> Tensor:
        """The other way round: (tokens', ...) as (count, 2 * chunk, ...)."""
        chunks = whole.reshape(2 * self.count, self.chunk, *whole.shape[1:])
        first, second = chunks[: self.count], chunks[self.count :].flip(0)
        return torch.stack([first, second], dim=1).flatten(1, 2)


@dataclass(frozen=True)
class _Reading:
    """A part of a text that a model reads now.

    Args:
        config: that the model's layers hold.
        rotary: its rotary modules.
        split: who reads what.
        positions: of this process's tokens.
    """

    config: object
    rotary: list[nn.Module]
    split: Split
    positions: Tensor

    @contextlib.contextmanager
    def going_on(self) -> Iterator[None]:
        """Let the model's layers see the whole text, while they are given this part."""
        token = _reading.set(self)
        try:
            with contextlib.ExitStack() as stand_ins:
                stand_ins.enter_context(attending(self.config, NAME, _attention))
                for module in self.rotary:
                    own = _own_positions(module, self.split.tokens, self.positions)
                    stand_ins.enter_context(own)
                yield
        finally:
            _reading.reset(token)


_reading: ContextVar[_Reading] = ContextVar("_reading")


def is_splitting() -> bool:
    """Whether a part of a text is being read."""
    return _reading.get(None) is not None


def as_now() -> contextlib.AbstractContextManager[None]:
    """Reads again as is done now: for layers that a backward pass computes once more."""
    reading = _reading.get(None)
    return contextlib.nullcontext() if reading is None else reading.going_on()


def gather(split: Split, own: Tensor) -> Tensor:
    """What all processes hold of a text, (2 * chunk, ...) each, in its order."""
    own = own.contiguous()
    everything = own.new_empty(split.count, *own.shape)
    dist.all_gather_into_tensor(everything.flatten(0, 1), own)
    return split.in_order(everything)


def scatter_sum(split: Split, whole: Tensor) -> Tensor:
    """This process's share (2 * chunk, ...) of the sum over processes of (tokens', ...)."""
    everything = split.by_process(whole).contiguous()
    if not everything.is_cuda:  # gloo cannot scatter sums in every version
        dist.all_reduce(everything)
        return everything[split.rank]
    own = torch.empty_like(everything[0])
    dist.reduce_scatter_tensor(own, everything.flatten(0, 1))
    return own


class _SplitAttention(torch.autograd.Function):
    """Causal attention of this process's tokens to all before each, with a backward pass."""

    @staticmethod
    def forward(
        ctx: FunctionCtx, query: Tensor, key: Tensor, value: Tensor, split: Split, scale: float
    ) -> Tensor:
        """(B, H, 2 * chunk, D) each, and the result's; keys and values may have fewer heads."""
        kernel = kernel_for(query, key, value)
        keys, values = (_gather_heads(split, each) for each in (key, value))
        halves = [
            attend(kernel, query[:, :, at], _parts(split, start, keys, values), scale)
            for at, start in _halves(split)
        ]
        result, logs = (torch.cat(each, dim=2) for each in zip(*halves, strict=True))
        ctx.save_for_backward(query, key, value, result, logs)
        ctx.split, ctx.scale = split, scale  # type: ignore[attr-defined]
        return result

    @staticmethod
    def backward(ctx: FunctionCtx, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of this process's queries, and of its keys and values through all queries."""
        query, key, value, result, logs = ctx.saved_tensors  # type: ignore[attr-defined]
        split, scale = ctx.split, ctx.scale  # type: ignore[attr-defined]
        kernel = kernel_for(query, key, value)
        keys, values = (_gather_heads(split, each) for each in (key, value))
        # In float32: each process adds to them, and each chunk.
        sums = [torch.zeros_like(each, dtype=torch.float32) for each in (keys, values)]
        of_query = torch.zeros_like(query, dtype=torch.float32)
        for at, start in _halves(split):
            attended = result[:, :, at], logs[:, :, at].contiguous()
            for part in _parts(split, start, keys, values):
                given = gradient[:, :, at], query[:, :, at], part, attended, scale
                found = kernel.backward(*given)
                of_query[:, :, at] += found[0]
                where = slice(start, start + split.chunk) if part.causal else slice(start)
                for whole, each in zip(sums, found[1:], strict=True):
                    whole[:, :, where] += each
        own = [_scatter_heads(split, each).to(key.dtype) for each in sums]
        return of_query.to(query.dtype), *own, None, None


def _halves(split: Split) -> Iterator[tuple[slice, int]]:
    """Each of this process's chunks: where it lies in its tensors, and where in the text."""
    for i, start in enumerate(split.starts(split.rank)):
        yield slice(i * split.chunk, (i + 1) * split.chunk), start


def _parts(split: Split, start: int, keys: Tensor, values: Tensor) -> list[Part]:
    """What a chunk attends to: itself, causally, and all of what comes before it."""
    own, before = slice(start, start + split.chunk), slice(0, start)
    parts = [Part(keys[:, :, own], values[:, :, own], causal=True)]
    if start:
        parts.append(Part(keys[:, :, before], values[:, :, before], causal=False))
    return parts


def _gather_heads(split: Split, own: Tensor) -> Tensor:
    """(B, H, 2 * chunk, D) of all processes, (B, H, tokens', D); a token's heads lie together."""
    return gather(split, own.permute(2, 0, 1, 3)).permute(1, 2, 0, 3)


def _scatter_heads(split: Split, whole: Tensor) -> Tensor:
    return scatter_sum(split, whole.permute(2, 0, 1, 3)).permute(1, 2, 0, 3)


# What models hand to attention beside these is not known to be harmless.
_KNOWN = {"is_causal", "position_ids", "use_cache", "output_attentions", "dropout"}

_ALONE = "several GPUs cannot share a text there; read it on one"


def _attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    **settings: object,
) -> tuple[Tensor, None]:
    """In place of attention: of this process's tokens to all tokens before each."""
    split = _reading.get().split
    unknown = {name for name, value in settings.items() if value is not None} - _KNOWN
    if mask is not None or settings.get("dropout") or unknown:
        what = ", ".join(sorted(unknown)) or ("a mask" if mask is not None else "dropout")
        raise ValueError(f"{type(module).__name__} attends with {what}: {_ALONE}")
    if sliding_window is not None and sliding_window < split.tokens:
        raise ValueError(
            f"{type(module).__name__} sees {sliding_window:,} tokens back, and the text has "
            f"{split.tokens:,}: {_ALONE}"
        )
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    result: Tensor = _SplitAttention.apply(query, key, value, split, scale)  # type: ignore[no-untyped-call]
    return result.transpose(1, 2), None


def split_hidden_states(model: PreTrainedModel, ids: Tensor, split: Split) -> Tensor:
    """What the decoder hands to the head for this process's tokens, (B, 2 * chunk, width).

    Every process calls it with the same model and the same text.

    Args:
        model: a Hugging Face causal language model, whose layers all see the whole text.
        ids: the whole text (B, T), on the model's device.
        split: who reads what.

    Raises:
        ValueError: a layer does not attend causally to the whole text, and to nothing else.
    """
    _check_layers(model, split.tokens)
    positions = split.positions().to(ids.device)
    rotary = [found.module for found in find_rotary(model)]
    with _Reading(model.config.get_text_config(), rotary, split, positions).going_on():
        return read_tokens(model, ids[:, positions], positions[None])


def _check_layers(model: PreTrainedModel, tokens: int) -> None:
    config = model.config.get_text_config()
    kinds = set(getattr(config, "layer_types", None) or []) - {"full_attention"}
    window = getattr(config, "sliding_window", None) or tokens
    if kinds - {"sliding_attention"} or (kinds and window < tokens):
        names = ", ".join(sorted(kinds))
        raise ValueError(f"{type(model).__name__} has layers of the kind {names}: {_ALONE}")


def _own_positions(module: nn.Module, tokens: int, positions: Tensor) -> StandIn:
    """A rotary module that turns the whole text, of which this process picks its tokens.

    So rotations that depend on the text's length, or on where it begins, are those of one process.
    """
    stock = module.forward

    def forward(x: Tensor, position_ids: Tensor, *layer: str, **named: str) -> Answer:
        everything = torch.arange(tokens, device=x.device)[None]
        everything = everything.expand(*position_ids.shape[:-1], -1)
        answer: Answer = stock(x, everything, *layer, **named)
        if isinstance(answer, Tensor):
            return answer[:, positions]
        return answer[0][:, positions], answer[1][:, positions]

    return StandIn(module, forward)
