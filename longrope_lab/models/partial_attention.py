"""Attention to parts of a text, by PyTorch's fused kernels, put together by their log-sum-exp.

Queries that attend to two parts of the keys give two results, each with the logarithm of its
softmax's denominator. These say what each result weighs in the whole (Milakov and Gimelshein, arXiv
1805.02867). Backward, a kernel that is given the whole result and the whole denominator finds the
gradient of its part (Liu et al., Ring Attention, arXiv 2310.01889).

Heads of keys and values may be fewer than those of queries: kernels read groups as they are. That
a kernel is right is not believed but tried, forward and backward, on a short text of such heads.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import torch
from torch import Tensor

aten = torch.ops.aten

# Tokens of either half of the text that kernels are tried on.
TRIED = 64


class Part(NamedTuple):
    """Keys and values (B, H', S, D), and whether query i sees those up to i alone (T = S)."""

    key: Tensor
    value: Tensor
    causal: bool


# What `attend` gives: the result (B, H, T, D), and its log-sum-exp (B, H, T), float32.
Attended = tuple[Tensor, Tensor]

# What a kernel's backward takes between its tensors and the scale, for a query and a part.
Rest = Callable[[Tensor, Part], tuple[object, ...]]


class Kernel(NamedTuple):
    """A fused kernel, and what its two functions take beside tensors, dropout and scale.

    Args:
        name: for errors.
        ahead: of queries, keys and values: the result, the log-sum-exp, and more.
        back: of the result's gradient, these three, the result and the log-sum-exp: the gradients.
        rest: see `Rest`.
        options: what `ahead` takes between the tensors and dropout.
        tail: the shape of its log-sum-exp, after (B, H, T).
    """

    name: str
    ahead: Callable[..., Sequence[Tensor]]
    back: Callable[..., Sequence[Tensor]]
    rest: Rest
    options: tuple[object, ...] = ()
    tail: tuple[int, ...] = ()

    def forward(self, query: Tensor, part: Part, scale: float) -> Attended:
        """The result of one part."""
        given = query, part.key, part.value, *self.options, 0.0, part.causal
        result, logs, *_ = self.ahead(*given, scale=scale)
        return result, logs.reshape(query.shape[:3])

    def backward(
        self, gradient: Tensor, query: Tensor, part: Part, attended: Attended, scale: float
    ) -> Sequence[Tensor]:
        """Gradients of query, key and value through one part.

        Args:
            gradient: of the whole result, (B, H, T, D).
            query: (B, H, T, D).
            part: one of those that were attended to.
            attended: the whole result and its log-sum-exp, as `attend` gave them.
            scale: of the products.
        """
        result, logs = attended
        logs = logs.reshape(*logs.shape, *self.tail)
        given = gradient, query, part.key, part.value, result, logs, *self.rest(query, part)
        return self.back(*given, scale=scale)


def _lengths(query: Tensor, part: Part) -> tuple[object, ...]:
    return query.shape[2], part.key.shape[2], 0.0, part.causal


def _no_chance(query: Tensor) -> tuple[object, ...]:
    """The state of a random generator that drops nothing: no kernel reads it."""
    state = torch.zeros(2, dtype=torch.int64, device=query.device)
    return state, state


CPU = Kernel(
    "CPU flash",
    aten._scaled_dot_product_flash_attention_for_cpu,
    aten._scaled_dot_product_flash_attention_for_cpu_backward,
    lambda query, part: (0.0, part.causal),
)
FLASH = Kernel(
    "flash",
    aten._scaled_dot_product_flash_attention,
    aten._scaled_dot_product_flash_attention_backward,
    lambda query, part: (None, None, *_lengths(query, part), *_no_chance(query)),
)
CUDNN = Kernel(
    "cuDNN",
    aten._scaled_dot_product_cudnn_attention,
    aten._scaled_dot_product_cudnn_attention_backward,
    lambda query, part: (*_no_chance(query), None, None, None, *_lengths(query, part)),
    options=(None, True),
    tail=(1,),
)

# The fastest first: on recent GPUs that is cuDNN's.
KERNELS = {"cpu": [CPU], "cuda": [CUDNN, FLASH]}


def attend(kernel: Kernel, query: Tensor, parts: Sequence[Part], scale: float) -> Attended:
    """Attention of queries (B, H, T, D) to all parts together."""
    result, logs = kernel.forward(query, parts[0], scale)
    for part in parts[1:]:
        other, its = kernel.forward(query, part, scale)
        both = torch.logaddexp(logs, its)
        total = result * (logs - both).exp()[..., None]  # float32
        total += other * (its - both).exp()[..., None]
        result, logs = total.to(query.dtype), both
    return result, logs


def kernel_for(query: Tensor, key: Tensor, value: Tensor) -> Kernel:
    """The fastest kernel that is right for such heads.

    Raises:
        ValueError: none is.
    """
    heads = tuple((each.shape[1], each.shape[3]) for each in (query, key, value))
    return _first_that_is_right(query.device, query.dtype, heads)


@functools.cache
def _first_that_is_right(
    device: torch.device, dtype: torch.dtype, heads: tuple[tuple[int, int], ...]
) -> Kernel:
    # 16 bits of 8 digits (bfloat16) leave 0.06 of the largest value, a wrong sum over a group more.
    near, errors = max(1e-4, 8 * torch.finfo(dtype).eps), []
    # In a thread of its own no context acts that records or keeps what is computed here.
    with ThreadPoolExecutor(1) as thread:
        for kernel in KERNELS.get(device.type, []):
            try:
                off = thread.submit(_off, kernel, device, dtype, heads).result()
            except torch.OutOfMemoryError:
                raise
            except (RuntimeError, TypeError) as error:
                errors.append(f"{kernel.name}: {error}")
                continue
            if off <= near:
                return kernel
            errors.append(f"{kernel.name}: off by {off:.2g} of the largest value")
    raise ValueError(
        f"no fused kernel attends to parts of a text for {dtype} heads of {heads[0][1]} on "
        f"{device.type!r} ({'; '.join(errors) or 'there is none'}): load the model in bfloat16, or "
        "read the text on one GPU"
    )


def _off(
    kernel: Kernel, device: torch.device, dtype: torch.dtype, heads: tuple[tuple[int, int], ...]
) -> float:
    """How far a kernel is from the formula, forward and backward, over the largest value."""
    chance = torch.Generator().manual_seed(0)
    shapes = zip((*heads, (heads[0][0], heads[2][1])), (1, 2, 2, 1), strict=True)
    query, key, value, gradient = (
        torch.randn(1, count, halves * TRIED, width, generator=chance).to(device, dtype)
        for (count, width), halves in shapes
    )
    places = (slice(TRIED, None), True), (slice(TRIED), False)
    parts = [Part(key[:, :, at], value[:, :, at], causal) for at, causal in places]
    scale = heads[0][1] ** -0.5
    attended = attend(kernel, query, parts, scale)
    own, before = (kernel.backward(gradient, query, part, attended, scale) for part in parts)
    joined = (torch.cat(pair, dim=2) for pair in zip(before[1:], own[1:], strict=True))
    found = attended[0], own[0] + before[0], *joined
    expected = _by_formula(query, key, value, scale, gradient)
    return max(
        float((ours.float().cpu() - theirs).abs().max() / theirs.abs().max())
        for ours, theirs in zip(found, expected, strict=True)
    )


def _by_formula(
    query: Tensor, key: Tensor, value: Tensor, scale: float, gradient: Tensor
) -> tuple[Tensor, ...]:
    """Attention of a text's last tokens, and the gradients of the three: in float32, on the CPU."""
    own = [each.detach().float().cpu().requires_grad_() for each in (query, key, value)]
    groups = query.shape[1] // key.shape[1]
    keys, values = (each.repeat_interleave(groups, dim=1) for each in own[1:])
    products = own[0] @ keys.transpose(-1, -2) * scale
    later = torch.ones(products.shape[-2:]).triu(key.shape[2] - query.shape[2] + 1).bool()
    result = products.masked_fill(later, -torch.inf).softmax(-1) @ values
    return result.detach(), *torch.autograd.grad(result, own, gradient.float().cpu())
