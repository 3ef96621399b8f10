"""LongRoPE's evolutionary search (arXiv 2402.13753, Algorithm 1, section 4.1), as ask and tell."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Annotated

import numpy as np

from ..common.checks import above, whole
from ..common.files import Json
from .objective import Measured, Race, Trial
from .space import SearchSpace
from .space_rules import Candidate
from .starts import starts_of

# Tries to breed a child that was not measured yet, before the round goes without it.
TRIES = 100


@dataclass(frozen=True)
class Evolution:
    """Settings; the defaults are the paper's (section 4.1: up to 256k tokens).

    Algorithm 1 as printed breeds once more than it measures; here every child is measured.

    Args:
        population: P, individuals of the first round.
        mutations, crossovers: N1 and N2, children of each further round.
        probability: p, the chance of each dimension to change in a mutation, and that of n-hat and
            m.
        top: k, how many survive a round and breed.
        rounds: T.
        initial: names of formulas in the first population, or "high" for the space's upper bounds.
            The rest of it are mutations of these, or, without any, random individuals.
        racing: drop a candidate once it cannot reach the top k any more; see `Race`.

    Raises:
        ValueError: sizes that are not whole numbers from 1 (mutations, crossovers and rounds: from
            0), a probability outside 0 to 1, or an unknown start.
    """

    population: int = 64
    mutations: int = 16
    crossovers: int = 16
    probability: float = 0.3
    top: int = 32
    rounds: int = 40
    initial: Annotated[tuple[str, ...], str] = ("pi", "ntk", "yarn")
    racing: bool = False

    def __post_init__(self) -> None:
        keep = partial(object.__setattr__, self)
        least = {"population": 1, "mutations": 0, "crossovers": 0, "top": 1, "rounds": 0}
        for name, bound in least.items():
            keep(name, whole(name, getattr(self, name), bound))
        if above("probability", self.probability, 0) > 1:
            raise ValueError(f"probability is {self.probability}: it must be at most 1")
        keep("initial", starts_of(self.initial))
        if self.population < len(self.initial):
            raise ValueError(
                f"population is {self.population}: the {len(self.initial)} formulas alone need more"
            )

    def start(self, space: SearchSpace, documents: int, seed: int) -> EvolutionSearch:
        """A search with these settings."""
        return EvolutionSearch(self, space, documents, seed)

    def identity(self) -> Json:
        """What tells one search from another.

        The number of rounds does not, so that a search can be made longer.
        """
        return {key: value for key, value in asdict(self).items() if key != "rounds"}

    def ahead(self, documents: int) -> list[tuple[int, int]]:
        """The trials at most; see `Settings`. A round may find fewer new candidates."""
        children = self.mutations + self.crossovers
        return [(self.population + self.rounds * children, documents)]


PRESETS = {
    "paper": Evolution(),
    "paper_512k": Evolution(population=32, mutations=8, crossovers=8),
    "small": Evolution(population=24, mutations=8, crossovers=8, top=12, rounds=12),
    "tiny": Evolution(population=8, mutations=4, crossovers=4, top=4, rounds=8),
}


class EvolutionSearch:
    """Ask for a round of trials, tell what they measured.

    Its random numbers are its own, from `seed`.
    """

    def __init__(self, settings: Evolution, space: SearchSpace, documents: int, seed: int) -> None:
        self.settings, self.space = settings, space
        self.documents = tuple(range(documents))
        self.rng = np.random.default_rng(seed)
        self.round = 0
        self.seen: set[Candidate] = set()
        # The best come first, and of the same loss the earlier.
        self.top: list[tuple[float, Candidate]] = []
        self.floors = [math.inf] * documents  # the lowest loss on each document so far
        self._asked: list[Candidate] = []

    def ask(self) -> list[Trial]:
        """The trials of the next round, none of them measured before; none when it is over."""
        if self.round > self.settings.rounds:
            return []
        bred = self._initial() if self.round == 0 else self._children()
        self.round += 1
        self._asked = [candidate for _, candidate in bred]
        race = None
        if self.settings.racing and len(self.top) == self.settings.top:
            race = Race(self.top[-1][0], tuple(self.floors))
        return [Trial(kind, self.space.scaling(c), self.documents, race=race) for kind, c in bred]

    def tell(self, results: Sequence[Measured]) -> None:
        """Learn what the trials of the last `ask` gave, in their order."""
        for result in results:
            for i, loss in enumerate(result.losses):
                self.floors[i] = min(self.floors[i], loss if math.isfinite(loss) else math.inf)
        measured = [
            (r.loss, c) for r, c in zip(results, self._asked, strict=True) if math.isfinite(r.loss)
        ]
        self.top = sorted(self.top + measured, key=lambda pair: pair[0])[: self.settings.top]

    def _initial(self) -> list[tuple[str, Candidate]]:
        space, settings = self.space, self.settings
        formulas = [
            space.candidate(space.formula_factors(name), 0, space.formula_attention_factor(name))
            for name in settings.initial
        ]
        bred = [("initial", c) for c in dict.fromkeys(formulas)]
        self.seen.update(c for _, c in bred)

        def parent_mutated() -> Candidate:
            return self._mutate(formulas[self.rng.integers(len(formulas))])

        make = parent_mutated if formulas else lambda: space.random(self.rng)
        return bred + self._new(
            "mutation" if formulas else "random", settings.population - len(bred), make
        )

    def _children(self) -> list[tuple[str, Candidate]]:
        parents = [candidate for _, candidate in self.top]
        if not parents:  # nothing measured so far gave a number
            return self._new(
                "random", self.settings.population, lambda: self.space.random(self.rng)
            )

        def mutated() -> Candidate:
            return self._mutate(parents[self.rng.integers(len(parents))])

        def crossed() -> Candidate:
            one, other = self.rng.choice(len(parents), 2, replace=len(parents) < 2)
            return self._cross(parents[one], parents[other])

        children = self._new("mutation", self.settings.mutations, mutated)
        return children + self._new("crossover", self.settings.crossovers, crossed)

    def _new(
        self, kind: str, count: int, make: Callable[[], Candidate]
    ) -> list[tuple[str, Candidate]]:
        """`count` candidates that were not seen before.

        They are fewer where the space or the parents give no more.
        """
        new: list[tuple[str, Candidate]] = []
        for _ in range(count):
            for _ in range(TRIES):
                candidate = make()
                if candidate not in self.seen:
                    self.seen.add(candidate)
                    new.append((kind, candidate))
                    break
        return new

    def _mutate(self, parent: Candidate) -> Candidate:
        """With probability p each dimension is drawn anew, between its neighbours.

        So the monotone rule is never broken. The dimensions take turns in a random order, so that a
        run of equal factors can open in either direction.
        """
        rng, low, high = self.rng, *self.space.grid
        factors, first = np.array(parent.factors), parent.critical or 0
        for i in first + rng.permutation(len(factors) - first):
            if rng.random() < self.settings.probability:
                least, most = low[i], high[i]
                if self.space.monotone:
                    least = max(least, factors[i - 1]) if i else least
                    most = min(most, factors[i + 1]) if i + 1 < len(factors) else most
                factors[i] = rng.integers(least, most + 1)
        start_tokens, m = parent.start_tokens, parent.attention_factor
        if rng.random() < self.settings.probability:
            start_tokens = int(rng.choice(self.space.start_tokens))
        if rng.random() < self.settings.probability:
            m = self.space.random_attention_factor(rng)
        critical = parent.critical
        if critical is not None and rng.random() < self.settings.probability:
            critical = self.space.random_critical(rng)
        child = Candidate(tuple(factors.tolist()), start_tokens, m, critical)
        return self.space.settled(child)

    def _cross(self, one: Candidate, other: Candidate) -> Candidate:
        """Take each value from either parent.

        Where a factor would fall, it or its neighbour is moved to the other.
        """
        rng = self.rng
        factors = np.where(rng.random(len(one.factors)) < 0.5, one.factors, other.factors)
        if self.space.monotone:
            # From either end, so that children are not all larger than their parents.
            if rng.random() < 0.5:
                factors = np.maximum.accumulate(factors)
            else:
                factors = np.minimum.accumulate(factors[::-1])[::-1]
        start_tokens = one.start_tokens if rng.random() < 0.5 else other.start_tokens
        m = one.attention_factor if rng.random() < 0.5 else other.attention_factor
        critical = one.critical
        if critical is not None and rng.random() < 0.5:
            critical = other.critical
        child = Candidate(tuple(factors.tolist()), start_tokens, m, critical)
        return self.space.settled(child)
