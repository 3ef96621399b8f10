"""What a search may choose from (LongRoPE, arXiv 2402.13753, Table 4)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import InitVar, dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..common.checks import above, whole
from ..common.files import Json
from ..rope.formulas import longrope_attention_factor
from ..rope.methods import rope_scaling
from ..rope.scaling import RopeScaling, compose
from ..rope.spec import Floats, RopeSpec, check_target, numbers

# Table 4's values of n-hat, the number of first tokens left alone.
START_TOKENS = (0, 1, 2, 4, 8, 12, 16, 20, 24, 28, 32, 64, 128, 256)

# Table 4: factors go up to 1.25 times the extension ratio, in steps of 0.01.
HIGHEST = 1.25
STEP = 0.01


def check_rotations(keep_rotations: float | None) -> None:
    """Refuse what is not a number of turns, for whoever takes it."""
    if keep_rotations is not None and not keep_rotations > 0:
        raise ValueError(
            f"keep_rotations is {keep_rotations}: it counts turns, so a number above 0, or None"
        )


@dataclass(frozen=True)
class Candidate:
    """One point of the space, in whole steps, so that equal points compare equal."""

    factors: tuple[int, ...]  # (d/2,)
    start_tokens: int
    attention_factor: int | None  # None where m is not searched


@dataclass(frozen=True)
class SearchSpace:
    """The scalings of one embedding to one target that a search may try.

    Args:
        spec: the model's rotary embedding.
        target_length: L' in tokens.
        low: smallest factor, one number or one per pair of dimensions (d/2,); at least 1.
        high: largest factor, likewise; None for 1.25 s (Table 4).
        step: distance between two factors tried by the methods that draw from a grid.
        start_tokens: the values of n-hat to try; the gradient search keeps the first.
        attention_factors: (lowest, highest) m to search in; one number fixes it; None for the
            formula sqrt(1 + ln s / ln L).
        monotone: demand that factors never fall from one pair of dimensions to the next (section
            3.2).
        over: an extension that is in place already, whose factors multiply those of this space; see
            `on_top_of`.
        keep_rotations: leave alone the dimensions that turn more often than this inside the model's
            window: `high` becomes their lowest factor. YaRN's beta_fast is 32 (arXiv 2309.00071,
            section 3.2).

    Raises:
        ValueError: bounds below 1, crossed, or between which no sequence of factors rises; a step
            or keep_rotations that is not above 0; start tokens that are not whole numbers from 0,
            or none at all.
    """

    spec: RopeSpec
    target_length: int
    low: float | tuple[float, ...] = 1.0
    high: float | tuple[float, ...] | None = None
    step: float = STEP
    start_tokens: tuple[int, ...] = START_TOKENS
    attention_factors: tuple[float, float] | float | None = None
    monotone: bool = True
    over: RopeScaling | None = None
    keep_rotations: InitVar[float | None] = None

    def __post_init__(self, keep_rotations: float | None) -> None:
        # Whatever came in, plain Python numbers are kept: they can be hashed, and JSON holds them.
        keep = partial(object.__setattr__, self)
        keep("target_length", check_target(self.spec, self.target_length))
        keep("step", above("step", self.step, 0))
        if self.high is None:
            keep("high", max(HIGHEST * self.target_length / self.spec.window, 1.0))
        for name in ("low", "high"):
            value = getattr(self, name)
            if np.ndim(value) < 2:  # `bounds` refuses what has more
                keep(name, tuple(map(float, value)) if np.ndim(value) else float(value))
        keep("start_tokens", _start_tokens(self.start_tokens))
        keep("attention_factors", _attention_factors(self.attention_factors))
        if self.over is not None and self.start_tokens != (self.over.start_tokens,):
            raise ValueError(
                f"start_tokens is {self.start_tokens}, and the extension below leaves "
                f"{self.over.start_tokens} start tokens alone: between two counts only one would "
                "act; use SearchSpace.on_top_of"
            )
        if keep_rotations is not None:
            check_rotations(keep_rotations)
            low, high = self.bounds
            kept = np.where(self.model_spec.rotations > keep_rotations, low, high)
            keep("high", tuple(kept.tolist()))
        self.grid  # noqa: B018 - checks the bounds

    @classmethod
    def on_top_of(cls, first: RopeScaling, target_length: int, **options: Any) -> SearchSpace:
        """The space of a second search, on a model that `first` has extended (section 3.3).

        Its scalings are composed with `first`, so they apply to the model as it was loaded. n-hat
        stays that of `first`: between two counts only one of the scalings would act. The options
        are other fields of the space.
        """
        spec = replace(first, start_tokens=0).as_spec()
        return cls(spec, target_length, start_tokens=(first.start_tokens,), over=first, **options)

    @classmethod
    def below(
        cls, last: RopeScaling, target_length: int, *, free_attention_factor: bool = False
    ) -> SearchSpace:
        """The space of a recovery, where no factor is above that of `last` (section 3.4).

        n-hat stays that of `last`. Its m stays, too, unless it is free: then it lies between 1 and
        that one.
        """
        m = last.attention_factor
        return cls(
            last.spec,
            target_length,
            high=tuple(last.factors.tolist()),
            start_tokens=(last.start_tokens,),
            attention_factors=(min(1.0, m), max(1.0, m)) if free_attention_factor else m,
            monotone=bool((last.factors[1:] >= last.factors[:-1]).all()),
        )

    @property
    def model_spec(self) -> RopeSpec:
        """The embedding of the model that this space's scalings apply to."""
        return self.spec if self.over is None else self.over.spec

    @property
    def searched_attention_factors(self) -> tuple[float, float] | None:
        """(lowest, highest) m, if m is searched."""
        return self.attention_factors if isinstance(self.attention_factors, tuple) else None

    @property
    def bounds(self) -> tuple[Floats, Floats]:
        """Lowest and highest factor of each pair, both (d/2,), narrowed by the monotone rule."""
        pairs = self.spec.rotary_dim // 2
        for name, value in (("low", self.low), ("high", self.high)):
            shape = np.asarray(value).shape
            if shape not in ((), (pairs,)):
                raise ValueError(
                    f"{name} has shape {shape}: give one number, or {pairs}, one per pair of "
                    "dimensions"
                )
        low, high = (
            np.broadcast_to(np.asarray(b, dtype=np.float64), pairs) for b in (self.low, self.high)
        )
        if not (np.isfinite(low).all() and np.isfinite(high).all() and (low >= 1).all()):
            raise ValueError(
                f"low is {self.low}, high is {self.high}: bounds of factors are finite and at "
                "least 1"
            )
        why = "dimension {i} has low {low:g} above high {high:g}; lower low or raise high"
        _refuse_empty(low > high, low, high, why)
        if self.monotone:
            low, high = np.maximum.accumulate(low), np.minimum.accumulate(high[::-1])[::-1]
            why = (
                "factors may not fall, so dimension {i} must reach {low:g} and stay below "
                "{high:g}; change the bounds, or set monotone=False"
            )
            _refuse_empty(low > high, low, high, why)
        return low.copy(), high.copy()

    @property
    def grid(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The bounds in whole steps, both (d/2,)."""
        low, high = self.bounds
        lowest = np.ceil(low / self.step - 1e-6).astype(np.int64)
        highest = np.floor(high / self.step + 1e-6).astype(np.int64)
        why = (
            f"no multiple of the step {self.step:g} lies between low {{low:g}} and high "
            "{high:g} of dimension {i}; take a smaller step or wider bounds"
        )
        _refuse_empty(lowest > highest, low, high, why)
        return lowest, highest

    def candidate(
        self, factors: ArrayLike, start_tokens: int, attention_factor: float | None = None
    ) -> Candidate:
        """The point of the space nearest to these values."""
        values = numbers("factors", factors)
        if values.shape != (self.spec.rotary_dim // 2,) or not np.isfinite(values).all():
            raise ValueError(f"factors are {values}: give a finite number per pair of dimensions")
        steps = np.clip(np.rint(values / self.step).astype(np.int64), *self.grid)
        m = None
        if self.searched_attention_factors is not None:
            wanted = self.default_attention_factor if attention_factor is None else attention_factor
            m = round(float(np.clip(wanted, *self.searched_attention_factors)) / STEP)
        nearest = min(self.start_tokens, key=lambda n: abs(n - start_tokens))
        return Candidate(tuple(steps.tolist()), nearest, m)

    def formula_factors(self, method: str) -> Floats:
        """A method's factors within the bounds, (d/2,); of "high", the upper bounds."""
        low, high = self.bounds
        if method == "high":
            return high
        scaling = rope_scaling(self.spec, method, self.target_length)
        if not isinstance(scaling, RopeScaling):
            raise ValueError(
                f"the method {method!r} gives a schedule, and a search starts from the factors of "
                "one target: name another start"
            )
        return np.clip(scaling.factors, low, high)

    def formula_attention_factor(self, method: str) -> float:
        """The m that goes with `formula_factors`, within its range if it is searched."""
        if self.searched_attention_factors is None:
            return self.default_attention_factor
        lowest, highest = self.searched_attention_factors
        if method == "high":
            return highest
        m = 1.0 if method == "none" else self.default_attention_factor
        return float(np.clip(m, lowest, highest))

    def scaling(self, candidate: Candidate) -> RopeScaling:
        """The scaling that a candidate stands for."""
        factors = np.round(np.array(candidate.factors) * self.step, 12)
        m = None
        if candidate.attention_factor is not None:  # the ends of its range need not be whole steps
            limits = self.searched_attention_factors or (0, np.inf)
            m = float(np.clip(candidate.attention_factor * STEP, *limits))
        return self.scaling_at(np.maximum(factors, 1.0), candidate.start_tokens, m)

    def scaling_at(
        self,
        factors: ArrayLike,
        start_tokens: int | None = None,
        attention_factor: float | None = None,
    ) -> RopeScaling:
        """These values as a scaling; those left out are the space's first n-hat and default m."""
        values = np.asarray(factors, dtype=np.float64)
        start_tokens = self.start_tokens[0] if start_tokens is None else start_tokens
        m = self.default_attention_factor if attention_factor is None else attention_factor
        scaling = RopeScaling(self.spec, values, self.target_length, "longrope", start_tokens, m)
        if self.monotone:
            scaling.check_monotone()
        return scaling if self.over is None else compose(self.over, scaling)

    @property
    def default_attention_factor(self) -> float:
        """The m that is fixed, or sqrt(1 + ln s / ln L)."""
        if isinstance(self.attention_factors, float):
            return self.attention_factors
        return longrope_attention_factor(self.spec, self.target_length)

    def random(self, rng: np.random.Generator) -> Candidate:
        """A random candidate: its factors are uniform within the bounds, and sorted if monotone."""
        low, high = self.grid
        steps = rng.integers(low, high + 1)
        if self.monotone:
            steps = np.clip(np.sort(steps), low, high)
        return Candidate(
            tuple(steps.tolist()),
            int(rng.choice(self.start_tokens)),
            self.random_attention_factor(rng),
        )

    def random_attention_factor(self, rng: np.random.Generator) -> int | None:
        """A value of m in whole steps, uniform; None where it is not searched."""
        if self.searched_attention_factors is None:
            return None
        lowest, highest = (round(m / STEP) for m in self.searched_attention_factors)
        return int(rng.integers(lowest, highest + 1))

    def to_dict(self) -> Json:
        """As JSON holds it: what tells one space from another."""
        low, high = (list(b) if isinstance(b, Sequence) else b for b in (self.low, self.high))
        return {
            "spec": self.spec.to_dict(),
            "target_length": self.target_length,
            "low": low,
            "high": high,
            "step": self.step,
            "start_tokens": list(self.start_tokens),
            "attention_factors": self.attention_factors,
            "monotone": self.monotone,
            "over": None if self.over is None else self.over.to_dict(),
        }


def _start_tokens(values: Iterable[int]) -> tuple[int, ...]:
    counts = tuple(values) if isinstance(values, Iterable) else ()
    if not counts:
        raise ValueError(f"start_tokens is {values}: name at least one whole number from 0")
    return tuple(whole("a value of start_tokens", count, 0) for count in counts)


def _attention_factors(value: ArrayLike | None) -> tuple[float, float] | float | None:
    if value is None:
        return None
    ends = np.asarray(value, dtype=np.float64)
    if ends.shape in ((), (2,)):
        lowest, highest = np.broadcast_to(ends, 2).tolist()
        if 0 < lowest <= highest < math.inf:
            return (lowest, highest) if ends.ndim else lowest
    raise ValueError(f"attention_factors is {value}: give (lowest, highest), 0 < lowest <= highest")


def _refuse_empty(crossed: NDArray[np.bool_], low: Floats, high: Floats, why: str) -> None:
    """Refuse bounds that leave nothing to choose somewhere; `why` may name {i}, {low}, {high}."""
    if crossed.any():
        i = int(crossed.argmax())
        raise ValueError("the space is empty: " + why.format(i=i, low=low[i], high=high[i]))
