"""Reads the rotary embedding of a live Hugging Face model, and puts a scaling in its place.

The `forward` of each rotary module is replaced on the instance: no weight, buffer or config
changes, so restoring is exact. (Editing the config of a loaded model changes a part at most: of
LongRoPE the length at which it switches, of Dynamic NTK what the next longer text gets, of PhiMoE
the attention factor. Replacing the module in each layer does nothing, since transformers 5 calls
one at the top.)

Angles are computed in float64, and only cos and sin are cast. Near position 2,000,000 neighbouring
float32 numbers are 0.125 apart, which is a tenth of a radian off in the fastest dimensions.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike
from torch import Tensor

from ..rope.scaling import RopeScaling
from ..rope.schedule import Scaling
from ..rope.spec import Floats, RopeSpec, rotation_words, same_rotation
from .config_fields import TRAINED
from .find_rotary import Answer, RotaryModule, positions_of_text
from .parts import is_whole
from .read_config import scaling_from_config, spec_from_config
from .rotated_layers import rotary_in_use
from .sharing import summed_gradient
from .stand_in import StandIn

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel


def rope_spec(model: PreTrainedModel, *, window: int | None = None) -> RopeSpec:
    """The rotary embedding of a Hugging Face causal language model as it is loaded.

    >>> model, tokenizer = lab.load_model("lab")
    >>> spec = lab.rope_spec(model)
    >>> spec.rotary_dim, spec.window, spec.base
    (64, 512, 10000.0)

    A scaling that the model's config carries is part of the embedding: a further extension starts
    from its frequencies, and the window is the one it reaches. Where that scaling depends on the
    length ("dynamic", "longrope"), frequencies and window are those of short inputs. A scaling that
    `apply_scaling` put in place is not part of it.

    Args:
        model: a Hugging Face causal language model.
        window: the window that it was trained on, in tokens, where its config states another. What
            is made of the spec keeps it. `load_model` takes it, too, for every later spec.

    Raises:
        ValueError: there is no rotary embedding, one of a kind that cannot be rescaled safely, or
            no such window.
    """
    spec = _spec_of(model, rotary_in_use(model)[0])
    return spec if window is None else replace(spec, window=window)


def _spec_of(model: PreTrainedModel, rotary: RotaryModule) -> RopeSpec:
    plain = spec_from_config(model.config)
    frequencies = rotary.frequencies.numpy()
    if same_rotation(plain, frequencies, rotary.attention_factor, rtol=1e-6):
        # With its base, which says more than the frequencies do.
        return replace(plain, window=_stated_window(model.config) or plain.window)
    return RopeSpec(
        rotary_dim=2 * len(frequencies),
        window=window_from_config(model.config),
        base_frequencies=tuple(frequencies.tolist()),
        attention_factor=rotary.attention_factor,
    )


def window_from_config(config: PreTrainedConfig) -> int:
    """Tokens that the config's own frequencies serve; of a schedule, those of its short inputs."""
    if stated := _stated_window(config):
        return stated
    try:
        scaling = scaling_from_config(config)
    except ValueError:  # a type without a formula here states what it reaches
        return int(config.get_text_config().max_position_embeddings)
    return scaling.target_length if isinstance(scaling, RopeScaling) else scaling.spec.window


def _stated_window(config: PreTrainedConfig) -> int | None:
    """The trained window, if whoever loaded the model stated it."""
    return getattr(config.get_text_config(), TRAINED, None)


