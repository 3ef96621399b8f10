"""Attention to parts of a text, by PyTorch's fused kernels, put together by their log-sum-exp.

Queries that attend to two parts of the keys give two results, each with the logarithm of its
softmax's denominator. These say what each result weighs in the whole (Milakov and Gimelshein, arXiv
1805.02867). Backward, a kernel that is given the whole result and the whole denominator finds the
gradient of its part (Liu et al., Ring Attention, arXiv 2310.01889).

Heads of keys and values may be fewer than those of queries: kernels read groups as they are.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

log = logging.getLogger(__name__)

aten = torch.ops.aten


class Part(NamedTuple):
    """Keys and values (B, H', S, D), and whether query i sees those up to i alone (T = S)."""

    key: Tensor
    value: Tensor
    causal: bool


class Kernel(NamedTuple):
    """A fused kernel.

    Args:
        forward: of a query (B, H, T, D), a part and a scale: the result, as the query, and its
            log-sum-exp (B, H, T), float32.
        backward: of the result's gradient, the query, a part, the result, the log-sum-exp, and the
            scale: the gradients of query, key and value.
    """

    name: str
    forward: Callable[[Tensor, Part, float], tuple[Tensor, Tensor]]
    backward: Callable[[Tensor, Tensor, Part, Tensor, Tensor, float], Sequence[Tensor]]


def _cpu_forward(query: Tensor, part: Part, scale: float) -> tuple[Tensor, Tensor]:
    result, logs = aten._scaled_dot_product_flash_attention_for_cpu(
        query, part.key, part.value, 0.0, part.causal, scale=scale
    )
    return result, logs


def _cpu_backward(
    gradient: Tensor, query: Tensor, part: Part, result: Tensor, logs: Tensor, scale: float
) -> Sequence[Tensor]:
    tensors = gradient, query, part.key, part.value, result, logs
    gradients: Sequence[Tensor] = aten._scaled_dot_product_flash_attention_for_cpu_backward(
        *tensors, 0.0, part.causal, scale=scale
    )
    return gradients


def _flash_forward(query: Tensor, part: Part, scale: float) -> tuple[Tensor, Tensor]:
    result, logs, *_ = aten._scaled_dot_product_flash_attention(
        query, part.key, part.value, 0.0, part.causal, False, scale=scale
    )
    return result, logs


def _flash_backward(
    gradient: Tensor, query: Tensor, part: Part, result: Tensor, logs: Tensor, scale: float
) -> Sequence[Tensor]:
    tensors = gradient, query, part.key, part.value, result, logs
    gradients: Sequence[Tensor] = aten._scaled_dot_product_flash_attention_backward(
        *tensors, None, None, *_lengths(query, part), 0.0, part.causal, *_no_chance(query),
        scale=scale,
    )  # fmt: skip
    return gradients


def _cudnn_forward(query: Tensor, part: Part, scale: float) -> tuple[Tensor, Tensor]:
    result, logs, *_ = aten._scaled_dot_product_cudnn_attention(
        query, part.key, part.value, None, True, 0.0, part.causal, False, scale=scale
    )
    return result, logs.reshape(query.shape[:3])


def _cudnn_backward(
    gradient: Tensor, query: Tensor, part: Part, result: Tensor, logs: Tensor, scale: float
) -> Sequence[Tensor]:
    tensors = gradient, query, part.key, part.value, result, logs[..., None]
    gradients: Sequence[Tensor] = aten._scaled_dot_product_cudnn_attention_backward(
        *tensors, *_no_chance(query), None, None, None, *_lengths(query, part), 0.0, part.causal,
        scale=scale,
    )  # fmt: skip
    return gradients


def _lengths(query: Tensor, part: Part) -> tuple[int, int]:
    return query.shape[2], part.key.shape[2]


def _no_chance(query: Tensor) -> tuple[Tensor, Tensor]:
    """The state of a random generator that drops nothing: no kernel reads it."""
    state = torch.zeros(2, dtype=torch.int64, device=query.device)
    return state, state


CPU = Kernel("CPU flash", _cpu_forward, _cpu_backward)
# cuDNN's kernel is the faster one on recent GPUs.
ON_GPU = [
    Kernel("cuDNN", _cudnn_forward, _cudnn_backward),
    Kernel("flash", _flash_forward, _flash_backward),
]

# Kernels that have refused a call of this process, forward or backward, and are not asked again.
_refused: set[tuple[str, str]] = set()


def _first_that_works(query: Tensor, way: str, *rest: object) -> Sequence[Tensor]:
    """What the fastest kernel gives that takes the call; `way` is "forward" or "backward".

    Raises:
        ValueError: none does.
    """
    errors = []
    for kernel in ON_GPU if query.is_cuda else [CPU]:
        if (kernel.name, way) in _refused:
            continue
        try:
            found: Sequence[Tensor] = getattr(kernel, way)(*rest)
        except torch.OutOfMemoryError:
            raise
        except (RuntimeError, TypeError) as error:
            _refused.add((kernel.name, way))
            errors.append(f"{kernel.name}: {error}")
            log.info("attention %s is not by %s: %s", way, kernel.name, error)
        else:
            return found
    raise ValueError(
        f"no fused kernel attends to parts of a text for {query.dtype} heads of {query.shape[-1]} "
        f"({'; '.join(errors) or 'all have refused before'}): load the model in bfloat16, or read "
        "the text on one GPU"
    )


def attend(query: Tensor, parts: Sequence[Part], scale: float) -> tuple[Tensor, Tensor]:
    """Attention of queries (B, H, T, D) to all parts together.

    Returns:
        The result (B, H, T, D), and its log-sum-exp (B, H, T), float32.

    Raises:
        ValueError: no fused kernel takes such a call.
    """
    result, logs = _first_that_works(query, "forward", query, parts[0], scale)
    for part in parts[1:]:
        other, its = _first_that_works(query, "forward", query, part, scale)
        both = torch.logaddexp(logs, its)
        total = result * (logs - both).exp()[..., None]  # float32
        total += other * (its - both).exp()[..., None]
        result, logs = total.to(query.dtype), both
    return result, logs


def attend_backward(
    gradient: Tensor,
    query: Tensor,
    part: Part,
    attended: tuple[Tensor, Tensor],
    scale: float,
) -> Sequence[Tensor]:
    """Gradients of query, key and value through one part.

    Args:
        gradient: of the whole result, (B, H, T, D).
        query: (B, H, T, D).
        part: one of those that were attended to.
        attended: the whole result and its log-sum-exp, as `attend` gave them.
        scale: of the products.

    Raises:
        ValueError: no fused kernel takes such a call.
    """
    return _first_that_works(query, "backward", gradient, query, part, *attended, scale)
