"""Does stock transformers compute our scaling? Its rotations and logits beside ours."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..models.find_rotary import answer_of, cos_and_sin, find_rotary
from ..models.read_config import spec_from_config
from ..models.rotary import apply_scaling
from ..models.write_config import same
from ..rope.schedule import Scaling, sets_of
from ..rope.spec import RopeSpec

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# How far stock transformers may be from ours. Its frequencies are float32, and so are its angles:
# at position n they are off by up to n * 7e-7 radians, where ours are float64. How far positions
# turn is known from the frequencies, each of which is held to three times that (room for a formula
# that says nearly the same). Logits are held to 1e-4 of the largest one up to position 512, and in
# proportion beyond. From 65,536 on they are not judged: the fastest angles are off by a twentieth
# of a radian there, and all else is the same at any position. Measured: 5e-6 of the largest at 512
# tokens, 5e-5 at 4,096 (lab model; two attention kernels of stock transformers differ by 4e-6),
# 1.3e-4 at 8,192 (SmolLM2). With stock's rotary module in place of ours, the lab model's logits are
# equal to the bit.
ROTATION_TOLERANCE = 2e-6
LOGIT_TOLERANCE = 1e-4
EXACT_UNTIL = 512
JUDGED_UNTIL = 65_536

# Token positions that a check holds: a longer input is checked at as many, spread over its length.
POSITIONS = 256

WAY_OUT = "nothing was kept: use apply_scaling on the model instead"


class Computed(NamedTuple):
    """What a model gives for an input: `rotation` (d,) or (d/2,) and `logits` (T, V), float32."""

    rotation: Tensor
    logits: Tensor


def check_export(part: Path, shell: PreTrainedModel, scaling: Scaling) -> str:
    """Compare a written checkpoint, as stock transformers runs it, with `apply_scaling`.

    Rotations are compared as well as logits, in which a slow dimension that turns by a wrong factor
    hardly shows.

    Args:
        part: the checkpoint's folder.
        shell: the model that was written; it goes to the CPU in float32.
        scaling: what its config is to say.

    Returns:
        How near the two are, in words for the card.

    Raises:
        RuntimeError: stock transformers cannot run it, or gives something else.
    """
    stock, lengths = _stock_name(), checked_lengths(scaling)
    theirs = _by_stock(part, lengths)
    # accelerate may have put the live model's own `to` on the shell.
    type(shell).to(shell, "cpu", torch.float32)
    shell.set_attn_implementation("eager")
    found, largest = [], 0.0
    for length in lengths:
        with apply_scaling(shell, scaling, length=length):
            ours = _compute(shell, length)
        largest = max(largest, float(ours.logits.abs().max()))
        _check_rotation(theirs[length].rotation, ours.rotation, length)
        off = _check_logits(theirs[length].logits, ours.logits, length, largest)
        found.append(f"{off:.1g} at {length:,} tokens")
    return (
        f"Checked when it was written: {stock} gives longrope_lab's logits to {', '.join(found)} "
        f"(the largest logit being {largest:.3g}; random tokens, at most {POSITIONS} of them "
        "spread over the length; float32, CPU). Its angles are float32, so that the difference "
        "grows with the position."
    )


def _stock_name() -> str:
    import transformers

    return f"stock transformers {transformers.__version__}"


def embedding_under(model: PreTrainedModel, scaling: Scaling) -> RopeSpec:
    """A model's embedding without any scaling, with the window that this one starts from.

    Raises:
        ValueError: the scaling is for other frequencies than the model's.
    """
    with apply_scaling(model, scaling, length=1):
        pass  # refuses other frequencies
    plain = spec_from_config(model.config)
    if same(plain.frequencies, scaling.spec.frequencies):
        return replace(plain, window=scaling.spec.window)
    return plain


def checked_lengths(scaling: Scaling) -> list[int]:
    """Input lengths to compare: the last with the short factors, the first beyond, the longest.

    Of a single set the first of these is the window.
    """
    sets = sets_of(scaling)
    window = sets[0].target_length if len(sets) > 1 else scaling.spec.window
    return sorted({window, window + 1, sets[-1].target_length if sets else 2 * window})


def _by_stock(part: Path, lengths: list[int]) -> dict[int, Computed]:
    """What stock transformers gives for inputs of these lengths, its model gone at the end.

    Two models in float32 may be more than there is memory for.
    """
    from transformers import AutoModelForCausalLM

    try:
        stock = AutoModelForCausalLM.from_pretrained(
            part, dtype=torch.float32, attn_implementation="eager"
        ).eval()
        return {length: _compute(stock, length) for length in lengths}
    except Exception as error:
        raise RuntimeError(
            f"{_stock_name()} cannot run what was written ({error}); {WAY_OUT}"
        ) from error


def _check_rotation(theirs: Tensor, ours: Tensor, length: int) -> None:
    # A pair that never turns has a sine of 0 in both.
    turned = (theirs - ours).abs() / ours.abs().clamp(min=torch.finfo(ours.dtype).tiny)
    if not turned.max() <= ROTATION_TOLERANCE:
        i = int(turned.argmax())
        raise RuntimeError(
            f"{_stock_name()} turns dimension {i} otherwise than apply_scaling does for an input "
            f"of {length} tokens, m sin θ/λ being {theirs[i]:.7g} and not {ours[i]:.7g}; {WAY_OUT}"
        )


def _check_logits(theirs: Tensor, ours: Tensor, length: int, largest: float) -> float:
    """The largest difference, if it is small enough at each position."""
    off = (theirs - ours).abs().amax(dim=-1)  # (T,)
    n = _positions(length)
    allowed = LOGIT_TOLERANCE * max(1.0, largest) * (n / EXACT_UNTIL).clamp(min=1)
    allowed[n >= JUDGED_UNTIL] = torch.inf  # a NaN is still refused
    bad = torch.nonzero(~(off <= allowed)).flatten()
    if len(bad):
        i = int(bad[0])
        raise RuntimeError(
            f"{_stock_name()} gives other logits than apply_scaling for an input of {length} "
            f"tokens: off by {off[i]:.2g} at position {n[i]} ({allowed[i]:.2g} is allowed), by "
            f"{off.max():.2g} at most; {WAY_OUT}"
        )
    return float(off.max())


@torch.no_grad()
def _compute(model: PreTrainedModel, length: int) -> Computed:
    return Computed(_rotation(model, length), logits_at(model, length))


def _rotation(model: PreTrainedModel, length: int) -> Tensor:
    """m sin(θ/λ), as the rotary module answers at position 1 of an input of `length` tokens.

    At position 1 float32 holds the fastest and the slowest dimension to seven digits.
    """
    rotary = find_rotary(model)[0]
    positions = torch.tensor([[1, length - 1]])
    answer = answer_of(rotary.module, torch.zeros(1), positions, rotary.layer_type)
    _, sin = cos_and_sin(answer)
    return sin[0, 0]


def logits_at(model: PreTrainedModel, length: int) -> Tensor:
    """Logits of random tokens at the `_positions` of an input."""
    positions = _positions(length)
    vocabulary = model.get_input_embeddings().weight.shape[0]
    ids = torch.randint(vocabulary, (1, len(positions)), generator=torch.Generator().manual_seed(0))
    # Given no mask, transformers would take a step of more than one position for the start of
    # another text.
    output = model(
        input_ids=ids,
        position_ids=positions[None],
        attention_mask=torch.ones_like(ids),
        use_cache=False,
    )
    logits: Tensor = output.logits[0].float()
    return logits


def _positions(length: int) -> Tensor:
    """Positions (T,) of an input: all, or `POSITIONS` at most, ever further apart, to its end."""
    if length <= POSITIONS:
        return torch.arange(length)
    spread = np.geomspace(1, length, POSITIONS).round().astype(np.int64) - 1
    return torch.from_numpy(np.unique(spread))
