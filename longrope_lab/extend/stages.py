"""The stages of a plan: what each does, and which may follow which (LongRoPE section 3.3)."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from ..common.checks import unknown, whole
from ..common.renames import warn_renamed
from ..rope.methods import METHODS, rope_scaling
from ..rope.scaling import RopeScaling, compose
from ..rope.spec import RopeSpec, check_target
from ..searches.evolution import PRESETS
from ..searches.gradient import Gradient
from ..searches.run import SEARCHES, Settings, settings_of
from ..searches.space import check_rotations
from .recipe import RECIPES, Recipe, recipe_of

# From the factors that the model was trained at down.
RECOVERY = Gradient(steps=32, initial="high")


@dataclass(frozen=True)
class Formula:
    """Take a formula's scaling to `length` tokens: on the embedding, or on top of the last
    fine-tuned scaling.

    Nothing is measured. Baselines are made of these, and controls.

    Args:
        length: L' in tokens.
        method: "none", "pi", "ntk", "yarn", or one that `register_method` added.

    Raises:
        ValueError: an unknown method, a length below 2.
    """

    length: int
    method: str = "yarn"

    def __post_init__(self) -> None:
        _whole_numbers(self, length=2)
        if self.method not in METHODS:
            raise unknown("method", self.method, METHODS)

    def scaling(self, spec: RopeSpec, below: RopeScaling | None = None) -> RopeScaling:
        """The scaling of the plain embedding, or on top of a scaling of it.

        Raises:
            ValueError: the formula gives a schedule, which has no factors to train at.
        """
        start = spec if below is None else replace(below, start_tokens=0).as_spec()
        scaling = rope_scaling(start, self.method, self.length)
        if not isinstance(scaling, RopeScaling):
            raise ValueError(
                f"{self.method!r} gives a schedule, whose factors follow the length: a stage needs one set of them, "
                "such as 'ntk'"
            )
        # Between two counts of start tokens only one of the scalings would act.
        return (
            scaling
            if below is None
            else compose(below, replace(scaling, start_tokens=below.start_tokens))
        )


@dataclass(frozen=True)
class Search:
    """Find the scaling to `length` tokens: from the original window, or on top of the last
        fine-tuned scaling.

    Args:
        length: L' in tokens.
        method: settings of a search.
        documents: to measure on.
        attention_factors: as a `SearchSpace` takes them; on top of a scaling they multiply its m.
        on_top_of: length of an earlier search, to go on from what it found. So a far target is
            reached by way of nearer ones, where a gradient costs a quarter or a sixteenth.
        keep_rotations: as a `SearchSpace` takes it: leave fast dimensions alone. Far out their
            gradient is noise.

    Raises:
        ValueError: settings of no search, a number below its least.
    """

    length: int
    method: Settings = PRESETS["paper"]
    documents: int = 5
    attention_factors: tuple[float, float] | float | None = None
    on_top_of: int | None = None
    keep_rotations: float | None = None

    def __new__(
        cls, length: int = 0, method: object = None, *args: object, **kwargs: object
    ) -> Search:
        """Until the next release, a formula's name makes what it used to mean: a `Formula`."""
        if isinstance(method, str) and method in METHODS and not args and not kwargs:
            warn_renamed(f"Search({length}, {method!r})", f"Formula({length}, {method!r})")
            return Formula(length, method)  # type: ignore[return-value]
        return super().__new__(cls)

    def __post_init__(self) -> None:
        _whole_numbers(self, length=2, documents=1, on_top_of=2)
        _take_settings(self)
        check_rotations(self.keep_rotations)


@dataclass(frozen=True)
class FineTune:
    """Train at the scaling that an earlier `Search` or `Formula` gave for `length`.

    Args:
        length: names that stage.
        recipe: settings of the fine-tuning; those of `RECIPES` are ready.
        segment: tokens per training segment, at most `length`, which it is unless given.

    Raises:
        ValueError: no recipe, a number below its least, a segment that is longer than `length`.
    """

    length: int
    recipe: Recipe = RECIPES["llama2"]
    segment: int | None = None

    def __post_init__(self) -> None:
        _whole_numbers(self, length=2, segment=2)
        if self.segment is not None and self.segment > self.length:
            raise ValueError(
                f"a segment of {self.segment:,} tokens is longer than the {self.length:,} that the scaling is for: "
                "fine-tune at a longer search, or shorten it"
            )
        if isinstance(self.recipe, str):
            recipe = recipe_of(self.recipe)
            warn_renamed(
                f"FineTune's recipe={self.recipe!r}", f"recipe=RECIPES[{self.recipe!r}]", depth=4
            )
            object.__setattr__(self, "recipe", recipe)
        if not isinstance(self.recipe, Recipe):
            raise ValueError(
                f"recipe of FineTune is {self.recipe!r}: pass a Recipe, or one of RECIPES"
            )

    @property
    def segment_tokens(self) -> int:
        """Tokens of a training segment."""
        return self.segment or self.length

    @property
    def tokens_per_step(self) -> int:
        """Tokens that a step of the optimiser takes in."""
        return self.recipe.batch * self.segment_tokens

    @property
    def tokens(self) -> int:
        """Tokens that the whole fine-tuning takes in."""
        return self.recipe.steps * self.tokens_per_step


