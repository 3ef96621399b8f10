"""Loads a model and its tokenizer.

They come with the package (the lab model), from the hub, from a folder, or from a GGUF file.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import torch

from ..common.checks import unknown, whole
from ..common.files import Json, at_home, cache_dir
from ..common.identity import digest
from .config_fields import TRAINED
from .estimates import memory_shortage
from .gguf_files import GgufFile, read_gguf, split_as_it_says, with_its_biases, with_its_rotary
from .load_words import cannot_load, check_dtype, no_tokenizer
from .parts import check_has_weights
from .read_config import config_of
from .repairs import forget_quantization, full_attention, packed, state_trained_window
from .weights import check_kinds, check_weights

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

# A model, its name for `load_model`, or a function without arguments that returns it: a worker
# process can so load its own.
ModelSource: TypeAlias = "PreTrainedModel | str | Callable[[], PreTrainedModel]"

log = logging.getLogger(__name__)

LAB_MODEL = Path(__file__).parents[1] / "lab_model"
SHIPPED = {"lab": LAB_MODEL, "lab-256k": LAB_MODEL / "extended"}
SMOLLM2_HUB = "HuggingFaceTB/SmolLM2-135M-Instruct"

# What a tokenizer's vocabulary is kept in, of whatever kind it is.
VOCABULARIES = ("tokenizer.*", "vocab.*", "*.model", "*.tiktoken", "tekken.json")


def load_model(
    name: str | os.PathLike[str] = "lab",
    *,
    device: str | torch.device | None = None,
    dtype: torch.dtype | None = None,
    window: int | None = None,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A causal language model, ready to score, and its tokenizer.

    >>> model, tokenizer = lab.load_model("lab")
    >>> model.config.max_position_embeddings
    512
    >>> tokenizer.decode(tokenizer("In the beginning").input_ids)
    'In the beginning'

    Where the attention of every layer slides, it is widened to the full text (`full_attention`).

    Args:
        name: "lab", or "lab-256k", the same extended; "smollm2" (from the hub if it is cached or
            reachable, else what `longrope-lab fetch smollm2` left); a folder; a .gguf file; or a
            hub id such as "owner/name".
        device: where to put it; the first GPU if there is one, else the CPU.
        dtype: bfloat16 on a GPU and float32 on a CPU, unless given.
        window: the window that it was trained on, in tokens, where its config states another. Every
            `rope_spec` of the model has it then, and so has what a search or an export makes of it.

    Returns:
        (model, tokenizer). The model is in evaluation mode, with PyTorch's attention (sdpa) where
        transformers has it. Gemma 2 and GPT-OSS hold attention in full, which limits them to short
        texts.

    Raises:
        ValueError: an unknown name or device, no such window, a damaged file, weights that do not
            fit the config, or are larger than the memory, a model that cannot be had here (the
            error says what to run), a tokenizer without a vocabulary, or a GGUF file that scales
            or cuts texts in a way that is not known.
        FileNotFoundError: there is nothing at a path, or no config or no tokenizer in a folder.
    """
    name, device = str(name), _device(device)
    dtype = check_dtype(dtype) or _dtype(device)
    if window is not None:
        window = whole("window", window, 2, "a window has at least 2 tokens")
    source, options = _locate(name)
    from transformers import AutoModelForCausalLM

    file = _gguf_file(source, options)  # first: what it refuses, transformers calls damaged
    with _readable(name, source, options):
        config = config_of(source, options)
    if file is not None:
        config = with_its_rotary(with_its_biases(config, file), file)
    with _readable(name, source, options):
        # Asked before weights are downloaded or read.
        shortage = memory_shortage(config, 0, device, dtype)
    if shortage:
        raise ValueError(
            f"the model {name!r} is too large: it takes {shortage}. Use a smaller model"
        )
    tokenizer = _tokenizer(name, source, options, file)
    with _readable(name, source, options):
        model, report = AutoModelForCausalLM.from_pretrained(
            source,
            config=config,
            dtype=dtype,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # they are refused below, by name
            **options,
        )
    check_weights(name, model, report)
    if file is None:
        check_kinds(name, Path(source), model)
    elif not packed(model):
        forget_quantization(model)
    state_trained_window(model.config, window)
    full_attention(model)
    return model.to(device).eval(), tokenizer


def load_tokenizer(name: str | os.PathLike[str]) -> PreTrainedTokenizerBase:
    """A model's tokenizer without the model, as `load_model` returns it.

    Raises:
        ValueError, FileNotFoundError: as of `load_model`.
    """
    source, options = _locate(str(name))
    return _tokenizer(str(name), source, options, _gguf_file(source, options))


def _gguf_file(source: str, options: Json) -> GgufFile | None:
    return read_gguf(Path(source, options["gguf_file"])) if "gguf_file" in options else None


def _tokenizer(
    name: str, source: str, options: Json, file: GgufFile | None
) -> PreTrainedTokenizerBase:
    from transformers import AutoTokenizer

    with _readable(name, source, options):
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(source, **options)
    _check_vocabulary(name, tokenizer)
    if file is not None:
        split_as_it_says(tokenizer, file)
    return tokenizer


