"""Reads a rotary embedding, and its scaling if there is one, out of a Hugging Face config.

Both of transformers' forms are understood: `rope_parameters` (5.x), and `rope_scaling` with
`rope_theta` (4.x, Phi-3's "su" among them). A config *object* is the safer thing to pass: its class
fills in what a plain dict leaves out, such as GPT-NeoX's share of rotated dimensions.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from ..common.checks import unknown
from ..common.files import Json
from ..rope.formulas import longrope_attention_factor, yarn_attention_factor, yarn_factors
from ..rope.methods import none_scaling
from ..rope.scaling import RopeScaling
from ..rope.schedule import DynamicNTK, RopeSchedule, Scaling
from ..rope.spec import RopeSpec

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

Config: TypeAlias = "PreTrainedConfig | Mapping[str, Any]"

# Models such as Gemma 3 have parameters for each layer type; this one sees the whole text.
FULL_ATTENTION = "full_attention"

KINDS = ("default", "linear", "dynamic", "yarn", "longrope")


def spec_from_config(config: Config) -> RopeSpec:
    """The rotary embedding that lies under any scaling in a config: base, dimensions, window.

    Where parameters differ by layer type, those of full attention count. A "linear" config seldom
    says whether `max_position_embeddings` is the window before its scaling or after; before is
    assumed.

    Args:
        config: a transformers config, or its dict.

    Raises:
        ValueError: the config has no rotary embedding, or not enough to describe it.
    """
    values = _as_dict(config)
    parameters = _parameters(values)
    of = values.get("model_type", "this")
    base = parameters.get("rope_theta", values.get("rope_theta", values.get("rotary_emb_base")))
    if base is None:
        raise ValueError(
            f"{of} config names no rope_theta: it has no rotary embedding to rescale (or it is a "
            "plain dict that leaves the default out: pass transformers' config object)"
        )
    try:
        # The head dimension is stated, or DeepSeek's rotated part of it is, or it follows from the
        # width.
        head_dim = values.get("head_dim") or values.get("qk_rope_head_dim")
        head_dim = head_dim or values["hidden_size"] // values["num_attention_heads"]
        window = values["max_position_embeddings"]
    except KeyError as error:
        raise ValueError(f"{of} config lacks {error}") from None
    if _kind(parameters) not in ("default", "dynamic"):  # which never look at the original window
        stated = values.get("original_max_position_embeddings")
        window = stated or parameters.get("original_max_position_embeddings", window)
    share = values.get("partial_rotary_factor", values.get("rotary_pct", 1.0))
    share = parameters.get("partial_rotary_factor", share)
    return RopeSpec(rotary_dim=int(head_dim * share), window=window, base=base)


def scaling_from_config(config: Config) -> Scaling:
    """The scaling that a config carries, relative to `spec_from_config(config)`.

    Formulas and defaults are those of transformers' ``modeling_rope_utils.py``. Its rope types
    become

        default    "none"
        linear     Position Interpolation
        dynamic    Dynamic NTK, a schedule
        yarn       YaRN
        longrope   a schedule of Phi-3's `short_factor` and `long_factor`; one scaling where both
                   are the same

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
        refused = unknown("rope type", kind, KINDS)
        raise ValueError(f"{refused} (a loaded model's own frequencies: rope_spec(model))")
    try:
        if kind == "default":
            return none_scaling(spec, spec.window)
        if kind == "dynamic":
            return DynamicNTK(spec, float(parameters["factor"]))
        if kind != "linear":  # may leave the ratio to the two windows
            parameters.setdefault("factor", values["max_position_embeddings"] / spec.window)
        return READERS[kind](spec, parameters, _ratio(parameters, kind, spec))
    except KeyError as error:
        raise ValueError(f"the config's rope type {kind!r} lacks {error}") from None
    except (TypeError, ValueError) as error:
        raise ValueError(f"the config's rope type {kind!r} cannot be read: {error}") from None


def _ratio(parameters: Json, kind: str, spec: RopeSpec) -> float:
    ratio = float(parameters["factor"])
    if kind == "longrope" and ratio <= 1:
        raise ValueError(
            "it scales nothing: the window is not above original_max_position_embeddings, "
            f"{spec.window}"
        )
    if not 1 <= ratio < math.inf:
        raise ValueError(f"factor is {ratio:g}: it must be a finite number of at least 1")
    return ratio


# The ratio is used as it is. Where it makes no whole number of tokens, only the target is rounded.


def _linear(spec: RopeSpec, parameters: Json, ratio: float) -> Scaling:
    factors = np.full(spec.rotary_dim // 2, ratio)
    return RopeScaling(spec, factors, round(spec.window * ratio), "pi")


def _yarn(spec: RopeSpec, parameters: Json, ratio: float) -> Scaling:
    betas = parameters.get("beta_fast") or 32.0, parameters.get("beta_slow") or 1.0
    factors = yarn_factors(spec, ratio, betas, parameters.get("truncate", True))
    m = parameters.get("attention_factor", _yarn_attention_factor(parameters, ratio))
    target = round(spec.window * ratio)
    return RopeScaling(spec, factors, target, "yarn", attention_factor=m)


def _longrope(spec: RopeSpec, parameters: Json, ratio: float) -> Scaling:
    m = parameters.get("attention_factor", longrope_attention_factor(spec, spec.window * ratio))
    target = round(spec.window * ratio)
    short = RopeScaling(spec, parameters["short_factor"], spec.window, attention_factor=m)
    long = RopeScaling(spec, parameters["long_factor"], target, attention_factor=m)
    same = (short.factors == long.factors).all()
    return long if same else RopeSchedule.by_length([short, long])


READERS = {"linear": _linear, "yarn": _yarn, "longrope": _longrope}


def _yarn_attention_factor(parameters: Mapping[str, Any], ratio: float) -> float:
    """YaRN's formula, or DeepSeek's quotient of two mscales."""
    above, below = parameters.get("mscale"), parameters.get("mscale_all_dim")
    if above and below:
        return yarn_attention_factor(ratio, above) / yarn_attention_factor(ratio, below)
    return yarn_attention_factor(ratio)


def _as_dict(config: Config) -> Json:
    """The config as a dict of what it states; of a model with several parts, the text part."""
    if not isinstance(config, Mapping) and not hasattr(config, "to_dict"):
        raise ValueError(f"{type(config).__name__} is not a config: pass model.config, or its dict")
    values = config if isinstance(config, Mapping) else config.to_dict()
    text = values.get("text_config")
    return _stated(text if isinstance(text, Mapping) else values)


def _parameters(values: Mapping[str, Any]) -> Json:
    """The rope parameters, of full attention where each layer type has its own."""
    parameters = _stated(values.get("rope_parameters") or values.get("rope_scaling") or {})
    nested = {name: p for name, p in parameters.items() if isinstance(p, Mapping)}
    if nested and FULL_ATTENTION not in nested:
        raise ValueError(
            f"the config has rope parameters for {', '.join(nested)}, none of them "
            f"{FULL_ATTENTION!r}"
        )
    return _stated(nested[FULL_ATTENTION]) if nested else parameters


def _kind(parameters: Mapping[str, Any]) -> str:
    if "short_factor" in parameters:  # early Phi-3 configs call this type "su", or even "yarn"
        return "longrope"
    return str(parameters.get("rope_type", parameters.get("type", "default")))


def _stated(values: Mapping[str, Any]) -> Json:
    """The fields that are not None."""
    return {name: value for name, value in values.items() if value is not None}
