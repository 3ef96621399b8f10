"""The methods by name, and `rope_scaling`, which calls them.

With s = L'/L the extension ratio, i = 0 ... d/2 - 1 the pair of dimensions, and r_i the turns that
it makes inside the window, the factors are

    none          1, so the model runs beyond its window as it is
    pi            s (Position Interpolation, arXiv 2306.15595)
    ntk           s**(2i/(d-2)) (NTK-aware, by u/bloc97; YaRN, section 3.1)
    dynamic_ntk   ntk for the running length, a schedule (u/emozilla; YaRN, section 3.3)
    yarn          1 where r_i > 32, s where r_i < 1, a ramp between (arXiv 2309.00071, section 3.2)
    ramp          1 + t(s - 1), with t the ramp of yarn from 0 to 1 (Microsoft's LongRoPE search)
    geometric     s**t, likewise: between yarn and ramp, and the same share more from pair to pair
    llama3        1 where r_i > 4, s where r_i < 1, between them mixed by r_i (Llama 3.1's code)
    longrope      given, since a search finds them (arXiv 2402.13753)
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from ..common.checks import above, unknown
from .formulas import (
    geometric_factors,
    llama3_factors,
    longrope_attention_factor,
    ntk_factors,
    ramp_factors,
    yarn_attention_factor,
    yarn_factors,
)
from .scaling import RopeScaling
from .schedule import DynamicNTK, RopeSchedule, Scaling
from .spec import Floats, RopeSpec, check_target, numbers

Method = Callable[..., Scaling]

# Every registered method by its name, and the formulas that the experiments compare LongRoPE with.
METHODS: dict[str, Method] = {}
FORMULAS = ("none", "pi", "ntk", "dynamic_ntk", "yarn")


def register_method(name: str) -> Callable[[Method], Method]:
    """Decorator: make a function known to `rope_scaling` under a name.

    >>> @lab.register_method("root")
    ... def root_scaling(spec, target_length, power=0.5):
    ...     factors = [(target_length / spec.window) ** power] * (spec.rotary_dim // 2)
    ...     return lab.RopeScaling(spec, factors, target_length, "root")
    >>> spec = lab.RopeSpec(rotary_dim=8, window=512, base=10_000.0)
    >>> lab.rope_scaling(spec, "root", 2048).factors.tolist()
    [2.0, 2.0, 2.0, 2.0]

    The function takes the spec, the target length and options of its own, each with a default. A
    name that is taken is replaced, so that a notebook cell can be run again.

    Raises:
        ValueError: a name of no letters, or something in place of the function.
    """
    if not name.strip():
        raise ValueError(f"name is {name!r}: a method needs one, by which rope_scaling knows it")

    def add(function: Method) -> Method:
        if not callable(function):
            raise ValueError(
                f"{function!r} stands where the function of {name!r} should: decorate a function "
                "of (spec, target_length)"
            )
        try:
            inspect.signature(function).bind(None, None)
        except TypeError as error:
            raise ValueError(
                f"the function of {name!r} cannot be called with a spec and a target length "
                f"({error}): give it these two, and options with defaults"
            ) from None
        METHODS[name] = function
        return function

    return add


def rope_scaling(spec: RopeSpec, method: str, target_length: int, **options: Any) -> Scaling:
    """The scaling that a named method gives for a target length.

    >>> spec = lab.RopeSpec(rotary_dim=8, window=512, base=10_000.0)
    >>> lab.rope_scaling(spec, "pi", 2048).factors.tolist()
    [4.0, 4.0, 4.0, 4.0]
    >>> lab.rope_scaling(spec, "ntk", 2048).factors.round(2).tolist()
    [1.0, 1.59, 2.52, 4.0]
    >>> lab.rope_scaling(spec, "yarn", 2048)
    RopeScaling(yarn, 512 -> 2048 tokens, factors 1 to 4, start_tokens=0, m=1.139)

    Args:
        spec: the model's rotary embedding; `rope_spec(model)` reads it.
        method: "none", "pi", "ntk", "dynamic_ntk", "yarn", "ramp", "geometric", "llama3",
            "longrope", or what `register_method` added.
        target_length: L', in tokens, at least the window.
        options: the method's own; see below.

    The options and their defaults:

        dynamic_ntk   alpha = 1
        yarn          beta_fast = 32, beta_slow = 1, truncate = True,
                      attention_factor = 0.1 ln s + 1
        ramp          attention_factor = sqrt(1 + ln s / ln L)
        geometric     attention_factor = sqrt(1 + ln s / ln L)
        llama3        factor = s, low_freq_factor = 1, high_freq_factor = 4
        longrope      factors (no default), start_tokens = 0,
                      attention_factor = sqrt(1 + ln s / ln L)

    Returns:
        A `RopeScaling`; for "dynamic_ntk", a `RopeSchedule`.

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
    scaling = function(spec, target_length, **options)
    if not isinstance(scaling, Scaling) or scaling.spec != spec:
        raise ValueError(
            f"the method {method!r} gave {scaling!r:.80}: it must return a RopeScaling or a "
            "RopeSchedule of the spec that it was given"
        )
    if isinstance(scaling, RopeScaling) and scaling.target_length != target_length:
        raise ValueError(
            f"the method {method!r} gave a scaling to {scaling.target_length:,} tokens, asked for "
            f"{target_length:,}: it must make one for the target that it was given"
        )
    return scaling


def named_scalings(
    spec: RopeSpec,
    methods: Sequence[str],
    target_length: int,
    files: Sequence[str | os.PathLike[str]] = (),
) -> dict[str, Scaling]:
    """Formulas and scalings that a search left, by the names that tables give them.

    Args:
        spec: the model's rotary embedding.
        methods: formulas, each by its own name.
        target_length: L' of the formulas, in tokens.
        files: saved scalings, each by the name of its file without ``.json``.

    Raises:
        ValueError: two of the same name, a file for another rotary dimension, or what
            `rope_scaling` and `RopeScaling.load` refuse.
        FileNotFoundError: there is no such file.
    """
    if len(set(methods)) < len(methods):
        raise ValueError(f"methods is {list(methods)}: name each once, as a table does")
    scalings = {method: rope_scaling(spec, method, target_length) for method in methods}
    places = dict.fromkeys(scalings, "a formula")
    for path in map(Path, files):
        if path.stem in scalings:
            raise ValueError(
                f"{path} would be called {path.stem!r}, as is {places[path.stem]}: rename the file"
            )
        scalings[path.stem], places[path.stem] = RopeScaling.load(path), str(path)
        if (width := scalings[path.stem].spec.rotary_dim) != spec.rotary_dim:
            raise ValueError(
                f"{path} is for {width} rotary dimensions, and the model has {spec.rotary_dim}: "
                "name a scaling that was made for it"
            )
    return scalings


@register_method("none")
def none_scaling(spec: RopeSpec, target_length: int) -> RopeScaling:
    """No change: the model goes beyond its window as it is (extrapolation)."""
    return RopeScaling(spec, np.ones(spec.rotary_dim // 2), target_length, "none")


@register_method("pi")
def pi_scaling(spec: RopeSpec, target_length: int) -> RopeScaling:
    """Position Interpolation: every pair is slowed by s (arXiv 2306.15595, section 2.3)."""
    factors = np.full(spec.rotary_dim // 2, target_length / spec.window)
    return RopeScaling(spec, factors, target_length, "pi")


@register_method("ntk")
def ntk_scaling(spec: RopeSpec, target_length: int) -> RopeScaling:
    """NTK-aware interpolation, the same as a base of base * s**(d/(d-2))."""
    return RopeScaling(spec, ntk_factors(spec, target_length / spec.window), target_length, "ntk")


@register_method("dynamic_ntk")
def dynamic_ntk(spec: RopeSpec, target_length: int, alpha: float = 1.0) -> RopeSchedule:
    """NTK-aware interpolation at the running length, whatever `target_length` is."""
    return DynamicNTK(spec, alpha)


@register_method("yarn")
def yarn_scaling(
    spec: RopeSpec,
    target_length: int,
    *,
    truncate: bool = True,
    beta_fast: float = 32.0,
    beta_slow: float = 1.0,
    attention_factor: float | None = None,
) -> RopeScaling:
    """YaRN: NTK-by-parts and an attention factor, as the authors' code computes them.

    `beta_fast` and `beta_slow` count turns inside the window. The paper's ramp is linear in the
    turns (section 3.2). The ramp of the code, and of this function, is linear in the dimension
    index, between the two indices that make so many turns; `truncate` rounds these outwards.
    """
    ratio = target_length / spec.window
    if attention_factor is None:
        attention_factor = yarn_attention_factor(ratio)
    factors = yarn_factors(spec, ratio, (beta_fast, beta_slow), truncate)
    return RopeScaling(spec, factors, target_length, "yarn", attention_factor=attention_factor)


@register_method("ramp")
def ramp_scaling(
    spec: RopeSpec, target_length: int, attention_factor: float | None = None
) -> RopeScaling:
    """YaRN's ramp between the same two pairs, linear in the factor, with LongRoPE's m.

    Microsoft's released LongRoPE search (github.com/microsoft/LongRoPE) starts from these factors,
    and calls them YaRN's. YaRN itself is linear in the frequency, so that in the middle of the ramp
    it slows pairs less.
    """
    factors = ramp_factors(spec, target_length / spec.window)
    return _with_longropes_m(spec, factors, target_length, "ramp", attention_factor)


@register_method("geometric")
def geometric_scaling(
    spec: RopeSpec, target_length: int, attention_factor: float | None = None
) -> RopeScaling:
    """YaRN's ramp between the same two pairs, linear in the factor's logarithm, LongRoPE's m."""
    factors = geometric_factors(spec, target_length / spec.window)
    return _with_longropes_m(spec, factors, target_length, "geometric", attention_factor)


def _with_longropes_m(
    spec: RopeSpec, factors: Floats, target_length: int, method: str, given: float | None
) -> RopeScaling:
    m = longrope_attention_factor(spec, target_length) if given is None else given
    return RopeScaling(spec, factors, target_length, method, attention_factor=m)


@register_method("llama3")
def llama3_scaling(
    spec: RopeSpec,
    target_length: int,
    low_freq_factor: float = 1.0,
    high_freq_factor: float = 4.0,
    factor: float | None = None,
) -> RopeScaling:
    """NTK-by-parts as Llama 3.1 has it: mixed by turns and not by index, and without an m.

    `factor` is what the slow pairs are slowed by. Llama 3.1 went from 8,192 to 131,072 tokens with
    a factor of 8, and had been trained at that length.
    """
    ratio = target_length / spec.window if factor is None else above("factor", factor, 0)
    factors = llama3_factors(spec, ratio, low_freq_factor, high_freq_factor)
    return RopeScaling(spec, factors, target_length, "llama3")


@register_method("longrope")
def longrope_scaling(
    spec: RopeSpec,
    target_length: int,
    factors: ArrayLike | None = None,
    start_tokens: int = 0,
    attention_factor: float | None = None,
) -> RopeScaling:
    """LongRoPE with given factors, which must not fall from one pair to the next (section 3.2)."""
    if factors is None:
        raise ValueError(
            "method 'longrope' has no formula: pass factors=, or load a searched RopeScaling from "
            "its file"
        )
    if attention_factor is None:
        attention_factor = longrope_attention_factor(spec, target_length)
    scaling = RopeScaling(
        spec,
        numbers("factors", factors),
        target_length,
        start_tokens=start_tokens,
        attention_factor=attention_factor,
    )
    return scaling.check_monotone()
