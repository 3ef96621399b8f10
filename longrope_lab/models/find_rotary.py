"""Finds the rotary modules of a model, and reads off what they do.

Nothing here knows a model by name. A rotary module is one that holds ``inv_freq`` and answers
``module(x, position_ids)`` with cos and sin of position times frequency; a trial call tells how it
lays them out.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from .config_fields import FULL_ATTENTION

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Layout = Callable[[Tensor], Tensor]

# How a module spreads the d/2 angles over its output: (..., d/2) -> (..., d) or (..., d/2).
LAYOUTS: dict[str, Layout] = {
    "halves": lambda a: torch.cat((a, a), dim=-1),  # Llama: dimension i is paired with i + d/2
    "pairs": lambda a: a.repeat_interleave(2, dim=-1),  # Cohere: 2i with 2i + 1
    "once": lambda a: a,  # GPT-OSS: the attention layer spreads them itself
}


# The first positions, which a module is tried on.
TRIED = 8


@dataclass(frozen=True)
class RotaryModule:
    """One rotary module of a model, as a trial call found it.

    Args:
        name: of the module in the model.
        module: itself.
        layer_type: the one with full attention, where a module serves several (Gemma 3); else None.
        frequencies: theta, shape (d/2,), float64.
        attention_factor: what cos and sin are multiplied by.
        layout: how the angles are spread over the output, one of `LAYOUTS`.
        output_dtype: of cos and sin; None where it is that of the input.
    """

    name: str
    module: nn.Module
    layer_type: str | None
    frequencies: Tensor
    attention_factor: float
    layout: Layout
    output_dtype: torch.dtype | None


def find_rotary(model: PreTrainedModel) -> list[RotaryModule]:
    """The rotary modules of a model's decoder, all with the same frequencies.

    Raises:
        ValueError: there are none, several that differ, or one whose output is not understood.
    """
    decoder = model.get_decoder() if hasattr(model, "get_decoder") else model
    found = [_examine(name, m) for name, m in decoder.named_modules() if _layer_types(m)]
    if not found:
        raise ValueError(
            f"{type(model).__name__} has no rotary embedding that can be rescaled (no module with "
            "inv_freq): context extension needs a RoPE model such as Llama, Mistral or Qwen"
        )
    first = found[0]
    for other in found[1:]:
        if other.frequencies.shape != first.frequencies.shape or not torch.allclose(
            other.frequencies, first.frequencies, rtol=1e-5, atol=0
        ):
            raise ValueError(
                f"{type(model).__name__} has rotary modules with different frequencies "
                f"({first.name} and {other.name}): one scaling cannot serve both"
            )
    return found


def _layer_types(module: nn.Module) -> list[str | None]:
    """The layer types that a module holds frequencies for; [None] is one set for all of them."""
    names = [name for name, _ in module.named_buffers(recurse=False)]
    names += [name for name, value in vars(module).items() if isinstance(value, Tensor)]
    if "inv_freq" in names:
        return [None]
    suffix = "_inv_freq"
    types = {name.removesuffix(suffix) for name in names if name.endswith(suffix)}
    return [t for t in sorted(types) if not f"_{t}".endswith(("_original", "_long"))]


def _examine(name: str, module: nn.Module) -> RotaryModule:
    """Call the module on a few positions, and read off what it does."""
    where = f"the rotary module {name!r} ({type(module).__name__})"
    layer_type = _layer_type(module, where)
    # A call on a short input resets what a "dynamic" module keeps of a long one: so a copy is
    # called.
    config = getattr(module, "config", None)
    probe = copy.deepcopy(module, {id(config): config})
    single = _trial_call(probe, layer_type, torch.float32, where)
    half = _trial_call(probe, layer_type, torch.bfloat16, where)
    cos, sin = (part.double().cpu() for part in single)
    m = float(cos[0, 0].flatten()[0])  # cos 0 = 1, so position 0 shows the factor alone
    m = 1.0 if abs(m - 1) < 1e-6 else m
    # The frequencies that the call just turned by; a cast may have rounded them.
    used = _buffer(probe, layer_type).double().cpu()
    turned = torch.arange(TRIED).double()[None, :, None] * used
    for layout in LAYOUTS.values():
        angles = layout(turned)  # (1, 8, d) or (1, 8, d/2)
        if angles.shape == cos.shape and all(
            torch.allclose(part, function(angles) * m, atol=1e-4)
            for part, function in ((cos, torch.cos), (sin, torch.sin))
        ):
            return RotaryModule(
                name=name,
                module=module,
                layer_type=layer_type,
                frequencies=_fresh_frequencies(module, layer_type),
                attention_factor=m,
                layout=layout,
                output_dtype=None if half[0].dtype == torch.bfloat16 else torch.float32,
            )
    raise ValueError(
        f"{where} lays out cos and sin of shape {tuple(cos.shape)} in a way that is not known here"
    )


def _layer_type(module: nn.Module, where: str) -> str | None:
    """The layer type whose frequencies are to be scaled; None where there is one set for all."""
    types = _layer_types(module)
    if types == [None]:
        return None
    if FULL_ATTENTION not in types:
        raise ValueError(
            f"{where} serves layer types {types}, none of them {FULL_ATTENTION!r}: cannot tell "
            "which to scale"
        )
    return FULL_ATTENTION


def _trial_call(
    module: nn.Module, layer_type: str | None, dtype: torch.dtype, where: str
) -> tuple[Tensor, Tensor]:
    """cos and sin of the first positions, by the class's forward: a stand-in may be in place."""
    positions = torch.arange(TRIED, device=_buffer(module, layer_type).device)[None]
    x = torch.zeros(*positions.shape, 1, dtype=dtype, device=positions.device)
    arguments = (positions,) if layer_type is None else (positions, layer_type)
    try:
        with torch.no_grad():
            cos, sin = type(module).forward(module, x, *arguments)
    except Exception as error:
        raise ValueError(
            f"{where} does not answer (x, position_ids) with cos and sin: {error}"
        ) from error
    return cos, sin


def _buffer(module: nn.Module, layer_type: str | None) -> Tensor:
    buffer: Tensor = getattr(module, "inv_freq" if layer_type is None else f"{layer_type}_inv_freq")
    return buffer


def _fresh_frequencies(module: nn.Module, layer_type: str | None) -> Tensor:
    """The module's frequencies (d/2,), float64, free of what happened to its buffer.

    ``model.to(torch.bfloat16)`` rounds the buffer, and a long input leaves its own frequencies in
    the buffer of a "dynamic" or "longrope" module. A module newly made from the config has neither.
    A buffer that somebody set to other values is believed.
    """
    live = _buffer(module, layer_type).double().cpu()
    make: Any = type(module)
    try:
        fresh = _buffer(make(module.config), layer_type).cpu()
    except Exception:  # it cannot be made from its config alone: the live values are all there is
        return live
    rope_type: Any = getattr(module, "rope_type", "default")
    rope_type = rope_type[layer_type] if isinstance(rope_type, dict) else rope_type
    follows_length = "dynamic" in rope_type or rope_type == "longrope"
    casts = [fresh.to(dtype).double() for dtype in (torch.float32, torch.bfloat16, torch.float16)]
    same = live.shape == fresh.shape and any(
        torch.allclose(live, cast, rtol=1e-6, atol=0) for cast in casts
    )
    return fresh.double() if same or follows_length else live
