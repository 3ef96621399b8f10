"""What a Hugging Face config states about its rotary embedding: its fields, in whichever form.

What a field means is what transformers' own classes make of it. A field that none of them reads is
refused by name: somebody wrote it for another engine, where it may change every angle.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from ..common.checks import above, unknown, whole
from ..common.files import Json, from_json
from ..rope.formulas import yarn_attention_factor

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

# The fields of a config, or a part of them.
Fields: TypeAlias = Mapping[str, Any]
Config: TypeAlias = "PreTrainedConfig | Mapping[str, Any]"

# Models such as Gemma 3 have parameters for each layer type; this one sees the whole text.
FULL_ATTENTION = "full_attention"

# The window before a scaling, and the trained one where whoever loaded the model stated it.
ORIGINAL, TRAINED = "original_max_position_embeddings", "trained_window"
# How vLLM, and not transformers, takes Qwen2.5-1M beyond its window.
DUAL_CHUNKS = "dual_chunk_attention_config"

# Its rotary module multiplies cos and sin by mscales of its own.
PHIMOE = "phimoe"

# Two names of one type: of early Phi-3, and of Qwen2-VL, whose axes go together in a text.
SAME_KIND = [{"su", "longrope"}, {"yarn", "longrope"}, {"mrope", "default"}]

# Transformers computes with whatever these are.
POSITIVE = ("rope_theta", "factor", "attention_factor", "beta_fast", "beta_slow")

# Fields of the rope parameters that are read, and those that change no angle of a text: how images
# are counted, what else attention is multiplied by, a note that the model was trained so.
READ = (
    "rope_theta", "rope_type", "type", "partial_rotary_factor", "factor", ORIGINAL,
    "attention_factor", "beta_fast", "beta_slow", "mscale", "mscale_all_dim", "truncate",
    "short_factor", "long_factor", "low_freq_factor", "high_freq_factor",
)  # fmt: skip
HARMLESS = (
    "mrope_section", "mrope_interleaved", "interleaved", "llama_4_scaling_beta",
    "max_position_embeddings", "finetuned",
)  # fmt: skip
# Fields that the classes of one family read, and all others pass over.
MSCALES = ("short_mscale", "long_mscale")
OF_FAMILY = {"alpha": "hunyuan"} | dict.fromkeys(MSCALES, PHIMOE)

# Numbers nearer than this say the same.
SAME = 1e-6

# What a field says that is left out, and those that may stand in one form of the parameters alone:
# other engines read them, or the form has another place for them.
LEFT_OUT = {"beta_fast": 32, "beta_slow": 1, "truncate": True}
IN_ONE_FORM = ("rope_theta", "partial_rotary_factor", "attn_factor", *MSCALES, *HARMLESS)
# Where the older form has what today's keeps among the parameters; the second is GPT-NeoX's name.
AT_THE_TOP = {
    "rope_theta": ("rope_theta", "rotary_emb_base"),
    "partial_rotary_factor": ("partial_rotary_factor", "rotary_pct"),
}


def stated_values(config: Config) -> Json:
    """The config as a dict of what it states; of a model with several parts, the text part.

    Raises:
        ValueError: it is no config.
    """
    if not isinstance(config, Mapping) and not hasattr(config, "to_dict"):
        raise ValueError(f"{type(config).__name__} is not a config: pass model.config, or its dict")
    if not isinstance(config, Mapping):
        config = config.get_text_config()
    values = config if isinstance(config, Mapping) else config.to_dict()
    text = values.get("text_config")
    values = stated(text if isinstance(text, Mapping) else values)
    names: Mapping[str, str] = getattr(config, "attribute_map", {})  # DBRX has names of its own
    return values | {usual: values[own] for usual, own in names.items() if own in values}


def rope_parameters(values: Fields) -> Json:
    """The rope parameters, of full attention where each layer type has its own.

    Raises:
        ValueError: they are no dict, there are none for full attention, or the config's two forms
            of them say different things.
    """
    forms = [values[name] for name in ("rope_scaling", "rope_parameters") if name in values]
    given = next(filter(None, forms), forms[0] if forms else {})
    if not isinstance(given, Mapping):
        raise ValueError(f"the config's rope parameters are {given!r}: they must be a dict")
    parameters = stated(given)
    check_forms(values)
    nested = {name: p for name, p in parameters.items() if isinstance(p, Mapping)}
    if nested and FULL_ATTENTION not in nested:
        raise ValueError(
            f"the config has rope parameters for {', '.join(nested)}, none of them "
            f"{FULL_ATTENTION!r}"
        )
    if not nested:
        return parameters
    # transformers looks for this one outside, where the layer types are.
    return stated(dict(nested[FULL_ATTENTION]) | {"truncate": parameters.get("truncate")})


def check_forms(values: Fields) -> None:
    """Refuse a config whose two forms of the rope parameters say different things.

    `rope_parameters` is read by transformers 5, `rope_scaling` and `rope_theta` by other engines,
    and by transformers 5 as well, in place of the former.

    Raises:
        ValueError: naming the field.
    """
    new, old = values.get("rope_parameters"), values.get("rope_scaling")
    if not (isinstance(new, Mapping) and new and isinstance(old, Mapping) and old):
        return
    new, old = new.get(FULL_ATTENTION, new), old.get(FULL_ATTENTION, old)
    # Without `rope_scaling`, a base at the top may be what a class left there of its defaults.
    for name, places in AT_THE_TOP.items():
        for place in places:
            _check_same(name, new.get(name), place, values.get(place))
    _check_same("rope_type", rope_kind(values, new), "rope_scaling", rope_kind(values, old))
    new, old = stated(new), stated(old)
    for name in sorted({*new, *old} - {"rope_type", "type"}):
        elsewhere = name in IN_ONE_FORM or (name == ORIGINAL and name in values)
        left_out = LEFT_OUT.get(name, None if elsewhere else "nothing")
        _check_same(name, new.get(name, left_out), "rope_scaling", old.get(name, left_out))


def _check_same(name: str, new: object, place: str, old: object) -> None:
    if new is not None and old is not None and new != old:
        raise ValueError(
            f"the config says two things: {name} is {new} in its rope_parameters, and {old} by its "
            f"{place}, which other engines read: keep the right one, or make them the same"
        )


def rope_kind(values: Fields, parameters: Fields) -> str:
    """The rope type, by its name of today."""
    kind = str(parameters.get("rope_type", parameters.get("type", "default")))
    other = str(parameters.get("type", kind))
    if kind != other and {kind, other} not in SAME_KIND:
        raise ValueError(
            f"the config says two things: rope_type is {kind!r}, and type {other!r}: keep one"
        )
    phi = str(values.get("model_type", "phi")).startswith("phi")
    # Early Phi-3 configs call this type "su", or even "yarn".
    older = kind == "su" or (kind == "yarn" and phi and "short_factor" in parameters)
    return "longrope" if older else kind


def original_window(values: Fields, parameters: Fields) -> int | None:
    """The window before the scaling: beside the parameters, as Phi-3 has it, or among them."""
    window = values.get(ORIGINAL, parameters.get(ORIGINAL))
    return None if window is None else whole(ORIGINAL, window, 1)


def check_files(folder: Path) -> None:
    """Refuse a model's settings that are damaged: transformers would pass over some of them."""
    for file in (folder / "config.json", folder / "generation_config.json"):
        if file.is_file():
            try:
                from_json(file.read_bytes())
            except ValueError as error:
                raise ValueError(f"{file.name} is not readable: {error}") from None


