"""Reads the rotary embedding, and the scaling if it has one, out of a Hugging Face config; writes a
scaling into one.

Both of transformers' forms are understood: `rope_parameters` (5.x) and `rope_scaling` with
`rope_theta` (4.x, Phi-3's "su" among them). A config *object* is the safer thing to pass: its class
fills in what a plain dict leaves out, GPT-NeoX's share of rotated dimensions for one."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from ..common.checks import unknown
from ..common.files import Json
from ..rope.formulas import longrope_attention_factor, yarn_attention_factor, yarn_factors
from ..rope.methods import none_scaling
from ..rope.scaling import RopeScaling
from ..rope.schedule import DynamicNTK, RopeSchedule, Scaling, sets_of
from ..rope.spec import Floats, RopeSpec

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

# Models such as Gemma 3 have parameters for each layer type; long range is this one's business.
FULL_ATTENTION = "full_attention"

KINDS = ("default", "linear", "dynamic", "yarn", "longrope")

# What a scaling replaces in a config's rope parameters; the rest (base, share of dimensions) is the
# model's own.
SCALING_FIELDS = (
    "rope_type", "type", "factor", "original_max_position_embeddings", "attention_factor", "short_factor",
    "long_factor", "short_mscale", "long_mscale", "beta_fast", "beta_slow", "mscale", "mscale_all_dim", "truncate",
    "low_freq_factor", "high_freq_factor",
)  # fmt: skip

# What a live model holds is float32: nearer than this, two frequencies are the same.
SAME = 1e-6


def spec_from_config(config: PreTrainedConfig) -> RopeSpec:
    """The rotary embedding under any scaling that `config` carries: base, rotary dimension,
        original window.

    Where parameters differ by layer type, those of full attention. A "linear" config seldom says
    whether `max_position_embeddings` is the window before its scaling or after; before is assumed.

    Args:
        config: a transformers config, or its dict.

    Raises:
        ValueError: the config has no rotary embedding, or not enough to describe it.
    """
    values = _as_dict(config)
    parameters = _parameters(values)
    base = parameters.get("rope_theta", values.get("rope_theta", values.get("rotary_emb_base")))
    if base is None:
        raise ValueError(
            f"{values.get('model_type', 'this')} config names no rope_theta: it has no rotary embedding to rescale "
            "(or it is a plain dict that leaves the default out: pass transformers' config object)"
        )
    try:
        # The head dimension is stated, or DeepSeek's rotated part of it is, or it follows from the
        # width.
        head_dim = values.get("head_dim") or values.get("qk_rope_head_dim")
        head_dim = head_dim or values["hidden_size"] // values["num_attention_heads"]
        window = values["max_position_embeddings"]
    except KeyError as error:
        raise ValueError(f"{values.get('model_type', 'this')} config lacks {error}") from None
    if _kind(parameters) not in (
        "default",
        "dynamic",
    ):  # those two never look at the original window
        stated = values.get("original_max_position_embeddings")
        window = stated or parameters.get("original_max_position_embeddings", window)
    share = parameters.get(
        "partial_rotary_factor", values.get("partial_rotary_factor", values.get("rotary_pct", 1.0))
    )
    return RopeSpec(rotary_dim=int(head_dim * share), window=window, base=base)


def scaling_from_config(config: PreTrainedConfig) -> Scaling:
    """The scaling that `config` carries, relative to `spec_from_config(config)`.

    "default" gives "none", "linear" PI, "yarn" YaRN; "dynamic" and "longrope" (Phi-3's
    `short_factor` and `long_factor`) give schedules, as they depend on the length; "longrope" whose
    two sets are the same gives one scaling. Formulas and defaults are those of transformers'
    ``modeling_rope_utils.py``.

    Args:
        config: a transformers config, or its dict.

    Raises:
        ValueError: a type with no formula here ("llama3", say), or parameters that are missing or
            out of range.
    """
    values = _as_dict(config)
    spec = spec_from_config(values)
    parameters = _parameters(values)
    kind = _kind(parameters)
    if kind not in KINDS:
        raise ValueError(
            f"{unknown('rope type', kind, KINDS)} (a loaded model's own frequencies: rope_spec(model))"
        )
    try:
        if kind == "default":
            return none_scaling(spec, spec.window)
        if kind == "dynamic":
            return DynamicNTK(spec, float(parameters["factor"]))
        if kind != "linear":  # may leave the ratio to the two windows
            parameters.setdefault("factor", values["max_position_embeddings"] / spec.window)
        ratio = float(parameters["factor"])
        if kind == "longrope" and ratio <= 1:
            raise ValueError(
                f"it scales nothing: the window is not above original_max_position_embeddings, {spec.window}"
            )
        if not 1 <= ratio < math.inf:
            raise ValueError(f"factor is {ratio:g}: it must be a finite number of at least 1")
        # The ratio is used as it is; where it makes no whole number of tokens, only the stated
        # target is rounded.
        target = round(spec.window * ratio)
        if kind == "linear":
            return RopeScaling(spec, np.full(spec.rotary_dim // 2, ratio), target, "pi")
        if kind == "yarn":
            betas = parameters.get("beta_fast") or 32.0, parameters.get("beta_slow") or 1.0
            factors = yarn_factors(spec, ratio, *betas, truncate=parameters.get("truncate", True))
            m = parameters.get("attention_factor", _yarn_attention_factor(parameters, ratio))
            return RopeScaling(spec, factors, target, "yarn", attention_factor=m)
        m = parameters.get("attention_factor", longrope_attention_factor(spec, spec.window * ratio))
        short = RopeScaling(spec, parameters["short_factor"], spec.window, attention_factor=m)
        long = RopeScaling(spec, parameters["long_factor"], target, attention_factor=m)
        return (
            long if (short.factors == long.factors).all() else RopeSchedule.by_length([short, long])
        )
    except KeyError as error:
        raise ValueError(f"the config's rope type {kind!r} lacks {error}") from None
    except (TypeError, ValueError) as error:
        raise ValueError(f"the config's rope type {kind!r} cannot be read: {error}") from None


def config_with_scaling(config: PreTrainedConfig, scaling: Scaling) -> Any:
    """A copy of `config` that carries `scaling`: what `scaling_from_config` reads, the other way
        round.

    Written is the simplest rope type that turns by the same angles ("default", "linear", "yarn",
    and else "longrope") and that the config's class accepts: Phi-3's knows "longrope" alone.
    Factors and attention factor are those over the config's own base, whatever embedding the
    scaling starts from. `max_position_embeddings` becomes the target length; the window before it
    is kept as `original_max_position_embeddings` ("longrope": the length that the short factors
    serve; "dynamic": both are the window, which its formula divides by).

    Args:
        config: a transformers config object; parameters of other layer types than full attention
            stay.
        scaling: a `RopeScaling`, a staged schedule of at most two, or Dynamic NTK.

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
            f"this scaling is for rotary_dim {scaling.spec.rotary_dim}; the config has {plain.rotary_dim}: make it "
            "from rope_spec(model)"
        )
    before = text.rope_parameters
    nested = FULL_ATTENTION in before
    kept = {
        k: v
        for k, v in (before[FULL_ATTENTION] if nested else before).items()
        if k not in SCALING_FIELDS
    }
    refusal: Exception | None = None
    for parameters, original, longest in _rope_parameters(scaling, plain):
        text.rope_parameters = (
            before | {FULL_ATTENTION: kept | parameters} if nested else kept | parameters
        )
        text.max_position_embeddings = longest
        # "linear" has no such field among its parameters; Phi-3's stands beside them, and is the
        # one that counts.
        if parameters["rope_type"] == "linear" or hasattr(text, "original_max_position_embeddings"):
            text.original_max_position_embeddings = original
        try:
            text.validate_rope()
        except (ValueError, KeyError) as error:
            refusal = error
        else:
            return config
    raise ValueError(
        f"a {text.model_type} config does not take rope type {parameters['rope_type']!r}: {refusal}"
    )


