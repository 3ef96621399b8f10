"""Finds the rotary modules of a model, and reads off what they do.

Nothing here knows a model by name. A rotary module is one that holds ``inv_freq`` and answers
``module(x, position_ids)`` with cos and sin of position times frequency, or with both as one
complex number; a trial call tells how it lays them out.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from .config_fields import FULL_ATTENTION
from .parts import check_is_model

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Layout = Callable[[Tensor], Tensor]
# What a rotary module hands over: cos and sin, or one complex tensor of both.
Answer = Tensor | tuple[Tensor, Tensor]

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
        frequencies: theta, shape (d/2,), float64; those that turn.
        attention_factor: what cos and sin are multiplied by.
        layout: how the angles are spread over the output, one of `LAYOUTS`.
        output_dtype: of cos and sin; None where it is that of the input.
        is_complex: whether it answers with one complex tensor, cos + i sin (DeepSeek-V2).
        still: pairs after the d/2 that never turn, their frequency being 0 (Gemma 4).
    """

    name: str
    module: nn.Module
    layer_type: str | None
    frequencies: Tensor
    attention_factor: float
    layout: Layout
    output_dtype: torch.dtype | None
    is_complex: bool = False
    still: int = 0

    def serves(self, layer_type: str | None) -> bool:
        """Whether a call for this layer type is for the frequencies that are scaled."""
        return self.layer_type is None or layer_type == self.layer_type

    def answer(self, cos: Tensor, sin: Tensor, x: Tensor) -> Answer:
        """cos and sin (..., d/2 + still), as the module itself would hand them over for an x."""
        cos, sin = self.layout(cos), self.layout(sin)
        if self.is_complex:
            return torch.complex(cos.float(), sin.float()).to(x.device)
        dtype = self.output_dtype or x.dtype
        return cos.to(x.device, dtype), sin.to(x.device, dtype)


def find_rotary(model: PreTrainedModel) -> list[RotaryModule]:
    """The rotary modules of a model's decoder, all with the same frequencies.

    Raises:
        ValueError: there are none, several that differ, or one whose output is not understood.
    """
    check_is_model(model)
    modules = _text_decoder(model).named_modules()
    found = [_examine(name, m) for name, m in modules if layer_types(m)]
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


def cos_and_sin(answer: Answer) -> tuple[Tensor, Tensor]:
    """cos and sin out of what a rotary module answers, which may be one complex tensor."""
    if isinstance(answer, Tensor):
        if not answer.is_complex():
            raise ValueError(f"it answers with one tensor of {answer.dtype}")
        return answer.real, answer.imag
    cos, sin = answer
    return cos, sin


def positions_of_text(position_ids: Tensor) -> Tensor:
    """Positions (B, T) of a text.

    Models that read images, such as Qwen3.5, count along three axes, (3, B, T), which in a text go
    together.

    Raises:
        ValueError: they do not, as those of an image.
    """
    if position_ids.ndim < 3:
        return position_ids
    if (position_ids != position_ids[0]).any():
        raise ValueError(
            "positions differ along their three axes, as those of images and videos do: a scaling "
            "is for text, so pass token ids alone"
        )
    return position_ids[0]


def _text_decoder(model: PreTrainedModel) -> nn.Module:
    """The part that reads text, without towers for images and sound."""
    decoder: nn.Module = model.get_decoder() if hasattr(model, "get_decoder") else model
    # ModernBERT calls its head the decoder, a single layer without parts.
    return decoder if any(True for _ in decoder.children()) else model.base_model


def layer_types(module: nn.Module) -> list[str | None]:
    """The layer types that a module holds frequencies for; [None] is one set for all of them."""
    own, buffers, suffix = vars(module), vars(module)["_buffers"], "inv_freq"
    if suffix not in " ".join((*own, *buffers)):  # every module is looked at: most end here
        return []
    held = {**own, **buffers}
    names = [n for n, v in held.items() if n.endswith(suffix) and isinstance(v, Tensor)]
    if suffix in names:
        return [None]
    types = {name.removesuffix(f"_{suffix}") for name in names if name.endswith(f"_{suffix}")}
    return [t for t in sorted(types) if not f"_{t}".endswith(("_original", "_long"))]


