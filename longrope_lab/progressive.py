"""The road to hundreds of times the window, as data: search, fine-tune, search again, recover (LongRoPE section 3.3).

A `Plan` is an ordered list of stages. `progressive` runs it on a model and keeps what each stage made in a folder of
its own, so that a second call goes on after the last finished stage; `Plan.explain` says what it will cost before.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
from safetensors.torch import load_model as load_weights

from .corpora import Document
from .files import write_json
from .finetune import RECIPES, Recipe, finetune
from .rope import RopeScaling
from .rotary import rope_spec
from .schedule import StagedSchedule
from .search.evolution import PRESETS
from .search.gradient import Gradient
from .search.objective import GRADIENT_FORWARDS
from .search.run import Settings, model_digest, search
from .search.space import SearchSpace

GIB = 2**30


@dataclass(frozen=True)
class Search:
    """Find the scaling to `length` tokens: from the original window, or on top of the last fine-tuned scaling.

    Args:
        length: L' in tokens.
        method: settings of the search.
        documents: to measure on.
        attention_factors: as a `SearchSpace` takes them.
    """

    length: int
    method: Settings = field(default_factory=lambda: PRESETS["paper"])
    documents: int = 5
    attention_factors: tuple[float, float] | None = None


@dataclass(frozen=True)
class FineTune:
    """Train at the scaling that an earlier `Search` found for `length`.

    Args:
        length: names that search.
        recipe: settings of the fine-tuning.
        segment: tokens a training segment; `length` unless given.
    """

    length: int
    recipe: Recipe = field(default_factory=lambda: RECIPES["llama2"])
    segment: int | None = None


@dataclass(frozen=True)
class Recover:
    """Find smaller factors for texts up to `length` tokens, between 1 and those of the last scaling.

    The search starts from the last scaling's own, which the model was trained with; m stays as it is.
    """

    length: int
    method: Settings = field(default_factory=lambda: Gradient(steps=32, initial="high"))
    documents: int = 5


Stage = Search | FineTune | Recover


@dataclass(frozen=True)
class Plan:
    """Stages in order.

    Raises:
        ValueError: no stage, searches or fine-tunings whose lengths do not rise, a fine-tuning at a length that was not
            searched, a recovery before any search or at a length that is not below the longest.
    """

    stages: tuple[Stage, ...]

    def __post_init__(self) -> None:
        if not self.stages:
            raise ValueError("a plan needs at least one stage")
        longest: dict[type, int] = {}
        searched: set[int] = set()
        for stage in self.stages:
            kind, before = type(stage), longest.get(type(stage), 0)
            if isinstance(stage, Recover):
                if not searched or stage.length >= max(searched):
                    raise ValueError(
                        f"recovery at {stage.length:,} tokens: it needs a longer search before it, to recover from"
                    )
            elif stage.length <= before:
                raise ValueError(
                    f"{kind.__name__} at {stage.length:,} tokens follows one at {before:,}: lengths must rise from "
                    "stage to stage"
                )
            if isinstance(stage, FineTune) and stage.length not in searched:
                raise ValueError(
                    f"fine-tuning at {stage.length:,} tokens: no search for that length comes before it; searched are "
                    f"{sorted(searched)}"
                )
            if isinstance(stage, Search):
                searched.add(stage.length)
            longest[kind] = stage.length

    def explain(self, model: Any) -> pd.DataFrame:
        """What each stage will do and cost on this model, before anything runs.

        Returns:
            A row a stage: stage, does, length, forward_tokens (a gradient counts four forward passes), exaflops,
            peak_gib (weights and all; both estimates, from the sizes in the config and bfloat16 activations).
        """
        rows = []
        tuned = False
        for number, stage in enumerate(self.stages):
            passes, length, does = _work(stage, tuned)
            tuned = tuned or isinstance(stage, FineTune)
            tokens = passes * length
            rows.append(
                (
                    f"{number}: {type(stage).__name__}",
                    does,
                    stage.length,
                    tokens,
                    tokens * _flops_a_token(model, length) / 1e18,
                    _peak_bytes(model, length, stage) / GIB,
                )
            )
        return pd.DataFrame(rows, columns=["stage", "does", "length", "forward_tokens", "exaflops", "peak_gib"])

    def to_dict(self) -> dict[str, Any]:
        """As JSON holds it."""
        stages = []
        for stage in self.stages:
            settings = asdict(stage)
            if not isinstance(stage, FineTune):
                settings["method"] = {"name": type(stage.method).__name__} | settings["method"]
            stages.append({"stage": type(stage).__name__} | settings)
        return {"kind": "plan", "stages": stages}


PLANS = {
    # Section 3.3 and 4.1: both searches on the pre-trained model, 400 steps and 600 more, then eight times further.
    "paper_llama2": Plan(
        (
            Search(131_072),
            Search(262_144),
            FineTune(131_072, Recipe(steps=400)),
            FineTune(262_144, Recipe(steps=600)),
            Search(2_097_152, PRESETS["paper_512k"], documents=3),
            Recover(4096, PRESETS["paper"]),
            Recover(8192, PRESETS["paper"]),
        )
    ),
    "paper_mistral": Plan(
        (
            Search(131_072),
            Search(262_144),
            FineTune(131_072, RECIPES["mistral"], segment=16_384),
            FineTune(262_144, RECIPES["mistral"], segment=16_384),
            Search(2_097_152, PRESETS["paper_512k"], documents=3),
            Recover(8192, PRESETS["paper"]),
        )
    ),
    "smollm2": Plan(
        (
            Search(65_536, Gradient(steps=48), attention_factors=(1.0, 1.5)),
            FineTune(65_536, RECIPES["small"]),
            Search(524_288, Gradient(steps=8, validate_every=4), documents=2),
            Search(2_097_152, Gradient(steps=4, validate_every=2), documents=1),
            Recover(8192),
        )
    ),
    "lab": Plan(
        (
            Search(4096, Gradient(steps=10, validate_every=10), documents=2, attention_factors=(1.0, 1.5)),
            FineTune(4096, RECIPES["tiny"]),
            Search(16_384, Gradient(steps=2, validate_every=2), documents=1),
            Recover(512, Gradient(steps=16, initial="high"), documents=2),
        )
    ),
}


@dataclass(frozen=True, eq=False)
class Extended:
    """What a plan made of a model, whose weights are the fine-tuned ones.

    Args:
        schedule: the recovered scalings and, beyond them, the last one.
        scalings: what each search found, by length.
        folders: of the stages.
    """

    schedule: StagedSchedule
    scalings: dict[int, RopeScaling]
    folders: list[Path]


def progressive(
    model: Any,
    tokenizer: Any,
    plan: Plan,
    folder: str | os.PathLike[str],
    *,
    train_docs: Sequence[Document],
    search_docs: Sequence[Document],
    seed: int = 0,
) -> Extended:
    """Run a plan on a model, whose weights change; a second call goes on after the last finished stage.

    Args:
        model: a Hugging Face causal language model, as it was loaded.
        tokenizer: its tokenizer.
        plan: what to do.
        folder: a folder a stage: found scalings as JSON, histories as CSV, fine-tuned weights.
        train_docs: to fine-tune on.
        search_docs: to search on; each stage takes the first that are long enough.
        seed: of searches and fine-tuning.

    Raises:
        ValueError: a folder of another plan, model or seed; too few documents of a stage's length.
    """
    folder = Path(folder)
    longest = max(stage.length for stage in plan.stages if isinstance(stage, Search))
    for stage in plan.stages:
        if not isinstance(stage, FineTune):
            _long_enough(search_docs, stage)
    _claim(folder, plan.to_dict() | {"model": model_digest(model), "seed": seed})
    spec = rope_spec(model)
    scalings: dict[int, RopeScaling] = {}
    recovered: dict[int, RopeScaling] = {}
    tuned: RopeScaling | None = None
    folders = []
    for number, stage in enumerate(plan.stages):
        place = folder / f"{number:02d}_{type(stage).__name__.lower()}_{stage.length}"
        folders.append(place)
        if isinstance(stage, FineTune):
            tuned = scalings[stage.length]
            _fine_tuned(model, tokenizer, train_docs, tuned, place, stage, seed)
            continue
        if isinstance(stage, Recover):
            last = scalings[max(scalings)]
            space = SearchSpace(
                spec,
                stage.length,
                high=tuple(last.factors.tolist()),
                start_tokens=(last.start_tokens,),
                attention_factors=last.attention_factor,
                monotone=bool((last.factors[1:] >= last.factors[:-1]).all()),
            )
            recovered[stage.length] = _searched(model, search_docs, space, place, stage, seed)
        elif tuned is None:
            space = SearchSpace(spec, stage.length, attention_factors=stage.attention_factors)
            scalings[stage.length] = _searched(model, search_docs, space, place, stage, seed)
        else:
            space = SearchSpace.on_top_of(tuned, stage.length, attention_factors=stage.attention_factors)
            scalings[stage.length] = _searched(model, search_docs, space, place, stage, seed)
    stages = [*recovered.values(), scalings[longest]]
    schedule = StagedSchedule(tuple(stages))
    schedule.save(folder / "schedule.json")
    return Extended(schedule, scalings, folders)


def _searched(
    model: Any, docs: Sequence[Document], space: SearchSpace, place: Path, stage: Search | Recover, seed: int
) -> RopeScaling:
    done = place / "scaling.json"
    if done.is_file():
        return RopeScaling.load(done)
    documents = _long_enough(docs, stage)
    found = search(
        model, documents, stage.length, stage.method, space=space, seed=seed, checkpoint=place / "checkpoint.jsonl"
    )
    found.history.to_csv(place / "history.csv", index=False, float_format="%.8g", lineterminator="\n")
    found.best.save(done)
    return found.best


def _fine_tuned(
    model: Any, tokenizer: Any, docs: Sequence[Document], scaling: RopeScaling, place: Path, stage: FineTune, seed: int
) -> None:
    """Train, or take the weights that an earlier call trained."""
    weights = place / "weights"
    if not weights.is_dir():
        finetune(
            model, tokenizer, docs, scaling, place / "training", length=stage.segment, recipe=stage.recipe, seed=seed
        )
        part = place / "weights.part"
        model.save_pretrained(part, max_shard_size="1000GB")
        part.replace(weights)  # whole or not at all
    else:
        load_weights(model, weights / "model.safetensors", device=str(model.device))


def _long_enough(docs: Sequence[Document], stage: Search | Recover) -> list[Document]:
    fit = [doc for doc in docs if len(doc) >= stage.length]
    if len(fit) < stage.documents:
        raise ValueError(
            f"{type(stage).__name__} at {stage.length:,} tokens takes {stage.documents} documents of that length, and "
            f"{len(fit)} of the {len(docs)} search documents have it (the longest has "
            f"{max(map(len, docs), default=0):,}): load longer ones, or shorten the stage"
        )
    return fit[: stage.documents]


def _claim(folder: Path, identity: dict[str, Any]) -> None:
    path = folder / "plan.json"
    identity = json.loads(json.dumps(identity))
    if path.is_file():
        theirs = json.loads(path.read_text())
        differ = [key for key in identity if identity[key] != theirs.get(key)]
        if differ:
            raise ValueError(f"{folder} holds another plan, with another {', '.join(differ)}: name another folder")
    elif folder.exists() and any(folder.iterdir()):
        raise ValueError(f"{folder} is not empty and holds no plan: name another folder")
    else:
        write_json(path, identity)


def _work(stage: Stage, tuned: bool) -> tuple[int, int, str]:
    """Forward passes of one segment or document, its tokens, and what is done, in words."""
    if isinstance(stage, FineTune):
        length = stage.segment or stage.length
        recipe = stage.recipe
        words = (
            f"{recipe.steps} steps of {recipe.batch} segments of {length:,} tokens, at the factors for {stage.length:,}"
        )
        return recipe.steps * recipe.batch * GRADIENT_FORWARDS, length, words
    method: Any = stage.method
    if isinstance(method, Gradient):
        validations = 1 + -(-method.steps // method.validate_every)
        passes = method.steps * method.batch * GRADIENT_FORWARDS + validations * stage.documents
        words = f"{method.steps} gradient steps"
    else:
        candidates = getattr(method, "candidates", None) or (
            method.population + method.rounds * (method.mutations + method.crossovers)
        )
        passes, words = candidates * stage.documents, f"{candidates:,} candidates"
    of = "from the last factors down" if isinstance(stage, Recover) else "on top of the tuned" if tuned else "from none"
    return passes, stage.length, f"{words} on {stage.documents} documents, {of}"


def _sizes(model: Any) -> tuple[int, int, int, int]:
    config = model.config.get_text_config()
    parameters = sum(p.numel() for p in model.parameters())
    return (
        parameters,
        config.num_hidden_layers,
        config.hidden_size,
        getattr(config, "intermediate_size", 4 * config.hidden_size),
    )


def _flops_a_token(model: Any, length: int) -> float:
    """Of a forward pass: two a weight, and causal attention's two products over half of the sequence on average."""
    parameters, layers, width, _ = _sizes(model)
    return 2 * parameters + 2 * layers * length * width


def _peak_bytes(model: Any, length: int, stage: Stage) -> float:
    """Weights, one layer's activations in bfloat16 and, where there is a backward pass, every layer's input."""
    parameters, layers, width, inner = _sizes(model)
    bytes_ = 2 * parameters + 2 * length * (6 * width + 3 * inner)
    if isinstance(stage, FineTune):
        bytes_ += 14 * parameters  # float32 weights, gradient and Adam's two moments in their place
    if isinstance(stage, FineTune) or isinstance(stage.method, Gradient):
        bytes_ += 2 * length * width * layers + 2 * length * (6 * width + 3 * inner)
    return bytes_
