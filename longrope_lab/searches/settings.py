"""What a method of search is: settings that start a searcher, which asks for trials and is told."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from ..common.checks import unknown
from ..common.files import Json
from .evolution import PRESETS, Evolution
from .gradient import Gradient
from .objective import Measured, Trial
from .random import Random
from .space import SearchSpace
from .strategy import Strategy


class Searcher(Protocol):
    """What a method's `start` returns."""

    def ask(self) -> list[Trial]:
        """The next round; empty at the end."""

    def tell(self, results: Sequence[Measured]) -> None:
        """Learn what the round gave, in its order."""


class Settings(Protocol):
    """A method: `Evolution`, `Gradient`, `Random`, `Strategy`."""

    def start(self, space: SearchSpace, documents: int, seed: int) -> Searcher:
        """A search with these settings."""

    def identity(self) -> Json:
        """What tells one search from another."""

    def ahead(self, documents: int) -> list[tuple[int, int]]:
        """The trials that there will be at most, in order: how many of which `Trial.forwards`."""


SEARCHES: dict[str, Settings] = {
    "evolution": Evolution(),
    "gradient": Gradient(),
    "random": Random(),
    "strategy": Strategy(),
}


def settings_of(method: str | Settings, preset: str | None = None) -> Settings:
    """A search's settings, as they are or by their name.

    Raises:
        ValueError: an unknown name or preset, a preset beside anything but "evolution", or
            something that is neither a name nor settings.
    """
    if isinstance(method, str) and method not in SEARCHES:
        raise unknown("search method", method, SEARCHES)
    if preset is not None:
        if method != "evolution":
            raise ValueError(
                f"preset {preset!r} sizes method='evolution' alone: leave it out, or pass settings "
                "as method"
            )
        if preset not in PRESETS:
            raise unknown("preset", preset, PRESETS)
        return PRESETS[preset]
    if isinstance(method, str):
        return SEARCHES[method]
    # A class has the methods of its instances, too: `Gradient` in place of `Gradient()`.
    if isinstance(method, type) or not (hasattr(method, "start") and hasattr(method, "identity")):
        raise ValueError(
            f"method is {method!r}: name one of {', '.join(SEARCHES)}, or pass settings such as "
            "Gradient(steps=48)"
        )
    return method
