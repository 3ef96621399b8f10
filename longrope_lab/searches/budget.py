"""When a search stops, and how much of it is ahead."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ..common.checks import above, whole


@dataclass(frozen=True)
class Budget:
    """When a search stops early; what is None does not count.

    A trial that would exceed the budget is not begun.

    Args:
        candidates: trials: candidates measured, or documents of gradient steps and validations.
        tokens: forward tokens; a gradient counts four forward passes.
        seconds: of measuring, those before an interruption included.

    Raises:
        ValueError: candidates or tokens that are not whole numbers from 1, or seconds that are not
            a finite number above 0.
    """

    candidates: int | None = None
    tokens: int | None = None
    seconds: float | None = None

    def __post_init__(self) -> None:
        for name in ("candidates", "tokens"):
            if getattr(self, name) is not None:
                rule = "it must be a whole number from 1, or None for no limit"
                amount = whole(f"the budget's {name}", getattr(self, name), 1, rule)
                object.__setattr__(self, name, amount)  # 1e6 is a float
        if self.seconds is not None:
            object.__setattr__(self, "seconds", above("the budget's seconds", self.seconds, 0))


class Ahead:
    """How much work a search has ahead: its trials at most, within its budget.

    Args:
        budget: of the search.
        length: tokens per document.
        trials: as `Settings.ahead` gives them; None where nobody knows.
    """

    def __init__(
        self, budget: Budget, length: int, trials: Iterable[tuple[int, int]] | None
    ) -> None:
        self.budget, self.length, self.done = budget, length, 0
        self.trials, self.passes = budget.candidates, 0
        if trials is not None:
            self.trials, self.passes = self._affordable(trials)

    def _affordable(self, trials: Iterable[tuple[int, int]]) -> tuple[int, int]:
        """Of the trials those that the budget has room for, and their forward passes."""
        candidates, tokens = self.budget.candidates, self.budget.tokens
        count = passes = 0
        for number, cost in trials:
            room = number if candidates is None else min(number, candidates - count)
            if tokens is not None:
                room = min(room, (tokens // self.length - passes) // cost)
            count, passes = count + room, passes + room * cost
            if room < number:
                break
        return count, passes

    def share(self, more: int, seconds: float) -> float | None:
        """Of all the work, the share that is done after so many more forward passes.

        Args:
            more: passes of one document.
            seconds: that measuring has taken so far.

        Returns:
            The largest of what trials, tokens and seconds say; None if none of them is limited.
        """
        self.done += more
        limits = [
            (self.done, self.passes),
            (self.done * self.length, self.budget.tokens),
            (seconds, self.budget.seconds),
        ]
        return max((done / limit for done, limit in limits if limit), default=None)
