"""The road to hundreds of times the window, as data: plans, and what they will cost (LongRoPE section 3.3).

`progressive` runs a plan.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd
from torch import nn

from .corpora import Document, load_corpus
from .cost import forward_flops
from .hf_config import spec_from_config
from .memory import GIB, peak_bytes
from .recipe import RECIPES, Recipe
from .rope import RopeSpec, check_target
from .rotary import rope_spec
from .search.evolution import PRESETS
from .search.gradient import Gradient
from .search.objective import GRADIENT_FORWARDS, Measured
from .search.run import Settings
from .search.space import SearchSpace
from .stages import FineTune, Recover, Search, Stage, check_after, formula_scaling, naming


@dataclass(frozen=True)
class Plan:
    """Stages in order.

    Raises:
        ValueError: no stages; searches whose lengths do not rise; fine-tunings whose lengths fall, or at a length that
            was not searched; a search on top of one that is not there, or of shorter factors than the weights have
            learnt; a recovery that is not below the longest search, is there twice, or is not at the end.
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
        return {f"{i:02d}_{type(stage).__name__.lower()}_{stage.length}": stage for i, stage in enumerate(self.stages)}

    def by_formula(self, name: str) -> Plan:
        """The baseline of this plan: each search's scaling is a formula's, fine-tuned the same way; no recoveries.

        A formula needs no way by nearer targets: it is applied to the last fine-tuned scaling, whatever the search is
        on top of.
        """
        kept = [stage for stage in self.stages if not isinstance(stage, Recover)]
        return Plan(tuple(Search(stage.length, name) if isinstance(stage, Search) else stage for stage in kept))

    def search_documents(
        self, source: str | os.PathLike[str], tokenizer: Any, split: str = "validation"
    ) -> list[Document]:
        """Of a corpus, as many documents of each stage's length as it takes, none twice: for `progressive`.

        Args:
            source: a name, a path or a hub id, as `load_corpus` takes it.
            tokenizer: the model's.
            split: of the corpus.

        Raises:
            ValueError: as `load_corpus`: an unknown corpus, too few documents of a stage's length.
            FileNotFoundError: a path with nothing there.
        """
        found: dict[tuple[str, bytes], Document] = {}
        for stage in self.stages:
            if isinstance(stage, FineTune) or isinstance(stage.method, str):
                continue
            with naming(stage):
                size = {"min_tokens": stage.length, "limit": stage.documents}
                docs = load_corpus(source, tokenizer, split=split, **size)
            found |= {(doc.title, doc.ids.tobytes()): doc for doc in docs}  # two may have one title
        return list(found.values())

    def control(self, window: int) -> Plan:
        """The yardstick of this plan: the model trained in its own window (tokens), unscaled, on as many tokens.

        By the same trainings, one after the other: each with its recipe (learning rates, warm-up and decay) and its
        tokens a step, in more segments, which are all short. What differs is the length, and the factors that go with
        it. Tokens are rounded to whole windows, and are never fewer than the warm-up's steps and one more.

        Raises:
            ValueError: a plan without a fine-tuning.
        """
        trainings: list[Stage] = []
        for stage in self.stages:
            if isinstance(stage, FineTune):
                recipe: Any = stage.recipe
                batch = max(1, round(stage.tokens_a_step / window))
                steps = max(recipe.warmup + 1, round(stage.tokens / (batch * window)))
                trainings.append(FineTune(window, replace(recipe, steps=steps, batch=batch, short_share=0)))
        if not trainings:
            raise ValueError("the plan has no FineTune: there is nothing to train a control with")
        return Plan((Search(window, "none"), *trainings))

    def check(self, spec: RopeSpec) -> None:
        """See whether the plan fits a model's rotary embedding.

        Raises:
            ValueError: a stage below the window, a formula that gives a schedule or nothing, a recipe that reads short
                pieces of segments that hardly hold two.
        """
        for stage in self.stages:
            with naming(stage):
                check_target(spec, stage.length)
                if isinstance(stage, FineTune):
                    recipe: Any = stage.recipe
                    recipe.check_segment(stage.segment_tokens, spec.original_length)
                if isinstance(stage, Search) and isinstance(stage.method, str):
                    formula_scaling(spec, stage.method, stage.length)

    def explain(self, model: Any) -> pd.DataFrame:
        """What each stage will do and cost on this model, before anything runs.

        Args:
            model: a Hugging Face causal language model; one made under ``torch.device("meta")`` will do.

        Returns:
            A row a stage: stage (its folder's name), does, length (tokens a forward pass), forward_tokens (of all
            passes; a gradient counts four, and a search may take fewer, where it finds nothing new to try), exaflops
            (of these), peak_gib (on one device, weights and all; 0 for a formula). The last two are estimates: see
            `forward_flops` and `peak_bytes`.

        Raises:
            ValueError: a plan that does not fit the model.
        """
        spec = spec_from_config(model.config) if model.device.type == "meta" else rope_spec(model)
        self.check(spec)
        longest = max(stage.length for stage in self.stages)
        tuned: int | None = None
        rows = []
        for name, stage in self.named.items():
            length = stage.length
            shorter = 0  # of the passes, those in pieces of the window
            if isinstance(stage, FineTune):
                length = stage.segment_tokens
                passes, shorter, words = _training(stage)
                peak = peak_bytes(model, length, backward=True, trained=_trained(model, stage))
                tuned = stage.length
            elif isinstance(stage.method, str):
                passes, words, peak = 0, f"{stage.method}, a formula, {_start(stage, tuned)}", 0.0
            else:
                recover = isinstance(stage, Recover)
                space = SearchSpace(spec, length, high=longest / spec.original_length if recover else None)
                passes, words, backward = _searching(space, stage.method, stage.documents)
                words += f", {_start(stage, tuned)}"
                peak = peak_bytes(model, length, backward=backward)
            pieces = shorter * length / spec.original_length
            flops = (passes - shorter) * forward_flops(model, length)
            flops += pieces * forward_flops(model, spec.original_length)
            rows.append((name, words, length, passes * length, flops / 1e18, peak / GIB))
        return pd.DataFrame(rows, columns=["stage", "does", "length", "forward_tokens", "exaflops", "peak_gib"])