def check_finite(values: Json) -> None:
    """Refuse a config with NaN, or with parameters of RoPE that are not finite and above 0."""
    for name, value in values.items():
        if isinstance(value, float) and math.isnan(value):
            raise ValueError(f"config.json has {name} NaN, which is no number: restore it")
        if name in POSITIVE and value is not None:
            above(name, value, 0)
        if name in (
            "rope_parameters",
            "rope_scaling",
            "text_config",
            FULL_ATTENTION,
        ) and isinstance(value, dict):
            check_finite(value)


def head_dim(values: Fields) -> int:
    """Of full attention: stated, or DeepSeek's rotated part, or it follows from the width."""
    kinds, own = values.get("layer_types", ()), values.get("per_layer_config", {})  # Gemma 4's
    full = [own.get(str(i), {}) for i, kind in enumerate(kinds) if kind == FULL_ATTENTION]
    stated = [of["head_dim"] for of in full if of.get("head_dim")]
    names = ("global_head_dim", "head_dim", "qk_rope_head_dim")
    stated += [values[name] for name in names if values.get(name)]
    if stated:
        return whole("head_dim", stated[0], 1)
    width = whole("hidden_size", values["hidden_size"], 1)
    heads = whole("num_attention_heads", values["num_attention_heads"], 1)
    if width % heads:
        raise ValueError(f"hidden_size {width} is no multiple of num_attention_heads {heads}")
    return width // heads


