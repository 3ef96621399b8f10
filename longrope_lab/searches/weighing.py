"""What counts in a search: perplexity, needles, or both of them, and how much.

The paper searches on perplexity (LongRoPE, arXiv 2402.13753, section 3.2). Factors found so lose
what is hidden in a text. So LongRoPE2 searches on the loss of the answers in needle documents
alone (arXiv 2502.20082, section 3).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Real

from ..texts.tokens import Document

# Nats per token of an answer. A search that begins below has nothing to learn from its needles:
# the model finds them all.
FLOOR = 0.05


@dataclass(frozen=True)
class Perplexity:
    """Minimise the mean token loss of the texts.

    Needle documents are measured for what is found in the end, and count nothing.
    """

    @property
    def needles(self) -> float:
        """The share of needle documents in what is minimised."""
        return 0.0


@dataclass(frozen=True)
class Needles:
    """Minimise the mean loss of the answers in needle documents, in nats per token.

    They are the documents that mark their answers (`needle_documents`). Texts are measured for what
    is found in the end, and count nothing.
    """

    @property
    def needles(self) -> float:
        """The share of needle documents in what is minimised."""
        return 1.0


@dataclass(frozen=True)
class Both:
    """Minimise ``(1 - weight) * (loss of the texts) + weight * (loss of the answers)``.

    Either is a mean over its documents, in nats per token.

    Args:
        weight: of the needles, from 0 to 1.

    Raises:
        ValueError: a weight outside 0 to 1.
    """

    weight: float = 0.5

    def __post_init__(self) -> None:
        if not (isinstance(self.weight, Real) and 0 <= self.weight <= 1):
            raise ValueError(
                f"weight is {self.weight}: it is the share of the needles, from 0 (perplexity "
                "alone) to 1 (needles alone)"
            )
        object.__setattr__(self, "weight", float(self.weight))

    @property
    def needles(self) -> float:
        """The share of needle documents in what is minimised."""
        return self.weight


Goal = Perplexity | Needles | Both


def weights_of(needle: Sequence[bool], goal: Goal | None) -> tuple[float, ...]:
    """How often the loss of each document counts, 1 on average over those that count at all.

    Without a goal every document counts once. Those of weight 0 need no measuring.

    Args:
        needle: of each document, whether it marks its answers.
        goal: what is minimised.
    """
    if goal is None:
        return (1.0,) * len(needle)
    share = goal.needles
    counted = sum(share > 0 if is_needle else share < 1 for is_needle in needle)
    each = {True: share * counted / max(sum(needle), 1)}
    each[False] = (1 - share) * counted / max(len(needle) - sum(needle), 1)
    return tuple(each[is_needle] for is_needle in needle)


def counted_and_aside(
    docs: Sequence[Document], goal: Goal | None
) -> tuple[list[Document], list[Document]]:
    """The documents that a search measures, and those measured for what it finds alone.

    Raises:
        ValueError: needles count, and no document marks an answer; or texts do, and all mark some.
    """
    if goal is None:
        return [*docs], []
    needle = [doc.answers is not None for doc in docs]
    if goal.needles > 0 and not any(needle):
        raise ValueError(
            f"{goal} counts answers, and none of the {len(docs)} documents marks any: add some "
            "that needle_documents makes"
        )
    if goal.needles < 1 and docs and all(needle):
        raise ValueError(
            f"{goal} counts the perplexity of texts, and each of the {len(docs)} documents marks "
            "answers: add texts, or search with Needles()"
        )
    weights = weights_of(needle, goal)
    counted, aside = (
        [doc for doc, weight in zip(docs, weights, strict=True) if (weight > 0) is counts]
        for counts in (True, False)
    )
    return counted, aside


def means_of(losses: Sequence[float], needle: Sequence[bool]) -> tuple[float, float]:
    """The mean loss of the texts, and that of the needles' answers; nan where there are none."""
    texts, needles = (
        [loss for loss, is_needle in zip(losses, needle, strict=True) if is_needle is kind]
        for kind in (False, True)
    )
    return _mean(texts), _mean(needles)


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values) if values else math.nan
