"""The older form of a config's rope parameters, which is written beside the one of today.

transformers 5 reads `rope_parameters`. transformers 4, mlx-lm, llama.cpp's converter, Ollama and
others read `rope_theta` and `rope_scaling` beside it. Where they find neither, they take the base
of their class and no scaling at all, and say nothing. A third kind reads today's form and has names
of its own for the attention factor.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

from ..common.files import Json, read_json, write_json
from ..rope.formulas import longrope_formula
from .config_fields import (
    AT_THE_TOP,
    FULL_ATTENTION,
    LEFT_OUT,
    MSCALES,
    ORIGINAL,
    Fields,
    stated,
    yarn_formula,
)
from .write_config import SCALING_FIELDS

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

# What stands beside `rope_scaling` in the older form, by today's name: as most models call it, and
# as GPT-NeoX does.
BESIDE, BESIDE_IN_NEOX = ({name: places[i] for name, places in AT_THE_TOP.items()} for i in (0, 1))

# transformers 4 takes exactly these fields beside `type` in these models, and refuses any other.
# Phi-3's attention factor is then the formula's.
STRICT: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "phi3": {"longrope": ("short_factor", "long_factor")},
    "olmo": {"linear": ("factor",), "dynamic": ("factor",)},
    "olmo2": {"linear": ("factor",), "dynamic": ("factor",)},
}

# What `add_old_form` has done: both forms are there; they are, but transformers 4 refuses this
# model's; the one of today is alone.
Forms: TypeAlias = Literal["both", "refused by 4", "alone"]


def add_old_form(file: Path, kind: type[PreTrainedConfig]) -> Forms:
    """Add the older form to a config.json, where transformers 5 then reads the same as before.

    Args:
        file: the config.json; it is written again.
        kind: the class of its config.

    Returns:
        Whether it was added, and whether transformers 4 takes it. It is not added where the layer
        types of a model have parameters that the older form has no names for, nor for types that
        only transformers 5 knows.
    """
    values: Json = read_json(file, "config")
    nested = isinstance(values.get("text_config"), dict)
    text = values["text_config"] if nested else values

    def whole(text: Json) -> Json:
        return values | {"text_config": text} if nested else text

    def read(text: Json) -> Json:
        config = kind.from_dict(copy.deepcopy(whole(text)))  # which adds to what it is given
        parameters = config.get_text_config().rope_parameters
        own = parameters.get(FULL_ATTENTION, parameters)
        own.pop("type", None)
        return dict(parameters)

    new = text | {"rope_parameters": _for_other_engines(text)}
    old = _old_form(new)
    if not old or read(new) != read(new | old):
        return "alone"
    write_json(file, whole(new | old))
    return "both" if _taken_by_4(new) else "refused by 4"


def _for_other_engines(text: Fields) -> Json:
    """The rope parameters of today, with the fields that other engines read beside."""
    parameters: Json = text.get("rope_parameters") or {}
    own: Json = dict(parameters.get(FULL_ATTENTION, parameters))
    kind, m = own.get("rope_type"), own.get("attention_factor")
    if kind == "longrope" and text.get("model_type") == "phi3" and _is_formula(m, text):
        for name in ("attention_factor", "factor"):  # both follow from the two windows
            own.pop(name, None)
    elif kind == "longrope" and m is not None:  # vLLM, SGLang, onnxruntime-genai
        own |= dict.fromkeys(MSCALES, m)
    if kind == "yarn":
        own = own | {name: own.get(name, LEFT_OUT[name]) for name in ("beta_fast", "beta_slow")}
        if m is not None:  # older vLLM, SGLang: they multiply the formula's by it
            own["attn_factor"] = m / yarn_formula(own, own["factor"])
    return parameters | {FULL_ATTENTION: own} if FULL_ATTENTION in parameters else own


def _is_formula(m: float | None, text: Fields) -> bool:
    """Whether an attention factor is what transformers computes of the windows of a Phi-3."""
    original: int = text[ORIGINAL]
    formula = longrope_formula(text["max_position_embeddings"] / original, original)
    return m is None or math.isclose(m, formula, rel_tol=1e-12)


def _old_form(text: Fields) -> Json:
    """The fields of the older form; none where it is not known to say the same."""
    parameters: Json = text["rope_parameters"]
    own: Json = parameters.get(FULL_ATTENTION, parameters)
    others = {name: p for name, p in parameters.items() if p is not own and isinstance(p, Mapping)}
    beside = BESIDE_IN_NEOX if text.get("model_type") == "gpt_neox" else BESIDE
    if own.get("rope_type") == "proportional" or set(own) - {*SCALING_FIELDS, *beside}:
        return {}
    local = _local_base(text, others, own)
    if local is None:
        return {}
    kind = own["rope_type"]
    scaling: Json | None = None
    if kind != "default":
        strict = STRICT.get(str(text.get("model_type")), {})
        names = strict.get(kind, ()) if _taken_by_4(text) else ()
        scaling = {name: own[name] for name in names or own if name not in beside} | {"type": kind}
    old = {place: own[name] for name, place in beside.items() if name in own}
    return old | local | {"rope_scaling": scaling}


def _taken_by_4(text: Fields) -> bool:
    """Whether transformers 4 takes such parameters of this model."""
    parameters: Json = text["rope_parameters"]
    own: Json = parameters.get(FULL_ATTENTION, parameters)
    kind, strict = own["rope_type"], STRICT.get(str(text.get("model_type")))
    if strict is None or kind == "default":
        return True
    return kind in strict and "attention_factor" not in own and own.get("factor", 2) > 1


def _local_base(text: Fields, others: Mapping[str, Fields], own: Fields) -> Json | None:
    """The base of the layers that see near tokens alone, where it has a name in the older form.

    None where it has not, or where these layers are scaled, too.
    """
    local: Json = {}
    for parameters in others.values():
        given = stated(parameters)
        if given.get("rope_type") != "default" or set(given) - {"rope_type", "rope_theta"}:
            return None
        if str(text.get("model_type")).startswith("gemma3"):
            local["rope_local_base_freq"] = given["rope_theta"]
        elif given["rope_theta"] != own["rope_theta"]:
            return None
    return local
