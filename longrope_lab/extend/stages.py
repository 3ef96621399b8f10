"""The stages of a plan: what each of them does (LongRoPE, arXiv 2402.13753, section 3.3)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated

from ..common.checks import unknown, whole
from ..common.identity import words_of
from ..common.renames import warn_renamed
from ..rope.methods import METHODS, rope_scaling
from ..rope.scaling import RopeScaling, compose
from ..rope.spec import RopeSpec
from ..searches.evolution import PRESETS
from ..searches.gradient import Gradient
from ..searches.settings import SEARCHES, Settings
from ..searches.space import SearchSpace
from ..searches.space_rules import check_rotations
from ..searches.weighing import Goal, weights_of
from .recipe import RECIPES, Recipe, by_name
from .wording import counted

# Downwards from the factors that the model was trained at.
RECOVERY = Gradient(steps=32, initial="high")


@dataclass(frozen=True)
class Formula:
    """Take the scaling that a formula gives for `length` tokens.

    Nothing is measured. It is a formula of the model's own embedding or, after a fine-tuning, on
    top of the scaling that the weights were trained at. Baselines and controls are made of these.

    Args:
        length: L' in tokens.
        method: "none", "pi", "ntk", "yarn", or one that `register_method` added.
        on_top_of: length of an earlier `Search` or `Formula`, to multiply its factors instead.

    Raises:
        ValueError: an unknown method, a number below its least.
    """

    length: int
    method: str = "yarn"
    on_top_of: int | None = None

    def __post_init__(self) -> None:
        _whole_numbers(self, length=2, on_top_of=2)
        if self.method not in METHODS:
            raise unknown("method of Formula", self.method, METHODS)

    def __str__(self) -> str:
        return f"{self.method}, a formula"

    def scaling(self, spec: RopeSpec, below: RopeScaling | None = None) -> RopeScaling:
        """The scaling of a model's embedding, or on top of a scaling of it.

        Raises:
            ValueError: the formula gives a schedule, which has no factors to train at.
        """
        start = spec if below is None else replace(below, start_tokens=0).as_spec()
        scaling = rope_scaling(start, self.method, self.length)
        if not isinstance(scaling, RopeScaling):
            raise ValueError(
                f"{self.method!r} gives a schedule, whose factors follow the length: a stage needs "
                "one set of them, such as 'ntk'"
            )
        if below is None:
            return scaling
        # Between two counts of start tokens only one of the scalings would act.
        return compose(below, replace(scaling, start_tokens=below.start_tokens))


@dataclass(frozen=True, repr=False)
class Search:
    """Find the scaling to `length` tokens.

    The search starts from the model's own embedding or, after a fine-tuning, from the scaling that
    the weights were trained at.

    Args:
        length: L' in tokens.
        method: settings of a search.
        documents: how many to measure on.
        attention_factors: as a `SearchSpace` takes them; on top of a scaling they multiply its m.
        on_top_of: length of an earlier `Search` or `Formula`, to go on from there instead. So a far
            target is reached by nearer ones, where a gradient costs a fraction.
        keep_rotations: as a `SearchSpace` takes it: fast dimensions are left alone. Far out their
            gradient is noise.
        needles: needle documents of that length, made of the documents, whose answers are measured
            beside these. Factors found on perplexity alone lose what is hidden (LongRoPE2, arXiv
            2502.20082, section 3).
        objective: what to minimise, as `search` takes it; its needles are hidden in books among
            others of their kind. None: easier ones, each of which weighs as much as a book.
        keep_range: as a `SearchSpace` takes it: slow dimensions keep to the angles that training
            had. What a formula puts on top for a longer target then keeps to them, too.

    Raises:
        ValueError: a method that is not the settings of a search, a number below its least, an
            objective of answers without needles.
    """

    length: int
    method: Annotated[Settings, str] = PRESETS["paper"]  # a name: until the next release
    documents: int = 5
    attention_factors: tuple[float, float] | float | None = None
    on_top_of: int | None = None
    keep_rotations: float | None = None
    needles: int = 0
    objective: Goal | None = None
    keep_range: bool = False

    def __new__(
        cls,
        length: int = 0,
        method: object = None,
        documents: int = 5,
        attention_factors: object = None,
        on_top_of: int | None = None,
        keep_rotations: float | None = None,
        needles: int = 0,
        objective: object = None,
        keep_range: bool = False,
        **unknown: object,  # refused by __init__
    ) -> Search:
        """Until the next release, a formula's name makes what it used to mean: a `Formula`."""
        if not (isinstance(method, str) and method in METHODS):
            return super().__new__(cls)
        only = {"attention_factors": attention_factors, "keep_rotations": keep_rotations}
        only |= {"needles": needles or None, "objective": objective}
        only |= {"keep_range": keep_range or None} | unknown
        for name in [name for name, value in only.items() if value is not None]:
            raise ValueError(
                f"{name} is for a search, and {method!r} is a formula: leave it out, as in "
                f"Formula({length}, {method!r})"
            )
        warn_renamed(f"Search({length}, {method!r})", f"Formula({length}, {method!r})")
        return Formula(length, method, on_top_of)  # type: ignore[return-value]

    def __post_init__(self) -> None:
        _whole_numbers(self, length=2, documents=1, on_top_of=2, needles=0)
        _take_settings(self, [*SEARCHES, *METHODS])
        check_rotations(self.keep_rotations)
        if self.objective is not None and self.objective.needles and not self.needles:
            raise ValueError(
                f"objective of Search is {self.objective}, which counts answers, and needles is 0: "
                "say how many needle documents to make, such as needles=8"
            )

    def space(self, spec: RopeSpec, below: RopeScaling | None = None) -> SearchSpace:
        """What is searched, of a model's embedding or on top of a scaling of it."""
        make = partial(SearchSpace, spec)
        if below is not None:
            make = partial(SearchSpace.on_top_of, below)
        return make(
            self.length,
            attention_factors=self.attention_factors,
            keep_rotations=self.keep_rotations,
            keep_range=self.keep_range,
        )

    def __repr__(self) -> str:
        return words_of(self, later=["objective", "keep_range"])

    def __str__(self) -> str:
        return f"{method_name(self)} search on {measured(self)}"


