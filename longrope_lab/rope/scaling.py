"""The one idea of the package: `RopeScaling`, one way to stretch one rotary embedding."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from ..common.checks import above, known_only, named, whole
from ..common.files import Json, not_ours, read_json, write_json
from .factors import ROUNDING, checked_factors, read_factors
from .formulas import longrope_attention_factor
from .spec import Floats, RopeSpec, check_start_tokens, check_target

# What a file must hold; `objective` is there only where a search was told what to minimise.
FIELDS = "spec", "factors", "target_length", "method", "start_tokens", "attention_factor"


@dataclass(frozen=True, eq=False)
class RopeScaling:
    """One way to stretch one rotary embedding: what every method and every search produces.

    >>> spec = lab.RopeSpec(rotary_dim=4, window=512, base=10_000.0)
    >>> scaling = lab.RopeScaling(spec, factors=[1.0, 4.0], target_length=2048)
    >>> scaling.ratio
    4.0
    >>> scaling.angles(2047).round(2).tolist()  # the slow pair turns as it did at 512 in training
    [2047.0, 5.12]

    Args:
        spec: the embedding that is stretched.
        factors: lambda, d/2 rescale factors of at least 1, or hardly below; 1 leaves a pair alone.
        target_length: L', the window in tokens that this scaling is for; at least the spec's.
        method: the name of the method that made it.
        start_tokens: n-hat, how many first positions keep their unscaled angles; at most L', where
            the factors would act on none.
        attention_factor: m; cos and sin are multiplied by it, on top of the spec's own. Attention
            logits are so multiplied by its square.
        objective: what the search that found it minimised, in words; empty for a formula, and where
            the search was not told.

    Raises:
        ValueError: a value outside these rules.
    """

    spec: RopeSpec
    factors: Floats
    target_length: int
    method: str = "longrope"
    start_tokens: int = 0
    attention_factor: float = 1.0
    objective: str = ""

    def __post_init__(self) -> None:
        keep = partial(object.__setattr__, self)
        keep("factors", checked_factors(self.factors, self.spec))
        keep("target_length", check_target(self.spec, self.target_length))
        keep("method", named("method", self.method))
        counts = "it counts tokens, so a whole number from 0"
        keep("start_tokens", whole("start_tokens", self.start_tokens, 0, counts))
        check_start_tokens(self.start_tokens, self.target_length)
        keep("attention_factor", above("attention_factor", self.attention_factor, 0))
        if not isinstance(self.objective, str):
            raise ValueError(f"objective is {self.objective!r}: it is words, or an empty text")

    @property
    def ratio(self) -> float:
        """s = L'/L, the extension ratio."""
        return self.target_length / self.spec.window

    @property
    def frequencies(self) -> Floats:
        """theta/lambda, shape (d/2,), float64, in radians per token, from `start_tokens` on."""
        return self.spec.frequencies / self.factors

    def angles(self, positions: ArrayLike) -> Floats:
        """Angles in radians, float64, shape positions.shape + (d/2,) (LongRoPE, Eq. 3)."""
        n = np.asarray(positions, dtype=np.float64)[..., None]
        return n * np.where(n < self.start_tokens, self.spec.frequencies, self.frequencies)

    def at(self, length: int) -> RopeScaling:
        """Itself, whatever the length, so that it serves wherever a `RopeSchedule` does."""
        return self

    def as_spec(self) -> RopeSpec:
        """The embedding of the model once it has this scaling: where a second extension starts.

        Raises:
            ValueError: `start_tokens` above 0, since a spec has one frequency per pair for all
                positions.
        """
        if self.start_tokens:
            raise ValueError(
                f"this scaling keeps {self.start_tokens} start tokens, which a RopeSpec cannot "
                "express: extend again from a scaling with start_tokens=0, or compose with one of "
                "the same start_tokens whose RopeSpec has this one's target_length, frequencies "
                "and attention_factor"
            )
        return RopeSpec(
            rotary_dim=self.spec.rotary_dim,
            window=self.target_length,
            base_frequencies=tuple(self.frequencies.tolist()),
            attention_factor=self.spec.attention_factor * self.attention_factor,
        )

    def check_monotone(self) -> RopeScaling:
        """Itself, if no factor is below the one before it (LongRoPE, section 3.2).

        Raises:
            ValueError: naming the first two that fall.
        """
        falls = np.flatnonzero(np.diff(self.factors) < -ROUNDING)
        if falls.size:
            i = int(falls[0])
            raise ValueError(
                f"factors fall from {self.factors[i]:g} (dimension {i}) to "
                f"{self.factors[i + 1]:g} (dimension {i + 1}): LongRoPE's factors never decrease; "
                "sort them, or build a RopeScaling to skip this rule"
            )
        return self

    def __eq__(self, other: object) -> bool:
        return isinstance(other, RopeScaling) and self.to_dict() == other.to_dict()

    def __hash__(self) -> int:
        numbers = self.target_length, self.start_tokens, self.attention_factor
        return hash((self.spec, self.factors.tobytes(), *numbers))

    def __repr__(self) -> str:
        low, high = self.factors.min(), self.factors.max()
        return (
            f"RopeScaling({self.method}, {self.spec.window} -> {self.target_length} tokens, "
            f"factors {low:.4g} to {high:.4g}, start_tokens={self.start_tokens}, "
            f"m={self.attention_factor:.4g})"
        )

    def to_dict(self) -> Json:
        """The scaling as JSON holds it."""
        said = {"objective": self.objective} if self.objective else {}
        return {
            "kind": "scaling",
            "method": self.method,
            "spec": self.spec.to_dict(),
            "target_length": self.target_length,
            "factors": self.factors.tolist(),
            "start_tokens": self.start_tokens,
            "attention_factor": self.attention_factor,
        } | said

    @classmethod
    def from_dict(cls, data: Any, source: str = "this") -> RopeScaling:
        """Read what `to_dict` wrote; `source` is named in the error.

        Raises:
            ValueError: naming what is missing or wrong.
        """
        kind = data.get("kind") if isinstance(data, dict) else None
        if kind not in ("scaling", None):
            raise ValueError(
                f"{source} holds {kind!r}, not one scaling: a schedule is read with "
                "RopeSchedule.load"
            )
        try:
            fields = {name: data[name] for name in FIELDS}
            known_only("field", data, ("kind", *FIELDS, "objective"))
            fields["objective"] = data.get("objective", "")
            fields["spec"] = RopeSpec.from_dict(data["spec"])
            return cls(**fields)
        except (KeyError, TypeError, ValueError) as error:
            raise not_ours(source, "scaling", error) from None

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write it as JSON; `load` reads it back exactly."""
        return write_json(path, self.to_dict())

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        spec: RopeSpec | None = None,
        target_length: int | None = None,
        start_tokens: int = 0,
        attention_factor: float | None = None,
    ) -> RopeScaling:
        """Read a scaling from JSON, or from a CSV with one factor per line.

        The CSV is what microsoft/LongRoPE's search writes. It holds the factors alone, so `spec`
        and `target_length` must come with it; m follows LongRoPE's formula unless it is given.
        Read, too, are rows that are all the same, as the paper's published factors are.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: it holds no scaling, it is a CSV and `spec` or `target_length` is missing,
                or it is JSON that says otherwise than the arguments.
        """
        path = Path(path)
        if path.suffix.lower() == ".csv":
            return cls._from_csv(path, spec, target_length, start_tokens, attention_factor)
        scaling = cls.from_dict(read_json(path, "scaling"), source=str(path))
        given: dict[str, object] = {"spec": spec, "target_length": target_length}
        given |= {"attention_factor": attention_factor, "start_tokens": start_tokens or None}
        for name, value in given.items():
            if value is not None and value != getattr(scaling, name):
                raise ValueError(
                    f"{path} holds a scaling with {name}={getattr(scaling, name)}, not {value}: "
                    "the arguments complete a CSV; JSON says everything itself"
                )
        return scaling

    @classmethod
    def _from_csv(
        cls,
        path: Path,
        spec: RopeSpec | None,
        target_length: int | None,
        start_tokens: int,
        attention_factor: float | None,
    ) -> RopeScaling:
        if not path.is_file():
            raise FileNotFoundError(f"no factors at {path}: check the path")
        if spec is None or target_length is None:
            raise ValueError(
                f"{path} is a CSV of factors alone: pass spec= and target_length= (and "
                "start_tokens= if it has any)"
            )
        target_length = check_target(spec, target_length)
        if attention_factor is None:
            attention_factor = longrope_attention_factor(spec, target_length)
        try:
            factors = read_factors(path)
            return cls(spec, factors, target_length, "longrope", start_tokens, attention_factor)
        except ValueError as error:
            raise ValueError(f"{path} cannot be used: {error}") from None


def compose(first: RopeScaling, second: RopeScaling) -> RopeScaling:
    """Both extensions as one scaling of the first's spec: factors and attention factors multiply.

    >>> spec = lab.RopeSpec(rotary_dim=4, window=512, base=10_000.0)
    >>> first = lab.rope_scaling(spec, "pi", 1024)
    >>> second = lab.rope_scaling(first.as_spec(), "pi", 4096)
    >>> lab.compose(first, second).factors.tolist()
    [8.0, 8.0]

    The second was found on the model that the first had extended (LongRoPE, section 3.3).

    Raises:
        ValueError: `second` is not for the embedding that `first` leaves, or their `start_tokens`
            differ.
    """
    if first.start_tokens != second.start_tokens:
        raise ValueError(
            f"cannot compose scalings with {first.start_tokens} and {second.start_tokens} start "
            "tokens: between the two counts only one of them would act; search the second with "
            "the first's start_tokens"
        )
    spec, attention = second.spec, first.spec.attention_factor * first.attention_factor
    # What a live model holds is float32, so its frequencies match ours to about 1e-7 only.
    if spec.window != first.target_length or not (
        spec.rotary_dim == first.spec.rotary_dim
        and np.allclose(spec.frequencies, first.frequencies, rtol=1e-5, atol=0)
        and math.isclose(spec.attention_factor, attention, rel_tol=1e-5)
    ):
        raise ValueError(
            "the second scaling is not for the embedding that the first leaves (a window of "
            f"{first.target_length} tokens, attention factor {attention:g}, and its frequencies) "
            f"but for a window of {spec.window} tokens, attention factor "
            f"{spec.attention_factor:g}, and its own: make it from first.as_spec()"
        )
    return replace(
        second,
        spec=first.spec,
        factors=first.factors * second.factors,
        attention_factor=first.attention_factor * second.attention_factor,
    )
