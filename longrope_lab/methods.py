"""The formulas that fill in the rescale factors, and `rope_scaling`, which calls them by name.

With s = L'/L the extension ratio, i = 0 ... d/2 - 1 the dimension pair, r_i the turns it makes inside the window:

    none         factors 1                                   the model beyond its window, as it is
    pi           s                                           Position Interpolation, arXiv 2306.15595
    ntk          s**(2i/(d-2))                               NTK-aware, u/bloc97; YaRN section 3.1
    dynamic_ntk  ntk at the running length (a schedule)      u/emozilla; YaRN section 3.3
    yarn         1 where r_i > 32, s where r_i < 1, a ramp   arXiv 2309.00071, sections 3.2 and 3.4
    longrope     given: the search finds them                arXiv 2402.13753
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from .errors import unknown
from .rope import Floats, RopeScaling, RopeSpec, check_target, longrope_attention_factor

if TYPE_CHECKING:
    from .schedule import RopeSchedule

Method = Callable[..., "RopeScaling | RopeSchedule"]
METHODS: dict[str, Method] = {}


def register_method(name: str) -> Callable[[Method], Method]:
    """Decorator: make ``f(spec, target_length, <options>)`` known to `rope_scaling` under `name`.

    A name that is taken is replaced, so that a notebook cell can be run again.
    """

    def add(function: Method) -> Method:
        METHODS[name] = function
        return function

    return add


def rope_scaling(spec: RopeSpec, method: str, target_length: int, **options: Any) -> Any:
    """The scaling of `spec` to `target_length` tokens by a named method.

    Args:
        spec: the model's rotary embedding; `rope_spec(model)` reads it.
        method: "none", "pi", "ntk", "dynamic_ntk", "yarn", "longrope", or what `register_method` added.
        target_length: L' in tokens, at least the original window.
        options: the method's own, each with a default except LongRoPE's `factors`:
            dynamic_ntk: `alpha` = 1; yarn: `beta_fast` = 32, `beta_slow` = 1, `truncate` = True,
            `attention_factor` = 0.1 ln s + 1; longrope: `factors`, `start_tokens` = 0,
            `attention_factor` = sqrt(1 + ln s / ln L).

    Returns:
        A `RopeScaling`; for "dynamic_ntk" a `RopeSchedule`.

    Raises:
        ValueError: an unknown method or option (the nearest is offered), a target shorter than the
            window, or factors outside their rules.
    """
    if method not in METHODS:
        raise unknown("method", method, METHODS)
    target_length = check_target(spec, target_length)
    function = METHODS[method]
    known = list(inspect.signature(function).parameters)[2:]
    for option in options:
        if option not in known:
            raise unknown(f"{method} option", option, known)
    return function(spec, target_length, **options)


@register_method("none")
def none_scaling(spec: RopeSpec, target_length: int) -> RopeScaling:
    """No change: what the model does by itself beyond its window (extrapolation)."""
    return RopeScaling(spec, np.ones(spec.rotary_dim // 2), target_length, "none")


@register_method("pi")
def pi_scaling(spec: RopeSpec, target_length: int) -> RopeScaling:
    """Position Interpolation: every dimension slowed by s (arXiv 2306.15595, section 2.3)."""
    return RopeScaling(spec, np.full(spec.rotary_dim // 2, target_length / spec.original_length), target_length, "pi")


def ntk_factors(spec: RopeSpec, ratio: float) -> Floats:
    """s**(2i/(d-2)), shape (d/2,): the fastest dimension untouched, the slowest slowed by s (YaRN, section 3.1)."""
    if spec.rotary_dim < 4:
        raise ValueError(f"NTK scaling needs a rotary_dim of at least 4; this model has {spec.rotary_dim}")
    return ratio ** (np.arange(0, spec.rotary_dim, 2, dtype=np.float64) / (spec.rotary_dim - 2))


@register_method("ntk")
def ntk_scaling(spec: RopeSpec, target_length: int) -> RopeScaling:
    """NTK-aware interpolation, the same as base -> base * s**(d/(d-2))."""
    return RopeScaling(spec, ntk_factors(spec, target_length / spec.original_length), target_length, "ntk")


@register_method("dynamic_ntk")
def dynamic_ntk(spec: RopeSpec, target_length: int, alpha: float = 1.0) -> RopeSchedule:
    """NTK at the running length. It needs no target: `target_length` is taken for symmetry and only checked."""
    from .schedule import DynamicNTK  # a schedule is made of scalings, so that module imports this one

    return DynamicNTK(spec, alpha)


@register_method("yarn")
def yarn_scaling(
    spec: RopeSpec,
    target_length: int,
    beta_fast: float = 32.0,
    beta_slow: float = 1.0,
    truncate: bool = True,
    attention_factor: float | None = None,
) -> RopeScaling:
    """NTK-by-parts and its attention factor (YaRN, sections 3.2 and 3.4), as the authors' code and transformers do it.

    `beta_fast` and `beta_slow` count turns inside the window. The paper's ramp is linear in the turns; the code's,
    and this one, in the dimension index, between the two that make so many turns (rounded outwards if
    `truncate`). It mixes *frequencies*.
    """
    ratio = target_length / spec.original_length
    if attention_factor is None:
        attention_factor = yarn_attention_factor(ratio)
    factors = yarn_factors(spec, ratio, beta_fast, beta_slow, truncate)
    return RopeScaling(spec, factors, target_length, "yarn", attention_factor=attention_factor)


def yarn_attention_factor(ratio: float, scale: float = 1.0) -> float:
    """m = 0.1 ln s + 1 (YaRN, section 3.4: sqrt(1/t)); `scale` multiplies the logarithm, as DeepSeek's mscale does."""
    return 0.1 * scale * math.log(ratio) + 1.0 if ratio > 1 else 1.0


