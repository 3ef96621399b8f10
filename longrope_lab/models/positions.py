"""Positions that skip, so that a short text is turned as if it were a long one."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from torch import Tensor

from .find_rotary import Answer, RotaryModule
from .rotated_layers import rotary_in_use
from .stand_in import StandIn

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class GivenPositions:
    """The positions at which rows of one length are turned; rows of other lengths count from 0."""

    def __init__(self) -> None:
        self.positions: Tensor | None = None

    def give(self, positions: Tensor | None) -> None:
        """Of the rows to come, and of those that a backward pass computes again.

        Args:
            positions: (B, T), rising in each row; None: all rows count from 0.
        """
        self.positions = positions

    def forward_of(self, rotary: RotaryModule) -> Callable[..., Answer]:
        """A forward of a rotary module that turns by these."""
        stock = rotary.module.forward

        def forward(x: Tensor, position_ids: Tensor, *layer: str, **named: str) -> Answer:
            given, layer_type = self.positions, named.get("layer_type", *layer[:1] or (None,))
            if (
                given is not None
                and given.shape[-1] == position_ids.shape[-1]
                and rotary.serves(layer_type)
            ):
                # Of models that also see images there are three of each, which are the same here.
                position_ids = given.expand(*position_ids.shape[:-2], *given.shape)
            answer: Answer = stock(x, position_ids, *layer, **named)
            return answer

        return forward


@contextlib.contextmanager
def given_positions(model: PreTrainedModel) -> Iterator[GivenPositions]:
    """Let a model be told its positions, until the end of the block.

    Its rotary embedding alone is told. A jump in a model's `position_ids` is something else to
    transformers: where another text begins, which sees nothing of the one before.

    Raises:
        ValueError: as of `rotary_in_use`.
    """
    given = GivenPositions()
    with contextlib.ExitStack() as stand_ins:
        for rotary in rotary_in_use(model):
            stand_ins.enter_context(StandIn(rotary.module, given.forward_of(rotary)))
        yield given
