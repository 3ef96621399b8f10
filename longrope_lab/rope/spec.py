"""What every method starts from: `RopeSpec`, the rotary embedding of a model as it was trained."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..common.checks import above, whole
from ..common.files import Json
from ..common.renames import renamed_fields

Floats = NDArray[np.float64]

# Dimensions of a head; the widest of released models have some hundred.
WIDEST = 2**16


@renamed_fields(original_length="window")
@dataclass(frozen=True)
class RopeSpec:
    """The rotary embedding of a model as it was trained.

    >>> spec = lab.RopeSpec(rotary_dim=8, window=512, base=10_000.0)
    >>> spec.frequencies.tolist()
    [1.0, 0.1, 0.01, 0.001]
    >>> spec.rotations.round(2).tolist()  # the slowest pair never completes a turn in training
    [81.49, 8.15, 0.81, 0.08]

    Args:
        rotary_dim: d, the number of head dimensions that are rotated; even, at least 2.
        window: L, in tokens.
        base: the base of the frequencies ``theta_i = base**(-2i/d)`` (RoFormer, arXiv 2104.09864).
        base_frequencies: theta itself, d/2 values in radians per token, instead of `base`: for a
            model that was extended before, or whose frequencies follow no formula.
        attention_factor: what the model already multiplies cos and sin by.

    Raises:
        ValueError: a value outside these rules, or both or neither of `base` and
            `base_frequencies`.
    """

    rotary_dim: int
    window: int
    base: float | None = None
    base_frequencies: tuple[float, ...] | None = None
    attention_factor: float = 1.0

    def __post_init__(self) -> None:
        # Whatever came in, plain Python numbers are kept: they can be hashed, and JSON holds them
        # exactly.
        keep = partial(object.__setattr__, self)
        even = "it must be even and at least 2"
        keep("rotary_dim", whole("rotary_dim", self.rotary_dim, 2, even))
        if self.rotary_dim % 2:
            raise ValueError(f"rotary_dim is {self.rotary_dim}: {even}")
        if self.rotary_dim > WIDEST:
            raise ValueError(f"rotary_dim is {self.rotary_dim:,}: no head has more than {WIDEST:,}")
        keep("window", whole("window", self.window, 2, "a window has at least 2 tokens"))
        keep("attention_factor", above("attention_factor", self.attention_factor, 0))
        if (self.base is None) == (self.base_frequencies is None):
            raise ValueError(
                "a RopeSpec takes either base or base_frequencies: give exactly one of the two"
            )
        if self.base is not None:
            keep("base", above("base", self.base, 1))
            return
        theta = numbers("base_frequencies", self.base_frequencies)
        pairs = self.rotary_dim // 2
        if theta.shape != (pairs,):
            raise ValueError(
                f"base_frequencies has shape {theta.shape}: rotary_dim {self.rotary_dim} needs "
                f"shape ({pairs},), one frequency per pair of dimensions"
            )
        keep("base_frequencies", tuple(above("a base frequency", f, 0) for f in theta.tolist()))

    @property
    def frequencies(self) -> Floats:
        """theta, shape (d/2,), float64, in radians per token."""
        if self.base is None:
            return np.array(self.base_frequencies, dtype=np.float64)
        return self.base ** (-np.arange(0, self.rotary_dim, 2, dtype=np.float64) / self.rotary_dim)

    @property
    def wavelengths(self) -> Floats:
        """Tokens in a full turn of each pair, shape (d/2,): 2*pi/theta (YaRN, section 2)."""
        return 2 * np.pi / self.frequencies

    @property
    def rotations(self) -> Floats:
        """Full turns of each pair inside the window, shape (d/2,): L*theta/(2*pi).

        Of a pair below 1, training never saw a whole turn.
        """
        return self.window / self.wavelengths

    @property
    def critical_pair(self) -> int:
        """The first pair that makes no more than one turn inside the window; d/2 if all make more.

        With a base it is ceil(d/2 * log_base(L/2pi)), half of LongRoPE2's theoretical critical
        dimension (arXiv 2502.20082, section 3): from it on training never showed whole turns.
        """
        within = np.flatnonzero(self.rotations <= 1 + 1e-12)
        return int(within[0]) if within.size else self.rotary_dim // 2

    def to_dict(self) -> Json:
        """The spec as JSON holds it."""
        out: Json = {"rotary_dim": self.rotary_dim, "window": self.window}
        if self.base is not None:
            out["base"] = self.base
        else:
            out["base_frequencies"] = list(self.base_frequencies or ())
        out["attention_factor"] = self.attention_factor
        return out

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> RopeSpec:
        """Read what `to_dict` wrote, today or when the window was called "original_length".

        Raises:
            KeyError, TypeError, ValueError: a field is missing, unknown, or outside its rule.
        """
        fields = dict(data)
        if "original_length" in fields and "window" in fields:
            raise ValueError("window and original_length name the same number: keep window")
        if "original_length" in fields:
            fields["window"] = fields.pop("original_length")
        return cls(**fields)


def numbers(name: str, given: ArrayLike | None) -> Floats:
    """Values as an array of float64; a text is no number, even one of digits.

    Raises:
        ValueError: some are none.
    """
    try:
        values = np.asarray(given)
    except ValueError:  # rows of different lengths
        values = np.array(None)
    if values.dtype.kind not in "iuf":
        raise ValueError(f"{name} must be numbers, one per pair of dimensions; got {given!r:.60}")
    return values.astype(np.float64)


def same_rotation(
    spec: RopeSpec, frequencies: Floats, attention_factor: float, rtol: float
) -> bool:
    """Whether a spec turns by these frequencies, and multiplies by this factor."""
    return (
        spec.frequencies.shape == frequencies.shape
        and np.allclose(spec.frequencies, frequencies, rtol=rtol, atol=0)
        and math.isclose(spec.attention_factor, attention_factor, rel_tol=rtol)
    )


def rotation_words(spec: RopeSpec) -> str:
    """What a spec turns by, for an error."""
    first, last = spec.frequencies[[0, -1]]
    words = f"rotary_dim {spec.rotary_dim}, "
    words += (
        f"frequencies {first:.4g} to {last:.4g}" if spec.base is None else f"base {spec.base:g}"
    )
    if spec.attention_factor != 1.0:
        words += f" and attention factor {spec.attention_factor:.4g}"
    return words


def check_start_tokens(start_tokens: int, target_length: int) -> None:
    """Refuse more start tokens than the target has: factors would act on no token at all.

    Raises:
        ValueError: there are more.
    """
    if start_tokens > target_length:
        raise ValueError(
            f"start_tokens is {start_tokens:,} and the target {target_length:,}: no token would be "
            "left to scale; keep fewer, or none"
        )


def check_target(spec: RopeSpec, target_length: int) -> int:
    """The target length as an int.

    Raises:
        ValueError: it is not a whole number of tokens, or shorter than the window.
    """
    target_length = whole("target_length", target_length, 0, "it counts tokens, so a whole number")
    if target_length < spec.window:
        raise ValueError(
            f"target_length {target_length} is shorter than the window of {spec.window} tokens: "
            "a scaling extends the window; for shorter inputs use the model as it is"
        )
    return target_length
