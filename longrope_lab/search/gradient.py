"""Gradient search: descent on the factors through the frozen model.

The loss of a document is differentiable in the factors, so a step learns something about all of them at
once, where a candidate of the evolution gives one number. log lambda_i is a sum of positive increments (softplus),
so the factors never fall; Adam moves the increments and, if the space says so, log m. n-hat is a whole number and
stays at the space's first value.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..rope import RopeScaling
from .objective import Measured, Trial
from .space import SearchSpace

# Increments of log lambda start at least this large: softplus has no gradient at 0.
LEAST_INCREMENT = 1e-2


@dataclass(frozen=True)
class Gradient:
    """Settings.

    Args:
        steps: of Adam.
        batch: documents a step, drawn in shuffled passes over all.
        learning_rate: Adam's, falling to a tenth along a cosine.
        validate_every: steps between two measurements on all documents; the best of these is the result.
        initial: the formula to start from: "pi", "ntk" or "yarn".

    Raises:
        ValueError: a number below 1, or a learning rate that is not above 0.
    """

    steps: int = 64
    batch: int = 1
    learning_rate: float = 0.1
    validate_every: int = 16
    initial: str = "yarn"

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "validate_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}: it must be at least 1")
        if not (math.isfinite(self.learning_rate) and self.learning_rate > 0):
            raise ValueError(f"learning_rate is {self.learning_rate}: it must be a finite number above 0")

    def start(self, space: SearchSpace, documents: int, seed: int) -> GradientSearch:
        """A search with these settings.

        Raises:
            ValueError: a space without the monotone rule, which the increments cannot leave.
        """
        return GradientSearch(self, space, documents, seed)

    def identity(self) -> dict[str, Any]:
        """What tells one search from another: everything, since the learning rate falls over the steps."""
        return asdict(self)


class GradientSearch:
    """Ask for the trials of a step or of a validation, tell what they measured."""

    def __init__(self, settings: Gradient, space: SearchSpace, documents: int, seed: int) -> None:
        if not space.monotone:
            raise ValueError("the gradient search moves rising factors only: use a space with monotone=True")
        self.settings, self.space = settings, space
        self.documents = tuple(range(documents))
        self.rng = np.random.default_rng(seed)
        self.order: list[int] = []
        low, high = (torch.from_numpy(np.log(bound)) for bound in space.bounds)
        self.low, self.high = low, high
        start = torch.from_numpy(np.log(space.formula(settings.initial).factors))
        increments = torch.diff(start, prepend=torch.zeros(1, dtype=torch.float64)).clamp(min=LEAST_INCREMENT)
        self.raw = torch.log(torch.expm1(increments)).requires_grad_()  # softplus(raw) = increments
        self.log_m = torch.tensor(math.log(space.formula_attention_factor), dtype=torch.float64, requires_grad=True)
        learned = [self.raw] if space.attention_factors is None else [self.raw, self.log_m]
        self.adam = torch.optim.Adam(learned, lr=settings.learning_rate)
        self.step = 0
        self.validated = -1  # the step that was last measured on all documents

    def ask(self) -> list[Trial]:
        """One trial a document of the next step, or one on all documents; empty when the search is over."""
        due = self.step % self.settings.validate_every == 0 or self.step == self.settings.steps
        if due and self.validated != self.step:
            return [Trial("validation", self._scaling(), self.documents)]
        if self.step == self.settings.steps:
            return []
        return [Trial("step", self._scaling(), (self._next(),), gradient=True) for _ in range(self.settings.batch)]

    def tell(self, results: Sequence[Measured]) -> None:
        """What the trials of the last `ask` gave, in their order. A gradient that is not finite moves nothing."""
        gradients = [result.gradient for result in results if result.gradient is not None]
        if not gradients:
            self.validated = self.step
            return
        mean = torch.tensor(gradients, dtype=torch.float64).mean(dim=0)
        self.step += 1
        if not torch.isfinite(mean).all():
            return
        self.adam.zero_grad()
        self._log_factors().backward(mean[:-1])  # type: ignore[no-untyped-call]
        self.log_m.grad = mean[-1]
        for group in self.adam.param_groups:
            group["lr"] = self.settings.learning_rate * self._fall()
        self.adam.step()
        if self.space.attention_factors is not None:
            lowest, highest = self.space.attention_factors
            self.log_m.data.clamp_(math.log(lowest), math.log(highest))

    def _fall(self) -> float:
        """Cosine from 1 to 0.1 over the steps."""
        return 0.55 + 0.45 * math.cos(math.pi * (self.step - 1) / self.settings.steps)

    def _log_factors(self) -> Tensor:
        rising = F.softplus(self.raw).cumsum(0)
        return torch.maximum(torch.minimum(rising, self.high), self.low)

    def _scaling(self) -> RopeScaling:
        with torch.no_grad():
            # Rounding in exp and log must not leave the bounds.
            factors = np.clip(self._log_factors().exp().numpy(), *self.space.bounds)
            m = None if self.space.attention_factors is None else math.exp(self.log_m.item())
        return self.space.scaling_at(factors, attention_factor=m)

    def _next(self) -> int:
        if not self.order:
            self.order = self.rng.permutation(len(self.documents)).tolist()
        return self.order.pop()
