"""When processes share a text, and whether what they find together is what one finds alone.

Inside `sharing`, `token_losses` and `mean_loss` read a long text by all processes of
`torch.distributed`, which all call them alike and get the same results.
"""

from __future__ import annotations

import contextlib
import itertools
import weakref
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from ..common.identity import differences, digest
from .find_rotary import answer_of, cos_and_sin, find_rotary, layer_types
from .head import chunked_losses
from .pieces import in_pieces
from .split import Split, gather, split_hidden_states

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# Texts that are shorter take a process each: what they hand one another would cost too much.
SPLIT_FROM = 131_072

# Tokens of the text on which all together are compared with one alone.
COMPARED = 4096

# Whole numbers of as many bytes as the weights, to look at their bits.
BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}

# Losses of one token differ by as much, at the root of the mean square, where nothing is wrong. In
# bfloat16, steps that compiled layers join moved those of 8,192 random tokens by 0.09 (SmolLM2).
NEAR = {torch.bfloat16: 0.25, torch.float16: 0.05}
NEAR_OTHERS = 1e-3


# From how many tokens on texts are shared now; None where none is.
_split_from: ContextVar[int | None] = ContextVar("_split_from", default=None)

# Models whose shared losses were compared in this process.
_compared: weakref.WeakSet[nn.Module] = weakref.WeakSet()


@contextlib.contextmanager
def sharing(split_from: int = SPLIT_FROM) -> Iterator[None]:
    """Let all processes of `torch.distributed` read each long text together.

    Args:
        split_from: tokens from which a text is a long one; at least two per process.
    """
    count = dist.get_world_size()
    token = _split_from.set(max(split_from, 2 * count) if count > 1 else None)
    try:
        yield
    finally:
        _split_from.reset(token)


def is_shared(tokens: int) -> bool:
    """Whether all processes read a text so long together."""
    split_from = _split_from.get()
    return split_from is not None and tokens >= split_from


def check_shared(
    model: PreTrainedModel, ids: Tensor, chunk: int, alone: Callable[[Tensor], Tensor]
) -> None:
    """Refuse to share a text where the result would be wrong; the first time per model it is tried.

    Args:
        model: a Hugging Face causal language model.
        ids: the whole text (B, T).
        chunk: rows that the head takes at a time.
        alone: what this process finds for ids (1, T) without the others.

    Raises:
        ValueError: models or texts differ between processes, several cannot read with this model,
            or what they find is not what one finds; in all processes alike.
    """
    _check_same(model, ids)
    if model not in _compared:
        _check_found(model, ids[:1], chunk, alone)
        _compared.add(model)


def shared_losses(model: PreTrainedModel, ids: Tensor, chunk: int) -> Tensor:
    """Token losses (T - 1,) of ids (1, T), read by all processes together; each has them all."""
    split = Split.here(ids.shape[1])
    positions = split.positions().to(ids.device)
    with in_pieces(model, len(positions), attention=False):
        hidden = split_hidden_states(model, ids, split)
    following = ids[0, (positions + 1).clamp(max=split.tokens - 1)]
    return gather(split, chunked_losses(model, hidden, following, chunk))[: split.tokens - 1]


