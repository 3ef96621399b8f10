"""What a model takes of a machine's memory, told from its config before a weight is loaded."""

from __future__ import annotations

from typing import Any

import psutil
import torch

GIB = 2**30


def memory_shortage(config: Any, length: int, device: torch.device, dtype: torch.dtype) -> str | None:
    """What a model would take to score `length` tokens, in words, if the machine does not have it; None if it does.

    The least that it can take: weights, and the activations of one layer. Gradients and a cache of keys come on top.

    Args:
        config: a transformers config.
        length: tokens; 0 counts the weights alone.
        device: of the model: a GPU's whole memory counts, or the memory that the machine has free.
        dtype: of the weights.
    """
    if getattr(config, "quantization_config", None) is not None:
        return None  # how much smaller its weights are is known to its quantiser alone
    parameters = parameter_count(config)
    weights, above = parameters * dtype.itemsize, activation_bytes(config, length, dtype)
    if device.type == "cuda":
        available, where = torch.cuda.get_device_properties(device).total_memory, "the GPU has"
    else:
        available, where = psutil.virtual_memory().available, "this machine has free"
    if weights + above <= available:
        return None
    more = f" and {above / GIB:.3g} GiB to score {length:,} tokens" if length else ""
    return (
        f"at least {weights / GIB:.3g} GiB for {parameters:,} weights in {str(dtype).removeprefix('torch.')}{more}, "
        f"and {where} {available / GIB:.3g} GiB"
    )


def parameter_count(config: Any) -> int:
    """Weights of the model that a config describes, tied ones once; none of them is made."""
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        return sum(p.numel() for p in AutoModelForCausalLM.from_config(config).parameters())


def activation_bytes(config: Any, length: int, dtype: torch.dtype) -> int:
    """What one layer holds at once for `length` tokens: an estimate from its widths, attention being memory-efficient.

    For SmolLM2-135M in bfloat16 it says 0.98 GiB at 65,536 tokens and 7.9 GiB at 524,288; measured were 0.9 and 6.9.
    """
    config = config.get_text_config()
    width = int(config.hidden_size)
    inner = int(getattr(config, "intermediate_size", None) or 4 * width)
    return dtype.itemsize * length * (6 * width + 3 * inner)
