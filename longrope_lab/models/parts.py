"""The parts of a causal language model: what reads the tokens, and the head that predicts.

Models for text alone name the first part in one way, those that read images or sound wrap it, and
peft wraps both.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def causal_model(model: PreTrainedModel) -> PreTrainedModel:
    """The causal language model itself, where peft wrapped it; its adapters go on acting.

    Raises:
        ValueError: peft puts tokens of its own before each text.
    """
    adapter = getattr(model, "active_peft_config", None)
    if adapter is None:
        return model
    if adapter.is_prompt_learning:
        kind = str(getattr(adapter.peft_type, "value", adapter.peft_type)).lower().replace("_", " ")
        raise ValueError(
            f"the model has {kind} of peft, which puts learned tokens before each text: positions "
            "and lengths are then not those of the text. Use model.get_base_model(), or adapters "
            "that can be merged, such as LoRA"
        )
    inner: PreTrainedModel = model.get_base_model()
    return inner


def is_whole(ids: Tensor) -> bool:
    """Whether a tensor holds whole numbers, as token ids and lengths are."""
    return not (ids.is_floating_point() or ids.is_complex() or ids.dtype == torch.bool)


def token_rows(name: str, given: ArrayLike | Tensor, device: torch.device | None = None) -> Tensor:
    """Token ids as a tensor, whatever its shape.

    Raises:
        ValueError: rows of different lengths, which make none.
    """
    try:
        return torch.as_tensor(given, device=device)
    except (TypeError, ValueError):
        raise ValueError(
            f"{name} are {given!r:.60}: give numbers, in rows of one length; left_padded makes "
            "such rows"
        ) from None


def check_is_model(model: object) -> None:
    """Refuse a module that is not of transformers.

    Raises:
        ValueError: it has no config.
    """
    if not hasattr(model, "config"):
        inside = ", such as its lm" if hasattr(model, "lm") else ""
        raise ValueError(
            f"{type(model).__name__} is no Hugging Face model (it has no config): pass a causal "
            f"language model, as load_model returns it{inside}"
        )


def check_has_weights(model: PreTrainedModel) -> None:
    """Refuse a model of shapes alone, as ``torch.device("meta")`` makes it.

    Raises:
        ValueError: its weights are on the "meta" device, or it is no model of transformers.
    """
    if isinstance(model, nn.Module):
        check_is_model(model)
    if getattr(model, "device", torch.device("cpu")).type == "meta":
        raise ValueError(
            f"{type(model).__name__} is on the 'meta' device, which holds no numbers: load its "
            "weights, for example by load_model"
        )


def body_of(model: PreTrainedModel) -> nn.Module:
    """The part of a causal language model before its head.

    Raises:
        ValueError: there is no such part.
    """
    body: nn.Module = model.base_model
    if body is not model:
        return body
    parts: list[nn.Module] = [
        part for part in model.children() if hasattr(part, "get_input_embeddings")
    ]
    if len(parts) != 1:  # the text model of Llama 3.2 Vision has one, by another name
        raise ValueError(
            f"{type(model).__name__} does not say which part of it comes before the head: only "
            "causal language models of transformers can be scored"
        )
    return parts[0]


def called_by_head(model: PreTrainedModel) -> list[nn.Module]:
    """What a head may call for its hidden states: the body, or the decoder that a body wraps.

    BART's wraps one, and its head calls that.
    """
    body = body_of(model)
    decoder = model.get_decoder() if hasattr(model, "get_decoder") else body
    return [body, *(part for part in body.children() if part is decoder)]


def read_tokens(model: PreTrainedModel, ids: Tensor, position_ids: Tensor | None = None) -> Tensor:
    """What the body hands to the head, (B, T) -> (B, T, width); no keys are cached.

    Args:
        model: a Hugging Face causal language model.
        ids: (B, T).
        position_ids: (1, T), where they do not count from 0 on.

    Raises:
        ValueError: the model reads more than the tokens, or it is not known where its head begins.
    """
    where = {} if position_ids is None else {"position_ids": position_ids}
    output = body_of(causal_model(model))(input_ids=ids, use_cache=False, **where)
    hidden: Tensor | None = getattr(output, "last_hidden_state", None)
    if hidden is None or hidden.shape[:2] != ids.shape:
        raise ValueError(
            f"{type(model).__name__} hands no hidden state per token to its head: only models that "
            "predict a text token by token can be scored"
        )
    return hidden


class Handed(dict[str, Tensor]):
    """What the body hands to the head: hidden states, and nothing else that a head looks for.

    A mixture of experts looks for `router_logits`, a model that reads images for their features.
    """

    def __getattr__(self, name: str) -> Tensor | None:
        if name.startswith("__"):
            raise AttributeError(name)
        return self.get(name)

    def __getitem__(self, key: Any) -> Any:
        if isinstance(key, str):
            return self.get(key)
        if isinstance(key, int) and key != 0:  # ProphetNet's head reads n-grams
            raise ValueError("its head reads more than one hidden state per token: no scores here")
        return tuple(self.values())[key]
