"""Gradient search: descent on the factors through the frozen model.

The loss of a document is differentiable in the factors. So a step learns something about all of
them at once, where a candidate of the evolution gives one number. Adam moves log lambda, and log m
if the space says so. After each step the factors are projected on the space: onto the nearest that
never fall (isotonic regression), within the bounds. n-hat is a whole number and stays at the
space's first value.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import ArrayLike

from ..common.checks import above, whole
from ..common.files import Json
from ..common.identity import words_of
from ..rope.scaling import RopeScaling
from ..rope.spec import Floats
from .objective import GRADIENT_FORWARDS, Measured, Trial
from .space import SearchSpace
from .starts import starts_of

# Adam's decay rates: a search has tens of steps, not the thousands that (0.9, 0.999) average over.
BETAS = (0.8, 0.95)

# Of `Gradient.within`: where it starts, and the steps between two measurements on all documents.
STARTS = ("yarn", "ramp", "geometric")
BETWEEN = 12


@dataclass(frozen=True, repr=False)
class Gradient:
    """Settings.

    Args:
        steps: of Adam.
        batch: documents per step, drawn in shuffled passes over all.
        learning_rate: Adam's, falling to a tenth along a cosine.
        validate_every: steps between two measurements on all documents; the best of these is the
            result.
        initial: where to start: "none", "pi", "ntk", "yarn", or "high", the space's upper bounds;
            of several names the one that reads the documents best.
        weighted: find the nearest factors that never fall in Adam's own measure; see below.
        start_documents: compare several starts on the first documents, so many, and none of them on
            all: with 1, a start costs one pass. None: on all documents.

    In Adam's measure each dimension weighs as much as the size of its gradients. In plain distance
    ten dimensions of next to no effect outvote the one that matters wherever the order ties them
    together, and descent stops short of the constrained minimum. But far out the gradients of fast
    dimensions are large, and noise: close these (`SearchSpace(keep_rotations=32)`).

    Raises:
        ValueError: a number that is not a whole one from 1, start_documents beside a single start,
            a learning rate that is not above 0, or
            an unknown start.
    """

    steps: int = 64
    batch: int = 1
    learning_rate: float = 0.1
    validate_every: int = 16
    initial: str | tuple[str, ...] = "yarn"
    weighted: bool = False
    start_documents: int | None = None

    def __post_init__(self) -> None:
        keep = partial(object.__setattr__, self)
        for name in ("steps", "batch", "validate_every"):
            keep(name, whole(name, getattr(self, name), 1))
        keep("learning_rate", above("learning_rate", self.learning_rate, 0))
        starts = starts_of(self.initial)
        if not starts:
            raise ValueError(
                f"initial is {self.initial!r}: name at least one start, such as 'yarn'"
            )
        if not isinstance(self.initial, str):
            keep("initial", starts)
        if self.start_documents is not None:
            keep("start_documents", whole("start_documents", self.start_documents, 1))
            if len(starts) == 1:
                raise ValueError(
                    f"start_documents is {self.start_documents}, and initial names {starts[0]!r} "
                    "alone: name several starts to compare, or leave it out"
                )

    def __repr__(self) -> str:
        return words_of(self, later=["start_documents"])

    @classmethod
    def within(cls, passes: int, documents: int, initial: tuple[str, ...] = STARTS) -> Gradient:
        """Settings that spend at most so many forward passes of one document, on steps above all.

        >>> lab.Gradient.within(40, documents=3)
        Gradient(steps=8, ..., initial=('yarn', 'ramp', 'geometric'), ..., start_documents=1)

        The starts are compared on one document. All documents are measured at the end and, in a
        long search, every `BETWEEN` steps.

        Args:
            passes: of one document, where a gradient counts four.
            documents: of the search.
            initial: where it may start.

        Raises:
            ValueError: too few passes for the starts, a step and the measurement at the end.
        """
        documents = whole("documents", documents, 1)
        several = len(initial) > 1
        first = len(initial) if several else documents
        least = first + GRADIENT_FORWARDS + documents
        passes = whole("passes", passes, least, f"{len(initial)} starts on {documents} documents, "
                       f"a step and a measurement at the end take {least}")  # fmt: skip
        steps = (passes - first - documents) // GRADIENT_FORWARDS
        while first + GRADIENT_FORWARDS * steps + documents * -(-steps // BETWEEN) > passes:
            steps -= 1
        compared = 1 if several else None
        every = min(steps, BETWEEN)
        return cls(steps, validate_every=every, initial=initial, start_documents=compared)

    def start(self, space: SearchSpace, documents: int, seed: int) -> GradientSearch:
        """A search with these settings."""
        return GradientSearch(self, space, documents, seed)

    def identity(self) -> Json:
        """What tells one search from another.

        Everything does: also the number of steps, over which the learning rate falls.
        """
        own = asdict(self)
        if self.start_documents is None:  # as checkpoints of before have it
            del own["start_documents"]
        return own

    def ahead(self, documents: int) -> list[tuple[int, int]]:
        """The trials; see `Settings`."""
        starts, at_once = len(starts_of(self.initial)), self.validates_in_steps(documents)
        read = min(self.start_documents or documents, documents)
        trials = [] if at_once and starts == 1 else [(starts, read)]
        for step in range(0, self.steps, self.validate_every):
            steps = min(self.validate_every, self.steps - step)
            trials.append((steps * self.batch, GRADIENT_FORWARDS))
            if step + steps == self.steps or not at_once:
                trials.append((1, documents))
        return trials

    def validates_in_steps(self, documents: int) -> bool:
        """Whether a step reads all that a validation would, and so stands for it."""
        return documents == self.batch == 1


class GradientSearch:
    """Ask for the trials of a step or of a validation, tell what they measured."""

    def __init__(self, settings: Gradient, space: SearchSpace, documents: int, seed: int) -> None:
        self.settings, self.space = settings, space
        self.documents = tuple(range(documents))
        self.rng = np.random.default_rng(seed)
        self.order: list[int] = []
        # Where the descent stands, and, before the first step, where else it could start.
        self.starts = [
            (
                torch.from_numpy(np.log(space.formula_factors(name))),
                torch.tensor(math.log(space.formula_attention_factor(name)), dtype=torch.float64),
            )
            for name in starts_of(settings.initial)
        ]
        self.log_factors, self.log_m = (value.clone() for value in self.starts[0])
        # m acts on every dimension, so it moves at half the pace of one of them.
        pace = 0.0 if space.searched_attention_factors is None else 0.5
        groups = [
            {"params": [self.log_factors], "pace": 1.0},
            {"params": [self.log_m], "pace": pace},
        ]
        self.adam = torch.optim.Adam(groups, betas=BETAS)
        self.step = 0
        self.validated = -1  # the step that was last measured on all documents

    def ask(self) -> list[Trial]:
        """One trial per document of the next step, or one on all documents; none at the end."""
        at_end = self.step == self.settings.steps
        due = at_end or self.step % self.settings.validate_every == 0
        points = self.starts if self.step == 0 else [(self.log_factors, self.log_m)]
        read = self.settings.start_documents
        if self.validated < 0 and read is not None:
            places = self.documents[:read]
            return [Trial("start", self._scaling(*point), places) for point in points]
        if due and self.validated != self.step:
            only = len(points) == 1 and not at_end
            gradient = only and self.settings.validates_in_steps(len(self.documents))
            return [
                Trial("validation", self._scaling(*point), self.documents, gradient=gradient)
                for point in points
            ]
        if at_end:
            return []
        scaling = self._scaling(self.log_factors, self.log_m)
        return [
            Trial("step", scaling, (self._next(),), gradient=True)
            for _ in range(self.settings.batch)
        ]

    def tell(self, results: Sequence[Measured]) -> None:
        """Learn what the trials of the last `ask` gave, in their order.

        A gradient that is not finite moves nothing.
        """
        gradients = [result.gradient for result in results if result.gradient is not None]
        if not gradients:
            self.validated = self.step
            if self.step == 0:
                best = min(range(len(results)), key=lambda i: results[i].loss)
                self.log_factors.copy_(self.starts[best][0])
                self.log_m.copy_(self.starts[best][1])
            return
        mean = torch.tensor(gradients, dtype=torch.float64).mean(dim=0)  # (d/2 + 1,)
        self.step += 1
        if not torch.isfinite(mean).all():
            return
        self.log_factors.grad, self.log_m.grad = self._tied(mean[:-1]), mean[-1]
        if self.settings.weighted:
            closed = torch.from_numpy(np.equal(*self.space.bounds))
            self.log_factors.grad[closed] = 0  # else they would weigh, and draw their neighbours
        for group in self.adam.param_groups:
            group["lr"] = self.settings.learning_rate * group["pace"] * self._fall()
        self.adam.step()
        self.log_factors.copy_(torch.from_numpy(self._project(self.log_factors.numpy())))
        if self.space.searched_attention_factors is not None:
            self.log_m.clamp_(*map(math.log, self.space.searched_attention_factors))

    def _fall(self) -> float:
        """Cosine from 1 to 0.1 over the steps."""
        return 0.55 + 0.45 * math.cos(math.pi * (self.step - 1) / self.settings.steps)

    def _tied(self, gradient: torch.Tensor) -> torch.Tensor:
        """The gradient (d/2,) where pairs below a critical one follow it: they pull at that one."""
        critical = self.space.first_critical
        if critical is None:
            return gradient
        share = torch.arange(critical, dtype=torch.float64) / critical
        tied = gradient.clone()
        tied[critical] += share @ gradient[:critical]
        tied[:critical] = 0
        return tied

    def _project(self, log_factors: Floats) -> Floats:
        critical = self.space.first_critical
        if critical is not None:
            below = np.arange(len(log_factors)) < critical  # out of the way: they follow
            slow = self._nearest(np.where(below, log_factors[critical:].min() - 1, log_factors))
            return np.log(self.space.kept_to(np.exp(slow), critical))
        return self._nearest(log_factors)

    def _nearest(self, log_factors: Floats) -> Floats:
        if self.space.monotone:
            weights = np.ones_like(log_factors)
            if self.settings.weighted:
                size = self.adam.state[self.log_factors]["exp_avg_sq"].sqrt().numpy()
                # At least what sums of float64 can tell apart.
                weights = np.maximum(size, 1e-6 * size.max() or 1.0)
            log_factors = isotonic(log_factors, weights)
        return np.clip(log_factors, *np.log(self.space.bounds))

    def _scaling(self, log_factors: torch.Tensor, log_m: torch.Tensor) -> RopeScaling:
        # Rounding in exp and log must not leave the bounds.
        factors = np.clip(np.exp(log_factors.numpy()), *self.space.bounds)
        m = None if self.space.searched_attention_factors is None else math.exp(log_m.item())
        return self.space.scaling_at(factors, attention_factor=m)

    def _next(self) -> int:
        if not self.order:
            self.order = self.rng.permutation(len(self.documents)).tolist()
        return self.order.pop()


def isotonic(values: ArrayLike, weights: ArrayLike = 1.0) -> Floats:
    """The nearest sequence, in weighted least squares, that never falls; shape (N,).

    By the min-max formula (Barlow et al., Statistical Inference under Order Restrictions, 1972):
    entry i is the largest, over starts a <= i, of the smallest, over ends b >= i, weighted mean of
    values[a ... b].

    Args:
        values: shape (N,).
        weights: of the squared distances, above 0, shape (N,); or one for all.
    """
    values = np.asarray(values, dtype=np.float64)
    weights = np.broadcast_to(np.asarray(weights, dtype=np.float64), values.shape)
    sums, masses = (np.concatenate(([0.0], np.cumsum(a))) for a in (weights * values, weights))
    start, end = np.indices((len(values),) * 2)
    mass = np.where(end >= start, masses[end + 1] - masses[start], 1.0)
    means = np.where(end >= start, (sums[end + 1] - sums[start]) / mass, np.inf)  # (a, b)
    smallest = np.minimum.accumulate(means[:, ::-1], axis=1)[:, ::-1]  # (a, i): over ends b >= i
    return np.array([smallest[: i + 1, i].max() for i in range(len(values))])
