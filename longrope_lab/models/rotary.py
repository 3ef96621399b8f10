"""Reads the rotary embedding of a live Hugging Face model, and puts a scaling in its place.

Nothing here knows a model by name. A rotary module is one that holds ``inv_freq`` and answers
``module(x, position_ids)`` with cos and sin of position times frequency; a trial call tells how it
lays them out. Its `forward` is then replaced on the instance: no weight, buffer or config changes,
so restoring is exact. (Editing the config of a loaded model does nothing; neither does replacing
the module in each layer, since transformers 5 calls one at the model's top.)

Angles are computed in float64 and only cos and sin are cast: near position 2,000,000 neighbouring
float32 numbers are 0.125 apart, which is a tenth of a radian off in the fastest dimensions."""

from __future__ import annotations

import contextlib
import copy
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from ..rope.scaling import RopeScaling
from ..rope.schedule import Scaling
from ..rope.spec import RopeSpec
from .config import FULL_ATTENTION, scaling_from_config, spec_from_config

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

# How a module spreads the d/2 angles over its output: (..., d/2) -> (..., d) or (..., d/2).
LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "halves": lambda a: torch.cat((a, a), dim=-1),  # Llama: dimension i is paired with i + d/2
    "pairs": lambda a: a.repeat_interleave(2, dim=-1),  # Cohere: 2i with 2i + 1
    "once": lambda a: a,  # GPT-OSS: the attention layer spreads them itself
}


@dataclass(frozen=True)
class RotaryModule:
    """One rotary module of a model, as a trial call found it."""

    name: str
    module: nn.Module
    layer_type: (
        str | None
    )  # where one module serves several layer types (Gemma 3): the one with full attention
    frequencies: Tensor  # (d/2,), float64
    attention_factor: float
    layout: Callable[[Tensor], Tensor]
    output_dtype: torch.dtype | None  # None: that of its input


def rope_spec(model: nn.Module) -> RopeSpec:
    """The rotary embedding of a Hugging Face causal language model as it is loaded.

    A scaling that the model's config carries is part of it: its frequencies are the starting point
    of a further extension, and the window is the one it reaches. Where that scaling depends on the
    length ("dynamic", "longrope"), the frequencies and the window are those of short inputs. A
    scaling put in place by `apply_scaling` is not part of it.

    Raises:
        ValueError: no rotary embedding, or one of a kind that cannot be rescaled safely.
    """
    return _spec_of(model, find_rotary(model)[0])


def _spec_of(model: PreTrainedModel, rotary: RotaryModule) -> RopeSpec:
    plain = spec_from_config(model.config)
    frequencies = rotary.frequencies.numpy()
    if _same_rotation(plain, frequencies, rotary.attention_factor, rtol=1e-6):
        return plain  # with its base, which says more than the frequencies do
    return RopeSpec(
        rotary_dim=2 * len(frequencies),
        window=_window(model.config),
        base_frequencies=tuple(frequencies.tolist()),
        attention_factor=rotary.attention_factor,
    )


def _window(config: PreTrainedConfig) -> int:
    """Tokens that the config's own frequencies serve: the extended window, or the short one of a schedule."""
    try:
        scaling = scaling_from_config(config)
    except (
        ValueError
    ):  # a type without a formula here, such as llama3: its config states the window it reaches
        return int(config.get_text_config().max_position_embeddings)
    return scaling.target_length if isinstance(scaling, RopeScaling) else scaling.spec.window


