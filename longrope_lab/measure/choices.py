"""Answers by choice: which of several continuations of one long text does a model find likeliest?

A small model may know an answer that it does not write. Its log-probabilities tell: chance is
known, and the loss says how far a wrong choice was from the right one.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from ..models.forward import fast_attention, forget_lengths
from ..models.rotary import scaled
from ..rope.schedule import Scaling
from ..texts.needle_writing import ids_of
from ..texts.tokens import opening
from .stats import bootstrap_interval, groups_of, share_interval

if TYPE_CHECKING:
    from transformers import Cache, PreTrainedModel, PreTrainedTokenizerBase

COLUMNS = [
    "scaling", "task", "length", "trial", "question", "read", "examples", "in_sight", "choices",
    "expected", "answer", "loss", "correct",
]  # fmt: skip

SUMMARY = [
    "questions", "examples", "read", "accuracy", "low", "high", "chance", "beats_chance",
    "possible", "loss", "loss_low", "loss_high", "even",
]  # fmt: skip

# Tokens of a text, times the rows that read on from it together: their keys are copied.
TOGETHER = 32_768

# Rope types whose factors follow the length, so that cached keys and new ones might differ.
BY_LENGTH = ("dynamic", "longrope")


@dataclass(frozen=True)
class Asked:
    """A question after a text, as token ids.

    Args:
        lead: what stands between the text and each choice; at least one token.
        choices: continuations, at least one token each.
        names: of the choices, in words.
        right: index of the right one.
    """

    lead: list[int]
    choices: tuple[list[int], ...]
    names: tuple[str, ...]
    right: int

    @property
    def tokens(self) -> int:
        """Of the lead with the longest choice."""
        return len(self.lead) + max(map(len, self.choices))

    def row(self, losses: NDArray[np.float64]) -> tuple[object, ...]:
        """The end of its row in a table, from `choices` on: the loss of each choice is in nats."""
        best = int(losses.argmin())
        # The choices alone are weighed: minus the log of the right one's share.
        loss = float(losses[self.right] + np.logaddexp.reduce(-losses))
        said = len(self.choices), self.names[self.right], self.names[best]
        return *said, loss, best == self.right


def beginning(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """What the tokenizer puts before a text; nothing, for many."""
    return opening("a", tokenizer)[: -len(ids_of("a", tokenizer))]


def nothing(tokenizer: PreTrainedTokenizerBase) -> int:
    """The token that stands for no text before a question, as in benchmarks."""
    first = tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id
    return int(first)


def choice_losses(
    model: PreTrainedModel,
    read: Sequence[int],
    asked: Sequence[Asked],
    scaling: Scaling | None,
) -> list[NDArray[np.float64]]:
    """The loss of each choice of each question after a text, which the model reads once.

    Each question follows the text alone, and none sees another. All are under the scaling for the
    longest of them, so that cached keys and new ones turn alike.

    Args:
        model: a Hugging Face causal language model.
        read: token ids of the text.
        asked: questions.
        scaling: None for the model as it stands.

    Returns:
        For each question its choices' losses, (choices,), in nats: minus the log-probability of all
        tokens of the choice after text and lead.

    Raises:
        ValueError: no scaling is given, and the model's own factors depend on the length.
    """
    _check_fixed(model, scaling)
    length = len(read) + max(question.tokens for question in asked)
    after: dict[tuple[int, ...], list[tuple[int, int]]] = {}  # labels of one token share a row
    for number, question in enumerate(asked):
        for place, choice in enumerate(question.choices):
            after.setdefault((*question.lead, *choice[:-1]), []).append((number, place))
    losses = [np.zeros(len(question.choices)) for question in asked]
    rows, most = list(after), max(TOGETHER // max(len(read), 1), 1)
    with torch.inference_mode(), fast_attention(), scaled(model, scaling, length=length):
        forget_lengths(model)
        ids = torch.tensor([[*read]], device=model.device)  # (1, T)
        keys = model(input_ids=ids, use_cache=True, logits_to_keep=1).past_key_values
        for some in (rows[start : start + most] for start in range(0, len(rows), most)):
            for row, logits in zip(some, _logits_after(model, keys, some), strict=True):
                for number, place in after[row]:
                    losses[number][place] = _loss(logits, asked[number], place)
    return losses


def _logits_after(
    model: PreTrainedModel, keys: Cache, rows: Sequence[tuple[int, ...]]
) -> torch.Tensor:
    """Logits (B, T, V) of several continuations of a text, from its keys and values.

    Shorter rows are filled up on the right, which no token before sees.
    """
    ids = torch.zeros(len(rows), max(map(len, rows)), dtype=torch.long)
    for place, row in enumerate(rows):
        ids[place, : len(row)] = torch.tensor(row)
    own = copy.deepcopy(keys)  # a pass adds to it
    own.batch_repeat_interleave(len(rows))
    logits: torch.Tensor = model(
        input_ids=ids.to(model.device), past_key_values=own, use_cache=True
    ).logits
    return logits


def _loss(logits: torch.Tensor, asked: Asked, place: int) -> float:
    """The loss of a choice, from the logits (T, V) of its row."""
    choice, first = asked.choices[place], len(asked.lead) - 1
    logs = logits[first : first + len(choice)].double().log_softmax(-1)
    targets = torch.tensor(choice, device=logits.device)
    return -float(logs.gather(1, targets[:, None]).sum())


def _check_fixed(model: PreTrainedModel, scaling: Scaling | None) -> None:
    """Refuse a model whose own factors might change between a text and a question after it."""
    if scaling is not None:
        return
    parameters = getattr(model.config.get_text_config(), "rope_parameters", None) or {}
    kinds = [p.get("rope_type") for p in (parameters, *parameters.values()) if isinstance(p, dict)]
    for kind in BY_LENGTH:
        if kind in kinds:
            raise ValueError(
                f"the model's own factors ({kind}) depend on the length: pass scalings="
                "{'extended model': lab.scaling_from_config(model.config)}, which fixes them"
            )


def choice_summary(
    table: pd.DataFrame, by: tuple[str, ...] = ("scaling", "task", "length")
) -> pd.DataFrame:
    """The accuracy of answers by choice, against chance.

    Intervals count each question. Those of one prompt share its text, so with few prompts the
    intervals are somewhat too narrow.

    Args:
        table: as `many_examples` or `book_questions` returns it.
        by: columns whose values make a group.

    Returns:
        One row per group: the columns of `by`, questions, examples and read (the mean of each),
        accuracy, low, high (its 95 % Wilson interval), chance (of guessing), beats_chance (whether
        the whole interval lies above it), possible (what a perfect reader of as many tokens scores,
        who guesses where the answer is out of sight), loss, loss_low, loss_high (the mean in nats,
        and its 95 % bootstrap interval), even (the loss of one who finds all choices alike).

    Raises:
        ValueError: no rows, or no such column.
    """
    rows = []
    for key, group in groups_of(table, by, "many_examples or book_questions", *COLUMNS[4:]):
        chance = 1 / group["choices"]
        possible = chance.where(~group["in_sight"], 1.0)
        sizes = len(group), group["examples"].mean(), group["read"].mean()
        shares = group["correct"].mean(), *share_interval(group["correct"].astype(float))
        guessed = chance.mean(), shares[1] > chance.mean(), possible.mean()
        losses = group["loss"].mean(), *bootstrap_interval(group["loss"])
        rows.append((*key, *sizes, *shares, *guessed, *losses, np.log(group["choices"]).mean()))
    return pd.DataFrame(rows, columns=[*by, *SUMMARY])
