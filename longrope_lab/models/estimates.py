"""What a model takes of memory and of work, estimated from its config before anything runs.

No weight is loaded for an estimate of memory.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import psutil
import torch

from .config_fields import FULL_ATTENTION, head_dim, stated_values
from .forward import recomputing
from .head import HEAD_CHUNK, head_rows
from .parts import check_has_weights
from .pieces import LONG, PIECE

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

GIB = 2**30

# Each is counted in a millisecond; the deepest models have some hundred.
MOST_LAYERS = 1000


def memory_shortage(
    config: PreTrainedConfig, length: int, device: torch.device, dtype: torch.dtype
) -> str | None:
    """What a model would take to score so many tokens, in words, if the machine does not have it.

    It is the least that the model can take: weights, and the activations of one layer. Gradients
    and a cache of keys come on top.

    Args:
        config: a transformers config.
        length: tokens; 0 counts the weights alone.
        device: of the model; what counts is a GPU's whole memory, or what a machine has free.
        dtype: of the weights.

    Returns:
        None if the machine has it.
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
        f"at least {weights / GIB:.3g} GiB for {parameters:,} weights in "
        f"{str(dtype).removeprefix('torch.')}{more}, and {where} {available / GIB:.3g} GiB"
    )


def check_fits(model: PreTrainedModel, length: int) -> None:
    """Refuse a length for which a model's activations alone are more than the machine holds.

    It is for models that answer, which read no text in pieces.

    Raises:
        ValueError: they are; or the model has no weights.
    """
    check_has_weights(model)
    try:
        needed = activation_bytes(model.config, length, model.dtype, in_pieces=False)
    except (AttributeError, KeyError, TypeError, ValueError):
        return  # its config has no such widths, and nothing is known of it
    _check_held(model, needed, f"{length:,} tokens take", "choose shorter lengths")


def check_cache(model: PreTrainedModel, rows: int, length: int) -> None:
    """Refuse texts whose cached keys and values alone are more than the machine holds.

    Counted are the layers that look back over the whole text.

    Raises:
        ValueError: they are.
    """
    try:
        config = model.config.get_text_config()
        kinds = getattr(config, "layer_types", None)
        every = 0 if getattr(config, "sliding_window", None) else config.num_hidden_layers
        layers = kinds.count(FULL_ATTENTION) if kinds else every
        per_token = 2 * layers * projected_widths(config)[1] * model.dtype.itemsize
    except (AttributeError, KeyError, TypeError, ValueError):
        return  # its config has no such widths, and nothing is known of it
    keys = f"the keys of {length:,} tokens in a batch of {rows:,} take"
    _check_held(model, rows * length * per_token, keys, "ask for fewer texts or new tokens")


def _check_held(model: PreTrainedModel, needed: int, what: str, way_out: str) -> None:
    on_gpu = model.device.type == "cuda"
    held = (
        torch.cuda.get_device_properties(model.device).total_memory
        if on_gpu
        else psutil.virtual_memory().total
    )
    if needed > held:
        raise ValueError(
            f"{what} at least {needed / GIB:.3g} GiB beside the weights, and "
            f"{'the GPU' if on_gpu else 'this machine'} has {held / GIB:.3g} GiB: {way_out}"
        )


def parameter_count(config: PreTrainedConfig) -> int:
    """Weights of the model that a config describes, counting tied ones once; none is made.

    Raises:
        ValueError: more layers than can be counted, one by one, in seconds.
    """
    from transformers import AutoModelForCausalLM

    layers = getattr(config.get_text_config(), "num_hidden_layers", None)
    if isinstance(layers, int) and layers > MOST_LAYERS:
        raise ValueError(
            f"num_hidden_layers is {layers:,}, and no model has more than {MOST_LAYERS:,}: restore "
            "config.json"
        )
    with torch.device("meta"):
        return sum(p.numel() for p in AutoModelForCausalLM.from_config(config).parameters())


