"""Explorers of what a formula does to a rotary embedding.

One shows a dimension pair over positions, the other all pairs at one position."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import replace

import ipywidgets
from matplotlib.figure import Figure

from .. import plots
from ..common.checks import unknown
from ..plots.phases import unreached
from ..rope.formulas import longrope_attention_factor, yarn_attention_factor
from ..rope.methods import FORMULAS, rope_scaling
from ..rope.scaling import RopeScaling
from ..rope.spec import RopeSpec, check_start_tokens
from ..searches.space_rules import START_TOKENS
from .explorer import Controls, Explorer, choice

RATIOS = (1, 2, 4, 8, 16, 32, 64)
OF_THE_METHOD, ONE, YARN, LONGROPE = (
    "of the method",
    "1",
    "0.1 ln s + 1 (YaRN)",
    "√(1 + ln s / ln L) (LongRoPE)",
)


class FormulaExplorer(Explorer):
    """Controls for method, ratio, n-hat and m, beside further ones.

    `.scaling` is the one that they describe."""

    def __init__(
        self,
        spec: RopeSpec,
        methods: Sequence[str],
        method: str,
        ratio: int,
        start_tokens: int,
        further: Controls,
    ) -> None:
        if method not in methods:
            raise unknown("method", method, methods)
        check_start_tokens(start_tokens, spec.window * ratio)
        self.spec = spec
        self.scaling: RopeScaling
        controls = {
            "method": ipywidgets.Dropdown(
                options=list(methods), value=method, description="method"
            ),
            "ratio": choice("ratio s", RATIOS, ratio),
            "start_tokens": choice("n̂", START_TOKENS, start_tokens),
            "attention_factor": ipywidgets.Dropdown(
                options=[OF_THE_METHOD, ONE, YARN, LONGROPE], value=OF_THE_METHOD, description="m"
            ),
        }
        super().__init__(
            controls | further,
            above=[["method", "ratio", "attention_factor"], ["start_tokens", *further]],
        )
        for control in self.controls.values():
            control.observe(self.redraw, names="value")
        self.redraw()

    def draw(self) -> tuple[Figure, str]:
        value = {name: control.value for name, control in self.controls.items()}
        target = self.spec.window * value["ratio"]
        scaling = rope_scaling(self.spec, value["method"], target).at(target)
        m = {
            OF_THE_METHOD: scaling.attention_factor,
            ONE: 1.0,
            YARN: yarn_attention_factor(value["ratio"]),
            LONGROPE: longrope_attention_factor(self.spec, target),
        }[value["attention_factor"]]
        kept = min(value["start_tokens"], target)  # all, once the ratio was moved below it
        self.scaling = replace(scaling, start_tokens=kept, attention_factor=m)
        unscaled = rope_scaling(self.spec, "none", target).at(target)
        # "none" with its own m or n-hat replaces the plain curve, which would lie under it.
        shown = {"none": unscaled, value["method"]: self.scaling}
        lengths = f"{self.spec.window} → {target} tokens"
        words = f"{lengths}, m = {m:.4g}, {kept} start tokens"
        figure, more = self.draw_scalings(shown)
        return figure, f"{more}; {words}"

    @abstractmethod
    def draw_scalings(self, shown: dict[str, RopeScaling]) -> tuple[Figure, str]:
        """The figure of the plain embedding and the scaling, and words about it."""


class ScalingExplorer(FormulaExplorer):
    """What `explore_scaling` returns.

    Controls: method, ratio, start_tokens, attention_factor, pair, near."""

    def draw_scalings(self, shown: dict[str, RopeScaling]) -> tuple[Figure, str]:
        pair, target = self.controls["pair"].value, self.scaling.target_length
        near = min(self.controls["near"].value, target)
        figure = plots.phase_curves(shown, [pair], near=near, figure=self.figure)
        tokens = 2 * math.pi / self.scaling.frequencies[pair]
        return figure, f"λ = {self.scaling.factors[pair]:.4g}, {tokens:,.4g} tokens per turn"


class AngleExplorer(FormulaExplorer):
    """What `explore_angles` returns.

    Controls: method, ratio, start_tokens, attention_factor, position."""

    def draw_scalings(self, shown: dict[str, RopeScaling]) -> tuple[Figure, str]:
        position = self.controls["position"].value
        turns = self.scaling.angles(position) / (2 * math.pi)
        beyond = int(unreached(self.spec, turns).sum())
        figure = plots.pair_angles(shown, position, figure=self.figure)
        pairs = f"{beyond} of {len(turns)} pairs"
        return figure, f"at position {position}, {pairs} are beyond their trained angles"


def explore_scaling(
    spec: RopeSpec,
    method: str = "yarn",
    ratio: int = 8,
    start_tokens: int = 0,
    pair: int = 0,
    methods: Sequence[str] = FORMULAS,
    near: int = 32,
) -> ScalingExplorer:
    """One dimension pair's wave and angle over positions, as `plots.phase_curves` draws them.

    Controls: method, extension ratio, dimension pair, start tokens, attention factor, tokens of the
    wave.

    Args:
        spec: the rotary embedding; `rope_spec(model)` reads it.
        method: the method shown first, one of `methods`.
        ratio: s = L'/L shown first, a whole number from 1.
        start_tokens: n-hat shown first.
        pair: the dimension pair shown first, 0 ... d/2 - 1.
        methods: those to choose from: formulas by name, also of `register_method`.
        near: tokens of the wave shown first; the target's, where that is less.

    Raises:
        ValueError: a method that is not among `methods`, or a pair, ratio or near out of range.
    """
    pairs = spec.rotary_dim // 2
    if not 0 <= pair < pairs:
        raise ValueError(
            f"pair is {pair}: rotary_dim {spec.rotary_dim} has dimension pairs 0 to {pairs - 1}"
        )
    if near < 2:
        raise ValueError(f"near is {near}: a wave takes at least 2 tokens")
    longest = spec.window * max(*RATIOS, _whole(ratio))
    further = {
        "pair": ipywidgets.IntSlider(value=pair, min=0, max=pairs - 1, description="pair i"),
        "near": choice("wave of", [2**k for k in range(4, longest.bit_length())], near),
    }
    return ScalingExplorer(spec, methods, method, int(ratio), start_tokens, further)


def explore_angles(
    spec: RopeSpec,
    method: str = "yarn",
    ratio: int = 8,
    start_tokens: int = 0,
    position: int | None = None,
    methods: Sequence[str] = FORMULAS,
) -> AngleExplorer:
    """The angle of every dimension pair at one position, as `plots.pair_angles` draws it.

    Controls: method, extension ratio, position, start tokens, attention factor.

    Args:
        spec, method, ratio, start_tokens, methods: as of `explore_scaling`.
        position: n in tokens, shown first; None for the target.

    Raises:
        ValueError: a method that is not among `methods`, or a ratio or position out of range.
    """
    longest = spec.window * max(*RATIOS, _whole(ratio))
    position = spec.window * int(ratio) if position is None else position
    if position < 1:
        raise ValueError(
            f"position is {position}: the first token has no angle; give a position from 1"
        )
    # Four to an octave: a slider that reaches from 1 to L' and still moves in small steps.
    steps = {round(2 ** (k / 4)) for k in range(4 * longest.bit_length())}
    further = {"position": choice("position n", [n for n in steps if n <= longest], position)}
    return AngleExplorer(spec, methods, method, int(ratio), start_tokens, further)


def _whole(ratio: float) -> int:
    if ratio != int(ratio) or ratio < 1:
        raise ValueError(f"ratio is {ratio}: the explorer takes a whole number from 1")
    return int(ratio)
