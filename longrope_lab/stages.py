"""The stages of a plan: what each does, and which may follow which (LongRoPE section 3.3)."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from .errors import unknown
from .methods import METHODS as FORMULAS
from .methods import rope_scaling
from .recipe import RECIPES, Recipe
from .rope import RopeScaling, RopeSpec, compose
from .search.evolution import PRESETS
from .search.gradient import Gradient
from .search.run import METHODS as SEARCHES
from .search.run import Settings
from .search.space import check_rotations

# From the factors that the model was trained at down.
RECOVERY = Gradient(steps=32, initial="high")


@dataclass(frozen=True)
class Search:
    """Find the scaling to `length` tokens: from the original window, or on top of the last fine-tuned scaling.

    Args:
        length: L' in tokens.
        method: settings of a search, or its name; or the name of a formula ("none", "pi", "ntk", "yarn", or one that
            `register_method` added): then nothing is measured, and the scaling is the formula's.
        documents: to measure on.
        attention_factors: as a `SearchSpace` takes them; on top of a scaling they multiply its m.
        on_top_of: length of an earlier search, to go on from what it found. So a far target is reached by way of
            nearer ones, where a gradient costs a quarter or a sixteenth.
        keep_rotations: as a `SearchSpace` takes it: leave fast dimensions alone. Far out their gradient is noise.

    Raises:
        ValueError: an unknown method, a number below its least, attention factors or keep_rotations for a formula.
    """

    length: int
    method: str | Settings = PRESETS["paper"]
    documents: int = 5
    attention_factors: tuple[float, float] | float | None = None
    on_top_of: int | None = None
    keep_rotations: float | None = None

    def __post_init__(self) -> None:
        _whole_numbers(self, length=2, documents=1, on_top_of=2)
        if isinstance(self.method, str) and self.method not in FORMULAS:
            if self.method not in SEARCHES:
                raise unknown("method", self.method, [*SEARCHES, *FORMULAS])
            object.__setattr__(self, "method", SEARCHES[self.method])
        for name in ("attention_factors", "keep_rotations"):
            if isinstance(self.method, str) and getattr(self, name) is not None:
                raise ValueError(f"{name} is for a search, and {self.method!r} is a formula: leave it out")
        check_rotations(self.keep_rotations)


@dataclass(frozen=True)
class FineTune:
    """Train at the scaling that an earlier `Search` gave for `length`.

    Args:
        length: names that search.
        recipe: settings of the fine-tuning, or a name of `RECIPES`.
        segment: tokens a training segment, at most `length`, which it is unless given.

    Raises:
        ValueError: an unknown recipe, a number below its least, a segment that is longer than `length`.
    """

    length: int
    recipe: str | Recipe = RECIPES["llama2"]
    segment: int | None = None

    def __post_init__(self) -> None:
        _whole_numbers(self, length=2, segment=2)
        if self.segment is not None and self.segment > self.length:
            raise ValueError(
                f"a segment of {self.segment:,} tokens is longer than the {self.length:,} that the scaling is for: "
                "fine-tune at a longer search, or shorten it"
            )
        if isinstance(self.recipe, str):
            if self.recipe not in RECIPES:
                raise unknown("recipe", self.recipe, RECIPES)
            object.__setattr__(self, "recipe", RECIPES[self.recipe])

    @property
    def segment_tokens(self) -> int:
        """Tokens of a training segment."""
        return self.segment or self.length

    @property
    def tokens_a_step(self) -> int:
        """Tokens that a step of the optimiser takes in."""
        recipe: Any = self.recipe
        return int(recipe.batch * self.segment_tokens)

    @property
    def tokens(self) -> int:
        """Tokens that the whole fine-tuning takes in."""
        recipe: Any = self.recipe
        return int(recipe.steps * self.tokens_a_step)


@dataclass(frozen=True)
class Recover:
    """Find smaller factors for texts up to `length` tokens, between 1 and those of the last scaling.

    Args:
        length: in tokens, at least the original window.
        method: settings of a search, or its name. With ``initial="high"`` it starts from the last scaling itself, and
            so ends no worse than that on `documents`.
        documents: to measure on.
        free_attention_factor: search m, too, between 1 and the last scaling's. Otherwise it stays that one, and both
            sets fit in one Hugging Face config, which has a single m (see `save_pretrained`).

    Raises:
        ValueError: an unknown method, a number below its least.
    """

    length: int
    method: str | Settings = RECOVERY
    documents: int = 5
    free_attention_factor: bool = False

    def __post_init__(self) -> None:
        _whole_numbers(self, length=2, documents=1)
        if isinstance(self.method, str):
            if self.method not in SEARCHES:
                raise unknown("search method", self.method, SEARCHES)
            object.__setattr__(self, "method", SEARCHES[self.method])


Stage = Search | FineTune | Recover


@contextlib.contextmanager
def naming(stage: Stage) -> Iterator[None]:
    """A ValueError from inside names the stage."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{type(stage).__name__} at {stage.length:,} tokens: {error}") from None