@dataclass(frozen=True)
class FineTune:
    """Train at the scaling that an earlier `Search` or `Formula` gave for `length`.

    Args:
        length: of that stage.
        recipe: settings of the fine-tuning; `RECIPES` holds some that are ready.
        segment: tokens per training segment, at most `length`, which is the default.

    Raises:
        ValueError: a recipe that is not one, a number below its least, a segment that is longer
            than `length`.
    """

    length: int
    recipe: Annotated[Recipe, str] = RECIPES["llama2"]
    segment: int | None = None

    def __post_init__(self) -> None:
        _whole_numbers(self, length=2, segment=2)
        if self.segment is not None and self.segment > self.length:
            raise ValueError(
                f"a segment of {self.segment:,} tokens is longer than the {self.length:,} that the "
                "scaling is for: fine-tune at a longer search, or shorten it"
            )
        recipe = by_name("recipe", self.recipe, RECIPES)
        if isinstance(self.recipe, str):
            ready = f"recipe=RECIPES[{self.recipe!r}]"
            warn_renamed(f"recipe={self.recipe!r} of FineTune", ready, depth=4)
            object.__setattr__(self, "recipe", recipe)

    def __str__(self) -> str:
        steps = counted(self.recipe.steps, "step")
        batch = counted(self.recipe.batch, "segment")
        share = 100 * self.recipe.short_share
        short = f", {share:.3g} % read short" if share else ""
        return f"{steps} of {batch} of {self.segment_tokens:,} tokens{short}"

    @property
    def segment_tokens(self) -> int:
        """Tokens of a training segment."""
        return self.segment or self.length

    @property
    def tokens_per_step(self) -> int:
        """Tokens that a step of the optimiser takes in."""
        return self.recipe.batch * self.segment_tokens

    @property
    def tokens_a_step(self) -> int:
        """The old name of `tokens_per_step`."""
        warn_renamed("FineTune.tokens_a_step", "FineTune.tokens_per_step")
        return self.tokens_per_step

    @property
    def tokens(self) -> int:
        """Tokens that the whole fine-tuning takes in."""
        return self.recipe.steps * self.tokens_per_step