class apply_scaling:  # noqa: N801 - used as a function and as a context manager
    """Put a scaling in place of a model's rotary embedding, until `restore()` or the end of the
    ``with`` block.

    A second scaling replaces the first while it lasts; the two do not add up (`compose` is for
    that).

    Args:
        model: any Hugging Face causal language model with rotary embeddings.
        scaling: a `RopeScaling`, or a `RopeSchedule`: then each row of a batch gets the scaling for
            its own length, the highest position of the row plus one.
        length: fix a schedule to the scaling for this many tokens, one number for all or one a row
            (B,). Generation needs it (prompt plus new tokens, which `generate` counts): keys in the
            cache keep the rotation they were made with, so a change of factors half way would mix
            two. In a batch of k times B rows each length serves k rows on end, as `generate`
            repeats them for beams and several answers.
        log_offsets: float64 tensors of shape (d/2,) and (), added to the logarithms of the factors
            and of the attention factor; gradients flow to them through cos and sin. For the
            gradient search.

    Raises:
        ValueError: the scaling was made for other frequencies than this model's, the model is not
            fit, or a length is no whole number from 1; in the forward pass, when lengths and rows
            do not match.
        RuntimeError: in the forward pass, when a schedule would change factors over cached keys.
    """

    def __init__(
        self,
        model: nn.Module,
        scaling: Scaling,
        *,
        length: ArrayLike | Tensor | None = None,
        log_offsets: tuple[Tensor, Tensor] | None = None,
    ) -> None:
        self.scaling = scaling
        each = None if length is None else [scaling.at(n) for n in _lengths(length)]
        self._fixed = [scaling] if isinstance(scaling, RopeScaling) else each
        self._log_offsets = log_offsets
        found = find_rotary(model)
        _check_same_embedding(model, found[0], self.scaling.spec)
        self._last: tuple[list[RopeScaling], list[int]] = ([], [])
        self._installed: list[tuple[nn.Module, Any, Any]] = []
        for rotary in found:
            before = rotary.module.__dict__.get("forward")
            ours = self._forward_of(rotary)
            rotary.module.forward = ours
            self._installed.append((rotary.module, ours, before))

    def restore(self) -> None:
        """Put back what was there before; a second call does nothing.

        Raises:
            RuntimeError: a later scaling is still in place.
        """
        if any(module.__dict__.get("forward") is not ours for module, ours, _ in self._installed):
            raise RuntimeError("another scaling was applied after this one: restore that one first")
        for module, _, before in self._installed:
            if before is None:
                del module.__dict__["forward"]
            else:
                module.forward = before
        self._installed = []

    def __enter__(self) -> apply_scaling:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.restore()

    def _forward_of(self, rotary: RotaryModule) -> Callable[..., tuple[Tensor, Tensor]]:
        stock = rotary.module.forward

        def forward(
            x: Tensor, position_ids: Tensor, layer_type: str | None = None
        ) -> tuple[Tensor, Tensor]:
            if (
                layer_type != rotary.layer_type
            ):  # a local layer of Gemma 3 never sees past its own window
                result: tuple[Tensor, Tensor] = stock(x, position_ids, layer_type)
                return result
            rows = (
                self._rows_running(position_ids)
                if self._fixed is None
                else self._rows_fixed(self._fixed, len(x))
            )
            cos, sin = self._cos_sin(rows, position_ids.to(x.device))
            dtype = rotary.output_dtype or x.dtype
            return rotary.layout(cos).to(x.device, dtype), rotary.layout(sin).to(x.device, dtype)

        return forward

    def _cos_sin(self, rows: list[RopeScaling], positions: Tensor) -> tuple[Tensor, Tensor]:
        """cos and sin times m, each (B, T, d/2), float64 (LongRoPE, Eq. 3); one scaling for all
        rows or one a row.

        Positions are (B, T), or (1, T) where all rows share them.
        """
        device = "cpu" if positions.device.type == "mps" else positions.device  # MPS has no float64

        def by_row(values: list[Any]) -> Tensor:
            return torch.tensor(np.array(values), device=device).reshape(len(rows), 1, -1)

        n = positions.to(device, torch.float64)[..., None]
        theta = by_row([s.frequencies for s in rows])
        m = by_row([s.spec.attention_factor * s.attention_factor for s in rows])
        if self._log_offsets is not None:
            factors, attention = (offset.to(device) for offset in self._log_offsets)
            theta, m = theta * torch.exp(-factors), m * torch.exp(attention)
        if any(s.start_tokens for s in rows):
            start = by_row([s.start_tokens for s in rows])
            theta = torch.where(n < start, by_row([s.spec.frequencies for s in rows]), theta)
        angles = n * theta
        return angles.cos() * m, angles.sin() * m

    @staticmethod
    def _rows_fixed(fixed: list[RopeScaling], rows: int) -> list[RopeScaling]:
        """The scaling of each row: one for all, or each for as many rows on end as a batch has for one length."""
        repeats, rest = divmod(rows, len(fixed))
        if len(fixed) > 1 and rest:
            raise ValueError(
                f"{len(fixed)} lengths were given, one a row, and this batch has {rows} rows: give one length for all, "
                "or one for each row"
            )
        return fixed if len(fixed) == 1 else [s for s in fixed for _ in range(repeats)]

    def _rows_running(self, position_ids: Tensor) -> list[RopeScaling]:
        """The schedule's scaling for each row of positions (B, T), as long as the row is by now."""
        first, last = position_ids.amin(dim=-1).tolist(), position_ids.amax(dim=-1).tolist()
        rows = [self.scaling.at(n + 1) for n in last]
        before, ends = self._last
        if len(ends) == len(
            rows
        ):  # as many rows as the last call had: maybe the same ones, a step further
            for n, end, now, was in zip(first, ends, rows, before, strict=True):
                if (
                    0 < n <= end + 1 and now != was
                ):  # below it where tokens are taken back, as in assisted decoding
                    raise RuntimeError(
                        f"the cached keys were rotated with the factors for {was.target_length} tokens, and the "
                        f"sequence now calls for those of {now.target_length}: fix the set beforehand, with "
                        "longrope_lab.generate(model, ids, schedule, max_new_tokens=...) or, stepping yourself, with "
                        "apply_scaling(model, schedule, length=prompt tokens + new tokens)"
                    )
        self._last = rows, last
        return rows