def own_share(
    model: PreTrainedModel, ids: Tensor, weights: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """What this process adds to a mean loss: hidden states, what follows each, and its weight.

    Args:
        model: a Hugging Face causal language model, the same in all processes.
        ids: the whole text (B, T).
        weights: of all losses, (B, T - 1).

    Returns:
        (B, N, width), (B, N) and (B, N).
    """
    split = Split.here(ids.shape[1])
    positions = split.positions().to(ids.device)
    hidden = split_hidden_states(model, ids, split)
    following = ids[:, (positions + 1).clamp(max=split.tokens - 1)]
    return hidden, following, F.pad(weights, (0, 1))[:, positions]  # what follows the last is none


def summed(own: Tensor) -> Tensor:
    """The sum over processes, of which each gets the gradient of its own summand."""
    return _all_reduced(own.detach()) + (own - own.detach())


def summed_gradient(value: Tensor, positions: Tensor) -> Tensor:
    """A value that all processes have; its gradient through a shared text is the sum of theirs.

    Args:
        value: any.
        positions: of the text, (B, T, 1).
    """
    if not is_shared(positions.shape[1]):
        return value
    value = value.clone()
    if value.requires_grad:  # not so while losses alone are compared
        value.register_hook(_all_reduced)  # type: ignore[no-untyped-call]
    return value


def _all_reduced(own: Tensor) -> Tensor:
    total = own.clone()
    dist.all_reduce(total)
    return total


def _check_same(model: PreTrainedModel, ids: Tensor) -> None:
    own = {"tokens": ids.shape[1], "text": digest(ids.cpu().numpy().tobytes())}
    own |= {"model": weights_digest(model), "rotation": rotation_digest(model, ids.shape[1])}
    everyone: list[dict[str, object]] = [{} for _ in range(dist.get_world_size())]
    dist.all_gather_object(everyone, own)
    for rank, theirs in enumerate(everyone):
        if differ := differences(everyone[0], theirs):
            raise ValueError(
                f"processes 0 and {rank} do not hold the same ({differ}): let all load one model, "
                "and call it with the same documents and scalings in the same order"
            )


def _check_found(
    model: PreTrainedModel, ids: Tensor, chunk: int, alone: Callable[[Tensor], Tensor]
) -> None:
    """Compare what all processes find of a text's first tokens with what one finds."""
    few = ids[:, : max(COMPARED, 2 * dist.get_world_size())]
    with torch.inference_mode():
        both = shared_losses(model, few, chunk), alone(few)
        apart = (both[0].double() - both[1].double()).square().mean().sqrt().float()
        apart = apart.nan_to_num(nan=torch.inf).reshape(1)
        dist.all_reduce(apart, dist.ReduceOp.MAX)
    near = NEAR.get(model.dtype, NEAR_OTHERS)
    if not apart.item() <= near:
        raise ValueError(
            f"{dist.get_world_size()} processes together find other losses than one of them alone, "
            f"apart by {apart.item():.3g} nats per token over {few.shape[1]:,} tokens where "
            f"{near:g} is rounding: this model's layers cannot share a text; read it on one GPU"
        )


def weights_digest(model: PreTrainedModel) -> str:
    """Tells a model from another by all its weights, on whatever device they lie.

    Their bits are summed along each axis as whole numbers, so in any order to the same.
    """
    parts: list[bytes | str] = []
    for name, weight in itertools.chain(model.named_parameters(), model.named_buffers()):
        if "inv_freq" in name:  # which a text may change, and `rotation_digest` tells
            continue
        bits = weight.detach()
        if bits.is_floating_point():
            bits = bits.view(BITS[bits.element_size()])
        parts.append(f"{name} {tuple(weight.shape)} {weight.dtype}")
        axes = range(bits.ndim) if bits.ndim else [()]
        parts += [bits.sum(axis, dtype=torch.int64).cpu().numpy().tobytes() for axis in axes]
    return digest(*parts)


def rotation_digest(model: PreTrainedModel, tokens: int) -> str:
    """Tells one rotation of a text so long from another, by some of its positions."""
    positions = torch.linspace(0, tokens - 1, 65, device=model.device).long()[None]
    x = torch.zeros(*positions.shape, 1, dtype=model.dtype, device=model.device)
    with torch.no_grad():
        answers = [
            answer_of(rotary.module, x, positions, layer_type)
            for rotary in find_rotary(model)
            for layer_type in layer_types(rotary.module)  # Gemma 3 scales one, and has others
        ]
    parts = [part.float() for answer in answers for part in cos_and_sin(answer)]
    return digest(*(part.cpu().numpy().tobytes() for part in parts))
