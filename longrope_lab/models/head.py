"""The head of a model, a chunk of hidden states at a time, and the losses of its logits."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from .parts import Handed, called_by_head, causal_model
from .stand_in import StandIn

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# Head rows at a time: 1024 rows of a 49k vocabulary are 0.2 GB in float32.
HEAD_CHUNK = 1024

# On a GPU a call of the head costs more than its work on so few rows. There it takes as many as
# fill this many logits, 1 GiB in float32, between HEAD_CHUNK and MOST_ROWS.
GPU_LOGITS, MOST_ROWS = 2**28, 8192

# Losses (N,) of logits (N, V) and the tokens that came (N,).
Losses = Callable[[Tensor, Tensor], Tensor]


# What makes losses of logits now, where it is not `losses_of`.
LOSSES: ContextVar[Losses] = ContextVar("LOSSES")


def head_rows(vocabulary: int, device: torch.device) -> int:
    """Hidden states that the head of such a vocabulary takes at a time."""
    if device.type != "cuda":
        return HEAD_CHUNK
    return max(HEAD_CHUNK, min(MOST_ROWS, GPU_LOGITS // vocabulary // HEAD_CHUNK * HEAD_CHUNK))


def chunked_logits(
    model: PreTrainedModel, hidden: Tensor, chunk: int
) -> Iterator[tuple[int, Tensor]]:
    """(start, logits) for `chunk` rows at a time of hidden states (1, T, width).

    Logits are (rows, V), float32.
    """
    for start in range(0, hidden.shape[1], chunk):
        yield start, logits_of(model, hidden[:, start : start + chunk])[0].float()


def chunked_losses(model: PreTrainedModel, hidden: Tensor, targets: Tensor, chunk: int) -> Tensor:
    """Losses (T,), float32, of hidden states (1, T, width) and the tokens (T,) that came.

    The head takes `chunk` rows at a time, and nothing waits for a GPU.
    """
    losses, parts = LOSSES.get(losses_of), []
    for start in range(0, hidden.shape[1], chunk):
        rows = slice(start, start + chunk)
        parts.append(losses(logits_of(model, hidden[:, rows])[0], targets[rows]))
    return torch.cat(parts)


def losses_of(logits: Tensor, targets: Tensor) -> Tensor:
    """Minus the log-probabilities, float32, of tokens (N,) under logits (N, V) of any type.

    Logits of 16 bits are read as they are, where the machine's kernel reads them into float32:
    it rounds nothing, and spares a copy of twice their size.
    """
    if logits.is_cuda and logits.dtype in (torch.bfloat16, torch.float16):
        with contextlib.suppress(RuntimeError):  # kernels of older versions read float16 alone
            logs = torch._log_softmax(logits, -1, True)
            return -logs.gather(-1, targets[:, None])[:, 0]
    return F.cross_entropy(logits.float(), targets, reduction="none")


def logits_of(model: PreTrainedModel, rows: Tensor) -> Tensor:
    """Logits (B, rows, V) of hidden states (B, rows, width).

    The model's own forward computes them, with a stand-in for its decoder that hands over the rows.
    Whatever a model does to its logits (a scale, a soft cap, a bias) is so done here, too.

    Raises:
        ValueError: the model does not call that part.
    """
    model = causal_model(model)
    calls = []

    def hand_over(*args: object, **kwargs: object) -> Handed:
        calls.append(1)
        return Handed(last_hidden_state=rows)

    ids = torch.zeros(rows.shape[:2], dtype=torch.long, device=rows.device)
    with contextlib.ExitStack() as stand_ins:
        for part in called_by_head(model):
            stand_ins.enter_context(StandIn(part, hand_over))
        logits: Tensor = model(input_ids=ids).logits
    if not calls:  # they are logits of the ids above, which stand for nothing
        raise ValueError(f"{type(model)} does not call the part before its head: it cannot be read")
    return logits
