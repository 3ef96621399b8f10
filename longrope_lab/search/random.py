"""Random search: the baseline that any other must beat at equal cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .objective import Measured, Trial
from .space import SearchSpace

# Candidates asked for at a time, so that workers never wait long.
ROUND = 16


@dataclass(frozen=True)
class Random:
    """Settings: `candidates` drawn at random from the space, none twice.

    Raises:
        ValueError: fewer than 1 candidate.
    """

    candidates: int = 64

    def __post_init__(self) -> None:
        if self.candidates < 1:
            raise ValueError(f"candidates is {self.candidates}: a search needs at least 1")

    def start(self, space: SearchSpace, documents: int, seed: int) -> RandomSearch:
        """A search with these settings."""
        return RandomSearch(self, space, documents, seed)

    def identity(self) -> dict[str, Any]:
        """What tells one search from another; the number of candidates does not."""
        return {}


class RandomSearch:
    """Ask for some trials, tell what they measured."""

    def __init__(self, settings: Random, space: SearchSpace, documents: int, seed: int) -> None:
        self.space, self.left = space, settings.candidates
        self.documents = tuple(range(documents))
        self.rng = np.random.default_rng(seed)
        self.seen: set[Any] = set()

    def ask(self) -> list[Trial]:
        """The next trials; empty when the search is over."""
        asked = min(ROUND, self.left)
        drawn = [self.space.random(self.rng) for _ in range(asked)]
        self.left -= asked
        new = [c for c in dict.fromkeys(drawn) if c not in self.seen]
        self.seen.update(new)
        return [Trial("random", self.space.scaling(c), self.documents) for c in new]

    def tell(self, results: Sequence[Measured]) -> None:
        """Nothing to learn from."""