def _rope_parameters(scaling: Scaling, plain: RopeSpec) -> Iterator[tuple[Json, int, int]]:
    """(rope parameters, original window, longest input), both in tokens, that express `scaling`; the simplest first."""
    if isinstance(scaling, DynamicNTK):
        spec = scaling.spec
        if not (_same(spec.frequencies, plain.frequencies) and _same(spec.attention_factor, 1)):
            raise ValueError(
                "Dynamic NTK over a model that was already extended cannot be written: a config's dynamic type starts "
                "from its base; make it from spec_from_config(model.config)"
            )
        yield {"rope_type": "dynamic", "factor": scaling.alpha}, spec.window, spec.window
        return
    short, long = _two_sets(scaling)
    m = long.spec.attention_factor * long.attention_factor
    low, high = _factors_over(plain, short), _factors_over(plain, long)
    target = long.target_length
    original = plain.window if short is long else short.target_length
    ratio = target / original
    common = {"factor": ratio, "original_max_position_embeddings": original, "attention_factor": m}
    if short is long:
        if _same(high, 1) and _same(m, 1):
            yield {"rope_type": "default"}, target, target
        if _same(high, ratio) and _same(m, 1):
            yield {"rope_type": "linear", "factor": ratio}, original, target
        if _same(high, yarn_factors(plain, ratio)):
            yield {"rope_type": "yarn"} | common, original, target
    yield (
        {"rope_type": "longrope", "short_factor": low.tolist(), "long_factor": high.tolist()}
        | common,
        original,
        target,
    )


