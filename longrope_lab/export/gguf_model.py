"""Writes a model with its tokenizer and its scaling as one GGUF file, for llama.cpp.

The layout is that of llama.cpp's own converter. A Qwen 2 becomes a "llama" with biases, whose graph
takes factors, as that of "qwen2" does not.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from ..common.files import at_home, replacing
from ..models.read_config import scaling_from_config, spec_from_config
from ..rope.schedule import Scaling
from ..rope.spec import RopeSpec
from .check import embedding_under
from .folder import shell_of
from .gguf import check_free_file
from .gguf_rotary import RotaryEntries, rotary_entries
from .gguf_tokenizer import TokenizerEntries, tokenizer_entries

if TYPE_CHECKING:
    from gguf import GGUFWriter
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

# The architecture that a model is written as, by transformers' type.
WRITTEN_AS = {"llama": "llama", "mistral": "llama", "qwen2": "llama", "phi3": "phi3"}
OTHERWISE = (
    "convert its folder with llama.cpp's convert_hf_to_gguf.py, and give that file the scaling, "
    "add_scaling_to_gguf(file, scaling, path)"
)

# gguf's number of a whole file's type, and of a tensor's, by PyTorch's.
FILE_TYPES = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 32}
TENSOR_TYPES = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 30}


def save_gguf(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    scaling: Scaling | None,
    path: str | os.PathLike[str],
    *,
    overwrite: bool = False,
) -> Path:
    """Write a GGUF file of a Llama, Mistral, SmolLM2, Qwen 2 or Phi-3 with a scaling.

    Weights keep the model's type (float32, float16, bfloat16). llama.cpp's ``llama-quantize`` makes
    them smaller, and leaves the scaling alone. A scaling that is in place on the live model is no
    part of what is written. See `add_scaling_to_gguf` for what llama.cpp makes of one set of
    factors, and of two.

    >>> model, tokenizer = lab.load_model("lab", device="cpu")
    >>> yarn = lab.rope_scaling(lab.rope_spec(model), "yarn", 1024)
    >>> lab.load_model(save_gguf(model, tokenizer, yarn, "lab-1k.gguf"))[0].config.rope_parameters[
    ...     "rope_type"
    ... ]
    'yarn'

    Args:
        model: a Hugging Face causal language model; low-rank updates of PEFT are merged in a copy.
        tokenizer: its tokenizer, of bytes and merges.
        scaling: made for this model: a `RopeScaling`, or a schedule of at most two; None for the
            one that its config states, such as that of a folder of `save_pretrained`.
        path: the new file.
        overwrite: take the place of a file that is there.

    Returns:
        The file.

    Raises:
        FileExistsError: it is there already.
        ValueError: another kind of model or tokenizer; a scaling for another model, or one that a
            GGUF file cannot hold; a quantised or offloaded model.
        UnwritableError: the file cannot be written (a full disk); nothing is kept.
    """
    path = at_home(path)
    check_free_file(path, overwrite=overwrite)
    shell = shell_of(model)
    config = shell.config
    architecture = _architecture(config)
    scaling = scaling_from_config(config) if scaling is None else scaling
    plain = embedding_under(shell, scaling)
    entries = rotary_entries(scaling, plain, architecture)
    words = tokenizer_entries(tokenizer, config.vocab_size, OTHERWISE)
    with replacing(path) as part:
        _write(part, shell, architecture, entries, words, plain)
    return path


def _architecture(config: PreTrainedConfig) -> str:
    """What a model is written as.

    Raises:
        ValueError: llama.cpp's graph would compute something else.
    """
    kind = config.model_type
    if kind not in WRITTEN_AS:
        raise ValueError(
            f"models of type {kind!r} are not written as GGUF here, but {', '.join(WRITTEN_AS)} "
            f"are: {OTHERWISE}"
        )
    turned, width = spec_from_config(config).rotary_dim, _head_dim(config)
    faults = {
        f"its activation is {config.hidden_act}": config.hidden_act != "silu",
        f"its attention slides over {getattr(config, 'sliding_window', None)} tokens": bool(
            getattr(config, "sliding_window", None)
        ),
        f"{turned} of {width} dimensions are rotated": kind != "phi3" and turned != width,
    }
    for fault in (words for words, wrong in faults.items() if wrong):
        raise ValueError(f"this model is not written as GGUF here, since {fault}: {OTHERWISE}")
    return WRITTEN_AS[kind]


def _head_dim(config: PreTrainedConfig) -> int:
    stated = getattr(config, "head_dim", None)
    return int(stated or config.hidden_size // config.num_attention_heads)


def _write(
    part: Path,
    shell: PreTrainedModel,
    architecture: str,
    entries: RotaryEntries,
    words: TokenizerEntries,
    plain: RopeSpec,
) -> None:
    from gguf import GGMLQuantizationType, GGUFWriter

    if shell.dtype not in FILE_TYPES:
        raise ValueError(
            f"the model's weights are {shell.dtype}: load it with dtype=torch.bfloat16 or float32"
        )
    writer = GGUFWriter(part, architecture)
    _add_shape(writer, shell.config, plain)
    writer.add_file_type(FILE_TYPES[shell.dtype])
    _add_scaling(writer, architecture, entries)
    words.add_to(writer)
    for name, weight in _weights(shell, architecture):
        kind = GGMLQuantizationType(TENSOR_TYPES[weight.dtype])
        size = weight.numel() * weight.element_size()
        writer.add_tensor_info(name, tuple(weight.shape), np.dtype(np.int16), size, kind)
    for name, factors in entries.factors.items():
        writer.add_tensor_info(name, factors.shape, np.dtype(np.float32), 4 * len(factors))
    try:
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for _, weight in _weights(shell, architecture):
            writer.write_tensor_data(_numbers(weight))
        for factors in entries.factors.values():
            writer.write_tensor_data(factors.astype(np.float32))
    finally:
        writer.close()


def _add_shape(writer: GGUFWriter, config: PreTrainedConfig, plain: RopeSpec) -> None:
    writer.add_block_count(config.num_hidden_layers)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(_head_dim(config))
    writer.add_value_length(_head_dim(config))
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    writer.add_rope_dimension_count(plain.rotary_dim)
    writer.add_rope_freq_base(plain.base)


def _add_scaling(writer: GGUFWriter, architecture: str, entries: RotaryEntries) -> None:
    for name, value in entries.keys.items():
        full = f"{architecture}.{name}"
        if isinstance(value, str):
            writer.add_string(full, value)
        elif isinstance(value, int):
            writer.add_uint32(full, value)
        else:
            writer.add_float32(full, value)


def _weights(shell: PreTrainedModel, architecture: str) -> Iterator[tuple[str, torch.Tensor]]:
    """Each weight by the name that llama.cpp knows, in its order of dimensions.

    Raises:
        ValueError: it has no name there.
    """
    from gguf import MODEL_ARCH, get_tensor_name_map

    config = shell.config
    kinds = {"llama": MODEL_ARCH.LLAMA, "phi3": MODEL_ARCH.PHI3}
    names = get_tensor_name_map(kinds[architecture], config.num_hidden_layers)
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    for name, weight in shell.state_dict().items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        theirs = names.get_name(name, try_suffixes=(".weight", ".bias"))
        if theirs is None:
            raise ValueError(f"the model has weights {name!r}, which GGUF knows not: {OTHERWISE}")
        weight = weight.detach().cpu()
        count = heads.get(name.split(".")[-2])
        if count and architecture == "llama":  # whose graph turns dimensions 2i and 2i + 1 together
            weight = weight.unflatten(0, (count, 2, -1)).transpose(1, 2).flatten(0, 2)
        yield theirs, weight.float() if weight.dim() == 1 else weight


def _numbers(weight: torch.Tensor) -> NDArray[np.generic]:
    weight = weight.contiguous()
    if weight.dtype == torch.bfloat16:  # which NumPy does not have
        weight = weight.view(torch.int16)
    numbers: NDArray[np.generic] = weight.numpy()
    return numbers
