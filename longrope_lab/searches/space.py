"""What a search may choose from (LongRoPE, arXiv 2402.13753, Table 4)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import InitVar, dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..common.checks import above
from ..common.files import Json
from ..rope.formulas import longrope_attention_factor
from ..rope.methods import rope_scaling
from ..rope.scaling import RopeScaling, compose
from ..rope.spec import Floats, RopeSpec, check_target, numbers
from .space_rules import (
    START_TOKENS,
    Candidate,
    attention_factors_of,
    bounds_of,
    check_rotations,
    critical_of,
    drawn,
    grid_of,
    likely_critical,
    ntk_below,
    start_tokens_of,
)

# Table 4: factors go up to 1.25 times the extension ratio, in steps of 0.01.
HIGHEST = 1.25
STEP = 0.01


@dataclass(frozen=True)
class SearchSpace:
    """The scalings of one embedding to one target that a search may try.

    Args:
        spec: the model's rotary embedding.
        target_length: L' in tokens.
        low: smallest factor, one number or one per pair of dimensions (d/2,); at least 1.
        high: largest factor, likewise; None for 1.25 s (Table 4).
        step: distance between two factors tried by the methods that draw from a grid.
        start_tokens: the values of n-hat to try, at most L'; the gradient search keeps the first.
        attention_factors: (lowest, highest) m to search in; one number fixes it; None for the
            formula sqrt(1 + ln s / ln L).
        monotone: factors never fall from one pair of dimensions to the next (section 3.2).
        over: an extension that is in place already, whose factors multiply those of this space; see
            `on_top_of`.
        keep_rotations: leave dimensions alone that turn more often than this inside the model's
            window; YaRN's beta_fast is 32 (arXiv 2309.00071, section 3.2).
        critical: (lowest, highest) critical pair, below which factors follow NTK; one number fixes
            it; None: every factor is free. See `longrope2`.
        keep_range: slow dimensions that finish no turn inside the window down by s at least, so
            that no text turns them further than training did (LongRoPE2, arXiv 2502.20082).

    Raises:
        ValueError: bounds below 1, crossed, or between which no sequence of factors rises; a step
            or keep_rotations that is not above 0; no start tokens, or not whole numbers from 0 to
            the target.
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
    critical: tuple[int, int] | int | None = None
    keep_range: InitVar[bool] = False

    def __post_init__(self, keep_rotations: float | None, keep_range: bool) -> None:
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
        keep("start_tokens", start_tokens_of(self.start_tokens, self.target_length))
        keep("attention_factors", attention_factors_of(self.attention_factors))
        if self.over is not None and self.start_tokens != (self.over.start_tokens,):
            raise ValueError(
                f"start_tokens is {self.start_tokens}, and the extension below leaves "
                f"{self.over.start_tokens} start tokens alone: between two counts only one would "
                "act; use SearchSpace.on_top_of"
            )
        keep("critical", critical_of(self.critical, self.spec))
        if keep_rotations is not None:
            check_rotations(keep_rotations)
            low, high = self.bounds
            kept = np.where(self.model_spec.rotations > keep_rotations, low, high)
            keep("high", tuple(kept.tolist()))
        if keep_range:
            least = np.where(self.spec.rotations < 1, self.target_length / self.spec.window, 1)
            keep("low", tuple(np.maximum(self.bounds[0], least).tolist()))
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

        n-hat stays that of `last`, or is the target where that is less. Its m stays, too, unless it
        is free: then it lies between 1 and that one.
        """
        m = last.attention_factor
        return cls(
            last.spec,
            target_length,
            high=tuple(last.factors.tolist()),
            start_tokens=(min(last.start_tokens, target_length),),
            attention_factors=(min(1.0, m), max(1.0, m)) if free_attention_factor else m,
            monotone=bool((last.factors[1:] >= last.factors[:-1]).all()),
        )

    @classmethod
    def longrope2(
        cls,
        spec: RopeSpec,
        target_length: int,
        *,
        critical: tuple[int, int] | int | None = None,
        attention_factors: tuple[float, float] | float | None = None,
    ) -> SearchSpace:
        """LongRoPE2's space: only slow pairs are searched (arXiv 2502.20082, section 3).

        >>> spec = lab.RopeSpec(rotary_dim=64, window=512, base=10_000.0)
        >>> space = lab.SearchSpace.longrope2(spec, 4096)
        >>> spec.critical_pair, space.critical
        (16, (12, 16))

        From the critical pair on factors lie in [s, 2s], since training saw too little of these
        pairs; below it they follow NTK. It is searched, too: in theory `RopeSpec.critical_pair`.

        Args:
            spec: the model's rotary embedding.
            target_length: L' in tokens, above the window.
            critical: (lowest, highest) critical pair to try, or the one to keep; None: from 3/4 of
                the theoretical one to that. A gradient keeps the highest.
            attention_factors: as of the class.

        Raises:
            ValueError: a target that is not above the window, so that s is 1.
        """
        target_length = check_target(spec, target_length)
        if target_length == spec.window:
            raise ValueError(
                f"target_length {target_length} is the window itself: name a longer one"
            )
        m = attention_factors
        high = 2 * target_length / spec.window
        where = likely_critical(spec) if critical is None else critical
        return cls(spec, target_length, 1.0, high, STEP, (0,), attention_factors=m, critical=where)

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
        return bounds_of(self.low, self.high, self.spec.rotary_dim // 2, monotone=self.monotone)

    @property
    def grid(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The bounds in whole steps, both (d/2,)."""
        return grid_of(*self.bounds, self.step)

    @property
    def first_critical(self) -> int | None:
        """The critical pair to begin with, the highest; None where every factor is free."""
        return self.critical[1] if isinstance(self.critical, tuple) else None

    def settled(self, candidate: Candidate) -> Candidate:
        """A candidate that keeps to its critical pair, if it has one."""
        if candidate.critical is None:
            return candidate
        factors = self.kept_to(np.array(candidate.factors) * self.step, candidate.critical)
        steps = np.clip(np.rint(factors / self.step).astype(np.int64), *self.grid)
        return replace(candidate, factors=tuple(steps.tolist()))

    def kept_to(self, factors: Floats, critical: int | None) -> Floats:
        """Factors (d/2,) that are at least s from a critical pair on, and NTK's below."""
        if critical is None:
            return factors
        return ntk_below(np.maximum(factors, self.target_length / self.spec.window), critical)

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
        return self.settled(Candidate(tuple(steps.tolist()), nearest, m, self.first_critical))

    def formula_factors(self, method: str) -> Floats:
        """A method's factors within the bounds, (d/2,); of "high", the upper bounds."""
        low, high = self.bounds
        if method == "high":
            return self.kept_to(high, self.first_critical)
        scaling = rope_scaling(self.spec, method, self.target_length)
        if not isinstance(scaling, RopeScaling):
            raise ValueError(
                f"the method {method!r} gives a schedule, and a search starts from the factors of "
                "one target: name another start"
            )
        return self.kept_to(np.clip(scaling.factors, low, high), self.first_critical)

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
        start_tokens, m = int(rng.choice(self.start_tokens)), self.random_attention_factor(rng)
        critical = self.random_critical(rng)
        return self.settled(Candidate(tuple(steps.tolist()), start_tokens, m, critical))

    def random_critical(self, rng: np.random.Generator) -> int | None:
        """A critical pair to try; None where there is none, and no number is drawn."""
        return drawn(rng, self.critical) if isinstance(self.critical, tuple) else None

    def random_attention_factor(self, rng: np.random.Generator) -> int | None:
        """A value of m in whole steps, uniform; None where it is not searched."""
        ends = self.searched_attention_factors
        return None if ends is None else drawn(rng, [round(m / STEP) for m in ends])

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
        } | ({"critical": self.critical} if self.critical else {})
