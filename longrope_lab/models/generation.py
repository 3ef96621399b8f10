"""Generation that stays right where a schedule changes its factors.

Keys in the cache keep the rotation they were made with. If the factors change while tokens are
added (at the border between short and long factors, or with every token under Dynamic NTK), queries
of one rotation meet keys of another. transformers lets that happen in all but the Phi models.

Here each row of a batch has one set of factors from its first token to its last. So every step
gives the logits of a forward pass from scratch under that set.
"""

from __future__ import annotations

import contextlib
import reprlib
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from numpy.typing import ArrayLike
from torch import Tensor

from ..common.checks import whole
from ..rope.schedule import Scaling
from ..texts.tokens import check_ids
from .estimates import check_cache
from .forward import forget_lengths, warn_of_rounded_frequencies
from .parts import causal_model, check_has_weights, is_whole, token_rows
from .rotary import scaled

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# What would bring rows, positions or keys that the lengths counted here know nothing of.
REFUSED = ("past_key_values", "position_ids", "inputs_embeds")

# Of these options, transformers takes any value for True that Python does.
SWITCHES = (
    "do_sample", "use_cache", "return_dict_in_generate", "output_scores", "output_logits",
    "output_attentions", "output_hidden_states", "renormalize_logits", "remove_invalid_values",
)  # fmt: skip


def generate(
    model: PreTrainedModel,
    input_ids: ArrayLike | Tensor,
    schedule: Scaling | None,
    *,
    attention_mask: ArrayLike | Tensor | None = None,
    max_new_tokens: int,
    **options: Any,
) -> Any:
    """The model's own `generate`, each row under one scaling from its first token to its last.

    That is ``schedule.at(prompt tokens + max_new_tokens)``, also where the answer ends early. A
    prompt that stays inside the window with all its new tokens is read with the short factors, and
    one that may cross the border is read with the long ones from the start. So ask for no more new
    tokens than are needed.

    Args:
        model: a Hugging Face causal language model; a scaling that is in place on it comes back
            afterwards.
        input_ids: prompts (B, T), shorter ones padded on the left.
        schedule: the scaling for each length; a single scaling; or None for the model as it stands.
        attention_mask: (B, T), 1 for the tokens of a prompt and 0 for padding; positions are
            counted from it. Without one, all are tokens.
        max_new_tokens: the most tokens that are added to each row.
        options: as the model's `generate` takes them: sampling, beams, `num_return_sequences`, an
            assistant. Rows that it repeats keep the scaling of the row they come from.

    Returns:
        What the model's `generate` returns: token ids (B * num_return_sequences, T + new), unless
        an option asks for more.

    Raises:
        ValueError: prompts that are not (B, T); a mask of another shape, with padding elsewhere
            than on the left, or without a token; padding without a mask; ids that the model has no
            embedding for; `max_new_tokens` below 1; more texts or tokens than the machine can hold;
            an option that brings its own keys, positions or embeddings, or that the model's
            `generate` fails with; prompt tuning of peft; a scaling for another model.
    """
    check_has_weights(model)
    ids = token_rows("input_ids", input_ids, model.device)
    if ids.ndim != 2 or not ids.numel() or not is_whole(ids):
        raise ValueError(
            f"input_ids are {ids.dtype} of shape {tuple(ids.shape)}: prompts are whole token ids "
            "(B, T), at least one token each"
        )
    rule = "it counts tokens, a whole number from 1"
    max_new_tokens = whole("max_new_tokens", max_new_tokens, 1, rule)
    given = [name for name in REFUSED if options.get(name) is not None]
    if given:
        raise ValueError(
            f"{', '.join(given)} cannot be passed: keys and positions follow from the prompts and "
            "their mask, so that all of a row are under one scaling; pass the whole text so far as "
            "input_ids"
        )
    _check_options(options, max_new_tokens)
    check_ids(ids.long(), model.get_input_embeddings().weight.shape[0])
    if schedule is not None:
        causal_model(model)  # refuses one with tokens of its own, which no length counts
    mask = _mask(model, ids, attention_mask, options)
    _check_memory(model, ids, max_new_tokens, options)
    with scaled(model, schedule, length=mask.sum(dim=1) + max_new_tokens):
        forget_lengths(model)
        warn_of_rounded_frequencies(model)
        with _told_with(options):
            return model.generate(
                ids, attention_mask=mask, max_new_tokens=max_new_tokens, **options
            )


def _check_memory(
    model: PreTrainedModel, ids: Tensor, max_new_tokens: int, options: Mapping[str, object]
) -> None:
    """Refuse more rows and tokens than this machine can hold the keys of."""
    each = [options.get(name) or 1 for name in ("num_return_sequences", "num_beams")]
    if options.get("use_cache") is False or not all(isinstance(n, int) for n in each):
        return
    rows = len(ids) * max(n for n in each if isinstance(n, int))
    check_cache(model, rows, ids.shape[1] + max_new_tokens)