@dataclass(frozen=True)
class Recover:
    """Find smaller factors for texts up to `length` tokens, between 1 and those of the last
    scaling.

    Args:
        length: in tokens, at least the original window.
        method: settings of a search. With ``initial="high"`` it starts from the last scaling
            itself, and so ends no worse than that on `documents`.
        documents: to measure on.
        free_attention_factor: search m, too, between 1 and the last scaling's. Otherwise it stays
            that one, and both sets fit in one Hugging Face config, which has a single m (see
            `save_pretrained`).

    Raises:
        ValueError: settings of no search, a number below its least.
    """

    length: int
    method: Settings = RECOVERY
    documents: int = 5
    free_attention_factor: bool = False

    def __post_init__(self) -> None:
        _whole_numbers(self, length=2, documents=1)
        _take_settings(self)


Stage = Formula | Search | FineTune | Recover


@contextlib.contextmanager
def naming(stage: Stage) -> Iterator[None]:
    """A ValueError from inside names the stage."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{_name(stage)}: {error}") from None


def check_stage(stage: Stage, spec: RopeSpec) -> None:
    """See whether a stage fits a model's rotary embedding.

    Raises:
        ValueError: a length below the window, a formula that gives a schedule or nothing, a recipe
            that reads short pieces of segments that hardly hold two.
    """
    check_target(spec, stage.length)
    match stage:
        case Formula():
            stage.scaling(spec)
        case FineTune():
            stage.recipe.check_segment(stage.segment_tokens, spec.window)


def check_after(stage: Stage, before: Sequence[Stage]) -> None:
    """The rules of a plan's order.

    Raises:
        ValueError: the stage breaks one of them.
    """
    scaled = [s.length for s in before if isinstance(s, Formula | Search)]
    if isinstance(stage, Recover):
        _check_recovery(stage, before, max(scaled, default=0))
        return
    if any(isinstance(s, Recover) for s in before):
        raise ValueError(
            f"{_name(stage)} follows a recovery, which would be out of date: recoveries come last"
        )
    match stage:
        case FineTune():
            _check_training(stage, before, scaled)
        case Formula() | Search():
            if scaled and stage.length <= max(scaled):
                raise ValueError(
                    f"{_name(stage)} follows one at {max(scaled):,}: lengths must rise from stage to stage"
                )
            _check_start(stage, before, scaled)


def _check_recovery(stage: Recover, before: Sequence[Stage], longest: int) -> None:
    if stage.length >= longest:
        raise ValueError(
            f"{_name(stage)}: it needs a search for a longer text before it, to recover from"
        )
    if stage.length in [s.length for s in before if isinstance(s, Recover)]:
        raise ValueError(f"{_name(stage)} is in the plan twice: leave one out")


def _check_training(stage: FineTune, before: Sequence[Stage], scaled: Sequence[int]) -> None:
    """A length has one scaling, but weights may be trained at it twice."""
    last = _last_trained(before)
    if stage.length < last:
        raise ValueError(
            f"{_name(stage)} follows one at {last:,}: lengths must not fall from stage to stage"
        )
    if stage.length not in scaled:
        raise ValueError(
            f"{_name(stage)}: no search for that length comes before it; searched are {list(scaled) or 'none'}"
        )


def _check_start(stage: Formula | Search, before: Sequence[Stage], scaled: Sequence[int]) -> None:
    if isinstance(stage, Search) and stage.on_top_of is not None:
        fit = [length for length in scaled if length >= _last_trained(before)]
        if stage.on_top_of not in fit:
            raise ValueError(
                f"{_name(stage)}, on top of {stage.on_top_of:,}: name one of the searches before it, no shorter than "
                f"the last fine-tuning; these are {fit or 'none'}"
            )


def _last_trained(stages: Sequence[Stage]) -> int:
    return max((s.length for s in stages if isinstance(s, FineTune)), default=0)


def _name(stage: Stage) -> str:
    return f"{type(stage).__name__} at {stage.length:,} tokens"


def _take_settings(stage: Search | Recover) -> None:
    """The stage's method as settings, also where it was named, as the release before allowed."""
    if isinstance(stage.method, str):
        name = stage.method
        if name not in SEARCHES:
            raise unknown(f"search method of {type(stage).__name__}", name, SEARCHES)
        made = type(SEARCHES[name]).__name__
        warn_renamed(f"{type(stage).__name__}'s method={name!r}", f"method={made}()", depth=5)
        object.__setattr__(stage, "method", SEARCHES[name])
    settings_of(stage.method)


def _whole_numbers(stage: Stage, **least: int) -> None:
    for name, bound in least.items():
        value = getattr(stage, name)
        if value is not None:
            # One of numpy's would be another plan in the folder's words.
            object.__setattr__(
                stage, name, whole(f"{name} of {type(stage).__name__}", value, bound)
            )
