"""Reads the rotary embedding, and the scaling if it has one, out of a Hugging Face config.

Both of transformers' forms are understood: `rope_parameters` (5.x) and `rope_scaling` with `rope_theta` (4.x,
Phi-3's "su" among them).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from .errors import unknown
from .methods import rope_scaling, yarn_attention_factor, yarn_factors
from .rope import RopeScaling, RopeSpec, longrope_attention_factor
from .schedule import DynamicNTK, RopeSchedule

# Under each layer type of a model such as Gemma 3, its own parameters; long range is this one's business.
FULL_ATTENTION = "full_attention"


def spec_from_config(config: Any) -> RopeSpec:
    """The rotary embedding under any scaling that `config` carries: base, rotary dimension, original window.

    Args:
        config: a transformers config, or its dict.

    Raises:
        ValueError: the config has no rotary embedding.
    """
    values = _as_dict(config)
    parameters = _parameters(values)
    base = parameters.get("rope_theta", values.get("rope_theta", values.get("rotary_emb_base")))
    if base is None:
        raise ValueError(
            f"{values.get('model_type', 'this')} config names no rope_theta: it has no rotary embedding to rescale"
        )
    head_dim = values.get("head_dim") or values["hidden_size"] // values["num_attention_heads"]
    share = parameters.get("partial_rotary_factor", values.get("partial_rotary_factor", values.get("rotary_pct")))
    original = parameters.get("original_max_position_embeddings") or values.get("original_max_position_embeddings")
    return RopeSpec(
        rotary_dim=int(head_dim * (1.0 if share is None else share)),
        original_length=int(original or values["max_position_embeddings"]),
        base=float(base),
    )


def scaling_from_config(config: Any) -> RopeScaling | RopeSchedule:
    """The scaling that `config` carries, relative to `spec_from_config(config)`.

    "default" gives "none", "linear" PI, "yarn" YaRN; "dynamic" and "longrope" (Phi-3's `short_factor` and
    `long_factor`) give schedules, as they depend on the length.

    Args:
        config: a transformers config, or its dict.

    Raises:
        ValueError: a type with no formula here ("llama3", say), or parameters that are missing.
    """
    values = _as_dict(config)
    parameters = _parameters(values)
    spec = spec_from_config(values)
    kind = parameters.get("rope_type") or parameters.get("type") or "default"
    window = int(values["max_position_embeddings"])
    try:
        if kind == "default":
            return rope_scaling(spec, "none", spec.original_length)
        if kind == "dynamic":
            return DynamicNTK(spec, float(parameters["factor"]))
        # A config states the ratio, which need not make a whole number of tokens: the ratio is exact, the target floored.
        ratio = float(
            parameters["factor"] if kind == "linear" else parameters.get("factor") or window / spec.original_length
        )
        target = int(spec.original_length * ratio)
        if kind == "linear":
            return RopeScaling(spec, np.full(spec.rotary_dim // 2, ratio), target, "pi")
        if kind == "yarn":
            betas = parameters.get("beta_fast") or 32.0, parameters.get("beta_slow") or 1.0
            factors = yarn_factors(spec, ratio, *betas, truncate=parameters.get("truncate", True))
            m = _yarn_attention_factor(parameters, ratio)
            return RopeScaling(spec, factors, target, "yarn", attention_factor=m)
        if kind in ("longrope", "su"):
            m = parameters.get("attention_factor") or longrope_attention_factor(spec, target)
            short = RopeScaling(spec, _array(parameters, "short_factor"), spec.original_length, attention_factor=m)
            if target == spec.original_length:
                raise ValueError(
                    "this config's longrope scales nothing: original_max_position_embeddings is missing or equals the window"
                )
            long = RopeScaling(spec, _array(parameters, "long_factor"), target, attention_factor=m)
            return RopeSchedule.stages([short, long])
    except KeyError as error:
        raise ValueError(f"the config's rope type {kind!r} lacks {error.args[0]!r}") from None
    raise unknown("rope type", kind, ["default", "linear", "dynamic", "yarn", "longrope"])


def _array(parameters: Mapping[str, Any], name: str) -> np.ndarray:
    return np.asarray(parameters[name], dtype=np.float64)


def _yarn_attention_factor(parameters: Mapping[str, Any], ratio: float) -> float:
    """What the config states, or DeepSeek's quotient of two mscales, or YaRN's formula."""
    if parameters.get("attention_factor") is not None:
        return float(parameters["attention_factor"])
    above, below = parameters.get("mscale"), parameters.get("mscale_all_dim")
    if above and below:
        return yarn_attention_factor(ratio, above) / yarn_attention_factor(ratio, below)
    return yarn_attention_factor(ratio)


def _as_dict(config: Any) -> dict[str, Any]:
    values = dict(config) if isinstance(config, Mapping) else config.to_dict()
    return dict(values["text_config"]) if isinstance(values.get("text_config"), Mapping) else values


def _parameters(values: Mapping[str, Any]) -> dict[str, Any]:
    parameters = dict(values.get("rope_parameters") or values.get("rope_scaling") or {})
    if isinstance(parameters.get(FULL_ATTENTION), Mapping):
        parameters = dict(parameters[FULL_ATTENTION])
    return parameters
