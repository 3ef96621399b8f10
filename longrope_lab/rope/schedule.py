"""Schedules: a `RopeScaling` for each length, where the factors depend on it."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from ..common.checks import above, known_only, named, whole
from ..common.files import Json, not_ours, read_json, write_json
from ..common.renames import warn_renamed
from .formulas import ntk_factors
from .scaling import RopeScaling
from .spec import RopeSpec


class RopeSchedule(ABC):
    """What gives a `RopeScaling` for each sequence length; `by_length` makes the usual one.

    >>> spec = lab.RopeSpec(rotary_dim=4, window=512, base=10_000.0)
    >>> inside, beyond = lab.rope_scaling(spec, "none", 512), lab.rope_scaling(spec, "pi", 4096)
    >>> schedule = lab.RopeSchedule.by_length([inside, beyond])
    >>> [schedule.at(length).method for length in (100, 512, 513)]
    ['none', 'none', 'pi']
    """

    spec: RopeSpec  # the embedding that the schedule is for
    method: str

    @abstractmethod
    def at(self, length: int) -> RopeScaling:
        """The scaling in force for a sequence of `length` tokens."""

    @abstractmethod
    def to_dict(self) -> Json:
        """The schedule as JSON holds it."""

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write it as JSON; `load` reads it back exactly."""
        return write_json(path, self.to_dict())

    @staticmethod
    def by_length(scalings: Iterable[RopeScaling], method: str = "longrope") -> LengthSchedule:
        """Each scaling up to its `target_length`, and the last one beyond."""
        return LengthSchedule(tuple(scalings), method)

    @staticmethod
    def stages(scalings: Iterable[RopeScaling], method: str = "longrope") -> LengthSchedule:
        """The old name of `by_length`: a stage is a step of a plan."""
        warn_renamed("RopeSchedule.stages", "RopeSchedule.by_length")
        return LengthSchedule(tuple(scalings), method)

    @staticmethod
    def load(path: str | os.PathLike[str]) -> RopeSchedule:
        """Read a schedule from JSON.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: it holds no schedule.
        """
        data = read_json(Path(path), "schedule")
        kind = data.get("kind") if isinstance(data, dict) else None
        try:
            if kind == "dynamic_ntk":
                known_only("field", data, ("kind", "spec", "alpha"))
                return DynamicNTK(RopeSpec.from_dict(data["spec"]), data["alpha"])
            if kind in ("by_length", "stages"):  # the release before wrote the second
                name = "scalings" if kind == "by_length" else kind
                held = data[name]
                known_only("field", data, ("kind", "method", name))
                scalings = [RopeScaling.from_dict(s, f"scaling {i}") for i, s in enumerate(held)]
                return LengthSchedule(tuple(scalings), data["method"])
        except (KeyError, TypeError, ValueError) as error:
            raise not_ours(str(path), "schedule", error) from None
        raise ValueError(
            f"{path} holds {kind!r}, not a schedule: one scaling is read with RopeScaling.load"
        )


@dataclass(frozen=True)
class LengthSchedule(RopeSchedule):
    """Scalings of one model, each in force up to its `target_length`, the last one beyond.

    LongRoPE's short-context recovery (section 3.3) is such a schedule: one set of factors serves
    lengths up to 4k, one those up to 8k, one all others.

    Raises:
        ValueError: no scalings, scalings of different specs, or two of the same target length.
    """

    scalings: tuple[RopeScaling, ...]
    method: str = "longrope"
    spec: RopeSpec = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        ordered = tuple(sorted(self.scalings, key=lambda s: s.target_length))
        if not ordered:
            raise ValueError("a schedule needs at least one RopeScaling; this list is empty")
        named("method", self.method)
        object.__setattr__(self, "scalings", ordered)
        object.__setattr__(self, "spec", ordered[0].spec)
        if len({s.spec for s in ordered}) > 1:
            raise ValueError(
                "the scalings of a schedule must share one RopeSpec: these are for different models"
            )
        lengths = [s.target_length for s in ordered]
        if len(set(lengths)) < len(lengths):
            raise ValueError(
                f"the scalings of a schedule need different target lengths; these are {lengths}"
            )

    @property
    def target_length(self) -> int:
        """That of its longest scaling, in tokens."""
        return self.scalings[-1].target_length

    def at(self, length: int) -> RopeScaling:
        length = whole("length", length, 0)
        return next((s for s in self.scalings if length <= s.target_length), self.scalings[-1])

    def to_dict(self) -> Json:
        return {
            "kind": "by_length",
            "method": self.method,
            "scalings": [s.to_dict() for s in self.scalings],
        }


@dataclass(frozen=True)
class DynamicNTK(RopeSchedule):
    """NTK-aware scaling whose ratio follows the running length l: s = alpha*l/L - (alpha - 1).

    With alpha = 1 the ratio is l/L itself. transformers' ``dynamic`` type calls alpha its
    ``factor``. Inside the window nothing is scaled. Sources: a post of u/emozilla; YaRN, section
    3.3; LongRoPE compares with it as Dy-NTK.

    Raises:
        ValueError: alpha below 1 or not finite.
    """

    spec: RopeSpec
    alpha: float = 1.0

    method = "dynamic_ntk"

    def __post_init__(self) -> None:
        rule = f"alpha is {self.alpha}: it must be a finite number of at least 1"
        try:
            alpha = above("alpha", self.alpha, 0)
        except ValueError:
            raise ValueError(rule) from None
        if alpha < 1:
            raise ValueError(rule)
        object.__setattr__(self, "alpha", alpha)

    def at(self, length: int) -> RopeScaling:
        """The NTK scaling for a sequence of `length` tokens."""
        length = max(whole("length", length, 0), self.spec.window)
        ratio = 1 + self.alpha * (length / self.spec.window - 1)  # exactly 1 at the window
        return RopeScaling(self.spec, ntk_factors(self.spec, ratio), length, self.method)

    def to_dict(self) -> Json:
        return {"kind": "dynamic_ntk", "spec": self.spec.to_dict(), "alpha": self.alpha}


# What stretches a model: one set of factors, or one set for each length.
Scaling = RopeScaling | RopeSchedule


def sets_of(scaling: Scaling) -> tuple[RopeScaling, ...]:
    """The scalings that it holds, the shortest first; empty where a formula gives them."""
    if isinstance(scaling, RopeScaling):
        return (scaling,)
    return scaling.scalings if isinstance(scaling, LengthSchedule) else ()


def load_scaling(path: str | os.PathLike[str]) -> Scaling:
    """Read a scaling or a schedule from JSON, whichever it is.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it holds neither.
    """
    data = read_json(Path(path), "scaling")
    if isinstance(data, dict) and data.get("kind", "scaling") == "scaling":
        return RopeScaling.from_dict(data, str(path))
    return RopeSchedule.load(path)
