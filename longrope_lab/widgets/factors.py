"""An editor of rescale factors: drag them, and see what that does to the perplexity of a document."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from html import escape
from typing import TYPE_CHECKING

import ipywidgets
import numpy as np
from matplotlib.figure import Figure

from .. import plots
from ..common.files import Json
from ..models.forward import token_losses
from ..models.rotary import apply_scaling
from ..rope.methods import rope_scaling
from ..rope.scaling import ROUNDING, RopeScaling
from ..rope.spec import Floats
from ..searches.space import START_TOKENS
from ..texts.tokens import Document
from .explorer import Explorer, choice

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# Seconds without a move before an edit is measured: a drag is drawn as it goes, and measured when
# it rests.
PAUSE = 0.4

# The step of the slider of m, and how many steps those of the factors have.
M_STEP = 0.01
STEPS = 200


@dataclass(frozen=True)
class Edit:
    """A scaling that was measured, and its perplexity over the first `length` tokens of the document."""

    scaling: RopeScaling
    length: int
    perplexity: float


def drag(factors: Floats, knots: list[int], knot: int, value: float, rising: bool) -> Floats:
    """Factors, (d/2,), after the control point `knots[knot]` was moved to `value`.

    Pairs between it and its neighbours follow, the less the further away. With `rising`, pairs on
    its right are pushed up and pairs on its left down where they would break lambda_i <=
    lambda_{i+1}."""
    pair = knots[knot]
    weights = np.interp(np.arange(len(factors)), knots, np.eye(len(knots))[knot])
    moved: Floats = np.maximum(factors * (value / factors[pair]) ** weights, 1.0)
    if rising:
        moved[pair:] = np.maximum.accumulate(moved[pair:])
        moved[: pair + 1] = np.minimum.accumulate(moved[pair::-1])[::-1]
    return moved


class FactorEditor(Explorer):
    """What `edit_factors` returns.

    `.scaling` is the profile on the screen, ready to be saved; `.edits` are those that were
    measured, in order. Controls: knot_0, knot_1, ... (factors), start_tokens, attention_factor,
    length, rising, measure, reset, best."""

    def __init__(
        self,
        model: PreTrainedModel,
        document: Document,
        start: RopeScaling,
        length: int,
        knots: list[int],
    ) -> None:
        self.model, self.document, self.start, self.scaling = model, document, start, start
        self.yarn = rope_scaling(
            start.spec, "yarn", start.target_length
        )  # what every search has to beat
        self.edits: list[Edit] = []
        self._knots = knots
        self._measured: dict[tuple[RopeScaling, int], float] = {}
        self._seconds = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._listening = True
        # Twice the ratio leaves room above the 1.25 s that a search goes to.
        self._octaves = math.log2(max(2 * start.ratio, start.factors.max()))
        sliders, settings = self._knot_sliders(), self._settings(length)
        super().__init__(
            sliders | settings,
            above=[
                ["start_tokens", "attention_factor"],
                ["length", "rising", "measure", "reset", "best"],
            ],
            below=[list(sliders)],
        )
        for k in range(len(knots)):
            self.controls[f"knot_{k}"].observe(
                lambda change, k=k: self._dragged(k, change["new"]), names="value"
            )
        for name in ("start_tokens", "attention_factor", "rising", "length"):
            self.controls[name].observe(self._set, names="value")
        self.controls["measure"].on_click(lambda _: self.measure())
        self.controls["reset"].on_click(lambda _: self.show(self.start))
        self.controls["best"].on_click(lambda _: self.show(self.best.scaling))
        self.measure()

    @property
    def best(self) -> Edit:
        """The edit of the lowest perplexity over as many tokens as are chosen now."""
        length = self.controls["length"].value
        return min((e for e in self.edits if e.length == length), key=lambda e: e.perplexity)

    def show(self, scaling: RopeScaling) -> None:
        """Put another scaling of the same embedding and target on the screen, and measure it."""
        if (scaling.spec, scaling.target_length) != (self.start.spec, self.start.target_length):
            raise ValueError(
                f"this editor is for the embedding and the target of {self.start}, not of {scaling}"
            )
        self.scaling = scaling
        self._changed()

    def measure(self) -> Edit:
        """Measure what is on the screen over the chosen length; YaRN and the start are measured once a length."""
        if self._timer is not None:
            self._timer.cancel()
        length = self.controls["length"].value
        started = time.perf_counter()
        edit = Edit(self.scaling, length, self._perplexity(self.scaling, length))
        self._seconds = time.perf_counter() - started
        self.edits.append(edit)
        self.redraw()  # at once: what it is compared with takes two measurements more, the first time
        for baseline in (self.yarn, self.start):
            self._perplexity(baseline, length)
        self.redraw()
        return edit

    def draw(self) -> tuple[Figure, str]:
        """The profile beside YaRN's and the start's, and what they are worth."""
        shown = {"yarn": self.yarn, "at the start": self.start, "by_hand": self.scaling}
        return plots.factor_profile(shown, self.figure), f"{self._worth()}<br>{self._shape()}"

    def _perplexity(self, scaling: RopeScaling, length: int) -> float:
        if (scaling, length) not in self._measured:
            with apply_scaling(self.model, scaling):
                loss = float(token_losses(self.model, self.document.ids[:length]).double().mean())
            self._measured[scaling, length] = math.exp(loss) if loss < 700 else math.inf
        return self._measured[scaling, length]

    def _worth(self) -> str:
        length = self.controls["length"].value
        now, yarn, start = (
            self._measured.get((s, length)) for s in (self.scaling, self.yarn, self.start)
        )
        if now is None:
            return "<b>…</b> measured when nothing moves"
        if yarn is None or start is None:
            return f"<b>perplexity {now:.4g}</b>; YaRN and the start are being measured, too"
        return (
            f"<b>perplexity {now:.4g}</b> = {now / yarn:.3f} × YaRN's {yarn:.4g} = {now / start:.3f} × the start's "
            f"{start:.4g}; best so far {self.best.perplexity:.4g}"
        )

    def _shape(self) -> str:
        falls = np.flatnonzero(np.diff(self.scaling.factors) < -ROUNDING)
        order = (
            f"λ falls after pair {', '.join(map(str, falls))}"
            if falls.size
            else "λ rises throughout"
        )
        return (
            f"first {self.controls['length'].value:,} tokens of {escape(self.document.title)}, in "
            f"{self._seconds:.2f} s; n̂ = {self.scaling.start_tokens}, m = {self.scaling.attention_factor:.4g}; {order}"
        )

    def _step(self, factor: float) -> int:
        """The step of a slider that a factor is shown at.

        A browser rounds what a slider is given to whole steps and sends that back, as if somebody
        had moved it. So sliders get whole steps only, and what comes back counts as a move if it is
        another step."""
        return round(math.log2(factor) / self._octaves * STEPS)

    def _shown(self, factor: float) -> float:
        return float(2.0 ** (self._step(factor) * self._octaves / STEPS))

    def _dragged(self, knot: int, value: float) -> None:
        factors = self.scaling.factors
        if self._listening and self._step(value) != self._step(factors[self._knots[knot]]):
            factors = drag(factors, self._knots, knot, value, self.controls["rising"].value)
            self.scaling = replace(self.scaling, factors=factors, method="longrope")
            self._changed()

    def _set(self, _: object) -> None:
        """The other settings, as their controls say."""
        if not self._listening:
            return
        factors, m, new_m = (
            self.scaling.factors,
            self.scaling.attention_factor,
            self.controls["attention_factor"].value,
        )
        edited = replace(
            self.scaling,
            factors=np.maximum.accumulate(factors) if self.controls["rising"].value else factors,
            start_tokens=self.controls["start_tokens"].value,
            attention_factor=m if round(m / M_STEP) == round(new_m / M_STEP) else new_m,
        )
        if edited != self.scaling:
            self.scaling = replace(edited, method="longrope")
        if (self.scaling, self.controls["length"].value) in self._measured:
            self.redraw()
        else:
            self._changed()

    def _changed(self) -> None:
        """Redraw at once; measure once nothing moves, or at once where no event loop would come back to it."""
        with self._silence():
            self._follow()
        self.redraw()
        if self._timer is not None:
            self._timer.cancel()
        try:
            self._timer = asyncio.get_running_loop().call_later(PAUSE, self.measure)
        except RuntimeError:
            self.measure()

    def _follow(self) -> None:
        """Set the controls to what the scaling is."""
        for k, pair in enumerate(self._knots):
            self.controls[f"knot_{k}"].value = self._shown(self.scaling.factors[pair])
        counts = self.controls["start_tokens"]
        if self.scaling.start_tokens not in counts.options:
            counts.options = sorted({*counts.options, self.scaling.start_tokens})
        counts.value = self.scaling.start_tokens
        self.controls["attention_factor"].value = (
            round(self.scaling.attention_factor / M_STEP) * M_STEP
        )
        if (np.diff(self.scaling.factors) < -ROUNDING).any():
            self.controls["rising"].value = False

    @contextmanager
    def _silence(self) -> Iterator[None]:
        self._listening = False
        try:
            yield
        finally:
            self._listening = True

    def _knot_sliders(self) -> Json:
        """A vertical slider for each control point, from 1 up."""
        layout = ipywidgets.Layout(height="170px", width="64px")
        return {
            f"knot_{k}": ipywidgets.FloatLogSlider(
                value=self._shown(self.start.factors[pair]), base=2, min=0, max=self._octaves,
                step=self._octaves / STEPS, orientation="vertical", description=f"λ {pair}", readout_format=".3g",
                layout=layout,
            )
            for k, pair in enumerate(self._knots)
        }  # fmt: skip

    def _settings(self, length: int) -> Json:
        start, window = self.start, self.start.spec.window
        longest = min(len(self.document), start.target_length)
        lengths = sorted(
            {length, *(window * 2**k for k in range((longest // window).bit_length()))}
        )
        rising = not (np.diff(start.factors) < -ROUNDING).any()
        m = round(start.attention_factor / M_STEP) * M_STEP
        return {
            "start_tokens": choice("n̂", START_TOKENS, start.start_tokens),
            "attention_factor": ipywidgets.FloatSlider(
                value=m, min=min(0.5, m), max=max(2.0, m), step=M_STEP, description="m"
            ),
            "length": ipywidgets.Dropdown(
                options=[(f"{n:,} tokens", n) for n in lengths], value=length, description="measure on",
                layout=ipywidgets.Layout(width="220px"),
            ),
            "rising": ipywidgets.Checkbox(
                value=rising, description="λ may not fall", indent=False, layout=ipywidgets.Layout(width="130px")
            ),
            "measure": ipywidgets.Button(description="measure"),
            "reset": ipywidgets.Button(description="start again"),
            "best": ipywidgets.Button(description="back to the best"),
        }  # fmt: skip


def edit_factors(
    model: PreTrainedModel,
    document: Document,
    scaling: RopeScaling,
    length: int | None = None,
    knots: int = 8,
) -> FactorEditor:
    """Edit a profile of rescale factors by hand, and measure it live on one document, beside YaRN
    and the start.

    Each slider moves one control point; the pairs between two of them follow. The picture moves
    with the slider, and once it rests the document is measured again. Other controls: start tokens,
    attention factor, the length measured, whether factors may fall from a pair to the next.

    Args:
        model: a Hugging Face causal language model.
        document: what to measure on.
        scaling: the profile to start from: found by `search`, or a formula's.
        length: tokens measured first; None for the scaling's target, or the whole document if that
            is shorter.
        knots: control points, evenly spaced over the dimension pairs.

    Raises:
        ValueError: a length that the document does not reach or has no token to predict, fewer than
            2 control points or more than pairs, or a scaling made for another embedding than the
            model's.
    """
    pairs = len(scaling.factors)
    if not 2 <= knots <= pairs:
        raise ValueError(
            f"knots is {knots}: from 2 to {pairs} control points for {pairs} dimension pairs"
        )
    length = min(scaling.target_length, len(document)) if length is None else length
    if not 2 <= length <= len(document):
        raise ValueError(
            f"length is {length:,}: give from 2 to the {len(document):,} tokens of {document.title!r}, or a longer "
            "document"
        )
    return FactorEditor(
        model,
        document,
        scaling,
        length,
        np.linspace(0, pairs - 1, knots).round().astype(int).tolist(),
    )
