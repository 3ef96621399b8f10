"""Reads a rotary embedding, and its scaling if there is one, out of a Hugging Face config.

Both of transformers' forms are understood: `rope_parameters` (5.x), and `rope_scaling` with
`rope_theta` (4.x, Phi-3's "su" among them). Where a config has both, they must agree. A config
*object* is the safer thing to pass: its class fills in what a plain dict leaves out, such as
GPT-NeoX's share of rotated dimensions.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..common.checks import above, unknown
from ..common.files import Json, from_json
from ..rope.formulas import (
    llama3_factors,
    longrope_attention_factor,
    ntk_factors,
    yarn_factors,
)
from ..rope.methods import none_scaling
from ..rope.scaling import RopeScaling
from ..rope.schedule import DynamicNTK, RopeSchedule, Scaling
from ..rope.spec import RopeSpec
from .config_fields import (
    DUAL_CHUNKS,
    ORIGINAL,
    PHIMOE,
    TRAINED,
    Config,
    check_fields,
    check_files,
    check_finite,
    check_forms,
    head_dim,
    original_window,
    reading,
    rope_kind,
    rope_parameters,
    rotary_share,
    stated_values,
    yarn_formula,
)

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

log = logging.getLogger(__name__)


def spec_from_config(config: Config) -> RopeSpec:
    """The rotary embedding that lies under any scaling in a config: base, dimensions, window.

    Where parameters differ by layer type, those of full attention count. A "linear" config that
    states no window before its scaling is taken to state the one after it, as Gemma 3's does:
    `rope_spec` and `load_model` take another one as ``window=``.

    Args:
        config: a transformers config, or its dict.

    Raises:
        ValueError: the config has no rotary embedding, or not enough to describe it.
    """
    values = stated_values(config)
    parameters = rope_parameters(values)
    of, kind = f"{values.get('model_type', 'this')} config", rope_kind(values, parameters)
    base = parameters.get("rope_theta", values.get("rope_theta", values.get("rotary_emb_base")))
    if base is None:
        raise ValueError(
            f"{of} names no rope_theta: it has no rotary embedding to rescale (or it is a plain "
            "dict that leaves the default out: pass transformers' config object)"
        )
    with reading(f"the config's rope type {kind!r}" if kind == "linear" else of):
        window = _window_before(values, parameters, kind)
    with reading(of):
        width = head_dim(values)
        share = rotary_share(values, parameters)
        if kind == "proportional":  # the first pairs turn as they would if the whole head did
            rotary_dim = 2 * int(share * width // 2)
            return RopeSpec(rotary_dim, window, above("base", base, 1) ** (rotary_dim / width))
        return RopeSpec(rotary_dim=int(width * share), window=window, base=base)


def scaling_from_config(config: Config) -> Scaling:
    """The scaling that a config carries, relative to `spec_from_config(config)`.

    Formulas and defaults are those of transformers' ``modeling_rope_utils.py``, and of the classes
    that have their own. Its rope types become

        default       "none"
        linear        Position Interpolation
        dynamic       Dynamic NTK, a schedule; NTK at every length where Hunyuan fixes `alpha`
        yarn          YaRN
        longrope      a schedule of Phi-3's `short_factor` and `long_factor` (and PhiMoE's mscales);
                      one scaling where both are the same
        llama3        Llama 3.1's
        proportional  "none" or Position Interpolation, of the pairs that turn

    Args:
        config: a transformers config, or its dict.

    Raises:
        ValueError: another type, a field that is not understood, parameters that are missing or out
            of range, or two forms that differ.
    """
    values = stated_values(config)
    parameters = rope_parameters(values)
    kind = rope_kind(values, parameters)
    if kind not in READERS:
        refused = unknown("rope type", kind, READERS)
        raise ValueError(f"{refused} (a loaded model's own frequencies: rope_spec(model))")
    spec = spec_from_config(config)
    model_type = str(values.get("model_type", "this"))
    check_fields(parameters, model_type)
    with reading(f"the config's rope type {kind!r}"):
        if model_type == PHIMOE and kind != "default":
            _check_phimoe(parameters, kind)
        longest = values["max_position_embeddings"]
        if "factor" not in parameters and (
            kind == "longrope" or original_window(values, parameters)
        ):
            parameters["factor"] = longest / spec.window  # left to the two windows
        return READERS[kind](spec, parameters, longest)


def config_of(source: str, options: Json) -> PreTrainedConfig:
    """A model's config, in which early Phi-3's rope type "su" has its name of today, "longrope".

    transformers 5 does not know the old name, and looks for the window among its parameters. Fields
    of the rope parameters that it will pass over are named in the log.

    Args:
        source: as of ``from_pretrained``.
        options: as of ``from_pretrained``.

    Raises:
        ValueError: its two forms of the rope parameters say different things, a number in them is
            none or not above 0, or a file is no JSON, or has a key twice.
    """
    from transformers import AutoConfig, PreTrainedConfig

    if "gguf_file" not in options:
        check_files(Path(source))
        values, _ = PreTrainedConfig.get_config_dict(source, **options)
        check_forms(stated_values(values))  # the config object below has one of them alone
        check_finite(values)
        rope = values.get("rope_scaling") or values.get("rope_parameters")
        if isinstance(rope, Mapping) and "su" in (rope.get("rope_type"), rope.get("type")):
            newer = {name: value for name, value in rope.items() if name != "type"}
            newer |= {"rope_type": "longrope"} | {n: values[n] for n in [ORIGINAL] if n in values}
            fields = {n: values[n] for n in values if n not in ("model_type", "rope_parameters")}
            config = AutoConfig.for_model(values["model_type"], **fields | {"rope_scaling": newer})
            config.name_or_path = source
            return config
    config = AutoConfig.from_pretrained(source, **options)
    _name_unread_fields(config, source)
    return config


def _name_unread_fields(config: PreTrainedConfig, source: str) -> None:
    with contextlib.suppress(ValueError):  # without full attention there is nothing to read
        values = stated_values(config)
        parameters = rope_parameters(values)
        try:
            check_fields(parameters, str(values.get("model_type")))
        except ValueError as error:
            log.warning("%s: %s; the model is loaded without it", source, error)


def rope_fault(folder: Path) -> str:
    """What is wrong with the rope parameters in a folder's config.json, after "; "; or ""."""
    try:
        values = from_json((folder / "config.json").read_bytes())
        given = isinstance(values, dict) and rope_parameters(stated_values(values))
    except (OSError, ValueError):
        return ""
    if given:
        try:
            scaling_from_config({"rope_theta": 10_000.0} | values)  # which the class may fill in
        except ValueError as error:
            return f"; {error}"
    return ""