def rotary_share(values: Fields, parameters: Fields) -> float:
    """The share of a head's dimensions that turn, under either of its names.

    Raises:
        ValueError: it is no share, or its two names say different things.
    """
    names = [name for name in AT_THE_TOP["partial_rotary_factor"] if name in values]
    shares = [values[name] for name in names]
    if len(shares) == 2 and shares[0] != shares[1]:
        raise ValueError(
            f"the config says two things: {names[0]} is {shares[0]}, and {names[1]} {shares[1]}: "
            "keep one"
        )
    given = parameters.get("partial_rotary_factor", shares[0] if shares else 1.0)
    share = above("partial_rotary_factor", given, 0)
    if share > 1:
        raise ValueError(f"partial_rotary_factor is {share:g}: it is a share, at most 1")
    return share


def check_fields(parameters: Fields, model_type: str) -> None:
    """Refuse rope parameters that transformers' class does not read.

    Those that other engines read for the attention factor may stand there if they say the same.

    Raises:
        ValueError: naming the field.
    """
    kind = parameters.get("rope_type", parameters.get("type", "default"))
    if kind == "default" and parameters.get("factor", 1) != 1:
        raise ValueError(
            f"the config's rope parameters have factor {parameters['factor']}, and no rope_type "
            "says what is done by it: write one, such as 'linear' or 'yarn', or remove the factor"
        )
    for name in parameters:
        family = OF_FAMILY.get(name)
        if _says_the_same(name, parameters):
            continue
        if name == "attn_factor" and parameters.get("attention_factor") is not None:
            raise ValueError(
                f"the config's rope parameters have attn_factor {parameters[name]}, by which other "
                "engines come to another attention factor than attention_factor, "
                f"{parameters['attention_factor']}: remove one of them"
            )
        if family is None and name not in READ + HARMLESS:
            raise unknown("field of the config's rope parameters", name, READ)
        if family is not None and not model_type.startswith(family):
            raise ValueError(
                f"the config's rope parameters have {name}, which transformers reads in {family} "
                f"models alone, and this is a {model_type} config: remove it"
            )


def _says_the_same(name: str, parameters: Fields) -> bool:
    """Whether a field gives other engines the attention factor that transformers computes."""
    m, value = parameters.get("attention_factor"), parameters[name]
    if name in MSCALES:
        return m is not None and bool(value == m)
    if name != "attn_factor" or parameters.get("rope_type", parameters.get("type")) != "yarn":
        return False
    try:  # they multiply the formula's by it
        formula = yarn_formula(parameters, parameters["factor"])
        return math.isclose(value * formula, formula if m is None else m, rel_tol=SAME)
    except (KeyError, TypeError):
        return False


def yarn_formula(parameters: Fields, ratio: float) -> float:
    """YaRN's own attention factor, or DeepSeek's quotient of two mscales."""
    over, under = parameters.get("mscale"), parameters.get("mscale_all_dim")
    for name, value in (("mscale", over), ("mscale_all_dim", under)):
        if not isinstance(value, int | float | None):
            raise ValueError(f"{name} is {value!r}: it must be a number")
    if over and under:
        return yarn_attention_factor(ratio, over) / yarn_attention_factor(ratio, under)
    return yarn_attention_factor(ratio)


@contextlib.contextmanager
def reading(what: str) -> Iterator[None]:
    """Turn what goes wrong with the values of a config into one error, naming what is read.

    Raises:
        ValueError: a field is missing, of another type, or outside its rule.
    """
    try:
        yield
    except KeyError as error:
        raise ValueError(f"{what} lacks {error}") from None
    except (TypeError, ValueError, AttributeError, ArithmeticError) as error:
        raise ValueError(f"{what} cannot be read: {error}") from None


def stated(values: Fields) -> Json:
    """The fields that are not None."""
    return {name: value for name, value in values.items() if value is not None}
