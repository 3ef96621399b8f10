"""What is put right in a model that was just loaded, before anyone measures or trains it."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch

from .config_fields import (
    FULL_ATTENTION,
    TRAINED,
    original_window,
    rope_kind,
    rope_parameters,
    stated_values,
)
from .parts import check_is_model

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

log = logging.getLogger(__name__)

SLIDING_ATTENTION = "sliding_attention"


def full_attention(model: PreTrainedModel) -> bool:
    """Let every layer attend to all tokens before it, where the attention of all layers slides.

    In Mistral 7B v0.1 no layer looks further back than 4,096 tokens, so there is no longer context
    to extend: tokens further apart never meet, whatever the rotary embedding does to them. The same
    holds for a Phi-3 or Qwen2 whose config turns sliding windows on for all layers.

    Left alone are models that mix sliding and full layers by design (Gemma 2 and 3, GPT-OSS), and
    those that turn each kind of layer by frequencies of its own. `load_model` calls this function.

    Args:
        model: a Hugging Face causal language model; its config and its layers change in place.

    Returns:
        Whether anything changed; a log line says so.

    Raises:
        ValueError: it is no such model.
    """
    check_is_model(model)
    config = model.config.get_text_config()
    window = getattr(config, "sliding_window", None)
    kinds = getattr(config, "layer_types", None)
    parameters = getattr(config, "rope_parameters", None) or {}
    by_kind = any(isinstance(value, Mapping) for value in parameters.values())
    if not window or set(kinds or [SLIDING_ATTENTION]) != {SLIDING_ATTENTION} or by_kind:
        return False
    # A config without kinds of layers states the window alone; one with kinds may still need the
    # number.
    if kinds:
        config.layer_types = [FULL_ATTENTION] * len(kinds)
    else:
        config.sliding_window = None
    for module in model.modules():  # what the layers took from the config when they were made
        for name, value in list(vars(module).items()):
            if name == "sliding_window" and value == window:
                module.sliding_window = None
            elif isinstance(value, str) and value == SLIDING_ATTENTION:
                setattr(module, name, FULL_ATTENTION)
            elif name == "has_sliding_layers":
                module.has_sliding_layers = False
    log.warning(
        "%s: every layer's attention slid over %s tokens; it is full now, so that all is read",
        type(model).__name__,
        f"{window:,}",
    )
    return True


def state_trained_window(config: PreTrainedConfig, window: int | None = None) -> None:
    """Note in a config the window that is known to be the trained one, and correct Mistral 7B v0.1.

    The model was trained on 8,192 tokens (arXiv 2310.06825, Table 1), and its config says 32,768.
    Versions 0.2 and 0.3 were trained on those, with another base and without a sliding window.

    Args:
        config: of the model; it changes in place.
        window: the trained window, in tokens, where the config states another.
    """
    if window is not None:
        # Beside max_position_embeddings, which some rope types divide by.
        setattr(config.get_text_config(), TRAINED, window)
        return
    stated = {
        "model_type": "mistral",
        "hidden_size": 4096,
        "max_position_embeddings": 32_768,
        "sliding_window": 4096,
    }
    if all(getattr(config, name, None) == value for name, value in stated.items()):
        config.max_position_embeddings = 8192
        log.warning(
            "Mistral 7B v0.1 was trained on 8,192 tokens: they are taken as its window, not its "
            "config's 32,768"
        )
    _name_assumption(config)


def _name_assumption(config: PreTrainedConfig) -> None:
    """Say how a "linear" config is read that states one window; what Gemma 3's means is known."""
    with contextlib.suppress(ValueError):  # without full attention there is nothing to read
        values = stated_values(config)
        parameters = rope_parameters(values)
        linear = rope_kind(values, parameters) == "linear"
        known = original_window(values, parameters) or str(values["model_type"]).startswith("gemma")
        if linear and not known:
            log.warning(
                "the config's %s tokens are taken to be the window after its linear factor of %s: "
                "if they are the one before, load it with window=%d",
                f"{values['max_position_embeddings']:,}",
                parameters["factor"],
                values["max_position_embeddings"] * parameters["factor"],
            )


def packed(model: PreTrainedModel) -> bool:
    """Whether weights are kept packed, as some kernels want them from a GGUF file."""
    return any(weight.dtype == torch.uint8 for weight in model.state_dict().values())


def forget_quantization(model: PreTrainedModel) -> None:
    """Take off the marks by which transformers would neither train nor save a model.

    They stay behind on a model from a GGUF file even where its weights are ordinary numbers.
    """
    for name in ("is_quantized", "quantization_method", "hf_quantizer"):
        vars(model).pop(name, None)
    vars(model.config).pop("quantization_config", None)