def yarn_factors(
    spec: RopeSpec, ratio: float, beta_fast: float = 32.0, beta_slow: float = 1.0, truncate: bool = True
) -> Floats:
    """NTK-by-parts: 1 for the fast dimensions, s for the slow, a ramp of the frequencies between; shape (d/2,).

    Raises:
        ValueError: not ``beta_fast >= beta_slow > 0``, or base frequencies that do not fall.
    """
    if not (math.isfinite(beta_fast) and beta_fast >= beta_slow > 0):
        raise ValueError(
            f"beta_fast is {beta_fast} and beta_slow {beta_slow}: they are turns inside the window, beta_fast those of "
            "the dimensions left alone, so beta_fast >= beta_slow > 0"
        )
    low, high = (_index_of_rotations(spec, beta) for beta in (beta_fast, beta_slow))
    if truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, spec.rotary_dim - 1)  # the authors' bound: d - 1, not d/2 - 1
    if low == high:
        high += 0.001
    slowed: Floats = np.clip((np.arange(spec.rotary_dim // 2) - low) / (high - low), 0, 1)  # 1: by s, 0: not at all
    return 1 / (slowed / ratio + (1 - slowed))


def _index_of_rotations(spec: RopeSpec, rotations: float) -> float:
    """The (fractional) dimension pair that makes so many turns inside the window; it may lie outside 0 ... d/2 - 1."""
    if spec.base is not None:
        turns = spec.original_length / (rotations * 2 * math.pi)
        return spec.rotary_dim * math.log(turns) / (2 * math.log(spec.base))
    log_r = np.log(spec.rotations)
    if len(log_r) < 2 or not (np.diff(log_r) < 0).all():
        raise ValueError("YaRN needs base frequencies that fall from each dimension to the next; these do not")
    # Between two pairs the logarithm is taken as linear, as a base's is; past either end, the end's slope goes on.
    i = int(np.clip(np.searchsorted(-log_r, -math.log(rotations)) - 1, 0, len(log_r) - 2))
    return i + float((math.log(rotations) - log_r[i]) / (log_r[i + 1] - log_r[i]))


@register_method("longrope")
def longrope_scaling(
    spec: RopeSpec,
    target_length: int,
    factors: ArrayLike | None = None,
    start_tokens: int = 0,
    attention_factor: float | None = None,
) -> RopeScaling:
    """LongRoPE at given factors, which must not fall from a dimension to the next (section 3.2)."""
    if factors is None:
        raise ValueError(
            "method 'longrope' has no formula: pass factors=, or load a searched RopeScaling from its file"
        )
    if attention_factor is None:
        attention_factor = longrope_attention_factor(spec, target_length)
    scaling = RopeScaling(
        spec,
        np.asarray(factors, dtype=np.float64),
        target_length,
        start_tokens=start_tokens,
        attention_factor=attention_factor,
    )
    return scaling.check_monotone()
