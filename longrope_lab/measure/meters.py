"""The meters of `cost`: seconds, peak memory, and attention's share of a profile."""

from __future__ import annotations

import re
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import psutil
import torch
from torch import Tensor

from ..common.progress import progress
from ..models.compiling import compiled
from ..models.estimates import GIB, forward_flops
from ..models.forward import token_losses

if sys.platform != "win32":
    import resource

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def seconds_of(
    function: Callable[[PreTrainedModel, Tensor], Tensor], model: PreTrainedModel, ids: Tensor
) -> float:
    """How long a function of a model and token ids (T,) takes."""
    started = time.perf_counter()
    function(model, ids).sum().item()  # the sum on the CPU: a GPU has finished when it is there
    return time.perf_counter() - started


def compiled_seconds(model: PreTrainedModel, texts: Sequence[Tensor], repeats: int) -> list[float]:
    """How long scoring each text (T,) takes through `compiled` layers, in seconds.

    Each runs once unmeasured, in which it is compiled; then so many times, and the median counts.
    All are nan where the compiler fails, since the layers are then read as they are.
    """
    found = []
    with compiled(model) as compiler:
        for ids in progress(texts, "scoring cost, compiled"):
            seconds_of(token_losses, model, ids)
            found.append(
                statistics.median(seconds_of(token_losses, model, ids) for _ in range(repeats))
            )
    return [float("nan")] * len(texts) if compiler.failed else found


def operations_per_second(model: PreTrainedModel, length: int) -> float:
    """How many floating point operations per second the model scores so many tokens at.

    It is the quickest of three forward passes, after one that warms up; operations are estimated,
    see `forward_flops`.
    """
    vocabulary = model.get_input_embeddings().weight.shape[0]
    ids = torch.arange(length, device=model.device) % vocabulary
    seconds_of(token_losses, model, ids)
    return forward_flops(model, length) / min(
        seconds_of(token_losses, model, ids) for _ in range(3)
    )


class PeakMemory:
    """The most memory taken since the last reset, above what was in use when this was made.

    On a GPU that is PyTorch's memory. A CPU knows only the most that the process has ever taken,
    which is an upper bound.

    Args:
        device: of the model.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.in_use = (
            int(torch.cuda.memory_allocated(device))
            if device.type == "cuda"
            else int(psutil.Process().memory_info().rss)
        )

    def reset(self) -> None:
        """Count from here on."""
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)

    @property
    def gib(self) -> float:
        """The peak in GiB."""
        if self.device.type == "cuda":
            most = int(torch.cuda.max_memory_allocated(self.device))
        else:
            most = _most_ever()
        # Linux counts the most a few pages behind what is in use.
        return max(most - self.in_use, 0) / GIB


def _most_ever() -> int:
    """The most memory that this process has ever taken, in bytes."""
    if sys.platform == "win32":
        return int(psutil.Process().memory_info().peak_wset)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def attention_share(operations: Iterable[Any], clock: str) -> float:
    """The time in scaled_dot_product_attention, forward and backward, over that in all operations.

    The backward pass of PyTorch's plain attention ("math") is not counted: it has no operation of
    its own. A machine with a fast kernel does not take that one.

    Args:
        operations: what `torch.profiler` has recorded, as its `events()` gives it.
        clock: "cpu", or "device" for what kernels took on a GPU.

    Returns:
        A number from 0 to 1; NaN if the profiler has seen no time at all, as on a GPU whose
        counters it cannot read.
    """
    attention = whole = 0.0
    for operation in operations:
        # A kernel's time is that of the operation that launched it.
        if operation.device_type.name != "CPU":
            continue
        whole += getattr(operation, f"self_{clock}_time_total")
        if _is_attention(operation) and not any(map(_is_attention, _around(operation))):
            attention += getattr(operation, f"{clock}_time_total")  # with all that is inside
    return attention / whole if whole else float("nan")


def _is_attention(operation: Any) -> bool:
    names = r"aten::(scaled_dot_product_attention|_scaled_dot_product_\w+_backward)"
    return bool(re.fullmatch(names, operation.name))


def _around(operation: Any) -> Iterator[Any]:
    """The operations that it is part of: under autocast one attention is inside another."""
    while (operation := operation.cpu_parent) is not None:
        yield operation
