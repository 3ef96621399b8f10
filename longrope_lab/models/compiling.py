"""Layers and losses compiled by PyTorch, for many passes over texts of up to a quarter million.

Up to that length a GPU waits for the many small steps around attention: norms, turns, activations,
copies. The compiler joins them into a few.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, ParamSpec, TypeVar

import torch
from torch import Tensor, nn

from .head import LOSSES, Losses, losses_of
from .pieces import LONG
from .split import is_splitting
from .stand_in import StandIn

if TYPE_CHECKING:
    from transformers import PreTrainedModel

log = logging.getLogger(__name__)

P = ParamSpec("P")
R = TypeVar("R")


@contextlib.contextmanager
def compiled(model: PreTrainedModel, *, backend: str = "inductor") -> Iterator[Compiler]:
    """Score texts through compiled layers, until the end of the ``with`` block.

    The first text of a block takes a quarter of a minute more, so it is for blocks of many. What
    changes is the rounding: steps that were joined round once. Layers are compiled once for all
    lengths, since they share their code. Passes that need gradients, that cache keys, or that read
    more than `pieces.LONG` tokens go through the layers as they are. So do all from the first
    failure of the compiler on, which a warning tells of.

    Args:
        model: a Hugging Face causal language model.
        backend: of `torch.compile`; "inductor" needs Triton on a GPU, and a C++ compiler.

    Yields:
        The compiler, whose `failed` says whether the layers are read as they are.

    Raises:
        ValueError: the model has no layers of the kind that transformers marks for recomputing.
    """
    from transformers.modeling_layers import GradientCheckpointingLayer

    layers = [m for m in model.modules() if isinstance(m, GradientCheckpointingLayer)]
    if not layers:
        raise ValueError(
            f"{type(model).__name__} has no layers that transformers marks as such "
            "(GradientCheckpointingLayer): leave out compiled()"
        )
    compiler = Compiler(backend)
    token = LOSSES.set(compiler.of(losses_of_chunk, losses_of))
    try:
        with contextlib.ExitStack() as stand_ins:
            for layer in layers:
                stand_ins.enter_context(StandIn(layer, compiler.of_layer(layer)))
            yield compiler
    finally:
        LOSSES.reset(token)


def losses_of_chunk(logits: Tensor, targets: Tensor) -> Tensor:
    """As `losses_of`; once compiled, it reads logits of 16 bits in one pass and copies none."""
    logits = logits.float()
    return logits.logsumexp(-1) - logits.gather(-1, targets[:, None])[:, 0]


class Compiler:
    """Compiles functions, and goes back to what they stand for when one has failed."""

    def __init__(self, backend: str) -> None:
        self.backend, self.failed = backend, False

    def of(self, function: Losses, stock: Losses) -> Losses:
        """A compiled function, which gives what another gives."""
        quick = torch.compile(function, dynamic=True, backend=self.backend)
        return self._or(quick, stock)

    def of_layer(self, layer: nn.Module) -> Callable[..., object]:
        """A compiled forward of a layer, for scoring."""
        stock: Callable[..., object] = layer.forward
        quick = self._or(torch.compile(stock, dynamic=True, backend=self.backend), stock)

        def forward(*args: Tensor, **kwargs: object) -> object:
            cached = kwargs.get("past_key_values") is not None
            if torch.is_grad_enabled() or cached or is_splitting() or not args:
                return stock(*args, **kwargs)
            if args[0].shape[1] > LONG:
                return stock(*args, **kwargs)
            return quick(*args, **kwargs)

        return forward

    def _or(self, quick: Callable[P, R], stock: Callable[P, R]) -> Callable[P, R]:
        """The first function until one has failed, then the second."""

        def either(*args: P.args, **kwargs: P.kwargs) -> R:
            if not self.failed:
                try:
                    return quick(*args, **kwargs)
                except torch.OutOfMemoryError:
                    raise
                except Exception as error:
                    self.failed = True
                    log.warning("not compiled, so slower (%s: %s)", type(error).__name__, error)
            return stock(*args, **kwargs)

        return either