# The ratio is used as it is. Where it makes no whole number of tokens, only the target is rounded.


def _default(spec: RopeSpec, parameters: Json, longest: int) -> Scaling:
    return none_scaling(spec, spec.window)


def _linear(spec: RopeSpec, parameters: Json, longest: int) -> Scaling:
    ratio = _ratio(parameters)
    target = longest if round(longest / ratio) == spec.window else round(spec.window * ratio)
    return RopeScaling(spec, np.full(spec.rotary_dim // 2, ratio), target, "pi")


def _proportional(spec: RopeSpec, parameters: Json, longest: int) -> Scaling:
    scales = parameters.get("factor", 1) != 1
    return (_linear if scales else _default)(spec, parameters, longest)


def _dynamic(spec: RopeSpec, parameters: Json, longest: int) -> Scaling:
    alpha = parameters.get("alpha")
    if alpha:  # Hunyuan's base is stretched once and for all, whatever its factor says
        factors = ntk_factors(spec, above("alpha", alpha, 0))
        return RopeScaling(spec, factors, spec.window, "ntk")
    return DynamicNTK(spec, parameters["factor"])


def _yarn(spec: RopeSpec, parameters: Json, longest: int) -> Scaling:
    ratio = _ratio(parameters)
    betas = parameters.get("beta_fast") or 32.0, parameters.get("beta_slow") or 1.0
    factors = yarn_factors(spec, ratio, betas, parameters.get("truncate", True))
    m = parameters.get("attention_factor", yarn_formula(parameters, ratio))
    target = round(spec.window * ratio)
    return RopeScaling(spec, factors, target, "yarn", attention_factor=m)


def _longrope(spec: RopeSpec, parameters: Json, longest: int) -> Scaling:
    ratio = above("factor", parameters["factor"], 0)
    formula = longrope_attention_factor(spec, spec.window * ratio)
    m: float = parameters.get("attention_factor", formula)
    reached = {"short": spec.window, "long": _longest(spec, ratio, longest)}
    short, long = (
        RopeScaling(
            spec,
            parameters[f"{which}_factor"],
            target,
            attention_factor=parameters.get(f"{which}_mscale", m),
        )
        for which, target in reached.items()
    )
    if (short.factors == long.factors).all() and short.attention_factor == long.attention_factor:
        return long
    # The long set serves every token beyond the window, wherever the config says that they end.
    long = replace(long, target_length=max(long.target_length, spec.window + 1))
    return RopeSchedule.by_length([short, long])


def _llama3(spec: RopeSpec, parameters: Json, longest: int) -> Scaling:
    ratio = _ratio(parameters)
    turns = parameters["low_freq_factor"], parameters["high_freq_factor"]
    factors = llama3_factors(spec, ratio, *turns)
    return RopeScaling(spec, factors, _longest(spec, ratio, longest), "llama3")


READERS: dict[str, Callable[[RopeSpec, Json, int], Scaling]] = {
    "default": _default,
    "linear": _linear,
    "dynamic": _dynamic,
    "yarn": _yarn,
    "longrope": _longrope,
    "llama3": _llama3,
    "proportional": _proportional,
}


def _check_phimoe(parameters: Mapping[str, Any], kind: str) -> None:
    """PhiMoE's rotary module takes its mscales for any type, and knows the window of one."""
    if kind != "longrope":
        raise ValueError(f"a {PHIMOE} config takes no other type than 'default' and 'longrope'")
    for name in ("short_mscale", "long_mscale"):
        if name not in parameters:
            raise KeyError(name)


def _ratio(parameters: Json) -> float:
    ratio = above("factor", parameters["factor"], 0)
    if ratio < 1:
        raise ValueError(f"factor is {ratio:g}: it must be a finite number of at least 1")
    return ratio


def _longest(spec: RopeSpec, ratio: float, longest: int) -> int:
    """What a config says that it reaches, or else its factor: Llama 3.1's 8 serves 16 windows."""
    return longest if longest > spec.window else round(spec.window * max(ratio, 1))


def _window_before(values: Json, parameters: Json, kind: str) -> int:
    """The window under any scaling, in tokens."""
    longest: int = values["max_position_embeddings"]
    scales = kind == "linear" or (kind == "proportional" and parameters.get("factor", 1) != 1)
    if kind in ("default", "proportional") and not scales:
        chunks = values.get(DUAL_CHUNKS, {}).get(ORIGINAL)
        window: int = values.get(TRAINED) or chunks or longest
        return window
    if kind == "dynamic":  # its formula divides by the longest, whatever else is stated
        return longest
    original = original_window(values, parameters)
    if scales and original is None:
        return round(longest / _ratio(parameters))
    return original or longest