def formula_scaling(spec: RopeSpec, name: str, length: int, below: RopeScaling | None = None) -> RopeScaling:
    """A formula's scaling to `length` tokens, on the plain embedding or on top of a scaling of it.

    Raises:
        ValueError: the formula gives a schedule, which has no factors to train at.
    """
    scaling = rope_scaling(spec if below is None else replace(below, start_tokens=0).as_spec(), name, length)
    if not isinstance(scaling, RopeScaling):
        raise ValueError(
            f"{name!r} gives a schedule, whose factors follow the length: a stage needs one set of them, such as 'ntk'"
        )
    # Between two counts of start tokens only one of the scalings would act.
    return scaling if below is None else compose(below, replace(scaling, start_tokens=below.start_tokens))


def check_after(stage: Stage, before: Sequence[Stage]) -> None:
    """The rules of a plan's order.

    Raises:
        ValueError: the stage breaks one of them.
    """
    what = f"{type(stage).__name__} at {stage.length:,} tokens"
    searched = [s.length for s in before if isinstance(s, Search)]
    same = [s.length for s in before if type(s) is type(stage)]
    if isinstance(stage, Recover):
        if not searched or stage.length >= max(searched):
            raise ValueError(f"{what}: it needs a search for a longer text before it, to recover from")
        if stage.length in same:
            raise ValueError(f"{what} is in the plan twice: leave one out")
        return
    if any(isinstance(s, Recover) for s in before):
        raise ValueError(f"{what} follows a recovery, which would be out of date: recoveries come last")
    # A length has one scaling, but weights may be trained at it twice.
    last, rule = max(same, default=0), "must rise" if isinstance(stage, Search) else "must not fall"
    if stage.length < last or (stage.length == last and isinstance(stage, Search)):
        raise ValueError(f"{what} follows one at {last:,}: lengths {rule} from stage to stage")
    if isinstance(stage, FineTune) and stage.length not in searched:
        raise ValueError(f"{what}: no search for that length comes before it; searched are {searched or 'none'}")
    if isinstance(stage, Search) and stage.on_top_of is not None:
        tuned = max((s.length for s in before if isinstance(s, FineTune)), default=0)
        fit = [length for length in searched if length >= tuned]
        if stage.on_top_of not in fit:
            raise ValueError(
                f"{what}, on top of {stage.on_top_of:,}: name one of the searches before it, no shorter than the last "
                f"fine-tuning; these are {fit or 'none'}"
            )


def _whole_numbers(stage: Any, **least: int) -> None:
    for name, bound in least.items():
        value = getattr(stage, name)
        if value is None:
            continue
        if int(value) != value or value < bound:
            raise ValueError(f"{name} of {type(stage).__name__} is {value}: it must be a whole number from {bound}")
        object.__setattr__(stage, name, int(value))  # one of numpy's would be another plan in the folder's words
