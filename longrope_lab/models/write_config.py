"""Writes a scaling into a Hugging Face config, so that stock transformers turns by its angles."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ..common.files import Json
from ..rope.formulas import llama3_factors, yarn_factors
from ..rope.scaling import RopeScaling
from ..rope.schedule import DynamicNTK, Scaling, sets_of
from ..rope.spec import Floats, RopeSpec
from .config_fields import DUAL_CHUNKS, FULL_ATTENTION, ORIGINAL, PHIMOE, SAME, TRAINED
from .read_config import spec_from_config

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

# What a scaling replaces in a config's rope parameters; the rest (base, share of dimensions) is the
# model's own.
SCALING_FIELDS = (
    "rope_type", "type", "factor", "original_max_position_embeddings", "attention_factor",
    "short_factor", "long_factor", "short_mscale", "long_mscale", "beta_fast", "beta_slow",
    "attn_factor", "mscale", "mscale_all_dim", "truncate", "low_freq_factor", "high_freq_factor",
    "alpha", "finetuned",
)  # fmt: skip

# What attention itself reads of the rope parameters, with what it reads beside: DeepSeek-V3's is
# scaled by the mscale of its factor, Ministral 3's by how often a position passes the window.
READ_BY_ATTENTION = {"mscale_all_dim": "factor", "llama_4_scaling_beta": ORIGINAL}


def config_with_scaling(config: PreTrainedConfig, scaling: Scaling) -> PreTrainedConfig:
    """A copy of a config that carries a scaling: `scaling_from_config` the other way round.

    It gets the simplest rope type that turns by the same angles and that its class accepts:
    "default", "linear", "llama3" or "yarn", else "longrope" (Phi-3's class knows "longrope" alone;
    so do models whose attention reads what another type would replace). Factors and attention
    factor are relative to the config's own base, whatever embedding the scaling starts from.

    `max_position_embeddings` becomes the target length. The window before it is kept as
    `original_max_position_embeddings`; for "longrope" that is the length that the short factors
    serve. It stands beside the rope parameters, too, where two sets differ: transformers 4 chooses
    by it. For "dynamic" both are the window, which its formula divides by.

    Args:
        config: a transformers config object; parameters of other layer types than full attention
            stay.
        scaling: a `RopeScaling`, a schedule of at most two sets of factors, or Dynamic NTK.

    Raises:
        ValueError: what a config cannot express: start tokens, other schedules, two attention
            factors, Dynamic NTK over a model that was already extended, another rotary dimension.
    """
    if not isinstance(scaling, Scaling):
        raise ValueError(
            f"scaling is a {type(scaling).__name__}: pass a RopeScaling or a RopeSchedule"
        )
    config = copy.deepcopy(config)
    text = config.get_text_config()
    plain = spec_from_config(text)
    if scaling.spec.rotary_dim != plain.rotary_dim:
        raise ValueError(
            f"this scaling is for rotary_dim {scaling.spec.rotary_dim}; the config has "
            f"{plain.rotary_dim}: make it from rope_spec(model)"
        )
    if _same_rotation(scaling.spec, plain):  # whose window may be another than the file states
        plain = replace(plain, window=scaling.spec.window)
    before = text.rope_parameters
    own = before.get(FULL_ATTENTION, before)
    kept = {name: value for name, value in own.items() if name not in SCALING_FIELDS}
    tried = refusal = ""
    for parameters, original, longest in _rope_parameters(scaling, plain):
        tried = parameters["rope_type"]
        try:
            ours = kept | _adapted(parameters, own, text.model_type)
            text.rope_parameters = before | {FULL_ATTENTION: ours} if own is not before else ours
            _write_windows(text, ours, original, longest)
            text.validate_rope()
        except (TypeError, ValueError, KeyError) as error:
            refusal = str(error)
        else:
            return config
    raise ValueError(f"a {text.model_type} config does not take rope type {tried!r}: {refusal}")


def _write_windows(text: PreTrainedConfig, ours: Json, original: int, longest: int) -> None:
    """The windows of a config, and nothing of what it said before about the trained one."""
    text.max_position_embeddings = longest
    vars(text).pop(ORIGINAL, None)
    # "linear" has no such field among its parameters; Phi-3's stands beside them, and is the one
    # that counts. For a single set it is left out: vLLM serves no more tokens than it says.
    two_sets = ours.get("short_factor") != ours.get("long_factor")
    if ours["rope_type"] in ("linear", "proportional") or hasattr(text, ORIGINAL) or two_sets:
        setattr(text, ORIGINAL, original)
    for name in (TRAINED, DUAL_CHUNKS):
        vars(text).pop(name, None)


def _adapted(parameters: Json, own: Mapping[str, Any], model_type: str) -> Json:
    """The parameters for a class that reads more of them than angles, or has a type of its own.

    Raises:
        ValueError: this class takes them in another type alone.
    """
    kind, m = parameters["rope_type"], parameters.get("attention_factor", 1.0)
    if own.get("rope_type") == "proportional":
        if kind not in ("default", "linear"):
            raise ValueError("its own type, proportional, slows all pairs by one factor")
        return parameters | {"rope_type": "proportional"}
    if model_type == PHIMOE:
        fixed: Json = {} if kind == "default" else {"short_mscale": m, "long_mscale": m}
    else:
        fixed = _read_by_attention(own)
    if fixed and kind != "longrope":
        raise ValueError(f"more than its angles depends on {', '.join(fixed)}")
    return parameters | fixed


def _read_by_attention(own: Mapping[str, Any]) -> Json:
    """Fields that have to stay as they are, since attention is scaled by them."""
    fixed: Json = {}
    if own.get("rope_type", "default") != "default":
        for name, beside in READ_BY_ATTENTION.items():
            if own.get(name) and own.get(beside):
                fixed |= {name: own[name], beside: own[beside]}
    return fixed


def _rope_parameters(scaling: Scaling, plain: RopeSpec) -> Iterator[tuple[Json, int, int]]:
    """The rope parameters that express a scaling, the simplest first.

    With each come the original window and the longest input, both in tokens.
    """
    if isinstance(scaling, DynamicNTK):
        spec = scaling.spec
        if not _same_rotation(spec, plain):
            raise ValueError(
                "Dynamic NTK over a model that was already extended cannot be written: a config's "
                "dynamic type starts from its base; make it from spec_from_config(model.config)"
            )
        yield {"rope_type": "dynamic", "factor": scaling.alpha}, spec.window, spec.window
        return
    short, long = two_sets(scaling, CONFIG)
    m = long.spec.attention_factor * long.attention_factor
    low, high = factors_over(plain, short), factors_over(plain, long)
    target = long.target_length
    original = plain.window if short is long else short.target_length
    ratio = target / original
    common = {"factor": ratio, ORIGINAL: original, "attention_factor": m}
    if short is long:
        if same(high, 1) and same(m, 1):
            yield {"rope_type": "default"}, target, target
        if same(high, ratio) and same(m, 1):
            yield {"rope_type": "linear", "factor": ratio}, original, target
        if target > original and same(m, 1) and same(high, llama3_factors(plain, high[-1])):
            yield _llama3(high[-1], original), original, target
        if same(high, yarn_factors(plain, ratio)):
            yield {"rope_type": "yarn"} | common, original, target
    factors = {"short_factor": low.tolist(), "long_factor": high.tolist()}
    yield {"rope_type": "longrope"} | factors | common, original, target


def _llama3(factor: float, original: int) -> Json:
    turns = {"low_freq_factor": 1.0, "high_freq_factor": 4.0}
    return {"rope_type": "llama3", "factor": float(factor), ORIGINAL: original} | turns


@dataclass(frozen=True)
class Holder:
    """What holds a scaling, in at most two sets of factors with one m; and the ways out.

    Args:
        name: "a config".
        without_start_tokens: how a scaling is handed over without the start tokens that it keeps.
        with_one_m: how one m becomes enough.
    """

    name: str
    without_start_tokens: str
    with_one_m: str


CONFIG = Holder(
    "a config",
    "save_pretrained(..., drop_start_tokens=True) leaves them out, and with docs= measures what "
    "that costs",
    "search the short set again at the long one's, as extended.for_config(model, search_docs) does "
    "after a plan, or give it the long one's, dataclasses.replace(short, attention_factor={m!r}), "
    "and measure it",
)


def two_sets(scaling: Scaling, holder: Holder) -> tuple[RopeScaling, RopeScaling]:
    """The scalings of short and of long inputs: one and the same, where only one is given.

    Raises:
        ValueError: what the holder has no room for.
    """
    sets = sets_of(scaling)
    if not sets:
        raise ValueError(
            f"a {type(scaling).__name__} cannot be written into {holder.name}: it takes a "
            "RopeScaling, or a schedule of at most two: take those of one length, "
            "schedule.at(length)"
        )
    short, long = sets[0], sets[-1]
    if len(sets) > 2:
        lengths = ", ".join(f"{s.target_length:,}" for s in sets)
        kept = f"schedule.at({sets[-2].target_length}), schedule.at({long.target_length})"
        raise ValueError(
            f"this schedule has {len(sets)} sets of factors (up to {lengths} tokens), and "
            f"{holder.name} holds two, one for short and one for long inputs: keep two, for "
            f"example RopeSchedule.by_length([{kept}])"
        )
    if start_tokens := max(s.start_tokens for s in sets):
        raise ValueError(
            f"this scaling keeps {start_tokens} start tokens, for which {holder.name} has no "
            f"place: {holder.without_start_tokens}"
        )
    if not same(short.attention_factor, long.attention_factor):
        raise ValueError(
            f"the sets have attention factors {short.attention_factor:.6g} (up to "
            f"{short.target_length:,} tokens) and {long.attention_factor:.6g}, and {holder.name} "
            "holds one, for short inputs too: "
            + holder.with_one_m.format(m=long.attention_factor, length=long.target_length)
        )
    return short, long


def factors_over(plain: RopeSpec, scaling: RopeScaling) -> Floats:
    """Factors (d/2,) that take the frequencies of `plain` to the scaling's own."""
    over_spec = plain.frequencies / scaling.spec.frequencies  # exactly 1 where the base is the same
    over_spec[np.isclose(over_spec, 1, rtol=SAME, atol=0)] = 1
    return scaling.factors * over_spec


def _same_rotation(spec: RopeSpec, plain: RopeSpec) -> bool:
    return same(spec.frequencies, plain.frequencies) and same(spec.attention_factor, 1)


def same(a: Floats | float, b: Floats | float) -> bool:
    """Whether two are the same for models and files, whose numbers are float32."""
    return np.allclose(a, b, rtol=SAME, atol=0)
