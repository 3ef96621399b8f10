"""What an engine may compute in place of a scaling: each known mistake, by its name."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from ..models.write_config import same
from ..rope.formulas import (
    longrope_attention_factor,
    ntk_factors,
    yarn_attention_factor,
    yarn_factors,
)
from ..rope.scaling import RopeScaling
from ..rope.schedule import Scaling, sets_of
from ..rope.spec import Floats, RopeSpec

# What classes of engines take for the base where they do not find it in a config.
USUAL_BASE = 10_000.0


@dataclass(frozen=True)
class Hypothesis:
    """One thing that an engine may compute.

    Args:
        name: in words that follow "it computes".
        scaling: the factors and m.
        base: of the frequencies, where it is another than the model's.
    """

    name: str
    scaling: RopeScaling
    base: float | None = None

    @property
    def log_offsets(self) -> Floats:
        """What another base adds to the logarithms of the factors, shape (d/2,)."""
        spec = self.scaling.spec
        if self.base is None:
            return np.zeros(spec.rotary_dim // 2)
        other = RopeSpec(spec.rotary_dim, spec.window, self.base)
        offsets: Floats = np.log(spec.frequencies / other.frequencies)
        return offsets

    def same_as(self, other: Hypothesis) -> bool:
        """Whether both turn a model alike."""
        return all(map(same, self._turns, other._turns))

    @property
    def _turns(self) -> tuple[Floats | float, ...]:
        scaling = self.scaling
        frequencies = scaling.frequencies * np.exp(-self.log_offsets)
        m = scaling.spec.attention_factor * scaling.attention_factor
        return frequencies, m, scaling.start_tokens


def hypotheses(scaling: Scaling, plain: RopeSpec, length: int) -> list[Hypothesis]:
    """What is right for an input of so many tokens, first, and what is known to go wrong.

    No two of them turn the model alike.

    Args:
        scaling: the one that an engine should compute.
        plain: the model's embedding without any.
        length: of the input, in tokens.
    """
    found = [Hypothesis("this scaling", scaling.at(length))]
    for one in _all(scaling, plain):
        if not any(one.same_as(other) for other in found):
            found.append(one)
    return found


def _all(scaling: Scaling, plain: RopeSpec) -> Iterator[Hypothesis]:
    sets = sets_of(scaling)
    none = RopeScaling(plain, np.ones(plain.rotary_dim // 2), plain.window, "none")
    yield Hypothesis("no scaling", none)
    names = _names(sets)
    for name, one in zip(names, sets, strict=True):
        yield Hypothesis(name, one)
    for name, one in zip(names, sets, strict=True):
        yield from _other_attention(name, one, plain, sets)
    if sets:
        yield from _other_formulas(sets[0], sets[-1], plain)
    if plain.base is not None:
        words = f"base of {USUAL_BASE:,.0f} in place of {plain.base:,.0f}"
        yield Hypothesis(f"no scaling, and a {words}", none, USUAL_BASE)
        for name, one in zip(names, sets, strict=True):
            if one.spec.base is not None:
                yield Hypothesis(f"{name}, over a {words}", one, USUAL_BASE)


def _names(sets: tuple[RopeScaling, ...]) -> list[str]:
    if len(sets) == 2:
        return ["the short set", "the long set"]
    if len(sets) == 1:
        return ["this scaling"]
    return [f"the set for {one.target_length:,} tokens" for one in sets]


def _other_attention(
    name: str, one: RopeScaling, plain: RopeSpec, sets: tuple[RopeScaling, ...]
) -> Iterator[Hypothesis]:
    """A set with another m than its own, and without its start tokens."""
    if one.start_tokens:
        yield Hypothesis(f"{name} without its start tokens", replace(one, start_tokens=0))
    target = sets[-1].target_length
    original = sets[0].target_length if len(sets) > 1 else plain.window
    m = one.spec.attention_factor * one.attention_factor
    yarns = yarn_attention_factor(target / original)
    longropes = longrope_attention_factor(replace(plain, window=original), target)
    others = {
        "LongRoPE's formula": longropes,
        "YaRN's formula": yarns,
        "an m of 1": 1.0,
        "its own m times YaRN's formula": m * yarns,
        "its own m squared": m * m,
    }
    for words, other in others.items():
        of = "" if words.startswith(("its", "an")) else " for m"
        other_set = replace(one, attention_factor=other / one.spec.attention_factor)
        yield Hypothesis(f"{name} with {words}{of} ({other:.4g}, not {m:.4g})", other_set)


def _other_formulas(short: RopeScaling, long: RopeScaling, plain: RopeSpec) -> Iterator[Hypothesis]:
    """YaRN with its ramp's ends rounded or not, and simpler formulas of the same ratio."""
    original = plain.window if short is long else short.target_length
    spec, ratio = replace(plain, window=original), long.target_length / original
    m = long.spec.attention_factor * long.attention_factor
    factors = plain.frequencies / long.frequencies
    variants = {
        truncate: yarn_factors(spec, ratio, truncate=truncate) for truncate in (True, False)
    }
    if any(same(factors, each) for each in variants.values()):
        for truncate, each in variants.items():
            words = f"YaRN with the ends of its ramp {'' if truncate else 'not '}rounded"
            formula = yarn_attention_factor(ratio)
            yield Hypothesis(words, _scaling(spec, each, long, m))
            if not same(m, formula):
                words += f", and its formula for m ({formula:.4g}, not {m:.4g})"
                yield Hypothesis(words, _scaling(spec, each, long, formula))
    uniform = np.full(len(factors), ratio)
    yield Hypothesis(f"Position Interpolation by {ratio:g}", _scaling(spec, uniform, long, 1.0))
    if spec.rotary_dim >= 4:
        ntk = _scaling(spec, ntk_factors(spec, ratio), long, 1.0)
        yield Hypothesis(f"NTK-aware scaling by {ratio:g}", ntk)


def _scaling(spec: RopeSpec, factors: Floats, like: RopeScaling, m: float) -> RopeScaling:
    return RopeScaling(spec, factors, like.target_length, attention_factor=m)
