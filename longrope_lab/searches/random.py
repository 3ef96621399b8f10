"""Random search: the baseline that any other must beat at equal cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..common.checks import whole
from ..common.files import Json
from .objective import Measured, Trial
from .space import SearchSpace
from .space_rules import Candidate

# Candidates asked for at a time, so that workers never wait long.
ROUND = 16

# Draws for a candidate that was not measured yet, before the space counts as exhausted.
TRIES = 100


@dataclass(frozen=True)
class Random:
    """Settings: `candidates` drawn at random from the space, none twice.

    Raises:
        ValueError: candidates that are not a whole number from 1.
    """

    candidates: int = 64

    def __post_init__(self) -> None:
        object.__setattr__(self, "candidates", whole("candidates", self.candidates, 1))

    def start(self, space: SearchSpace, documents: int, seed: int) -> RandomSearch:
        """A search with these settings."""
        return RandomSearch(self, space, documents, seed)

    def identity(self) -> Json:
        """What tells one search from another; the number of candidates does not."""
        return {}

    def ahead(self, documents: int) -> list[tuple[int, int]]:
        """The trials at most; see `Settings`."""
        return [(self.candidates, documents)]


class RandomSearch:
    """Ask for some trials, tell what they measured."""

    def __init__(self, settings: Random, space: SearchSpace, documents: int, seed: int) -> None:
        self.space, self.left = space, settings.candidates
        self.documents = tuple(range(documents))
        self.rng = np.random.default_rng(seed)
        self.seen: set[Candidate] = set()

    def ask(self) -> list[Trial]:
        """The next trials, none of them measured before.

        The list is empty when the search is over or the space is exhausted.
        """
        new: list[Candidate] = []
        while len(new) < min(ROUND, self.left):
            drawn = (self.space.random(self.rng) for _ in range(TRIES))
            candidate = next((c for c in drawn if c not in self.seen), None)
            if candidate is None:
                self.left = len(new)
                break
            self.seen.add(candidate)
            new.append(candidate)
        self.left -= len(new)
        return [Trial("random", self.space.scaling(c), self.documents) for c in new]

    def tell(self, results: Sequence[Measured]) -> None:
        """Learn nothing: that is what makes it the baseline."""
