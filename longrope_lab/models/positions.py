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


# Of a config's rotary parameters: by how much layers weigh their queries by the position, beside
# turning them (Ministral 3).
WEIGHED = "llama_4_scaling_beta"


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

        def forward(x: Tensor, position_ids: Tensor, layer_type: str | None = None) -> Answer:
            given, kind = self.positions, () if layer_type is None else (layer_type,)
            as_long = given is not None and given.shape[-1] == position_ids.shape[-1]
            if given is not None and as_long and rotary.serves(layer_type):
                # Of models that also see images there are three of each, which are the same here.
                position_ids = given.expand(*position_ids.shape[:-2], *given.shape)
            answer: Answer = stock(x, position_ids, *kind)
            return answer

        return forward


@contextlib.contextmanager
def given_positions(model: PreTrainedModel) -> Iterator[GivenPositions]:
    """Let a model be told its positions, until the end of the block.

    Its rotary embedding alone is told. A jump in a model's `position_ids` is something else to
    transformers: where another text begins, which sees nothing of the one before. Layers that look
    near alone, and have frequencies of their own (Gemma 3), go on counting: no jump is near.

    Raises:
        ValueError: as of `rotary_in_use`.
    """
    given = GivenPositions()
    with contextlib.ExitStack() as stand_ins:
        for rotary in rotary_in_use(model):
            stand_ins.enter_context(StandIn(rotary.module, given.forward_of(rotary)))
        yield given


def check_turned_alone(model: PreTrainedModel) -> None:
    """See whether a model's layers know positions by the rotary embedding alone.

    Raises:
        ValueError: they weigh queries by the position, too, which would go on counting from 0.
    """
    parameters = getattr(model.config.get_text_config(), "rope_parameters", None) or {}
    if parameters.get(WEIGHED):
        raise ValueError(
            f"{type(model).__name__} weighs queries by their positions ({WEIGHED} of its config), "
            "beside turning them, and these weights would not skip: set skip_share=0"
        )
