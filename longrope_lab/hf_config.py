"""Reads the rotary embedding, and the scaling if it has one, out of a Hugging Face config.

Both of transformers' forms are understood: `rope_parameters` (5.x) and `rope_scaling` with `rope_theta` (4.x,
Phi-3's "su" among them). A config *object* is the safer thing to pass: its class fills in what a plain dict leaves
out, GPT-NeoX's share of rotated dimensions for one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from .errors import unknown
from .methods import none_scaling, yarn_attention_factor, yarn_factors
from .rope import RopeScaling, RopeSpec, longrope_attention_factor
from .schedule import DynamicNTK, RopeSchedule

# Models such as Gemma 3 have parameters for each layer type; long range is this one's business.
FULL_ATTENTION = "full_attention"

KINDS = ("default", "linear", "dynamic", "yarn", "longrope")


def spec_from_config(config: Any) -> RopeSpec:
    """The rotary embedding under any scaling that `config` carries: base, rotary dimension, original window.

    Where parameters differ by layer type, those of full attention. A "linear" config seldom says whether
    `max_position_embeddings` is the window before its scaling or after; before is assumed.

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
        # The head dimension is stated, or DeepSeek's rotated part of it is, or it follows from the width.
        head_dim = values.get("head_dim") or values.get("qk_rope_head_dim")
        head_dim = head_dim or values["hidden_size"] // values["num_attention_heads"]
        window = values["max_position_embeddings"]
    except KeyError as error:
        raise ValueError(f"{values.get('model_type', 'this')} config lacks {error}") from None
    if _kind(parameters) not in ("default", "dynamic"):  # those two never look at the original window
        stated = values.get("original_max_position_embeddings")
        window = stated or parameters.get("original_max_position_embeddings", window)
    share = parameters.get("partial_rotary_factor", values.get("partial_rotary_factor", values.get("rotary_pct", 1.0)))
    return RopeSpec(rotary_dim=int(head_dim * share), original_length=window, base=base)


def scaling_from_config(config: Any) -> RopeScaling | RopeSchedule:
    """The scaling that `config` carries, relative to `spec_from_config(config)`.

    "default" gives "none", "linear" PI, "yarn" YaRN; "dynamic" and "longrope" (Phi-3's `short_factor` and
    `long_factor`) give schedules, as they depend on the length. Formulas and defaults are those of transformers'
    ``modeling_rope_utils.py``.

    Args:
        config: a transformers config, or its dict.

    Raises:
        ValueError: a type with no formula here ("llama3", say), or parameters that are missing or out of range.
    """
    values = _as_dict(config)
    spec = spec_from_config(values)
    parameters = _parameters(values)
    kind = _kind(parameters)
    if kind not in KINDS:
        raise ValueError(f"{unknown('rope type', kind, KINDS)} (a loaded model's own frequencies: rope_spec(model))")
    try:
        if kind == "default":
            return none_scaling(spec, spec.original_length)
        if kind == "dynamic":
            return DynamicNTK(spec, float(parameters["factor"]))
        if kind != "linear":  # may leave the ratio to the two windows
            parameters.setdefault("factor", values["max_position_embeddings"] / spec.original_length)
        ratio = float(parameters["factor"])
        if kind == "longrope" and ratio <= 1:
            raise ValueError(
                f"it scales nothing: the window is not above original_max_position_embeddings, {spec.original_length}"
            )
        if not 1 <= ratio < math.inf:
            raise ValueError(f"factor is {ratio:g}: it must be a finite number of at least 1")
        # The ratio is used as it is; where it makes no whole number of tokens, only the stated target is rounded.
        target = round(spec.original_length * ratio)
        if kind == "linear":
            return RopeScaling(spec, np.full(spec.rotary_dim // 2, ratio), target, "pi")
        if kind == "yarn":
            betas = parameters.get("beta_fast") or 32.0, parameters.get("beta_slow") or 1.0
            factors = yarn_factors(spec, ratio, *betas, truncate=parameters.get("truncate", True))
            m = parameters.get("attention_factor", _yarn_attention_factor(parameters, ratio))
            return RopeScaling(spec, factors, target, "yarn", attention_factor=m)
        m = parameters.get("attention_factor", longrope_attention_factor(spec, spec.original_length * ratio))
        short = RopeScaling(spec, parameters["short_factor"], spec.original_length, attention_factor=m)
        long = RopeScaling(spec, parameters["long_factor"], target, attention_factor=m)
        return RopeSchedule.stages([short, long])
    except KeyError as error:
        raise ValueError(f"the config's rope type {kind!r} lacks {error}") from None
    except (TypeError, ValueError) as error:
        raise ValueError(f"the config's rope type {kind!r} cannot be read: {error}") from None


def _yarn_attention_factor(parameters: Mapping[str, Any], ratio: float) -> float:
    """YaRN's formula, or DeepSeek's quotient of two mscales."""
    above, below = parameters.get("mscale"), parameters.get("mscale_all_dim")
    if above and below:
        return yarn_attention_factor(ratio, above) / yarn_attention_factor(ratio, below)
    return yarn_attention_factor(ratio)


def _as_dict(config: Any) -> dict[str, Any]:
    """The config as a dict, without the fields that are None; the text part, where a model has several."""
    if not isinstance(config, Mapping) and not hasattr(config, "to_dict"):
        raise ValueError(f"{type(config).__name__} is not a config: pass model.config, or its dict")
    values = config if isinstance(config, Mapping) else config.to_dict()
    return _stated(values["text_config"] if isinstance(values.get("text_config"), Mapping) else values)


def _parameters(values: Mapping[str, Any]) -> dict[str, Any]:
    """The rope parameters, of full attention where each layer type has its own."""
    parameters = _stated(values.get("rope_parameters") or values.get("rope_scaling") or {})
    nested = {name: p for name, p in parameters.items() if isinstance(p, Mapping)}
    if nested and FULL_ATTENTION not in nested:
        raise ValueError(f"the config has rope parameters for {', '.join(nested)}, none of them {FULL_ATTENTION!r}")
    return _stated(nested[FULL_ATTENTION]) if nested else parameters


def _kind(parameters: Mapping[str, Any]) -> str:
    if "short_factor" in parameters:  # early Phi-3 configs call this type "su", or even "yarn"
        return "longrope"
    return str(parameters.get("rope_type", parameters.get("type", "default")))


def _stated(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}
