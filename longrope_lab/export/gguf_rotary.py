"""What a GGUF file states of a scaling, by the graph that llama.cpp builds for its architecture.

Some graphs ask for a tensor of factors; others know Position Interpolation and YaRN alone, by keys.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..models.gguf_files import LONG_SET, ONE_SET, SHORT_SET
from ..models.write_config import Holder, factors_over, same, two_sets
from ..rope.factors import LEAST
from ..rope.formulas import yarn_attention_factor, yarn_factors
from ..rope.scaling import RopeScaling
from ..rope.schedule import Scaling
from ..rope.spec import Floats, RopeSpec

# Architectures whose graphs ask for factors: of these, phi3's loads no tensor but the two sets'.
WITH_FACTORS = ("llama", "minicpm", "phi3")
TWO_SETS_ALONE = ("phi3",)
# Those whose graphs turn all pairs by the keys, and take no factors.
BY_KEYS = ("qwen2", "qwen2moe", "qwen3", "qwen3moe")


FILE = Holder(
    "a GGUF file",
    "leave them out, dataclasses.replace(scaling, start_tokens=0), and measure what it costs",
    "search the short set again at the long one's, or hand over the long set alone, "
    "schedule.at({length})",
)


@dataclass(frozen=True)
class RotaryEntries:
    """What a file states of a scaling.

    Args:
        keys: without the architecture: numbers, or the name of a type.
        factors: (d/2,) by the name of the tensor.
    """

    keys: dict[str, str | int | float]
    factors: dict[str, Floats]


def rotary_entries(scaling: Scaling, plain: RopeSpec, architecture: str) -> RotaryEntries:
    """What a file of an architecture has to state, so that llama.cpp computes a scaling.

    Args:
        scaling: over `plain`, or over an embedding that was extended from it.
        plain: the embedding of the file's own base.
        architecture: llama.cpp's name of it.

    Raises:
        ValueError: it cannot be stated; the error says why.
    """
    short, long = two_sets(scaling, FILE)
    if (short.factors == long.factors).all():
        short = long
    m = long.spec.attention_factor * long.attention_factor
    original = plain.window if short is long else short.target_length
    keys: dict[str, str | int | float] = {
        "context_length": long.target_length,
        "rope.scaling.original_context_length": original,
    }
    low, high = (_slowing_factors(plain, s) for s in (short, long))
    if short is long and same(high, 1) and same(m, 1):
        return RotaryEntries({"context_length": long.target_length}, {})
    if architecture in WITH_FACTORS:
        keys["rope.scaling.attn_factor"] = m
        if short is long and architecture not in TWO_SETS_ALONE:
            return RotaryEntries(keys, {ONE_SET: high})
        return RotaryEntries(
            keys | {"rope.scaling.type": "longrope"}, {LONG_SET: high, SHORT_SET: low}
        )
    if architecture not in BY_KEYS:
        raise ValueError(
            f"what llama.cpp does with a scaling in a file of architecture {architecture!r} is not "
            f"known here; it is for {', '.join((*WITH_FACTORS, *BY_KEYS))}"
        )
    ratio = long.target_length / plain.window
    if short is long and same(high, ratio):
        kind = "linear"
    elif short is long and same(high, yarn_factors(plain, ratio)):
        kind, m = "yarn", m / yarn_attention_factor(ratio)  # by which llama.cpp multiplies itself
    else:
        raise _neither(architecture)
    keys |= {"rope.scaling.type": kind, "rope.scaling.factor": ratio, "rope.scaling.attn_factor": m}
    return RotaryEntries(keys, {})


def _neither(architecture: str) -> ValueError:
    others = ""
    if architecture == "qwen2":
        others = "; of the model itself, save_gguf writes a file that takes factors"
    return ValueError(
        f"llama.cpp's graph of {architecture!r} takes no tensor of factors, only Position "
        "Interpolation and YaRN by keys, and this scaling is neither: take rope_scaling(spec, "
        f"'yarn', length){others}"
    )


def check_same_model(spec: RopeSpec, plain: RopeSpec, source: str) -> None:
    """Refuse a scaling of another model.

    Raises:
        ValueError: naming what differs.
    """
    rows: list[tuple[str, float, float]] = [("rotary_dim", spec.rotary_dim, plain.rotary_dim)]
    if spec.base is not None and plain.base is not None and not same(spec.base, plain.base):
        rows.append(("base", spec.base, plain.base))
    rows.append(("window", spec.window, plain.window))
    for name, ours, stated in rows:
        if ours != stated:
            way_out = "make it from rope_spec of this model"
            if name == "window":
                way_out += f", or pass window={spec.window} if it was trained on so many tokens"
            raise ValueError(
                f"this scaling is for a model of {name} {ours:g}, and {source} states {stated:g}: "
                f"{way_out}"
            )


def _slowing_factors(plain: RopeSpec, scaling: RopeScaling) -> Floats:
    """Factors (d/2,) that take the frequencies of a file's base to the scaling's own."""
    factors = factors_over(plain, scaling)
    if (factors <= LEAST).any():
        raise ValueError(
            f"over the base {plain.base:g} this scaling would turn pairs faster than the model "
            "was trained on: it is for another model"
        )
    return factors