def _lengths(length: ArrayLike | Tensor) -> list[int]:
    """One length for all rows, or one a row, as a list."""
    try:
        values = torch.as_tensor(length)
    except (TypeError, ValueError, RuntimeError):
        values = torch.empty(0)
    if values.ndim > 1 or not values.numel() or values.is_floating_point() or values.min() < 1:
        raise ValueError(
            f"length is {length!r}: it counts tokens, a whole number from 1 for all rows or one a row"
        )
    return [int(n) for n in values.reshape(-1)]


def by_name(
    scalings: Mapping[str, Scaling | None] | None,
) -> Mapping[str, Scaling | None]:
    """The scalings that a measurement compares, by the names its table gives them; None is the
    model alone.

    Raises:
        ValueError: a scaling without a name.
    """
    if scalings is not None and not isinstance(scalings, Mapping):
        raise ValueError(
            f"scalings is a {type(scalings).__name__}: name them, for example {{'yarn': scaling}}"
        )
    return {"model": None} if scalings is None else scalings


def scaled(
    model: nn.Module, scaling: Scaling | None, *, length: ArrayLike | Tensor | None = None
) -> contextlib.AbstractContextManager[object]:
    """`apply_scaling`, or nothing at all for None: the model as it stands."""
    return (
        contextlib.nullcontext()
        if scaling is None
        else apply_scaling(model, scaling, length=length)
    )


def _check_same_embedding(model: PreTrainedModel, rotary: RotaryModule, spec: RopeSpec) -> None:
    """A scaling means something only over what it was made for: the model's rotation, or its config's unscaled one."""
    live = _spec_of(model, rotary)
    if not any(
        _same_rotation(own, spec.frequencies, spec.attention_factor, rtol=1e-5)
        for own in (live, spec_from_config(model.config))
    ):
        raise ValueError(
            f"this scaling is for {_rotation_words(spec)}; the model has {_rotation_words(live)}: "
            "make it from rope_spec(model)"
        )


def _same_rotation(
    spec: RopeSpec, frequencies: NDArray[np.float64], attention_factor: float, rtol: float
) -> bool:
    return (
        spec.frequencies.shape == frequencies.shape
        and np.allclose(spec.frequencies, frequencies, rtol=rtol, atol=0)
        and math.isclose(spec.attention_factor, attention_factor, rel_tol=rtol)
    )


def _rotation_words(spec: RopeSpec) -> str:
    first, last = spec.frequencies[[0, -1]]
    turning = (
        f"base {spec.base:g}" if spec.base is not None else f"frequencies {first:.4g} to {last:.4g}"
    )
    extra = (
        "" if spec.attention_factor == 1.0 else f" and attention factor {spec.attention_factor:.4g}"
    )
    return f"rotary_dim {spec.rotary_dim}, {turning}{extra}"


def find_rotary(model: PreTrainedModel) -> list[RotaryModule]:
    """The rotary modules of a model's decoder, all with the same frequencies.

    Raises:
        ValueError: none, several that differ, or one whose output is not understood.
    """
    decoder = model.get_decoder() if hasattr(model, "get_decoder") else model
    holders = [(name, m) for name, m in decoder.named_modules() if _layer_types(m) is not None]
    if not holders:
        raise ValueError(
            f"{type(model).__name__} has no rotary embedding that can be rescaled (no module with inv_freq): "
            "context extension needs a RoPE model such as Llama, Mistral or Qwen"
        )
    found = [_examine(name, module) for name, module in holders]
    for other in found[1:]:
        if other.frequencies.shape != found[0].frequencies.shape or not torch.allclose(
            other.frequencies, found[0].frequencies, rtol=1e-5, atol=0
        ):
            raise ValueError(
                f"{type(model).__name__} has rotary modules with different frequencies ({found[0].name} and "
                f"{other.name}): one scaling cannot serve both"
            )
    return found


