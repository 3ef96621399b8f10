"""Stand-ins for a module's `forward`, and for attention, which leave no trace."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from torch import nn

# A config's field that names the function which attends.
ATTENTION = "_attn_implementation"


class StandIn:
    """Another `forward` on one module, until `restore()` or the end of the ``with`` block.

    It is kept on the instance, where Python finds it before the class's own. No weight, buffer or
    config changes, so restoring is exact. What stood there before (the class's, or another
    stand-in) can still be called as `stock`.

    >>> doubled = nn.Identity()
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


@contextlib.contextmanager
def attending(config: object, name: str, function: Callable[..., object]) -> Iterator[None]:
    """Let layers attend by another function, until the end of the ``with`` block.

    Args:
        config: that the layers hold.
        name: by which transformers finds the function, the only one of that name.
        function: takes what transformers' own take, with a mask of None.
    """
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    ALL_ATTENTION_FUNCTIONS.register(name, function)
    before = getattr(config, ATTENTION)
    setattr(config, ATTENTION, name)
    try:
        yield
    finally:
        setattr(config, ATTENTION, before)