def activation_bytes(
    config: PreTrainedConfig, length: int, dtype: torch.dtype, *, in_pieces: bool = True
) -> int:
    """What a model holds at once to score so many tokens, beside its weights, from its widths.

    All along these are the embeddings, a layer's input, the cosines and sines and two whole numbers
    per token. Then comes the most that a layer holds: its sum and norm, and the widest of what it
    computes from them, three tensors of the MLP, or the inputs and outputs of attention, which is
    memory-efficient. For SmolLM2-135M at 65,536 tokens in bfloat16 it says 0.86 GiB, and 0.89 were
    measured.

    Longer texts than `pieces.LONG` are read in pieces. Of the MLP, a sum, a norm and a result stay
    then, of attention a norm, its inputs and its output with a number in float32 per head. So
    2,097,152 tokens take 13.4 GiB, and not 27.5.

    Args:
        config: a transformers config.
        length: tokens.
        dtype: of the weights.
        in_pieces: whether long texts are; not where a model answers, since it keeps all keys.
    """
    config = config.get_text_config()
    width, size, inner = int(config.hidden_size), dtype.itemsize, _inner(config)
    query, key = projected_widths(config)
    heads = int(config.num_attention_heads)
    always = size * 2 * (width + query // heads) + 16
    if length <= LONG or not in_pieces:
        return length * (always + size * (2 * width + 3 * max(inner, query + key)))
    attention = length * (size * (width + 2 * (query + key)) + 4 * heads)
    mlp = length * size * 3 * width + PIECE * size * 3 * inner
    return length * always + max(attention, mlp)


def peak_bytes(model: PreTrainedModel, length: int, *, backward: bool, trained: int = 0) -> float:
    """Estimated peak memory of `token_losses`, or of a gradient under `recomputing`, with weights.

    It is counted from a Llama's layer at the model's dtype. What SmolLM2 needed on an H100, as a
    share of the estimate (results/gpu/90_cost):

        scoring 65,536 to 262,144 tokens        1.01 to 1.04, above the weights
        gradients of the factors at 16,384      0.95, above the weights
        training on 65,536                      0.90, above weights and moments

    Args:
        model: a Hugging Face causal language model; it may be on the "meta" device.
        length: tokens.
        backward: whether there is a backward pass.
        trained: weights that are fine-tuned, each with a gradient and Adam's two moments; all of
            the model's weights are then held in float32, and cast for the products.
    """
    config = model.config.get_text_config()
    width, size = config.hidden_size, model.dtype.itemsize
    weights = sum(p.numel() for p in model.parameters())
    wide = 4 if size < 4 else 0  # a copy in float32, where there is need of one
    held = (4 + (size if wide else 0)) * weights + 12 * trained if trained else size * weights
    vocabulary: int = model.get_input_embeddings().weight.shape[0]
    chunk = min(length, HEAD_CHUNK) * vocabulary
    if not backward:
        chunk = min(length, head_rows(vocabulary, model.device)) * vocabulary
        # Logits, the same as float32, their losses; and the hidden states twice.
        head = chunk * (size + wide + 4) + 2 * length * size * width
        return float(held + max(activation_bytes(config, length, model.dtype), head))
    # Each layer's input (weights in float32 make it float32), attention's output there, and the
    # logarithm of its denominator for each head, in float32.
    attended = size * projected_widths(config)[0] + 4 * config.num_attention_heads
    inputs = (4 if trained else size) * width * (config.num_hidden_layers + 1)
    kept = length * (inputs + attended * config.num_hidden_layers)
    # Logits, the same as float32, a gradient of each, and their softmax.
    head = chunk * (2 * (size + wide) + 4)
    return float(held + kept + max(_layer_bytes(config, length, size), head))


def saving_memory(model: PreTrainedModel, length: int) -> contextlib.AbstractContextManager[None]:
    """`recomputing`, unless a quarter of the free memory holds what all layers compute.

    Gradients are the same either way; to compute nothing twice is faster.
    """
    config = model.config.get_text_config()
    everything = config.num_hidden_layers * _layer_bytes(config, length, model.dtype.itemsize)
    on_gpu = model.device.type == "cuda"
    free = torch.cuda.mem_get_info(model.device)[0] if on_gpu else psutil.virtual_memory().available
    return contextlib.nullcontext() if everything <= free / 4 else recomputing(model)


def _layer_bytes(config: PreTrainedConfig, length: int, size: int) -> int:
    """What a Llama's layer keeps for its backward pass, and what that takes on top."""
    # Two norms in float32; of attention its inputs and outputs, of the MLP four tensors and three
    # gradients.
    norms = 24 * config.hidden_size
    products = size * (2 * sum(projected_widths(config)) + 7 * _inner(config))
    return int(length * (norms + products))


def projected_widths(config: PreTrainedConfig) -> tuple[int, int]:
    """The width of a layer's queries, and of its keys, which groups of heads share."""
    heads = config.num_attention_heads
    values = stated_values(config)  # some fields differ by layer in Gemma 4: full attention counts
    width = int(head_dim(values))
    return heads * width, values.get("num_key_value_heads", heads) * width


def _inner(config: PreTrainedConfig) -> int:
    return int(getattr(config, "intermediate_size", None) or 4 * config.hidden_size)


def forward_flops(model: PreTrainedModel, length: int) -> float:
    """Estimated floating point operations of one forward pass; the model may be a "meta" one.

    Counted are two per weight and token, without the embedding, which is a look-up. On top come
    attention's two products with the tokens before each one, which are half of all. A mixture of
    experts counts as if all of them were at work.
    """
    config = model.config.get_text_config()
    table, head = model.get_input_embeddings().weight, model.get_output_embeddings()
    weights: int = sum(p.numel() for p in model.parameters() if p.ndim > 1)
    if head is None or head.weight is not table:
        weights -= int(table.numel())
    query, _ = projected_widths(config)
    return 2.0 * length * (weights + int(config.num_hidden_layers) * length * query)
