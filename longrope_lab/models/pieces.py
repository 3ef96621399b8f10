"""The layers of a very long text, piece by piece.

What an MLP computes of two million tokens takes 18 GiB in SmolLM2, and none of it needs more than
one token at a time. So an MLP or a norm reads a piece of the text after the other, and writes into
one result. An attention layer does so twice: for its queries, keys and values, on which one call of
the kernel then acts as ever, and for what follows that call. The first projections are so computed
twice, which is next to nothing beside attention at such lengths.

Whether a module works token by token is not believed but tried, on the first tokens of each text.
What fails, or is called in a way that is not known here, runs on all tokens at once.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from .stand_in import ATTENTION, StandIn, attending

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# Longer texts are read piece by piece; a piece is long enough to keep a GPU busy.
LONG, PIECE = 262_144, 65_536

# Tokens that a module is tried on: together, and the two halves one after the other.
TRIED = 8

# By this name transformers finds the function below in place of its attention.
NAME = "longrope_lab_pieces"

Forward = Callable[..., object]


class _Projected(BaseException):
    """A piece has its queries, keys and values, and is not needed further."""


@dataclass
class _Text:
    """What one attention layer computes of a text: queries, keys and values, then the result."""

    tokens: int
    at: slice = field(default_factory=lambda: slice(0))
    parts: list[Tensor] = field(default_factory=list)  # each (B, H, T, D)
    settings: dict[str, object] = field(default_factory=dict)
    attended: Tensor | None = None  # (B, T, H, D)

    def moved(self, at: slice) -> _Text:
        """The same text, at another piece."""
        self.at = at
        return self

    def take(self, *parts: Tensor) -> None:
        """Keep a piece of queries, keys and values (B, H, piece, D)."""
        if not self.parts:
            for part in parts:
                rows, heads, _, width = part.shape
                # As attention is given them otherwise: a token's heads lie side by side.
                whole = part.new_empty(rows, self.tokens, heads, width)
                self.parts.append(whole.transpose(1, 2))
        for whole, part in zip(self.parts, parts, strict=True):
            whole[:, :, self.at] = part


_text: ContextVar[_Text] = ContextVar("_text")


@contextlib.contextmanager
def in_pieces(
    model: PreTrainedModel, tokens: int, piece: int = PIECE, *, attention: bool = True
) -> Iterator[None]:
    """Let the layers of a model read a text in pieces, if it is a long one.

    Results are those of the whole text, up to what products of other sizes round differently. It is
    for scoring: a backward pass would keep what the pieces compute.

    Args:
        model: a Hugging Face causal language model.
        tokens: of the text; up to `LONG` nothing changes.
        piece: tokens at a time.
        attention: also its projections, beside MLPs and norms.
    """
    if tokens <= LONG:
        yield
        return
    from transformers.modeling_layers import GradientCheckpointingLayer

    layers = [m for m in model.modules() if isinstance(m, GradientCheckpointingLayer)]
    parts = [part for layer in layers for part in layer.children()]
    with contextlib.ExitStack() as stand_ins:
        for part in [*parts, *_norms_outside(model, layers)]:
            if not _attends(part):
                stand_ins.enter_context(StandIn(part, _by_token(part, piece)))
            elif attention:
                stand_ins.enter_context(StandIn(part, _attention(part, piece)))
        yield


def _norms_outside(model: nn.Module, layers: list[nn.Module]) -> list[nn.Module]:
    """Norms of no layer, such as the last one: of all tokens, in float32, it would be the peak."""
    inside = {id(part) for layer in layers for part in layer.modules()}
    return [m for m in model.modules() if "Norm" in type(m).__name__ and id(m) not in inside]


def _by_token(part: nn.Module, piece: int) -> Forward:
    """A forward of a module that takes one tensor (B, T, width).

    Only of linear layers and norms is it expected to work token by token: of a module with other
    parameters of its own, such as the experts of a mixture, a few tokens show too little.
    """
    stock: Forward = part.forward
    own = [m for m in part.modules() if any(True for _ in m.parameters(recurse=False))]
    known = all(isinstance(m, nn.Linear) or "Norm" in type(m).__name__ for m in own)

    def forward(*args: object, **kwargs: object) -> object:
        x = args[0] if len(args) == 1 and not kwargs and known else None
        if not isinstance(x, Tensor) or x.ndim != 3 or x.shape[1] <= piece or _is_trained(x):
            return stock(*args, **kwargs)

        def read(of: Tensor, tokens: int) -> Tensor:
            result = torch.empty_like(of)
            for at in _pieces(of.shape[1], tokens):
                result[:, at] = stock(of[:, at])  # type: ignore[assignment]
            return result

        first = x[:, :TRIED]
        return read(x, piece) if _same(stock(first), read, first) else stock(x)

    return forward


def _attends(part: nn.Module) -> bool:
    """Whether it is called as attention layers of transformers are."""
    names = inspect.signature(type(part).forward).parameters
    return hasattr(part, "config") and {"hidden_states", "position_embeddings"} <= set(names)


def _attention(part: nn.Module, piece: int) -> Forward:
    """A forward of an attention layer whose projections are made in pieces."""
    stock: Forward = part.forward

    def forward(*args: object, **kwargs: object) -> object:
        x = kwargs.get("hidden_states")
        if args or not isinstance(x, Tensor) or x.shape[1] <= piece or not _plain(part, x, kwargs):
            return stock(*args, **kwargs)

        def read(of: Tensor, tokens: int) -> Tensor:
            few = _piece_of(kwargs, x.shape[1], slice(of.shape[1]))
            return _read(part, stock, {**few, "hidden_states": of}, tokens)

        few = _piece_of(kwargs, x.shape[1], slice(TRIED))
        expected, first = stock(**few), few["hidden_states"]
        if not isinstance(expected, tuple) or not _same(expected[0], read, first):
            return stock(**kwargs)
        return read(x, piece), None

    return forward


def _plain(part: nn.Module, x: Tensor, kwargs: dict[str, object]) -> bool:
    """Whether nothing but hidden states, positions and settings goes into an attention layer."""
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    others = kwargs.get("past_key_values"), kwargs.get("attention_mask")
    known = getattr(part.config, ATTENTION) in ALL_ATTENTION_FUNCTIONS
    return known and others == (None, None) and not _is_trained(x)


def _read(part: nn.Module, stock: Forward, kwargs: dict[str, object], piece: int) -> Tensor:
    """What an attention layer gives for all tokens, (B, T, width)."""
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    x = kwargs["hidden_states"]
    assert isinstance(x, Tensor)
    attend = ALL_ATTENTION_FUNCTIONS[getattr(part.config, ATTENTION)]
    text = _Text(x.shape[1])
    for at in _pieces(text.tokens, piece):
        with contextlib.suppress(_Projected):
            _call(part, stock, text.moved(at), kwargs)
    text.attended = attend(part, *text.parts, None, **text.settings)[0]
    text.parts.clear()
    result = torch.empty_like(x)
    for at in _pieces(text.tokens, piece):
        result[:, at] = _call(part, stock, text.moved(at), kwargs)
    return result


def _call(part: nn.Module, stock: Forward, text: _Text, kwargs: dict[str, object]) -> Tensor:
    """What the layer gives for the piece that the text is at, (B, piece, width)."""
    token = _text.set(text)
    try:
        with attending(part.config, NAME, _collect):
            result = stock(**_piece_of(kwargs, text.tokens, text.at))
    finally:
        _text.reset(token)
    assert isinstance(result, tuple) and isinstance(result[0], Tensor)
    return result[0]


def _collect(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: None, **settings: object
) -> tuple[Tensor, None]:
    """In place of attention: keep a piece's queries, keys and values, or hand over its result."""
    text = _text.get()
    if text.attended is not None:
        return text.attended[:, text.at], None
    text.take(query, key, value)
    text.settings = settings
    raise _Projected


def _pieces(tokens: int, piece: int) -> Iterator[slice]:
    for start in range(0, tokens, piece):
        yield slice(start, min(start + piece, tokens))


def _piece_of(kwargs: dict[str, object], tokens: int, at: slice) -> dict[str, object]:
    """A piece of what has an entry per token, (B, T) or (B, T, width); the rest as it is."""

    def cut(value: object) -> object:
        if isinstance(value, tuple):
            return tuple(cut(each) for each in value)
        if isinstance(value, Tensor) and value.ndim > 1 and value.shape[1] == tokens:
            return value[:, at]
        return value

    return {name: cut(value) for name, value in kwargs.items()}


def _same(together: object, read: Callable[[Tensor, int], Tensor], x: object) -> bool:
    """Whether two halves of a few tokens give what all of them give, rounding aside."""
    if not isinstance(together, Tensor) or not isinstance(x, Tensor):
        return False
    if (together.shape, together.dtype) != (x.shape, x.dtype):
        return False
    near = 32 * torch.finfo(x.dtype).eps * together.abs().max()
    return bool(((read(x, TRIED // 2) - together).abs() <= near).all())


def _is_trained(x: Tensor) -> bool:
    return torch.is_grad_enabled() or x.requires_grad
