"""The way to hundreds of times the window, as data: an ordered list of stages (LongRoPE section
    3.3).

`progressive` runs a plan, `explain` says beforehand what it will cost, and `PLANS` are ready.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import pandas as pd

from ..common.checks import unknown
from ..rope.spec import RopeSpec
from ..texts.corpora import load_corpus
from ..texts.tokens import Document
from .explain import explain
from .recipe import Recipe
from .stages import FineTune, Formula, Recover, Search, Stage, check_after, check_stage, naming

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True)
class Plan:
    """Stages in order.

    Raises:
        ValueError: no stages; searches whose lengths do not rise; fine-tunings whose lengths fall,
            or at a length that was not searched; a search on top of one that is not there, or of
            shorter factors than the weights have learnt; a recovery that is not below the longest
            search, is there twice, or is not at the end.
    """

    stages: tuple[Stage, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "stages", tuple(self.stages))
        if not self.stages:
            raise ValueError("a plan needs at least one stage: a Search")
        for number, stage in enumerate(self.stages):
            check_after(stage, self.stages[:number])

    @property
    def named(self) -> dict[str, Stage]:
        """The stages by the names of their folders."""
        return {
            f"{i:02d}_{type(stage).__name__.lower()}_{stage.length}": stage
            for i, stage in enumerate(self.stages)
        }

    @property
    def trainings(self) -> tuple[FineTune, ...]:
        """The fine-tunings, in order."""
        return tuple(stage for stage in self.stages if isinstance(stage, FineTune))

    @property
    def searches(self) -> tuple[Search | Recover, ...]:
        """What measures documents: searches and recoveries, in order."""
        return tuple(stage for stage in self.stages if isinstance(stage, Search | Recover))

    @property
    def reach(self) -> int:
        """The longest length of a stage, in tokens."""
        return max(stage.length for stage in self.stages)

    def by_formula(self, name: str) -> Plan:
        """The baseline of this plan: each search's scaling is a formula's, fine-tuned the same way;
            no recoveries.

        A formula needs no nearer targets on its way: it is applied to the last fine-tuned scaling,
        whatever the search is on top of."""
        kept = [stage for stage in self.stages if not isinstance(stage, Recover)]
        return Plan(
            tuple(
                Formula(stage.length, name) if isinstance(stage, Search) else stage
                for stage in kept
            )
        )

    def control(self, window: int) -> Plan:
        """The yardstick of this plan: the model trained in its own window (tokens), unscaled, on as
            many tokens.

        By the same trainings, one after the other: each with its recipe (learning rates, warm-up
        and decay) and its tokens per step, in more segments, which are all short. What differs is
        the length, and the factors that go with it. Tokens are rounded to whole windows, and are
        never fewer than the warm-up's steps and one more.

        Raises:
            ValueError: a plan without a fine-tuning.
        """
        self._check_trained()
        return Plan(
            (Formula(window, "none"), *(_inside(stage, window) for stage in self.trainings))
        )

    def training_variants(
        self, shorter: int, longer: int, *, method: str = "yarn", share: float = 1.0
    ) -> dict[str, Plan]:
        """Three ways to train for one length, on as many tokens, at a formula's factors (LongRoPE,
        Table 12).

        Each follows the recipe of this plan's first fine-tuning, with the decay of its last, which
        ends a training.

        Args:
            shorter, longer: tokens per training segment.
            method: the formula.
            share: of the first fine-tuning's steps.

        Returns:
            "straight": segments of the longer length from the start; "two steps": half of the
            tokens at the shorter one first; "short texts": at the longer length's factors, in
            segments of the shorter.

        Raises:
            ValueError: a plan without a fine-tuning, or lengths that do not rise.
        """
        self._check_trained()
        first, last = self.trainings[0], self.trainings[-1]
        steps = max(2, 2 * round(first.recipe.steps * share / 2))
        whole = replace(
            first.recipe,
            steps=steps,
            warmup=min(first.recipe.warmup, steps // 2 - 1),
            batch=max(1, first.recipe.batch * first.length // longer),
            decay=last.recipe.decay,
            short_share=0,
        )
        half = replace(whole, steps=steps // 2)
        there, on_the_way = Formula(longer, method), Formula(shorter, method)
        begin = FineTune(shorter, _in_more_segments(half, longer // shorter))
        in_pieces = FineTune(longer, _in_more_segments(whole, longer // shorter), segment=shorter)
        return {
            "straight": Plan((there, FineTune(longer, whole))),
            "two steps": Plan((on_the_way, there, begin, FineTune(longer, half))),
            "short texts": Plan((there, in_pieces)),
        }

    def search_documents(
        self,
        source: str | os.PathLike[str],
        tokenizer: PreTrainedTokenizerBase,
        split: str = "validation",
    ) -> list[Document]:
        """Of a corpus, as many documents of each stage's length as it takes, none twice: for
        `progressive`.

        Args:
            source: a name, a path or a hub id, as `load_corpus` takes it.
            tokenizer: the model's.
            split: of the corpus.

        Raises:
            ValueError: as `load_corpus`: an unknown corpus, too few documents of a stage's length.
            FileNotFoundError: a path with nothing there.
        """
        found: dict[tuple[str, bytes], Document] = {}
        for stage in self.searches:
            with naming(stage):
                docs = load_corpus(
                    source, tokenizer, split=split, min_tokens=stage.length, limit=stage.documents
                )
            found |= {(doc.title, doc.ids.tobytes()): doc for doc in docs}  # two may have one title
        return list(found.values())

    def documents(
        self,
        tokenizer: PreTrainedTokenizerBase,
        *,
        search: str | os.PathLike[str],
        train: str | os.PathLike[str],
        train_split: str = "train",
        min_tokens: int = 1,
        limit: int | None = None,
    ) -> dict[str, list[Document]]:
        """What `progressive` takes: documents to search on, and others to train on.

        Args:
            tokenizer: the model's.
            search, train: corpora, as `load_corpus` takes them. Of `train`, no document is used
                whose title is that of one searched on.
            train_split: of `train`; of `search` it is "validation".
            min_tokens: of the documents to train on, the model's window for example.
            limit: stop after so many of these.

        Returns:
            {"train_docs": [...], "search_docs": [...]}.

        Raises:
            ValueError, FileNotFoundError: as `load_corpus`.
        """
        search_docs = self.search_documents(search, tokenizer)
        searched = {doc.title for doc in search_docs}
        train_docs = load_corpus(
            train, tokenizer, split=train_split, min_tokens=min_tokens, limit=limit
        )
        return {
            "train_docs": [d for d in train_docs if d.title not in searched],
            "search_docs": search_docs,
        }

    def check(self, spec: RopeSpec) -> None:
        """See whether the plan fits a model's rotary embedding.

        Raises:
            ValueError: a stage below the window, a formula that gives a schedule or nothing, a
                recipe that reads short pieces of segments that hardly hold two.
        """
        for stage in self.stages:
            with naming(stage):
                check_stage(stage, spec)

    def explain(self, model: PreTrainedModel) -> pd.DataFrame:
        """What each stage will do and cost on this model, before anything runs.

        Args:
            model: a Hugging Face causal language model; one made under ``torch.device("meta")``
                will do.

        Returns:
            One row per stage: stage (its folder's name), does, length (tokens per forward pass),
            forward_tokens (of all passes; a gradient counts four, and a search may take fewer,
            where it finds nothing new to try), exaflops (of these), peak_gib (on one device,
            weights and all; 0 for a formula). The last two are
            estimates: see `forward_flops` and `peak_bytes`.

        Raises:
            ValueError: a plan that does not fit the model.
        """
        return explain(self.named, model)

    def _check_trained(self) -> None:
        if not self.trainings:
            raise ValueError("the plan has no FineTune: there is nothing to train a control with")


def plan_of(plan: str | Plan, known: dict[str, Plan]) -> Plan:
    """A plan, as it is or by its name among those known.

    Raises:
        ValueError: an unknown name.
    """
    if not isinstance(plan, str):
        return plan
    if plan not in known:
        raise unknown("plan", plan, known)
    return known[plan]


def _inside(stage: FineTune, window: int) -> FineTune:
    """A training on as many tokens in segments of the window, as many tokens per step."""
    batch = max(1, round(stage.tokens_per_step / window))
    steps = max(stage.recipe.warmup + 1, round(stage.tokens / (batch * window)))
    return FineTune(window, replace(stage.recipe, steps=steps, batch=batch, short_share=0))


def _in_more_segments(recipe: Recipe, times: int) -> Recipe:
    return replace(recipe, batch=recipe.batch * times)
