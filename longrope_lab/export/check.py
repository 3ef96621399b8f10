"""Does stock transformers compute our scaling? Its rotations and logits beside ours."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from ..models.rotary import apply_scaling, find_rotary
from ..rope.schedule import Scaling, sets_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# How far stock transformers may be from ours. Its frequencies are float32, and so are its angles:
# at position n they are off by up to n * 7e-7 radians, where ours are float64. So each frequency is
# held to three times that (room for a formula that says nearly the same), and logits to 1e-4 of the
# largest one up to position 512, in proportion beyond, and not at all from 65,536, where the
# fastest angles are off by a twentieth of a radian: how far positions turn is known from the
# frequencies, and all else is the same at any position. Measured: 5e-6 of the largest at 512
# tokens, 5e-5 at 4,096 (lab model; two attention kernels of stock transformers differ by 4e-6),
# 1.3e-4 at 8,192 (SmolLM2). With stock's rotary module in place of ours, the lab model's logits are
# equal to the bit.
ROTATION_TOLERANCE = 2e-6


LOGIT_TOLERANCE = 1e-4


EXACT_UNTIL = 512


JUDGED_UNTIL = 65_536


# Token positions that a check holds: a longer input is checked at as many, spread over its length.
POSITIONS = 256


def _check(part: Path, shell: PreTrainedModel, scaling: Scaling) -> str:
    """Compare stock transformers with ours, and say how near they are. `shell` goes to the CPU in
    float32.

    Rotations are compared as well as logits, in which a slow dimension that turns by a wrong factor
    hardly shows."""
    import transformers

    stock_name = f"stock transformers {transformers.__version__}"
    way_out = "nothing was kept: use apply_scaling on the model instead"
    lengths = _lengths(scaling)
    try:
        stock = transformers.AutoModelForCausalLM.from_pretrained(
            part, dtype=torch.float32, attn_implementation="eager"
        ).eval()
        theirs = [(_rotation(stock, length), _logits(stock, length)) for length in lengths]
    except Exception as error:
        raise RuntimeError(
            f"{stock_name} cannot run what was written ({error}); {way_out}"
        ) from error
    del stock  # two models in float32 may be more than there is memory for
    type(shell).to(
        shell, "cpu", torch.float32
    )  # accelerate may have put the live model's own `to` on it
    shell.set_attn_implementation("eager")
    found, largest = [], 0.0
    for length, (rotation, logits) in zip(lengths, theirs, strict=True):
        with apply_scaling(shell, scaling, length=length):
            own_rotation, own_logits = _rotation(shell, length), _logits(shell, length)
        where = f"for an input of {length} tokens"
        turned = ((rotation - own_rotation) / own_rotation).abs()
        if not turned.max() <= ROTATION_TOLERANCE:
            i = int(turned.argmax())
            raise RuntimeError(
                f"{stock_name} turns dimension {i} otherwise than apply_scaling does {where}, m sin θ/λ being "
                f"{rotation[i]:.7g} and not {own_rotation[i]:.7g}; {way_out}"
            )
        off = (logits - own_logits).abs().amax(dim=-1)  # (T,)
        n = _positions(length)
        largest = max(largest, float(own_logits.abs().max()))
        allowed = LOGIT_TOLERANCE * max(1.0, largest) * (n / EXACT_UNTIL).clamp(min=1)
        allowed[n >= JUDGED_UNTIL] = torch.inf  # a NaN is still refused
        bad = torch.nonzero(~(off <= allowed)).flatten()
        if len(bad):
            i = int(bad[0])
            raise RuntimeError(
                f"{stock_name} gives other logits than apply_scaling {where}: off by {off[i]:.2g} at position {n[i]} "
                f"({allowed[i]:.2g} is allowed), by {off.max():.2g} at most; {way_out}"
            )
        found.append(f"{off.max():.1g} at {length:,} tokens")
    return (
        f"Checked when it was written: {stock_name} gives longrope_lab's logits to {', '.join(found)} (the largest "
        f"logit being {largest:.3g}; random tokens, at most {POSITIONS} of them spread over the length; float32, CPU). "
        "Its angles are float32, so that the difference grows with the position."
    )


def _lengths(scaling: Scaling) -> list[int]:
    """Input lengths to compare: the last of the window (or of the short factors), the first beyond it, the longest."""
    stages = sets_of(scaling)
    window = stages[0].target_length if len(stages) > 1 else scaling.spec.window
    return sorted({window, window + 1, stages[-1].target_length if stages else 2 * window})


@torch.no_grad()
def _rotation(model: PreTrainedModel, length: int) -> Tensor:
    """m sin(θ/λ), as the rotary module answers at position 1 of an input of `length` tokens; shape
    (d,), or (d/2,).

    At position 1 float32 holds the fastest and the slowest dimension to seven digits.
    """
    rotary = find_rotary(model)[0]
    positions = torch.tensor([[1, length - 1]])
    arguments = (positions,) if rotary.layer_type is None else (positions, rotary.layer_type)
    sin: Tensor = rotary.module(torch.zeros(1), *arguments)[1]
    return sin[0, 0]


def _positions(length: int) -> Tensor:
    """Positions (T,) of an input of `length` tokens: all, or `POSITIONS` at most, ever further apart, to its end."""
    if length <= POSITIONS:
        return torch.arange(length)
    return torch.from_numpy(
        np.unique(np.geomspace(1, length, POSITIONS).round().astype(np.int64) - 1)
    )


@torch.no_grad()
def _logits(model: PreTrainedModel, length: int) -> Tensor:
    """Logits (T, V), float32, of random tokens at the `_positions` of an input."""
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