def _check_options(options: Mapping[str, object], max_new_tokens: int) -> None:
    """Refuse what transformers would take for another value, or pass over."""
    for name in SWITCHES:
        if options.get(name) is not None and not isinstance(options[name], bool):
            raise ValueError(f"{name} is {options[name]!r}: it must be True or False")
    if options.get("max_length") is not None:
        raise ValueError(
            "max_length is passed over where max_new_tokens is given: leave max_length out"
        )
    pad = options.get("pad_token_id")
    if pad is not None and (isinstance(pad, bool) or not isinstance(pad, int)):
        raise ValueError(f"pad_token_id is {pad!r}: it is a token id, a whole number")
    least = options.get("min_new_tokens")
    if isinstance(least, int) and least > max_new_tokens:
        raise ValueError(
            f"min_new_tokens is {least}, and max_new_tokens {max_new_tokens}: ask for fewer at "
            "least, or for more at most"
        )
    share = options.get("top_p")
    if isinstance(share, int | float) and not 0 < share <= 1:
        raise ValueError(f"top_p is {share}: it is a share, above 0 and at most 1")


@contextlib.contextmanager
def _told_with(options: Mapping[str, object]) -> Iterator[None]:
    """What fails in the block becomes a `ValueError` that shows the options it was called with.

    transformers checks a few of them alone; of the others its words name neither option nor value.
    """
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except Exception as error:
        if not options:
            raise
        given = ", ".join(f"{name}={reprlib.repr(value)}" for name, value in options.items())
        raise ValueError(
            f"generation with {given} fails ({type(error).__name__}: {error}): leave an option "
            "out, or see transformers' GenerationConfig for what it may be"
        ) from error


def _mask(
    model: PreTrainedModel,
    ids: Tensor,
    attention_mask: ArrayLike | Tensor | None,
    options: Mapping[str, Any],
) -> Tensor:
    """The mask (B, T) of whole numbers, in each row zeros and then ones."""
    if attention_mask is None:
        _check_no_padding(ids, options.get("pad_token_id", model.generation_config.pad_token_id))
        return torch.ones_like(ids)
    mask = torch.as_tensor(attention_mask, device=ids.device)
    if mask.shape != ids.shape:
        raise ValueError(
            f"attention_mask has shape {tuple(mask.shape)} and input_ids {tuple(ids.shape)}: give "
            "one number per token"
        )
    if ((mask != 0) & (mask != 1)).any():
        raise ValueError(
            "attention_mask holds other numbers than 0 and 1: 1 marks a token of the prompt, 0 "
            "padding"
        )
    mask = mask.long()
    empty = (mask.sum(dim=1) == 0).nonzero()
    if len(empty):
        raise ValueError(
            f"row {int(empty[0])} of attention_mask is all padding: a prompt needs at least one "
            "token"
        )
    after = (mask.diff(dim=1) < 0).any(dim=1).nonzero()
    if len(after):
        raise ValueError(
            f"row {int(after[0])} of attention_mask has padding after a token: new tokens follow "
            "the last column, so pad on the left (tokenizer.padding_side = 'left')"
        )
    return mask


def left_padded(prompts: Sequence[Sequence[int]]) -> dict[str, Tensor]:
    """Prompts of different lengths as one batch, for `generate`; no padding token is needed.

    >>> lab.left_padded([[5, 6, 7], [8]])["input_ids"]
    tensor([[5, 6, 7],
            [0, 0, 8]])

    Args:
        prompts: token ids of each, without padding.

    Returns:
        {"input_ids": (B, T) of the longest, zeros on the left of the others, "attention_mask": the
        same shape, 1 for the tokens of a prompt}.

    Raises:
        ValueError: no prompts, one without a token, or an id below 0.
    """
    lengths = [len(prompt) for prompt in prompts]
    if not lengths or not min(lengths):
        raise ValueError(
            f"there are {len(lengths)} prompts, of {lengths} tokens: each needs at least one"
        )
    if (lowest := min(map(min, prompts))) < 0:
        raise ValueError(f"a prompt holds {lowest}: token ids are whole numbers from 0")
    ids = torch.zeros(len(lengths), max(lengths), dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        ids[row, -len(prompt) :] = torch.as_tensor(prompt)
        mask[row, -len(prompt) :] = 1
    return {"input_ids": ids, "attention_mask": mask}


def _check_no_padding(ids: Tensor, pad: int | None) -> None:
    """Refuse rows that begin or end with different numbers of padding tokens, without a mask."""
    for side, rows in (("left", ids), ("right", ids.flip(1))):
        count = torch.zeros(1) if pad is None else (rows == pad).long().cumprod(dim=1).sum(dim=1)
        if count.min() < count.max():
            raise ValueError(
                f"the prompts have {int(count.min())} to {int(count.max())} padding tokens ({pad}) "
                f"on the {side}, and there is no mask: pass attention_mask as the tokenizer "
                "returns it (all ones if they are text)"
            )