def _two_sets(scaling: Scaling) -> tuple[RopeScaling, RopeScaling]:
    """The scalings of short and of long inputs: one and the same, where only one is given."""
    stages = sets_of(scaling)
    if not stages:
        raise ValueError(
            f"a {type(scaling).__name__} cannot be written into a config: it takes a RopeScaling, a schedule of two "
            "stages, or Dynamic NTK"
        )
    short, long = stages[0], stages[-1]
    if len(stages) > 2:
        lengths = ", ".join(str(s.target_length) for s in stages)
        raise ValueError(
            f"this schedule has {len(stages)} stages (up to {lengths} tokens), and a config holds two sets of factors, "
            "one for short and one for long inputs: keep two, for example "
            f"RopeSchedule.by_length([schedule.at({stages[-2].target_length}), schedule.at({long.target_length})])"
        )
    kept = max(s.start_tokens for s in stages)
    if kept:
        raise ValueError(
            f"this scaling keeps {kept} start tokens, for which a config has no place: save_pretrained(..., "
            "drop_start_tokens=True) leaves them out, and with documents= measures what that costs"
        )
    if not _same(short.attention_factor, long.attention_factor):
        raise ValueError(
            f"the stages have attention factors {short.attention_factor:.6g} (up to {short.target_length} tokens) and "
            f"{long.attention_factor:.6g}, and a config holds one, for short inputs too: search the short stage at the "
            "long one's (a Recover without free_attention_factor), or give the short stage the long one's, "
            f"dataclasses.replace(stage, attention_factor={long.attention_factor!r}), and measure it"
        )
    return short, long


def _factors_over(plain: RopeSpec, scaling: RopeScaling) -> Floats:
    """Factors (d/2,) that take the frequencies of `plain` to the scaling's own."""
    over_spec = (
        plain.frequencies / scaling.spec.frequencies
    )  # exactly 1 where it starts from the same base
    over_spec[np.isclose(over_spec, 1, rtol=SAME, atol=0)] = 1
    return scaling.factors * over_spec


def _same(a: Floats | float, b: Floats | float) -> bool:
    return np.allclose(a, b, rtol=SAME, atol=0)


def _yarn_attention_factor(parameters: Mapping[str, Any], ratio: float) -> float:
    """YaRN's formula, or DeepSeek's quotient of two mscales."""
    above, below = parameters.get("mscale"), parameters.get("mscale_all_dim")
    if above and below:
        return yarn_attention_factor(ratio, above) / yarn_attention_factor(ratio, below)
    return yarn_attention_factor(ratio)


def _as_dict(config: PreTrainedConfig) -> Json:
    """The config as a dict, without the fields that are None; the text part, where a model has several."""
    if not isinstance(config, Mapping) and not hasattr(config, "to_dict"):
        raise ValueError(f"{type(config).__name__} is not a config: pass model.config, or its dict")
    values = config if isinstance(config, Mapping) else config.to_dict()
    return _stated(
        values["text_config"] if isinstance(values.get("text_config"), Mapping) else values
    )


def _parameters(values: Mapping[str, Any]) -> Json:
    """The rope parameters, of full attention where each layer type has its own."""
    parameters = _stated(values.get("rope_parameters") or values.get("rope_scaling") or {})
    nested = {name: p for name, p in parameters.items() if isinstance(p, Mapping)}
    if nested and FULL_ATTENTION not in nested:
        raise ValueError(
            f"the config has rope parameters for {', '.join(nested)}, none of them {FULL_ATTENTION!r}"
        )
    return _stated(nested[FULL_ATTENTION]) if nested else parameters


def _kind(parameters: Mapping[str, Any]) -> str:
    if "short_factor" in parameters:  # early Phi-3 configs call this type "su", or even "yarn"
        return "longrope"
    return str(parameters.get("rope_type", parameters.get("type", "default")))


def _stated(values: Mapping[str, Any]) -> Json:
    return {name: value for name, value in values.items() if value is not None}
