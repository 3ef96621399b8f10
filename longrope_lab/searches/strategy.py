"""An evolution strategy: rank-based search with few candidates, where Algorithm 1 takes thousands.

Algorithm 1 draws each factor of a child by itself, so that profiles become ragged, and most
children are worse than their parents whatever the direction. Here a round draws a few profiles
around the mean of the best so far, each a smooth curve away from it, and the mean moves to the
better half of them. How far they lie from it follows from how well that goes (cumulative step-size
adaptation: Hansen, The CMA Evolution Strategy: A Tutorial, arXiv 1604.00772, sections 2 to 3).
The covariance is not learned, which would take hundreds of candidates: it is that of smooth curves.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Annotated

import numpy as np

from ..common.checks import above, whole
from ..common.files import Json
from ..rope.scaling import RopeScaling
from ..rope.spec import Floats
from .gradient import isotonic
from .objective import Measured, Trial
from .space import SearchSpace
from .starts import starts_of

# Share of the step for log m, which acts on every pair at once.
PACE_OF_M = 0.5


@dataclass(frozen=True)
class Strategy:
    """Settings.

    Args:
        population: candidates per round.
        rounds: after the first, which measures the starts.
        initial: where to start: names of formulas, or "high"; the one that reads the documents best
            is the first mean.
        step: standard deviation of the first candidates' log factors.
        smooth: over how many pairs they go up and down together.

    Raises:
        ValueError: a population below 2, rounds that are not a whole number from 0, a step or a
            smoothness that is not above 0, an unknown start, or none.
    """

    population: int = 8
    rounds: int = 24
    initial: Annotated[tuple[str, ...], str] = ("yarn", "ramp", "geometric", "ntk")
    step: float = 0.2
    smooth: float = 6.0

    def __post_init__(self) -> None:
        keep = partial(object.__setattr__, self)
        keep("population", whole("population", self.population, 2))
        keep("rounds", whole("rounds", self.rounds, 0))
        for name in ("step", "smooth"):
            keep(name, above(name, getattr(self, name), 0))
        keep("initial", starts_of(self.initial))
        if not self.initial:
            raise ValueError("initial is empty: name at least one start, such as 'ramp'")

    def start(self, space: SearchSpace, documents: int, seed: int) -> StrategySearch:
        """A search with these settings."""
        return StrategySearch(self, space, documents, seed)

    def identity(self) -> Json:
        """What tells one search from another; the number of rounds does not."""
        return {key: value for key, value in asdict(self).items() if key != "rounds"}

    def ahead(self, documents: int) -> list[tuple[int, int]]:
        """The trials; see `Settings`."""
        return [(len(self.initial) + self.rounds * self.population, documents)]


class StrategySearch:
    """Ask for a round of trials, tell what they measured."""

    def __init__(self, settings: Strategy, space: SearchSpace, documents: int, seed: int) -> None:
        self.settings, self.space = settings, space
        self.documents = tuple(range(documents))
        self.rng = np.random.default_rng(seed)
        pairs = space.spec.rotary_dim // 2
        self.root = _root(pairs, settings.smooth)
        self.round, self.step = 0, settings.step
        size = self.root.shape[1]
        self.draws = np.zeros((settings.population, size))
        self.path = np.zeros(size)  # where the mean has been going, in the units of the draws
        self.points = [
            np.append(
                np.log(space.formula_factors(name)), math.log(space.formula_attention_factor(name))
            )
            for name in settings.initial
        ]
        self.mean = self.points[0]

    def ask(self) -> list[Trial]:
        """The trials of the next round; none when it is over."""
        if self.round > self.settings.rounds:
            return []
        kind = "initial" if self.round == 0 else "draw"
        if self.round:
            self.draws = self.rng.standard_normal(self.draws.shape)
            self.points = [self._inside(self._from_mean(draw)) for draw in self.draws]
        self.round += 1
        return [Trial(kind, self._scaling(point), self.documents) for point in self.points]

    def tell(self, results: Sequence[Measured]) -> None:
        """Move the mean to the better half of the round, and the step by how straight it went."""
        order = sorted(range(len(results)), key=lambda i: results[i].loss)
        order = [i for i in order if math.isfinite(results[i].loss)]
        if not order:
            self.step /= 2
            return
        if self.round == 1:
            self.mean = self.points[order[0]]
            return
        count = max(self.settings.population // 2, 1)
        ranks = np.log(count + 0.5) - np.log(np.arange(1, count + 1))
        weights = ranks[: len(order)] / ranks[: len(order)].sum()
        best = weights @ self.draws[order[:count]]
        self.mean = self._inside(self._from_mean(best))
        self._adapt(best, 1 / float((weights**2).sum()))

    def _from_mean(self, draw: Floats) -> Floats:
        point: Floats = self.mean + self.step * (self.root @ draw)
        return point

    def _adapt(self, draw: Floats, parents: float) -> None:
        """Cumulative step-size adaptation (the tutorial's equations 43 and 44)."""
        size = len(draw)
        rate = (parents + 2) / (size + parents + 5)
        self.path = (1 - rate) * self.path + math.sqrt(rate * (2 - rate) * parents) * draw
        expected = math.sqrt(size) * (1 - 1 / (4 * size) + 1 / (21 * size**2))
        damping = 1 + rate + 2 * max(0.0, math.sqrt((parents - 1) / (size + 1)) - 1)
        length = float(np.linalg.norm(self.path))
        self.step *= math.exp(min(1.0, rate / damping * (length / expected - 1)))

    def _inside(self, point: Floats) -> Floats:
        """The nearest point of the space: factors that rise within their bounds, and m in its."""
        low, high = (np.log(bound) for bound in self.space.bounds)
        factors = isotonic(point[:-1]) if self.space.monotone else point[:-1]
        factors = np.exp(np.clip(factors, low, high))
        factors = self.space.kept_to(factors, self.space.first_critical)
        ends = self.space.searched_attention_factors or (self.space.default_attention_factor,) * 2
        lowest, highest = map(math.log, ends)
        return np.append(np.log(factors), min(max(float(point[-1]), lowest), highest))

    def _scaling(self, point: Floats) -> RopeScaling:
        # Rounding in exp and log must not leave the bounds.
        factors = np.clip(np.exp(point[:-1]), *self.space.bounds)
        m = None if self.space.searched_attention_factors is None else math.exp(point[-1])
        return self.space.scaling_at(factors, attention_factor=m)


def _root(pairs: int, smooth: float) -> Floats:
    """What makes log factors and log m of independent draws, (d/2 + 1, draws).

    The covariance of the log factors falls with the distance of two pairs as a bell curve does. Of
    its directions those remain that vary at least a tenth as much as the first.
    """
    apart = np.subtract.outer(np.arange(pairs), np.arange(pairs)) / smooth
    values, vectors = np.linalg.eigh(np.exp(-0.5 * apart**2))
    kept = values > values.max() / 100
    root = np.zeros((pairs + 1, kept.sum() + 1))
    root[:-1, :-1] = vectors[:, kept] * np.sqrt(values[kept])
    root[-1, -1] = PACE_OF_M
    return root
