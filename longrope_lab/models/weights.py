"""Whether the weights that were read are those that the config asks for.

transformers fills what a file lacks with random numbers, leaves aside what it holds beyond, and
says so in a report that few read. A measurement of such a model would be of nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# What files hold beside the weights, and every model computes: those of older versions of
# transformers, and of the factors that `gguf_files` reads.
COMPUTED = re.compile(
    r"(^|\.)(inv_freq|masked_bias|position_ids|rope_(freqs|factors_(long|short))\.weight)$"
)

# How many names an error gives in full.
NAMED = 3


def check_weights(name: str, model: PreTrainedModel, report: Mapping[str, Any]) -> None:
    """Refuse a model whose file does not hold its weights, all of them and no others.

    Args:
        name: what the model was called.
        model: as it was loaded.
        report: what transformers' `from_pretrained` gives with ``output_loading_info=True``.

    Raises:
        ValueError: weights are missing, left over, of another shape, or not finite.
    """
    left_over = [key for key in report["unexpected_keys"] if not COMPUTED.search(key)]
    shapes = [f"{key} {tuple(shape)}" for key, shape, *_ in report["mismatched_keys"]]
    faults = [
        _listed("missing are", report["missing_keys"]),
        _listed("left over are", left_over),
        _listed("of other shapes are", shapes),
    ]
    if any(faults):
        raise ValueError(
            f"the weights of {name!r} do not fit its config: {'; '.join(filter(None, faults))}. "
            "transformers would put random numbers in their place: take both from one model"
        )
    wrong = _listed("not finite are numbers in", _not_finite(model))
    if wrong:
        raise ValueError(f"the weights of {name!r} are damaged: {wrong}; save or fetch them again")


def check_kinds(name: str, folder: Path, model: PreTrainedModel) -> None:
    """Refuse somebody's quantisation that nothing has read the weights by.

    transformers leaves out one whose name it does not know. Files of whole numbers, where the model
    has broken ones, it casts, and leaves out the scales that belong to them.

    Raises:
        ValueError: naming the quantisation, or the weights.
    """
    stated = _quantization_of(model)
    if stated is not None:
        if getattr(model, "hf_quantizer", None) is None:
            raise ValueError(
                f"the config of {name!r} states a quantisation ({stated}) that transformers does "
                "not know, so its weights would be read as plain numbers: take the model in 16 or "
                "32 bits; or, if they are plain, remove quantization_config from config.json"
            )
        return
    floating = {key for key, weight in model.named_parameters() if weight.is_floating_point()}
    wrong = [
        f"{key} ({kind})"
        for file in folder.glob("*.safetensors")
        for key, kind in _kinds_in(file).items()
        if key in floating and kind[0] in "IUB" and kind != "BF16"
    ]
    if wrong:
        raise ValueError(
            f"{_listed(f'of whole numbers in {name!r} are', wrong)}, and the config names no "
            "quantization_config to read them by: take the model in 16 or 32 bits"
        )


def _quantization_of(model: PreTrainedModel) -> str | None:
    """The name of the quantisation that a model's config states; None if it states none."""
    for config in (model.config, model.config.get_text_config()):
        stated = getattr(config, "quantization_config", None)
        if stated is not None:
            fields = stated if isinstance(stated, Mapping) else vars(stated)
            return repr(fields.get("quant_method"))
    return None


def _kinds_in(file: Path) -> dict[str, str]:
    """The type of each tensor in a file of safetensors, from its header alone."""
    from safetensors import safe_open

    with safe_open(file, framework="pt") as content:
        return {key: content.get_slice(key).get_dtype() for key in content.keys()}  # noqa: SIM118


def _listed(words: str, names: Iterable[str]) -> str:
    """What is wrong with some weights, by name; nothing if there are none."""
    ordered = sorted(names)
    more = f" and {len(ordered) - NAMED:,} more" if len(ordered) > NAMED else ""
    return f"{words} {', '.join(ordered[:NAMED])}{more}" if ordered else ""


def _not_finite(model: PreTrainedModel) -> Iterable[str]:
    for name, weight in model.named_parameters():
        # A sum is finite if all are, but for an overflow, which a closer look tells apart.
        if weight.is_floating_point() and weight.dtype.itemsize > 1:
            suspect = not torch.isfinite(weight.detach().sum(dtype=torch.float32))
            if suspect and not torch.isfinite(weight.detach()).all():
                yield name