@dataclass(frozen=True)
class Recover:
    """Find smaller factors for short texts, between 1 and those of the last scaling.

    Args:
        length: tokens that such a text has at most; at least the model's window.
        method: settings of a search. With ``initial="high"`` it starts from the last scaling
            itself, and so ends no worse than that on the documents measured.
        documents: how many to measure on.
        free_attention_factor: search m, too, between 1 and the last scaling's. Otherwise m stays,
            and both sets fit in one Hugging Face config, which has a single m (`save_pretrained`).

    Raises:
        ValueError: a method that is not the settings of a search, a number below its least.
    """

    length: int
    method: Annotated[Settings, str] = RECOVERY
    documents: int = 5
    free_attention_factor: bool = False

    def __post_init__(self) -> None:
        _whole_numbers(self, length=2, documents=1)
        _take_settings(self, SEARCHES)
        if not isinstance(self.free_attention_factor, bool):
            raise ValueError(
                f"free_attention_factor of Recover is {self.free_attention_factor!r}: it must be "
                "True or False; the range of m follows from the last scaling"
            )

    def __str__(self) -> str:
        free = ", m free" * self.free_attention_factor
        return f"{method_name(self)} search on {measured(self)}{free}"


Stage = Formula | Search | FineTune | Recover


def method_name(stage: Search | Recover) -> str:
    """The name that `search` knows a stage's method by."""
    return type(stage.method).__name__.lower()


def needles_of(stage: Search | Recover) -> int:
    """How many needle documents a stage measures beside its documents."""
    return stage.needles if isinstance(stage, Search) else 0


def measured(stage: Search | Recover) -> str:
    """What a stage measures, as in "3 documents and 2 needles"."""
    needles, goal = needles_of(stage), goal_of(stage)
    beside = f" and {counted(needles, 'needle')}" if needles else ""
    return counted(stage.documents, "document") + beside + (f", by {goal}" if goal else "")


def goal_of(stage: Search | Recover) -> Goal | None:
    """What a stage minimises; None where it was not told."""
    return stage.objective if isinstance(stage, Search) else None


def searched(stage: Search | Recover) -> int:
    """How many documents a stage measures for each candidate; those that count."""
    needle = [False] * stage.documents + [True] * needles_of(stage)
    return sum(weight > 0 for weight in weights_of(needle, goal_of(stage)))


def _take_settings(stage: Search | Recover, known: Iterable[str]) -> None:
    """Refuse a method that is not settings; a search's name still stands for its own."""
    kind, method = type(stage).__name__, stage.method
    if isinstance(method, str):
        if method not in SEARCHES:
            raise unknown(f"method of {kind}", method, known)
        settings = SEARCHES[method]
        ready = f"method={type(settings).__name__}()"
        warn_renamed(f"method={method!r} of {kind}", ready, depth=5)
        object.__setattr__(stage, "method", settings)
    elif isinstance(method, type) or not hasattr(method, "start"):
        raise ValueError(
            f"method of {kind} is {method!r}: pass the settings of a search, such as "
            "Gradient(steps=48)"
        )


def _whole_numbers(stage: Stage, **least: int) -> None:
    for name, bound in least.items():
        value = getattr(stage, name)
        if value is not None:
            number = whole(f"{name} of {type(stage).__name__}", value, bound)
            # One of numpy's would be another plan in the folder's words.
            object.__setattr__(stage, name, number)
