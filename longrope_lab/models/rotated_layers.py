"""Which layers turn their queries and keys by a model's rotary embedding, and how far those look.

A rotary module may be there and unused (Falcon with ALiBi), or serve only layers that look back a
few thousand tokens, while those that read the whole text have no positions at all (Command R7B,
EXAONE 4, Llama 4). Neither can be told from the modules. So a few tokens are read once per model,
and cos and sin are watched on their way.
"""

from __future__ import annotations

import contextlib
import logging
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from .config_fields import FULL_ATTENTION
from .find_rotary import RotaryModule, find_rotary
from .parts import read_tokens
from .stand_in import StandIn

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

log = logging.getLogger(__name__)

# Tokens that are read to find out; which ones does not matter.
READ = 4


class _FarSeen(BaseException):
    """A layer that reads the whole text was turned, and nothing more is to be found out."""


# The rotary modules of each model that was looked at.
_LOOKED_AT: weakref.WeakKeyDictionary[nn.Module, list[nn.Module]] = weakref.WeakKeyDictionary()


def rotary_in_use(model: PreTrainedModel) -> list[RotaryModule]:
    """The rotary modules of a model that some layer uses; a warning where those see near alone.

    Raises:
        ValueError: as of `find_rotary`, or no layer uses them.
    """
    found = find_rotary(model)
    check_turned(model, found)
    return found


def check_turned(model: PreTrainedModel, found: Sequence[RotaryModule]) -> None:
    """Refuse a rotary embedding that no layer uses, and warn of one that acts on near tokens alone.

    Raises:
        ValueError: no layer uses it.
    """
    modules = [rotary.module for rotary in found]
    before = _LOOKED_AT.get(model, [])
    if len(before) == len(modules) and all(a is b for a, b in zip(before, modules, strict=True)):
        return
    config = model.config.get_text_config()
    turned: set[int] = set()
    try:
        _read_watched(model, found, turned, config)
    except _FarSeen:
        _LOOKED_AT[model] = modules
        return
    except Exception as error:  # it cannot read a few tokens, and so nothing can be told of it
        log.debug("%s: which layers are turned is not known (%s)", type(model).__name__, error)
        return
    if not turned and any(True for _ in _layers(model)):
        raise ValueError(
            f"{type(model).__name__} has a rotary embedding that no layer uses (where its config "
            "says alibi, that tells tokens apart): there is nothing to rescale"
        )
    _LOOKED_AT[model] = modules
    if turned:
        _warn(model, config, max(look_back(config, n) or 0 for n in turned))


def look_back(config: PreTrainedConfig, layer: int) -> int | None:
    """How many tokens a layer looks back at most; None where that is the whole window."""
    kinds = getattr(config, "layer_types", None)
    kind = kinds[layer % len(kinds)] if kinds else None
    if kind == FULL_ATTENTION:
        return None
    chunked = kind is not None and "chunk" in kind
    tokens = getattr(config, "attention_chunk_size" if chunked else "sliding_window", None)
    return tokens if isinstance(tokens, int) and tokens < config.max_position_embeddings else None


def _warn(model: PreTrainedModel, config: PreTrainedConfig, tokens: int) -> None:
    every = all(look_back(config, n) for n in range(config.num_hidden_layers))
    rest = (
        "no layer looks further (longrope_lab.models.repairs.full_attention widens them, where the "
        "model can do without)"
        if every
        else "the layers that read the whole text have no rotary embedding"
    )
    log.warning(
        "%s: its rotary embedding turns layers that look back %s tokens, and %s. A scaling acts "
        "inside that distance alone: it brings no tokens within reach, and can only do harm",
        type(model).__name__,
        f"{tokens:,}",
        rest,
    )


def _read_watched(
    model: PreTrainedModel,
    found: Sequence[RotaryModule],
    turned: set[int],
    config: PreTrainedConfig,
) -> None:
    """Read a few tokens, and add each layer that computes with cos or sin to `turned`.

    Raises:
        _FarSeen: one of them reads the whole text.
    """
    at: list[int | None] = [None]  # the layer that was entered last

    def computed() -> bool:
        if at[0] is None:
            return False
        turned.add(at[0])
        if look_back(config, at[0]) is None:
            raise _FarSeen
        return True

    watched = _watched_class(computed)
    ids = torch.zeros(1, READ, dtype=torch.long, device=model.device)
    on_gpu = [model.device] if model.device.type == "cuda" else []
    with contextlib.ExitStack() as stack:
        # A model in training mode draws random numbers, which are the caller's.
        stack.enter_context(torch.random.fork_rng(on_gpu))
        stack.enter_context(torch.no_grad())
        for rotary in found:
            stack.enter_context(StandIn(rotary.module, _unturned(rotary, watched)))
        for number, layer in _layers(model):

            def enter(*_: object, number: int = number) -> None:
                at[0] = number

            stack.callback(layer.register_forward_pre_hook(enter).remove)
        read_tokens(model, ids)


def _layers(model: nn.Module) -> Iterator[tuple[int, nn.Module]]:
    """The layers of a model, each with its number; no parts of layers."""
    for name, module in model.named_modules():
        parts = name.split(".")
        if parts[-1].isdigit() and not any(part.isdigit() for part in parts[:-1]):
            yield int(parts[-1]), module


def _unturned(rotary: RotaryModule, watched: type[Tensor]) -> Callable[..., Any]:
    """A `forward` for a rotary module: the cos and sin of no turn at all, and watched."""
    stock = rotary.module.forward

    def forward(x: Tensor, position_ids: Tensor, layer_type: str | None = None) -> Any:
        if rotary.serves(layer_type):
            pairs = len(rotary.frequencies) + rotary.still
            cos = torch.ones(len(x), position_ids.shape[-1], pairs, device=x.device)
            answer = rotary.answer(cos, torch.zeros_like(cos), x)
            if isinstance(answer, Tensor):
                return answer.as_subclass(watched)
            return tuple(part.as_subclass(watched) for part in answer)
        return stock(x, position_ids, layer_type)

    return forward


def _watched_class(computed: Callable[[], bool]) -> type[Tensor]:
    """A tensor that calls `computed` whenever something is computed with it.

    What comes out is watched, too, until that says True.
    """

    class Watched(Tensor):
        @classmethod
        def __torch_function__(
            cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            # Its shape or device is asked for by layers that leave it alone.
            if getattr(func, "__name__", "") != "__get__" and computed():
                with torch._C.DisableTorchFunctionSubclass():
                    return func(*args, **kwargs or {})
            default: Any = super().__torch_function__
            return default(func, types, args, kwargs or {})

    return Watched
