"""What a search minimises, and the measuring of one trial.

The objective is the paper's: the mean token loss of the first `target_length` tokens of a few
documents (LongRoPE, arXiv 2402.13753, section 3.2), or of the last tokens of them alone. Of a
document that marks its answers, these alone count (LongRoPE2, arXiv 2502.20082, section 3).
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from ..common.checks import whole
from ..common.identity import digest
from ..models.estimates import saving_memory
from ..models.forward import fast_attention, mean_loss, token_losses
from ..models.rotary import apply_scaling
from ..rope.scaling import RopeScaling
from ..texts.tokens import TELLING, Document
from .weighing import Goal, means_of, weights_of

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

# A backward pass counts as two forward passes, and what may have to be computed again for it as a
# third.
GRADIENT_FORWARDS = 4


@dataclass(frozen=True)
class Race:
    """When to give a trial up: no luck on its remaining documents can save it.

    That is once it misses `limit` even if these go as well as they did for any candidate.

    Args:
        limit: the mean loss to reach, that of the last of the top k.
        floors: the lowest loss that any candidate had on each document.
    """

    limit: float
    floors: tuple[float, ...]

    def lost(self, losses: Sequence[float]) -> bool:
        """Whether a trial with these losses on the first documents is out."""
        return (sum(losses) + sum(self.floors[len(losses) :])) / len(self.floors) > self.limit


@dataclass(frozen=True)
class Trial:
    """Something to measure.

    Args:
        kind: where it comes from: "initial", "mutation", "crossover", "random", "draw", "start",
            "step", "validation"; "result" where what is found is measured once more.
        scaling: what to measure.
        documents: their indices, in the order of measuring.
        gradient: also measure the gradient by the logarithms of the factors and of m.
        race: when to give up.
    """

    kind: str
    scaling: RopeScaling
    documents: tuple[int, ...]
    gradient: bool = False
    race: Race | None = None

    @property
    def in_passing(self) -> bool:
        """Whether its loss is on some documents only, and so never the best."""
        return self.kind in ("start", "step")

    @property
    def forwards(self) -> int:
        """What it costs at most, in forward passes of one document."""
        return len(self.documents) * (GRADIENT_FORWARDS if self.gradient else 1)

    @property
    def digest(self) -> str:
        """Tells this trial from another."""
        words = (self.kind, self.scaling.to_dict(), self.documents, self.gradient, self.race)
        return digest(repr(words))


@dataclass(frozen=True)
class Measured:
    """What came out of a trial.

    Args:
        losses: of each document measured, in nats per token, times its weight (`weights_of`).
        gradient: of the mean loss by log factors (d/2,), then by log m; None if not asked for.
        dropped: whether a race was lost before the last document.
    """

    losses: tuple[float, ...]
    gradient: tuple[float, ...] | None = None
    dropped: bool = False

    @property
    def mean(self) -> float:
        """Over the documents measured; not a number if one of the losses is not."""
        if all(map(math.isfinite, self.losses)):
            return math.fsum(self.losses) / len(self.losses)
        return sum(self.losses)

    @property
    def loss(self) -> float:
        """The mean over documents; infinite if it is not a number, or if the trial was dropped."""
        return self.mean if math.isfinite(self.mean) and not self.dropped else math.inf


@dataclass(frozen=True, eq=False)
class Objective:
    """The documents that a search measures on.

    Args:
        documents: token ids, each of shape (target_length,), int32.
        last: count only so many tokens at the end; None: all.
        answers: for each document, which tokens count, shape (target_length,); None: all.
        goal: what the search was told to minimise, which says how often each document counts; None:
            each once.
    """

    documents: tuple[NDArray[np.int32], ...]
    last: int | None = None
    answers: tuple[NDArray[np.bool_] | None, ...] = ()
    goal: Goal | None = None

    def __post_init__(self) -> None:
        if not self.answers:
            object.__setattr__(self, "answers", (None,) * len(self.documents))

    @cached_property
    def weights(self) -> tuple[float, ...]:
        """How often each document counts, 1 on average."""
        return weights_of([marks is not None for marks in self.answers], self.goal)

    @classmethod
    def of(
        cls,
        docs: Sequence[Document],
        target_length: int,
        last: int | None = None,
        goal: Goal | None = None,
    ) -> Objective:
        """The first `target_length` tokens of each document.

        Raises:
            ValueError: no documents, one that is shorter than the target, one whose answers all
                come later, or `last` outside 1 ... target_length - 1.
        """
        if not len(docs):
            raise ValueError("a search needs at least one document: load some with load_corpus")
        short = [doc for doc in docs if len(doc) < target_length]
        if short:
            raise ValueError(
                f"{len(short)} of the {len(docs)} documents are shorter than the target of "
                f"{target_length:,} tokens ({short[0].title!r} has {len(short[0]):,}): load them "
                f"with min_tokens={target_length}, or search for a shorter target"
            )
        if last is not None:
            rule = f"it counts the tokens scored, from 1 to {target_length - 1}"
            last = whole("last", last, 1, rule)
            if last >= target_length:
                raise ValueError(f"last is {last}: {rule}")
        first = slice(0, target_length)
        answers = tuple(None if d.answers is None else d.answers[first] for d in docs)
        for doc, marks in zip(docs, answers, strict=True):
            if marks is not None and not marks[1:][-last if last else 0 :].any():
                raise ValueError(
                    f"the answers of {doc.title!r} are not among the tokens measured: its first "
                    f"{target_length:,}" + (f", and the last {last} of these" if last else "")
                )
        ids = tuple(doc.ids[first].astype(np.int32) for doc in docs)
        return cls(ids, last, answers, goal)

    def measure(self, model: PreTrainedModel, trial: Trial) -> Measured:
        """Measure a trial on a model, which is left as it was."""
        if trial.gradient:
            return self._measure_gradient(model, trial)
        losses: list[float] = []
        with apply_scaling(model, trial.scaling):
            for index in trial.documents:
                loss = self._loss(token_losses(model, self.documents[index]), index)
                losses.append(self.weights[index] * loss)
                if trial.race and len(losses) < len(trial.documents) and trial.race.lost(losses):
                    return Measured(tuple(losses), dropped=True)
        return Measured(tuple(losses))

    def _loss(self, losses: Tensor, index: int) -> float:
        """The mean of what counts, of a document's losses, shape (target_length - 1,)."""
        marks = self.answers[index]
        last = slice(-self.last if self.last else 0, None)
        if marks is None:
            return float(losses[last].double().mean())
        counted = torch.from_numpy(marks[1:][last]).to(losses.device)
        return float(losses[last][counted].double().mean())

    def _measure_gradient(self, model: PreTrainedModel, trial: Trial) -> Measured:
        factors = torch.zeros(len(trial.scaling.factors), dtype=torch.float64, requires_grad=True)
        attention = torch.zeros((), dtype=torch.float64, requires_grad=True)
        losses = []
        with (
            apply_scaling(model, trial.scaling, log_offsets=(factors, attention)),
            _frozen(model),
            saving_memory(model, len(self.documents[0])),
            fast_attention(),
            torch.enable_grad(),
        ):
            for index in trial.documents:
                ids = torch.from_numpy(self.documents[index]).long().to(model.device)[None]
                marks = self.answers[index]
                counted = None if marks is None else torch.from_numpy(marks).to(ids.device)[None]
                loss = mean_loss(model, ids, last=self.last, counted=counted)
                loss = self.weights[index] * loss
                (loss / len(trial.documents)).backward()  # type: ignore[no-untyped-call]
                losses.append(float(loss.detach()))
        assert factors.grad is not None and attention.grad is not None
        return Measured(tuple(losses), (*factors.grad.tolist(), attention.grad.item()))

    def means(self, documents: Sequence[int], losses: Sequence[float]) -> tuple[float, float]:
        """Of what was measured on these documents the mean of the texts and that of the answers."""
        places = documents[: len(losses)]
        plain = [loss / self.weights[i] for i, loss in zip(places, losses, strict=True)]
        return means_of(plain, [self.answers[i] is not None for i in places])

    def digest(self) -> str:
        """Tells these documents from others."""
        parts = [(np.int64(len(ids)).tobytes(), ids.tobytes()) for ids in self.documents]
        marked = [np.packbits(marks).tobytes() for marks in self.answers if marks is not None]
        return digest(*(part for pair in parts for part in pair), *marked)


def opening_of(ids: NDArray[np.integer]) -> str:
    """A short name for how a document begins, whatever length it was cut to."""
    return digest(np.asarray(ids[:TELLING], np.int64).tobytes())


@contextlib.contextmanager
def _frozen(model: PreTrainedModel) -> Iterator[None]:
    """No gradients for the weights: they are not what is searched."""
    training = [p for p in model.parameters() if p.requires_grad]
    try:
        for p in training:
            p.requires_grad_(False)
        yield
    finally:
        for p in training:
            p.requires_grad_(True)
