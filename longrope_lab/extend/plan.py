"""A plan: the stages that extend a model, in order (LongRoPE, arXiv 2402.13753, section 3.3).

`progressive` runs a plan, `Plan.explain` says beforehand what it will cost, and `PLANS` are ready.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated

from ..common.checks import above
from ..rope.spec import RopeSpec
from ..texts.corpora import load_corpus
from ..texts.tokens import Document
from .explain import Explained, explain
from .rules import check_after, check_stage
from .stages import FineTune, Formula, Recover, Search, Stage
from .wording import counted, naming

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True, repr=False)
class Plan:
    """Stages in order.

    >>> plan = Plan((Search(4096), FineTune(4096), Search(16_384), Recover(512)))
    >>> plan
    Plan of 4 stages:
      00_search_4096    evolution search on 5 documents
      01_finetune_4096  400 steps of 32 segments of 4,096 tokens
      02_search_16384   evolution search on 5 documents
      03_recover_512    gradient search on 5 documents
    >>> plan.by_formula("yarn")
    Plan of 3 stages:
      00_formula_4096   yarn, a formula
      01_finetune_4096  400 steps of 32 segments of 4,096 tokens
      02_formula_16384  yarn, a formula

    Raises:
        ValueError: no stages, or something else among them; scalings whose lengths do not rise;
            fine-tunings whose lengths fall, or at a length without a scaling; a search on top of
            one that is not there, or of shorter factors than the weights have learnt; a recovery
            that is not below the longest scaling, is there twice, or is not at the end.
    """

    stages: Annotated[tuple[Stage, ...], Stage]  # one alone, too

    def __post_init__(self) -> None:
        stages = (self.stages,) if isinstance(self.stages, Stage) else tuple(self.stages)
        object.__setattr__(self, "stages", stages)
        if not stages:
            raise ValueError("a plan needs at least one stage: a Search or a Formula")
        for number, stage in enumerate(stages):
            if not isinstance(stage, Stage):
                raise ValueError(
                    f"stage {number} of the plan is {stage!r}: make stages of Formula, Search, "
                    "FineTune and Recover"
                )
            check_after(stage, stages[:number])

    def __repr__(self) -> str:
        width = max(map(len, self.named))
        lines = [f"  {name:{width}}  {stage}" for name, stage in self.named.items()]
        return "\n".join([f"Plan of {counted(len(lines), 'stage')}:", *lines])

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
        """The stages that measure documents: searches and recoveries, in order."""
        return tuple(stage for stage in self.stages if isinstance(stage, Search | Recover))

    @property
    def reach(self) -> int:
        """The longest length of a stage, in tokens."""
        return max(stage.length for stage in self.stages)

    def by_formula(self, name: str) -> Plan:
        """The baseline of this plan: the scaling to each length is that formula's.

        It is fine-tuned the same way, and has no recoveries. A formula needs no nearer targets on
        its way: it is applied to the last fine-tuned scaling, whatever a stage is on top of.

        Args:
            name: of the formula, as `Formula` takes it.
        """
        return Plan(
            tuple(
                Formula(stage.length, name) if isinstance(stage, Search | Formula) else stage
                for stage in self.stages
                if not isinstance(stage, Recover)
            )
        )

    def control(self, window: int) -> Plan:
        """The yardstick of this plan: the model trained unscaled, in its own window.

        It takes the same trainings, one after the other: each with its recipe (learning rates,
        warm-up and decay) and its tokens per step, in more segments, which are all short. What
        differs is the length, and the factors that go with it. Tokens are rounded to whole windows,
        and are never fewer than the warm-up's steps and one more.

        Args:
            window: the model's, in tokens.

        Raises:
            ValueError: a plan without a fine-tuning.
        """
        self._check_trained()
        inside = (_inside(stage, window) for stage in self.trainings)
        return Plan((Formula(window, "none"), *inside))

    def training_variants(
        self, shorter: int, longer: int, *, method: str = "yarn", share: float = 1.0
    ) -> dict[str, Plan]:
        """Three ways to train for one length, on as many tokens (LongRoPE, Table 12).

        They train at a formula's factors. Each follows the recipe of this plan's first fine-tuning,
        with the decay of its last, which ends a training.

        Args:
            shorter, longer: tokens per training segment.
            method: the formula.
            share: of the first fine-tuning's steps.

        Returns:
            "straight": segments of the longer length from the start; "two steps": half of the
            tokens at the shorter one first; "short texts": at the longer length's factors, in
            segments of the shorter.

        Raises:
            ValueError: a plan without a fine-tuning, lengths that do not rise, or a share that is
                not above 0.
        """
        self._check_trained()
        share = above("share", share, 0)
        first, last = self.trainings[0], self.trainings[-1]
        steps = max(2, 2 * round(first.recipe.steps * share / 2))
        whole = replace(
            first.recipe,
            steps=steps,
            warmup=min(first.recipe.warmup, steps // 2 - 1),
            batch=max(1, first.tokens_per_step // longer),
            decay=last.recipe.decay,
            short_share=0,
            skip_share=0,
        )
        half = replace(whole, steps=steps // 2)
        more = whole.batch * longer // shorter  # segments per step, of the shorter length
        nearer, target = Formula(shorter, method), Formula(longer, method)
        begin, end = FineTune(shorter, replace(half, batch=more)), FineTune(longer, half)
        in_pieces = FineTune(longer, replace(whole, batch=more), segment=shorter)
        return {
            "straight": Plan((target, FineTune(longer, whole))),
            "two steps": Plan((nearer, target, begin, end)),
            "short texts": Plan((target, in_pieces)),
        }

    def search_documents(
        self,
        source: str | os.PathLike[str],
        tokenizer: PreTrainedTokenizerBase,
        split: str = "validation",
    ) -> list[Document]:
        """Of a corpus, as many documents of each stage's length as it takes, none twice.

        Args:
            source: a name, a path or a hub id, as `load_corpus` takes it.
            tokenizer: the model's.
            split: of the corpus.

        Returns:
            What `progressive` takes as `search_docs`.

        Raises:
            ValueError: as `load_corpus`: an unknown corpus, too few documents of a stage's length.
            FileNotFoundError: a path with nothing there.
        """
        found: dict[tuple[str, bytes], Document] = {}
        for stage in self.searches:
            with naming(stage):
                length, count = stage.length, stage.documents
                docs = load_corpus(source, tokenizer, split=split, min_tokens=length, limit=count)
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
            limit: how many of `train` are loaded, those searched on included; None: all.

        Returns:
            {"train_docs": [...], "search_docs": [...]}.

        Raises:
            ValueError, FileNotFoundError: as `load_corpus`.
        """
        search_docs = self.search_documents(search, tokenizer)
        searched = {doc.title for doc in search_docs}
        loaded = load_corpus(
            train, tokenizer, split=train_split, min_tokens=min_tokens, limit=limit
        )
        train_docs = [doc for doc in loaded if doc.title not in searched]
        return {"train_docs": train_docs, "search_docs": search_docs}

    def divided(self, docs: Sequence[Document]) -> dict[str, list[Document]]:
        """One corpus for both: what is searched on is cut off it, and the rest is trained on.

        The longest stages choose first. Each takes the beginning of as many documents as it still
        lacks; what is left of these goes to the end of the row. So a corpus of many documents gives
        searches many, and a single long text gives them its parts.

        Args:
            docs: a corpus, in its own order.

        Returns:
            What `progressive` takes: {"train_docs": [...], "search_docs": [...]}.

        Raises:
            ValueError: too few tokens for a search. The error names the stage.
        """
        left, found = list(docs), list[Document]()
        for stage in sorted(self.searches, key=lambda stage: stage.length, reverse=True):
            with naming(stage):
                for _ in range(stage.documents - len(found)):
                    found.append(_cut_off(left, stage))
        return {"train_docs": left, "search_docs": found}

    def check(self, spec: RopeSpec) -> None:
        """See whether the plan fits a model's rotary embedding.

        Raises:
            ValueError: a stage below the window, a formula that gives a schedule or nothing, a
                recipe that reads short pieces of segments that hardly hold two; see `check_stage`.
        """
        for stage in self.stages:
            check_stage(stage, spec)

    def explain(self, model: PreTrainedModel) -> Explained:
        """What each stage will do and cost on this model, before anything runs.

        Args:
            model: a Hugging Face causal language model; one made under ``torch.device("meta")``
                will do.

        Returns:
            One row per stage: stage (its folder's name), does, length (tokens per forward pass),
            forward_tokens (of all passes; a gradient counts four, and a search may take fewer,
            where it finds nothing new to try), exaflops (of these), seconds (of these, at the pace
            of one short pass here; NaN on "meta"), peak_gib (on one device, weights and all; 0 for
            a formula). The last three are estimates: see `forward_flops` and `peak_bytes`. It
            prints itself in fitting units, with totals.

        Raises:
            ValueError: a plan that does not fit the model.
        """
        return explain(self.named, model)

    def _check_trained(self) -> None:
        if not self.trainings:
            raise ValueError("the plan has no FineTune, and this takes its trainings: add one")


def _cut_off(docs: list[Document], stage: Search | Recover) -> Document:
    """Take the beginning of the first document that is long enough, and put its rest last."""
    length = stage.length
    if (first := next((i for i, doc in enumerate(docs) if len(doc) >= length), None)) is None:
        longest = max(map(len, docs), default=0)
        raise ValueError(
            f"it takes {counted(stage.documents, 'document')} of that length, and the corpus does "
            f"not give so many (the longest text left has {longest:,} tokens): use more or longer "
            "texts, or shorten the stage"
        )
    whole = docs.pop(first)
    if len(whole) > length:
        docs.append(Document(whole.title, whole.ids[length:]))
    return Document(whole.title, whole.ids[:length])


def _inside(stage: FineTune, window: int) -> FineTune:
    """A training on as many tokens in segments of the window, as many tokens per step."""
    batch = max(1, round(stage.tokens_per_step / window))
    steps = max(stage.recipe.warmup + 1, round(stage.tokens / (batch * window)))
    recipe = replace(stage.recipe, steps=steps, batch=batch, short_share=0, skip_share=0)
    return FineTune(window, recipe)
