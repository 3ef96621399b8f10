"""A fresh decoder whose context can be extended, as one PyTorch module.

It is for a model of one's own, made from nothing::

    model = lab.LongRoPEModel(d_model=512, n_heads=8, num_layers=6, base_length=4096)
    ...  # train it: model.lm(input_ids=ids, labels=ids).loss is the loss of the next token;
    # or leave that to extend_context, which trains a model that only guesses
    found = model.extend_context("book.txt", target_length=16384)
    hidden = model(ids)  # (B, T) token ids or (B, T, d_model) embeddings, T up to 16384 now
    lab.perplexity(model.lm, docs, [4096, 16384], {"found": model.scaling})

The decoder is transformers' Llama; the search, the scaling and the texts are those of the other
modules.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn

from ..common.checks import above, seed_of, unknown, whole
from ..common.files import Json
from ..models.estimates import memory_shortage
from ..models.read_config import spec_from_config
from ..models.rotary import apply_scaling, rope_spec, scaled
from ..rope.methods import rope_scaling
from ..rope.scaling import RopeScaling
from ..rope.schedule import Scaling
from ..rope.spec import check_target
from ..searches.budget import Budget
from ..searches.gradient import Gradient
from ..searches.rounds import SearchResult
from ..searches.run import search
from ..searches.settings import Settings, settings_of
from ..texts.tokens import Document, check_ids
from .given_texts import documents_of, other_texts
from .learning import gained, reading, train_for

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

# What to do with a model that guesses.
UNTRAINED = ("train", "refuse", "search")

# After a short training, factors may matter little. Two starts are measured without gradients, at a
# quarter of the price, before a step is taken in what time is left.
FIRST_LOOK = Gradient(initial=("yarn", "none"))


class LongRoPEModel(nn.Module):
    """A Llama-style decoder with random weights: token ids or embeddings in, hidden states out.

    `lm` is the Hugging Face model inside, with its head: what takes a model elsewhere in this
    package takes it, and training on next tokens goes through it. A state dict holds the scaling,
    too, so that `load_state_dict` installs it.

    Args:
        d_model: width of the hidden states; each of the `n_heads` heads takes an equal share of it,
            an even number of dimensions.
        n_heads: H, attention heads, each with its own keys and values.
        num_layers: decoder layers.
        base_length: L, the window in tokens that the model is to be trained for.
        vocab_size: V; the lab model's tokenizer has 4096 tokens.
        intermediate_size: width inside the feed-forward layers; 8/3 of d_model as in Llama (arXiv
            2302.13971, section 2.2), up to the next multiple of 64, unless given.
        base: of the rotary frequencies.
        seed: of the weights; PyTorch's own random numbers stay where they were.

    Raises:
        ValueError: a size that is not a whole number from 1, heads that do not divide d_model, an
            odd head dimension.
    """

    def __init__(
        self,
        d_model: int = 512,
        n_heads: int = 8,
        num_layers: int = 6,
        base_length: int = 4096,
        *,
        vocab_size: int = 4096,
        intermediate_size: int | None = None,
        base: float = 10_000.0,
        seed: int = 0,
    ) -> None:
        from transformers import LlamaConfig, LlamaForCausalLM

        super().__init__()
        d_model, n_heads = whole("d_model", d_model, 1), whole("n_heads", n_heads, 1)
        _check_heads(d_model, n_heads)
        if intermediate_size is None:
            intermediate_size = -(-8 * d_model // (3 * 64)) * 64
        config = LlamaConfig(
            vocab_size=whole("vocab_size", vocab_size, 1),
            hidden_size=d_model,
            intermediate_size=whole("intermediate_size", intermediate_size, 1),
            num_hidden_layers=whole("num_layers", num_layers, 1),
            num_attention_heads=n_heads,
            max_position_embeddings=base_length,
            rope_parameters={"rope_type": "default", "rope_theta": base},
            bos_token_id=None,  # those of a tokenizer that is not known here
            eos_token_id=None,
        )
        # Refuses a base or window that is not one.
        self.base_length = spec_from_config(config).window
        if shortage := memory_shortage(config, 0, torch.device("cpu"), torch.float32):
            raise ValueError(f"the model is too large: it takes {shortage}. Make a smaller one")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed_of(seed))
            self.lm: PreTrainedModel = LlamaForCausalLM(config)
        self._in_place: tuple[RopeScaling, apply_scaling] | None = None

    @property
    def scaling(self) -> RopeScaling | None:
        """The scaling in place, None before an extension.

        Another can be assigned, or None to take it out.
        """
        return None if self._in_place is None else self._in_place[0]

    @scaling.setter
    def scaling(self, scaling: RopeScaling | None) -> None:
        if not isinstance(scaling, RopeScaling | None):
            raise ValueError(f"scaling is {scaling!r:.60}: it must be a RopeScaling or None")
        if scaling is not None and scaling.spec.window != self.base_length:
            raise ValueError(
                f"this scaling extends a window of {scaling.spec.window} tokens, and base_length "
                f"is {self.base_length}: make it from rope_spec(model.lm)"
            )
        with scaled(self.lm, scaling):
            pass  # refuses one for another embedding while the old one is still in place
        if self._in_place is not None:
            self._in_place[1].restore()
        self._in_place = None if scaling is None else (scaling, apply_scaling(self.lm, scaling))

    @property
    def max_length(self) -> int:
        """Tokens that the model takes now: the scaling's target, or base_length without one."""
        return self.base_length if self.scaling is None else self.scaling.target_length

    def forward(self, inputs: Tensor) -> Tensor:
        """Hidden states (B, T, d_model) after the last norm.

        Args:
            inputs: token ids (B, T), whole numbers, or embeddings (B, T, d_model), floating point;
                B and T at least 1.

        Raises:
            ValueError: another shape, a token id outside the vocabulary, or more than `max_length`
                tokens.
        """
        embeddings = inputs.is_floating_point()
        self._check_shape(inputs, embeddings)
        if inputs.shape[1] > self.max_length:
            raise ValueError(
                f"inputs have {inputs.shape[1]:,} tokens and the window is {self.max_length:,}: "
                "give shorter ones, or extend it first with extend_context(data, "
                f"target_length={inputs.shape[1]})"
            )
        if embeddings:
            given = {"inputs_embeds": inputs}
        else:
            given = {"input_ids": inputs.long()}
            self._check_ids(given["input_ids"])
        hidden: Tensor = self.lm.base_model(**given, use_cache=False).last_hidden_state
        return hidden

    def extend_context(
        self,
        data: str | os.PathLike[str] | ArrayLike | Tensor,
        target_length: int,
        *,
        tokenizer: PreTrainedTokenizerBase | None = None,
        documents: int = 1,
        method: str | Settings = "gradient",
        untrained: str = "train",
        seconds: float = 60.0,
        **options: Any,
    ) -> SearchResult:
        """Search a scaling to `target_length` tokens on `data`, keep it, and print what it gained.

        It always starts from base_length: a second call replaces what the first one found. The
        search minimises the loss of the next token through the head of `lm`. Random weights cannot
        tell factors apart: a model whose loss is no better than a guess, ln V, is trained first.

        Args:
            data: token ids (T,); a text; or what `load_corpus` takes, a path or the name of a
                corpus (its validation split). A string is a text if it has a line break or more
                than 1,000 characters.
            target_length: L' in tokens, at least base_length.
            tokenizer: turns text into ids; the lab model's unless given.
            documents: how many to measure on: documents of a corpus that have `target_length`
                tokens, or stretches of that length from the beginning of a text or of ids.
            method: of `search`, a name or settings.
            untrained: what to do with a model that guesses: "train" it on the other texts of
                `data`, or on all of it where there are none; "refuse" it; or "search" all the same.
            seconds: where it is trained, half of them for that, and half for the search unless it
                has a `budget`. Training takes thirty steps at least. The search measures YaRN and
                no scaling, and goes on from the better one. So short a training makes a
                poor model: it shows the way.
            options: of `search`: budget, space, seed, checkpoint and so on.

        Returns:
            What `search` returns; its `best` is in `scaling` now. If it fails, what was in place
            before stays.

        Raises:
            ValueError: a target below base_length, too little data, ids outside the vocabulary, a
                model that guesses, where that is refused or training did not help, or what
                `load_corpus` and `search` refuse.
            FileNotFoundError: a path with nothing there.
        """
        target_length = check_target(rope_spec(self.lm), target_length)
        if untrained not in UNTRAINED:
            raise unknown("untrained", untrained, UNTRAINED)
        seconds = above("seconds", seconds, 0)
        docs = documents_of(data, target_length, documents, tokenizer)
        for doc in docs:
            self._check_ids(torch.from_numpy(doc.ids))
        settings_of(method)  # refuses an unknown name before the training
        texts = partial(other_texts, data, docs, target_length, tokenizer)
        if untrained != "search" and self._learns(docs, texts, untrained, seconds):
            options = {"budget": Budget(seconds=seconds / 2)} | options
            method = FIRST_LOOK if method == "gradient" else method
        found = search(self.lm, docs, target_length, method, **options)
        with scaled(self.lm, self._unscaled(target_length)):
            before = reading(self.lm, docs, target_length, options.get("last"))
        print(*gained(before.loss, found.best_loss, target_length), sep="\n")
        self.scaling = found.best
        return found

    def _unscaled(self, length: int) -> Scaling:
        """No scaling, in place of one that is on the model."""
        return rope_scaling(rope_spec(self.lm), "none", length)

    def _learns(
        self,
        docs: list[Document],
        texts: Callable[[], list[Document]],
        untrained: str,
        seconds: float,
    ) -> bool:
        """Train a model that guesses on other texts; whether it did."""
        with scaled(self.lm, self._unscaled(self.base_length)):
            before = reading(self.lm, docs, self.base_length)
            if not before.guesses:
                return False
            if untrained == "refuse":
                raise ValueError(
                    f"this model guesses: {before}. Train model.lm first, or pass untrained='train'"
                )
            print(f"This model guesses: {before}. It is trained for {seconds / 2:g} s first.")
            others = texts()
            for doc in others:
                self._check_ids(torch.from_numpy(doc.ids))
            done = train_for(self.lm, others, self.base_length, seconds / 2, seed=0)
            after = reading(self.lm, docs, self.base_length)
        if after.guesses:
            raise ValueError(
                f"after {done} this model still guesses: {after}. Give more seconds, or texts that "
                "can be learnt"
            )
        print(f"Trained on {done}: {after.loss:.2f} nats per token.")
        return True

    def _check_shape(self, inputs: Tensor, embeddings: bool) -> None:
        width = self.lm.config.hidden_size
        fits = inputs.ndim == 2 + embeddings and inputs.numel() and inputs.dtype != torch.bool
        if not fits or (embeddings and inputs.shape[-1] != width):
            raise ValueError(
                f"inputs are {inputs.dtype} of shape {tuple(inputs.shape)}: give token ids (B, T) "
                f"as whole numbers, or embeddings (B, T, {width}) as floating point, with at least "
                "one token"
            )

    def _check_ids(self, ids: Tensor) -> None:
        check_ids(ids, self.lm.config.vocab_size, "make the model with vocab_size=len(tokenizer)")

    def get_extra_state(self) -> Json:
        """The scaling and base_length, for the state dict."""
        scaling = None if self.scaling is None else self.scaling.to_dict()
        return {"scaling": scaling, "base_length": self.base_length}

    def set_extra_state(self, state: Json) -> None:
        """Install the scaling of a state dict.

        Raises:
            ValueError: it is of a model of another base_length, or for another embedding.
        """
        theirs = state.get("base_length", self.base_length)  # the release before kept none
        if theirs != self.base_length:
            raise ValueError(
                f"the state dict is of a model with base_length={theirs}, and this has "
                f"{self.base_length}: make it with that one"
            )
        self.scaling = (
            None
            if state["scaling"] is None
            else RopeScaling.from_dict(state["scaling"], "the state dict")
        )


def _check_heads(d_model: int, n_heads: int) -> None:
    if d_model % n_heads:
        raise ValueError(
            f"d_model {d_model} is no multiple of n_heads {n_heads}: each head takes an equal "
            "share of it"
        )
    if d_model // n_heads % 2:
        raise ValueError(
            f"d_model {d_model} over n_heads {n_heads} is an odd head dimension of "
            f"{d_model // n_heads}: rotary embeddings turn pairs of dimensions, so it must be even"
        )
