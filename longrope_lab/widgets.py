"""Interactive explorers: sliders on top of the figures of `plots`. Each returns a widget to be shown by a notebook."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import ipywidgets
from matplotlib.figure import Figure

from . import plots
from .errors import unknown
from .methods import rope_scaling, yarn_attention_factor
from .rope import RopeScaling, RopeSpec, longrope_attention_factor

FORMULAS = ("none", "pi", "ntk", "dynamic_ntk", "yarn")
RATIOS = (1, 2, 4, 8, 16, 32, 64)
START_TOKENS = (0, 1, 2, 4, 8, 12, 16, 20, 24, 28, 32, 64, 128, 256)  # the values that LongRoPE searches
OF_THE_METHOD, ONE, YARN, LONGROPE = "of the method", "1", "0.1 ln s + 1 (YaRN)", "√(1 + ln s / ln L) (LongRoPE)"


class ScalingExplorer:
    """What `explore_scaling` returns: the widget, and in `.scaling` and `.figure` what it shows now.

    `controls` holds the input widgets by name: method, ratio, pair, start_tokens, attention_factor.
    """

    def __init__(self, spec: RopeSpec, controls: dict[str, Any]) -> None:
        self.spec = spec
        self.controls = controls
        self.scaling: RopeScaling
        self.figure: Figure
        self._caption = ipywidgets.HTML()
        self._image = ipywidgets.Image(format="png")
        for control in controls.values():
            control.observe(self._redraw, names="value")
        rows = [ipywidgets.HBox(list(controls.values())[:3]), ipywidgets.HBox(list(controls.values())[3:])]
        self.widget = ipywidgets.VBox([*rows, self._caption, self._image])
        self._redraw()

    def _redraw(self, _: object = None) -> None:
        value = {name: control.value for name, control in self.controls.items()}
        target, pair = self.spec.original_length * value["ratio"], value["pair"]
        plain = rope_scaling(self.spec, "none", target)
        scaling = rope_scaling(self.spec, value["method"], target).at(target)
        m = {
            OF_THE_METHOD: scaling.attention_factor,
            ONE: 1.0,
            YARN: yarn_attention_factor(value["ratio"]),
            LONGROPE: longrope_attention_factor(self.spec, target),
        }[value["attention_factor"]]
        self.scaling = replace(scaling, start_tokens=value["start_tokens"], attention_factor=m)
        # "none" with its own m or n-hat replaces the plain curve, which would lie under it.
        self.figure = plots.phase_curves({"none": plain, value["method"]: self.scaling}, [pair])
        tokens_a_turn = 2 * math.pi / self.scaling.frequencies[pair]
        self._caption.value = (
            f"λ = {self.scaling.factors[pair]:.4g}, a turn in {tokens_a_turn:,.4g} tokens, m = {m:.4g}, "
            f"{value['start_tokens']} start tokens, {self.spec.original_length} → {target} tokens"
        )
        png = io.BytesIO()
        self.figure.savefig(png, format="png", dpi=90)
        self._image.value = png.getvalue()

    def _repr_mimebundle_(self, **options: Any) -> Any:
        return self.widget._repr_mimebundle_(**options)


def explore_scaling(
    spec: RopeSpec,
    method: str = "yarn",
    ratio: int = 8,
    start_tokens: int = 0,
    pair: int = 0,
    methods: Sequence[str] = FORMULAS,
) -> ScalingExplorer:
    """Sliders for method, extension ratio, dimension pair, start tokens and attention factor over `plots.phase_curves`.

    Args:
        spec: the rotary embedding; `rope_spec(model)` reads it.
        method: the method shown first, one of `methods`.
        ratio: s = L'/L shown first, a whole number from 1.
        start_tokens: n-hat shown first.
        pair: the dimension pair shown first, 0 ... d/2 - 1.
        methods: those to choose from: formulas by name, also of `register_method`.

    Raises:
        ValueError: a method that is not among `methods`, or a pair or ratio out of range.
    """
    if method not in methods:
        raise unknown("method", method, methods)
    pairs = spec.rotary_dim // 2
    if not 0 <= pair < pairs:
        raise ValueError(f"pair is {pair}: rotary_dim {spec.rotary_dim} has dimension pairs 0 to {pairs - 1}")
    if ratio != int(ratio) or ratio < 1:
        raise ValueError(f"ratio is {ratio}: the explorer takes a whole number from 1")

    def choice(name: str, options: Sequence[int], value: int) -> Any:
        return ipywidgets.SelectionSlider(options=sorted({*options, value}), value=value, description=name)

    controls = {
        "method": ipywidgets.Dropdown(options=list(methods), value=method, description="method"),
        "ratio": choice("ratio s", RATIOS, int(ratio)),
        "pair": ipywidgets.IntSlider(value=pair, min=0, max=pairs - 1, description="pair i"),
        "start_tokens": choice("n̂", START_TOKENS, start_tokens),
        "attention_factor": ipywidgets.Dropdown(
            options=[OF_THE_METHOD, ONE, YARN, LONGROPE], value=OF_THE_METHOD, description="m"
        ),
    }
    return ScalingExplorer(spec, controls)