def _layer_types(module: nn.Module) -> list[str | None] | None:
    """The layer types a module holds frequencies for ([None]: one set for all); None if it holds none."""
    names = [name for name, _ in module.named_buffers(recurse=False)]
    names += [name for name, value in vars(module).items() if isinstance(value, Tensor)]
    if "inv_freq" in names:
        return [None]
    suffix = "_inv_freq"
    types = {n.removesuffix(suffix) for n in names if n.endswith(suffix)}
    return [t for t in sorted(types) if not f"_{t}".endswith(("_original", "_long"))] or None


def _examine(name: str, module: nn.Module) -> RotaryModule:
    """Call the module on a few positions, and read off what it does."""
    where = f"the rotary module {name!r} ({type(module).__name__})"
    types = _layer_types(module) or [None]
    layer_type = None
    if types != [None]:
        if FULL_ATTENTION not in types:
            raise ValueError(
                f"{where} serves layer types {types}, none of them {FULL_ATTENTION!r}: cannot tell which to scale"
            )
        layer_type = FULL_ATTENTION
    # A call on a short input resets what a "dynamic" module keeps of a long one: it is made on a
    # copy.
    probe = copy.deepcopy(
        module, {id(getattr(module, "config", None)): getattr(module, "config", None)}
    )
    positions = torch.arange(8, device=_buffer(module, layer_type).device)[None]  # (1, 8)
    arguments = (positions,) if layer_type is None else (positions, layer_type)
    outputs = {}
    for dtype in (torch.float32, torch.bfloat16):
        x = torch.zeros(1, 8, 1, dtype=dtype, device=positions.device)
        try:
            with torch.no_grad():
                cos, sin = type(module).forward(
                    probe, x, *arguments
                )  # the class's: a scaling may be in place
        except Exception as error:
            raise ValueError(
                f"{where} does not answer (x, position_ids) with cos and sin: {error}"
            ) from error
        outputs[dtype] = cos, sin
    cos, sin = (part.double().cpu() for part in outputs[torch.float32])
    used = (
        _buffer(probe, layer_type).double().cpu()
    )  # maybe rounded by a cast: what the call just turned by
    angles = positions.cpu().double()[..., None] * used  # (1, 8, d/2)
    attention_factor = float(
        cos[0, 0].flatten()[0]
    )  # cos 0 = 1, so position 0 shows the factor alone
    attention_factor = 1.0 if abs(attention_factor - 1) < 1e-6 else attention_factor
    for layout in LAYOUTS.values():
        expected = layout(angles)
        if expected.shape == cos.shape and all(
            torch.allclose(part, function(expected) * attention_factor, atol=1e-4)
            for part, function in ((cos, torch.cos), (sin, torch.sin))
        ):
            follows = outputs[torch.bfloat16][0].dtype == torch.bfloat16
            return RotaryModule(
                name=name,
                module=module,
                layer_type=layer_type,
                frequencies=_fresh_frequencies(module, layer_type),
                attention_factor=attention_factor,
                layout=layout,
                output_dtype=None if follows else torch.float32,
            )
    raise ValueError(
        f"{where} lays out cos and sin of shape {tuple(cos.shape)} in a way that is not known here"
    )


def _buffer(module: nn.Module, layer_type: str | None) -> Tensor:
    buffer: Tensor = getattr(module, "inv_freq" if layer_type is None else f"{layer_type}_inv_freq")
    return buffer


def _fresh_frequencies(module: nn.Module, layer_type: str | None) -> Tensor:
    """The module's frequencies (d/2,) in float64, free of what a cast or an earlier long input did
    to its buffer.

    ``model.to(torch.bfloat16)`` rounds the buffer, and a "dynamic" or "longrope" module leaves the
    long input's frequencies in it; a module newly made from the config has neither. A buffer that
    somebody set to other values by hand is believed."""
    live = _buffer(module, layer_type).double().cpu()
    make: Any = type(module)
    try:
        fresh = _buffer(make(module.config), layer_type).cpu()
    except (
        Exception
    ):  # a module that cannot be made from its config alone: the live values are all there is
        return live
    rope_type: Any = getattr(module, "rope_type", "default")
    rope_type = rope_type[layer_type] if isinstance(rope_type, dict) else rope_type
    follows_length = "dynamic" in rope_type or rope_type == "longrope"
    casts = [fresh.to(dtype).double() for dtype in (torch.float32, torch.bfloat16, torch.float16)]
    same = live.shape == fresh.shape and any(
        torch.allclose(live, cast, rtol=1e-6, atol=0) for cast in casts
    )
    return fresh.double() if same or follows_length else live