@contextlib.contextmanager
def _readable(name: str, source: str, options: Json) -> Iterator[None]:
    """Turn whatever transformers raises while it reads a model into one error, without its advice.

    Raises:
        ValueError: the model cannot be read.
    """
    try:
        with quiet_transformers():
            yield
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # a damaged file, or an odd config, makes it fail in many ways
        place = Path(source, options.get("gguf_file", ""))
        raise ValueError(cannot_load(name, place, error)) from error


def _check_vocabulary(name: str, tokenizer: PreTrainedTokenizerBase) -> None:
    """Refuse a tokenizer of special tokens alone, for which every text is empty or unknown.

    Without their files, some of transformers' tokenizers are made so, and nothing is said.
    """
    if set(tokenizer.get_vocab()) <= set(tokenizer.get_added_vocab()):
        raise ValueError(no_tokenizer(f"the model {name!r}", name))


def too_large(name: str | os.PathLike[str], length: int) -> str | None:
    """What a model would take to score so many tokens here, if that is more than the machine has.

    Args:
        name: as `load_model` takes it.
        length: tokens.

    Returns:
        The shortage in words. None if the model fits, or if its config cannot be read without a
        network: `load_model` looks at the weights again.

    Raises:
        ValueError: an unknown name.
        FileNotFoundError: as of `load_model`.
    """
    config, device = local_config(str(name)), _device(None)
    with contextlib.suppress(ValueError):
        return None if config is None else memory_shortage(config, length, device, _dtype(device))
    return None


def local_config(name: str) -> PreTrainedConfig | None:
    """The config of a model, if it can be read without a network; it raises as `too_large`."""
    source, options = _locate(name)
    from transformers import AutoConfig

    with contextlib.suppress(ValueError), _readable(name, source, options):
        config: PreTrainedConfig = AutoConfig.from_pretrained(
            source, **options | {"local_files_only": True}
        )
        return config
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
    if device.type == "meta":
        raise ValueError("device is 'meta', which holds no weights: pass device='cpu', or none")
    return device


@contextlib.contextmanager
def quiet_transformers() -> Iterator[None]:
    """Silence transformers' advice and bars while the block lasts.

    That an input exceeds the model's length, for one, is what this package is about.
    """
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
    if name in SHIPPED:
        return str(SHIPPED[name]), {}
    if name == "smollm2":
        if _in_hub_cache(SMOLLM2_HUB):
            return SMOLLM2_HUB, {"local_files_only": True}
        fetched = smollm2_path()
        return (str(fetched) if (fetched / "config.json").is_file() else SMOLLM2_HUB), {}
    path = at_home(name)
    if path.suffix == ".gguf":
        if not path.is_file():
            raise FileNotFoundError(f"no GGUF file at {path}: check the path")
        return str(path.parent), {"gguf_file": path.name}
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise FileNotFoundError(
                f"the folder {path} holds no config.json: a saved Hugging Face model has one"
            )
        if not any(file for pattern in VOCABULARIES for file in path.glob(pattern)):
            raise FileNotFoundError(no_tokenizer(f"the folder {path}", str(path)))
        return str(path), {}
    if name.startswith((".", "~", os.sep)) or name.count("/") > 1:
        raise FileNotFoundError(f"no model folder at {name}: check the path")
    if name.count("/") == 1:
        return name, {}
    others = ["smollm2", "a folder", "a .gguf file", "a hub id such as owner/name"]
    raise unknown("model", name, [*SHIPPED, *others])


def _in_hub_cache(repository: str) -> bool:
    from huggingface_hub import try_to_load_from_cache

    files = ("config.json", "model.safetensors")
    return all(isinstance(try_to_load_from_cache(repository, file), str) for file in files)


def smollm2_path() -> Path:
    """The folder in which `fetch_smollm2` puts the model."""
    return cache_dir() / "models" / "smollm2"


def model_digest(model: PreTrainedModel) -> str:
    """A digest of a model's config and of a sample of its weights.

    It is the same whatever device or process holds the model.
    """
    config = model.config.to_dict()
    for name in ("_name_or_path", "transformers_version", TRAINED):
        config.pop(name, None)
    parts: list[bytes | str] = [json.dumps(config, sort_keys=True, default=str)]
    for name, weight in sorted(model.state_dict().items()):
        flat = weight.detach().flatten()
        sample = flat[:: max(len(flat) // 256, 1)][:256].float().cpu().numpy()
        parts += [f"{name} {tuple(weight.shape)} {weight.dtype}", sample.tobytes()]
    return digest(*parts)


def model_of(model: ModelSource) -> PreTrainedModel:
    """The model that is meant by itself, its name, or a function; it is none of shapes alone."""
    if isinstance(model, str):
        return load_model(model)[0]
    if hasattr(model, "get_vocab"):
        raise ValueError(f"model is a tokenizer ({type(model).__name__}): pass the model")
    check_has_weights(live := model if isinstance(model, torch.nn.Module) else model())
    return live