def _start(stage: Search | Recover, tuned: int | None) -> str:
    """From where a stage sets out, in words."""
    if isinstance(stage, Recover):
        return "below the last factors"
    below = stage.on_top_of or tuned
    return f"on top of the factors for {below:,} tokens" if below else "from the model as it is"


def _training(stage: FineTune) -> tuple[int, int, str]:
    """Forward passes of a segment, how many of them in short pieces, and what is done."""
    recipe: Any = stage.recipe
    count = recipe.steps * recipe.batch
    short = recipe.short_of(count)
    how = f", low-rank updates of rank {recipe.lora_rank}" if recipe.lora_rank else ""
    words = f"{recipe.steps} steps of {recipe.batch} segments{how}, at the factors for {stage.length:,} tokens"
    words += f"; {short:,} segments of {count:,} in pieces of the window, unscaled" if short else ""
    return count * GRADIENT_FORWARDS, short * GRADIENT_FORWARDS, words


def _trained(model: Any, stage: FineTune) -> int:
    """How many weights a fine-tuning changes; of low-rank updates their own, the norms' and the embeddings'."""
    recipe: Any = stage.recipe
    if not recipe.lora_rank:
        return int(sum(p.numel() for p in model.parameters()))
    named = [m for name, m in model.named_modules() if name.rpartition(".")[2] in recipe.lora_modules]
    low_rank = sum(recipe.lora_rank * (m.in_features + m.out_features) for m in named if isinstance(m, nn.Linear))
    norms = sum(p.numel() for name, p in model.named_parameters() if "norm" in name)
    return int(low_rank + norms + model.get_input_embeddings().weight.numel())