class apply_scaling:  # noqa: N801 - used as a function and as a context manager
    """Put a scaling in place of a model's rotary embedding, until the end of the ``with`` block.

    >>> model, tokenizer = lab.load_model("lab")
    >>> (book,) = lab.load_corpus("kjv", tokenizer, min_tokens=1024, max_tokens=1024, limit=1)
    >>> round(lab.token_losses(model, book.ids)[512:].mean().item(), 1)  # lost beyond the window
    4.2
    >>> yarn = lab.rope_scaling(lab.rope_spec(model), "yarn", 1024)
    >>> with lab.apply_scaling(model, yarn):
    ...     round(lab.token_losses(model, book.ids)[512:].mean().item(), 1)
    3.2

    Outside a ``with`` block it lasts until `restore()`. A second scaling replaces the first while
    it lasts; the two do not add up, which is what `compose` is for.

    Args:
        model: any Hugging Face causal language model with rotary embeddings.
        scaling: a `RopeScaling`; or a `RopeSchedule`, which gives each row of a batch the scaling
            for its own length, its highest position plus one.
        length: fix a schedule to the scaling for so many tokens: one number for all rows, or one
            per row (B,). In a batch of k times B rows each number serves k rows on end, as
            `generate` repeats them for beams and several answers.
        log_offsets: float64 tensors of shape (d/2,) and (), for the gradient search. They are added
            to the logarithms of the factors and of the attention factor, and gradients flow to
            them through cos and sin.

    Generation needs a `length`, of prompt and new tokens together: keys in the cache keep the
    rotation they were made with, so a change of factors half way would mix two. `generate` counts
    them.

    Raises:
        ValueError: the scaling was made for other frequencies than this model's, the model cannot
            be rescaled, or a length is not a whole number from 1; in the forward pass, where
            lengths and rows do not match.
        RuntimeError: in the forward pass, where a schedule would change factors over cached keys.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        scaling: Scaling,
        *,
        length: ArrayLike | Tensor | None = None,
        log_offsets: tuple[Tensor, Tensor] | None = None,
    ) -> None:
        self.scaling = scaling
        each = None if length is None else [scaling.at(n) for n in _lengths(length)]
        self._fixed = [scaling] if isinstance(scaling, RopeScaling) else each
        self._log_offsets = log_offsets
        found = rotary_in_use(model)
        _check_same_embedding(model, found[0], self.scaling.spec)
        if log_offsets is not None:
            _check_offsets(log_offsets, len(self.scaling.spec.frequencies))
        self._last: tuple[list[RopeScaling], list[int]] = ([], [])
        self._installed = [StandIn(rotary.module, self._forward_of(rotary)) for rotary in found]

    def restore(self) -> None:
        """Put back what was there before; a second call does nothing.

        Raises:
            RuntimeError: a later scaling is still in place.
        """
        if not all(stand_in.in_place for stand_in in self._installed):
            raise RuntimeError("another scaling was applied after this one: restore that one first")
        for stand_in in self._installed:
            stand_in.restore()
        self._installed = []

    def __enter__(self) -> apply_scaling:
        return self

    def __exit__(self, *_: object) -> None:
        self.restore()

    def _forward_of(self, rotary: RotaryModule) -> Callable[..., Answer]:
        stock = rotary.module.forward

        def forward(x: Tensor, position_ids: Tensor, layer_type: str | None = None) -> Answer:
            if not rotary.serves(layer_type):  # a local layer of Gemma 3 never sees far
                answer: Answer = stock(x, position_ids, layer_type)
                return answer
            positions = positions_of_text(position_ids).to(x.device)
            if self._fixed is None:
                rows = self._rows_running(positions)
            else:
                rows = self._rows_fixed(self._fixed, len(x))
            return rotary.answer(*self._cos_sin(rows, positions, rotary.still), x)

        return forward

    def _cos_sin(
        self, rows: list[RopeScaling], positions: Tensor, still: int
    ) -> tuple[Tensor, Tensor]:
        """cos and sin times m, each (B, T, d/2 + still), float64 (LongRoPE, Eq. 3).

        Given is one scaling for all rows or one per row, and positions (B, T), or (1, T) where all
        rows share them; and how many pairs after the d/2 never turn.
        """
        device = "cpu" if positions.device.type == "mps" else positions.device  # MPS has no float64

        def by_row(values: Sequence[Floats | float]) -> Tensor:
            return torch.tensor(np.array(values), device=device).reshape(len(rows), 1, -1)

        n = positions.to(device, torch.float64)[..., None]
        theta = by_row([s.frequencies for s in rows])
        m = by_row([s.spec.attention_factor * s.attention_factor for s in rows])
        if self._log_offsets is not None:
            factors, attention = (summed_gradient(o.to(device), n) for o in self._log_offsets)
            theta, m = theta * torch.exp(-factors), m * torch.exp(attention)
        if any(s.start_tokens for s in rows):
            start = by_row([s.start_tokens for s in rows])
            theta = torch.where(n < start, by_row([s.spec.frequencies for s in rows]), theta)
        angles = n * theta
        if still:
            angles = F.pad(angles, (0, still))
        return angles.cos() * m, angles.sin() * m

    @staticmethod
    def _rows_fixed(fixed: list[RopeScaling], rows: int) -> list[RopeScaling]:
        """One scaling for all rows, or each for as many rows on end as the batch has per length."""
        repeats, rest = divmod(rows, len(fixed))
        if len(fixed) > 1 and rest:
            raise ValueError(
                f"{len(fixed)} lengths were given, one per row, and this batch has {rows} rows: "
                "give one length for all, or one for each row"
            )
        return fixed if len(fixed) == 1 else [s for s in fixed for _ in range(repeats)]

    def _rows_running(self, position_ids: Tensor) -> list[RopeScaling]:
        """The schedule's scaling for each row of positions (B, T), as long as the row is by now."""
        first, last = position_ids.amin(dim=-1).tolist(), position_ids.amax(dim=-1).tolist()
        rows = [self.scaling.at(n + 1) for n in last]
        before, ends = self._last
        if len(ends) == len(rows):  # maybe the rows of the last call, a step further
            for n, end, now, was in zip(first, ends, rows, before, strict=True):
                # n is at most `end` where tokens were taken back, as in assisted decoding.
                if 0 < n <= end + 1 and now != was:
                    raise RuntimeError(
                        "the cached keys were rotated with the factors for "
                        f"{was.target_length} tokens, and the sequence now calls for those of "
                        f"{now.target_length}: fix the set beforehand, with "
                        "longrope_lab.generate(model, ids, schedule, max_new_tokens=...) or, "
                        "stepping yourself, with apply_scaling(model, schedule, length=prompt "
                        "tokens + new tokens)"
                    )
        self._last = rows, last
        return rows