def _examine(name: str, module: nn.Module) -> RotaryModule:
    """Call the module on a few positions, and read off what it does."""
    where = f"the rotary module {name!r} ({type(module).__name__})"
    layer_type = _layer_type(module, where)
    probe = _copy(module, layer_type, where)
    answers = [_trial_call(probe, layer_type, d, where) for d in (torch.float32, torch.bfloat16)]
    cos, sin = (part.double().cpu() for part in cos_and_sin(answers[0]))
    m = float(cos[0, 0].flatten()[0])  # cos 0 = 1, so position 0 shows the factor alone
    m = 1.0 if abs(m - 1) < 1e-6 else m
    # The frequencies that the call just turned by; a cast may have rounded them.
    used = _buffer(probe, layer_type).double().cpu()
    layout = _layout(cos, sin, torch.arange(TRIED).double()[None, :, None] * used, m)
    if layout is None:
        raise ValueError(
            f"{where} lays out cos and sin of shape {tuple(cos.shape)} in a way that is not known "
            "here"
        )
    on_meta = _buffer(module, layer_type).is_meta
    frequencies = _fresh_frequencies(probe if on_meta else module, layer_type)
    turning = int((frequencies != 0).sum())
    if (frequencies[:turning] == 0).any():
        raise ValueError(f"{where} has frequencies of 0 among those that turn: none are known here")
    is_complex, second = isinstance(answers[0], Tensor), cos_and_sin(answers[1])[0]
    return RotaryModule(
        name=name,
        module=module,
        layer_type=layer_type,
        frequencies=frequencies[:turning],
        attention_factor=m,
        layout=layout,
        output_dtype=None if second.dtype == torch.bfloat16 else torch.float32,
        is_complex=is_complex,
        still=len(frequencies) - turning,
    )


def _copy(module: nn.Module, layer_type: str | None, where: str) -> nn.Module:
    """A module to try out: a call on a short text resets what "dynamic" keeps of a long one.

    Of one on the "meta" device, which holds no numbers, a module newly made from the config.
    """
    config: Any = getattr(module, "config", None)
    if not _buffer(module, layer_type).is_meta:
        return copy.deepcopy(module, {id(config): config})
    make: Any = type(module)
    try:
        made: nn.Module = make(config)
    except Exception as error:
        raise ValueError(
            f"{where} is on the 'meta' device, which holds no numbers: load the model's weights"
        ) from error
    return made


def _layout(cos: Tensor, sin: Tensor, turned: Tensor, m: float) -> Layout | None:
    """The layout by which angles (1, T, d/2) give m cos and m sin; None if it is none of ours."""
    for layout in LAYOUTS.values():
        angles = layout(turned)  # (1, T, d) or (1, T, d/2)
        if angles.shape == cos.shape and all(
            torch.allclose(part, function(angles) * m, atol=1e-4)
            for part, function in ((cos, torch.cos), (sin, torch.sin))
        ):
            return layout
    return None


def _layer_type(module: nn.Module, where: str) -> str | None:
    """The layer type whose frequencies are to be scaled; None where there is one set for all."""
    types = layer_types(module)
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
) -> Answer:
    """What it answers for the first positions, by the class's forward: a stand-in may be there."""
    positions = torch.arange(TRIED, device=_buffer(module, layer_type).device)[None]
    x = torch.zeros(*positions.shape, 1, dtype=dtype, device=positions.device)
    try:
        with torch.no_grad():
            return answer_of(partial(type(module).forward, module), x, positions, layer_type)
    except Exception as error:
        raise ValueError(
            f"{where} does not answer (x, position_ids) with cos and sin: {error}"
        ) from error


def answer_of(
    module: Callable[..., Answer], x: Tensor, positions: Tensor, layer_type: str | None
) -> Answer:
    """What a rotary module answers for positions (B, T) of text, alike on all axes if it has three.

    In transformers 5.17, models for images took positions of three axes alone.
    """
    layer = () if layer_type is None else (layer_type,)
    try:
        answer = module(x, positions, *layer)
        cos_and_sin(answer)
    except Exception as first:
        try:
            answer = module(x, positions.expand(3, -1, -1), *layer)
            cos_and_sin(answer)
        except Exception:
            raise first from None
    return answer


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
    dtypes = torch.float32, torch.bfloat16, torch.float16
    casts = (fresh.to(dtype).double() for dtype in dtypes)  # the first is mostly the one
    same = live.shape == fresh.shape and any(
        torch.allclose(live, cast, rtol=1e-6, atol=0) for cast in casts
    )
    return fresh.double() if same or follows_length else live