def _searching(space: SearchSpace, method: Settings, documents: int) -> tuple[int, str, bool]:
    """Forward passes of one document, what is done, and whether by gradients: from a search that measures nothing."""
    searcher = method.start(space, documents, 0)
    passes = trials = 0
    backward = False
    while asked := searcher.ask():
        trials += len(asked)
        passes += sum(trial.forwards for trial in asked)
        backward = backward or any(trial.gradient for trial in asked)
        flat = (0.0,) * (space.spec.rotary_dim // 2 + 1)
        searcher.tell([Measured((0.0,) * len(t.documents), flat if t.gradient else None) for t in asked])
    kind = type(method).__name__.lower()
    of = "1 document" if documents == 1 else f"{documents} documents"
    return passes, f"{kind} search, {trials:,} trials on {of}", backward


PAPER_RECOVERY = replace(PRESETS["paper"], initial=("high", "pi", "ntk", "yarn"))

# As the paper, in two fine-tunings: eight times beyond the first alone, this model's perplexity more than doubled.
# Three quarters of the segments are read short, and the learning rate falls in the second training alone: a plan with a
# fall in each and fewer short texts read the window worse, and 512k better.
FREE_M = (1.0, 1.5)
SMOLLM2: tuple[Stage, ...] = (
    Search(65_536, Gradient(steps=32), documents=4, attention_factors=FREE_M),
    FineTune(65_536, replace(RECIPES["small"], steps=96, decay="constant", short_share=0.75)),
    Search(262_144, Gradient(steps=5, validate_every=5), 3, FREE_M),
    FineTune(262_144, replace(RECIPES["small"], steps=24, warmup=2, save_every=12, short_share=0.75)),
    Search(524_288, Gradient(2, 1, 0.05, 2, weighted=True), 1, FREE_M, keep_rotations=32),
)
# m is free, for inside its window an m of 1.09 alone costs this model 7 % of its perplexity.
SMOLLM2_RECOVERY = Recover(8192, Gradient(64, batch=2, initial=("high", "none")), 8, free_attention_factor=True)

PLANS = {
    # Section 3.3 and 4.1: both searches on the pre-trained model, 400 steps and 600 more, then eight times further.
    "paper_llama2": Plan(
        (
            Search(131_072),
            Search(262_144),
            FineTune(131_072, Recipe(steps=400)),
            FineTune(262_144, Recipe(steps=600)),
            Search(2_097_152, PRESETS["paper_512k"], documents=3),
            Recover(4096, PAPER_RECOVERY),
            Recover(8192, PAPER_RECOVERY),
        )
    ),
    "paper_mistral": Plan(
        (
            Search(131_072),
            Search(262_144),
            FineTune(131_072, RECIPES["mistral"], segment=16_384),
            FineTune(262_144, RECIPES["mistral"], segment=16_384),
            Search(2_097_152, PRESETS["paper_512k"], documents=3),
            Recover(8192, PAPER_RECOVERY),
        )
    ),
    # SmolLM2-135M on one GPU, in minutes.
    "smollm2": Plan((*SMOLLM2, SMOLLM2_RECOVERY)),
    # The same to 2048k tokens: a forward pass of the last search takes minutes, and the search a night.
    "smollm2_2048k": Plan(
        (*SMOLLM2, Search(2_097_152, PRESETS["tiny"], documents=1, on_top_of=524_288), SMOLLM2_RECOVERY)
    ),
    # The lab model, on a laptop.
    "lab": Plan(
        (
            Search(4096, Gradient(steps=6, validate_every=6), documents=2, attention_factors=(1.0, 1.5)),
            FineTune(4096, Recipe(steps=5, batch=1, learning_rate=5e-4, decay="cosine", warmup=1, save_every=5)),
            Search(16_384, Gradient(steps=1, validate_every=1), documents=1),
            Recover(512, Gradient(16, 2, validate_every=8, initial=("high", "none")), 8, free_attention_factor=True),
        )
    ),
    # The lab model again, in seconds: enough to see the stages run, not to gain anything.
    "tiny": Plan(
        (
            Search(576, Gradient(steps=1, validate_every=1), documents=1),
            FineTune(576, Recipe(steps=2, batch=1, learning_rate=1e-4, warmup=0, save_every=2)),
            Search(640, Gradient(steps=1, validate_every=1), documents=1),
            Recover(512, Gradient(steps=1, validate_every=1, initial="high"), documents=1, free_attention_factor=True),
        )
    ),
}