def _check_offsets(offsets: object, pairs: int) -> None:
    shapes = [tuple(getattr(offset, "shape", "?")) for offset in _listed(offsets)]
    if shapes != [(pairs,), ()]:
        raise ValueError(
            f"log_offsets are of shapes {shapes}: give two tensors, ({pairs},) for the factors and "
            "() for the attention factor"
        )


def _listed(values: object) -> list[object]:
    return list(values) if isinstance(values, tuple | list) else [values]


def _lengths(length: ArrayLike | Tensor) -> list[int]:
    """One length for all rows, or one per row, as a list."""
    try:
        values = torch.as_tensor(length)
    except (TypeError, ValueError, RuntimeError):
        values = torch.empty(0)
    if values.ndim > 1 or not values.numel() or not is_whole(values) or values.min() < 1:
        raise ValueError(
            f"length is {length!r}: it counts tokens, a whole number from 1 for all rows or one "
            "per row"
        )
    return [int(n) for n in values.reshape(-1)]


def by_name(scalings: Mapping[Any, Scaling | None] | None) -> Mapping[Any, Scaling | None]:
    """The scalings that a measurement compares, by the names that its table gives them.

    Without any, and for None, it is the model as it stands.

    Raises:
        ValueError: a scaling without a name, or none at all.
    """
    if scalings is not None and not isinstance(scalings, Mapping):
        raise ValueError(
            f"scalings is a {type(scalings).__name__}: name them, for example {{'yarn': scaling}}"
        )
    if scalings is not None and not scalings:
        raise ValueError(
            "scalings is empty, so there is nothing to measure: name one, or pass None for the "
            "model as it stands"
        )
    return {"model": None} if scalings is None else scalings


def scaled(
    model: PreTrainedModel, scaling: Scaling | None, *, length: ArrayLike | Tensor | None = None
) -> contextlib.AbstractContextManager[object]:
    """`apply_scaling`, or for None nothing at all: the model as it stands."""
    if scaling is None:
        return contextlib.nullcontext()
    return apply_scaling(model, scaling, length=length)


def _check_same_embedding(model: PreTrainedModel, rotary: RotaryModule, spec: RopeSpec) -> None:
    """Refuse a scaling that was made for another rotation than the model's.

    The rotation of its config without any scaling is the model's, too.
    """
    meant = spec.frequencies, spec.attention_factor
    if same_rotation(spec_from_config(model.config), *meant, rtol=1e-5):
        return
    live = _spec_of(model, rotary)
    if same_rotation(live, *meant, rtol=1e-5):
        return
    raise ValueError(
        f"this scaling is for {rotation_words(spec)}; the model has {rotation_words(live)}: make "
        "it from rope_spec(model)"
    )
