"""An editor of rescale factors: drag them, and see what that does to a document's perplexity."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from html import escape
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure

from .. import plots
from ..models.forward import perplexity_of, token_losses
from ..models.rotary import apply_scaling
from ..rope.methods import rope_scaling
from ..rope.scaling import RopeScaling
from ..texts.tokens import Document
from .explorer import Explorer
from .factor_controls import (
    M_STEP,
    changed_by,
    drag,
    falling,
    knot_sliders,
    m_shown,
    moved_pairs,
    settings,
    shown,
    step_of,
)

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# Seconds without a move before an edit is measured: a drag is drawn as it goes, and measured when
# it rests.
PAUSE = 0.4

# Inches of the picture: with the sliders below it, all stands on a page of 1440 x 900.
HEIGHT = 2.9


@dataclass(frozen=True)
class Edit:
    """A scaling that was measured, and its perplexity over the document's first `length` tokens."""

    scaling: RopeScaling
    length: int
    perplexity: float


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
        # What every search has to beat.
        self.yarn = rope_scaling(start.spec, "yarn", start.target_length).at(start.target_length)
        self.edits: list[Edit] = []
        self._knots = knots
        self._measured: dict[tuple[RopeScaling, int], float] = {}
        self._seconds = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._listening = True
        self._moves = ""  # what the last drag did, in words
        # Twice the ratio leaves room above the 1.25 s that a search goes to.
        self._octaves = math.log2(max(2 * start.ratio, start.factors.max()))
        sliders = knot_sliders(start, knots, self._octaves)
        super().__init__(
            sliders | settings(start, len(document), length),
            above=[
                ["start_tokens", "attention_factor"],
                ["length", "rising", "measure", "reset", "best"],
            ],
            below=list(sliders),
        )
        self._listen()
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
        self.scaling, self._moves = scaling, ""
        self._changed()

    def measure(self) -> Edit:
        """Measure what is on the screen over the chosen length.

        YaRN and the start are measured once per length."""
        if self._timer is not None:
            self._timer.cancel()
        length = self.controls["length"].value
        started = time.perf_counter()
        edit = Edit(self.scaling, length, self._perplexity(self.scaling, length))
        self._seconds = time.perf_counter() - started
        self.edits.append(edit)
        # At once: what it is compared with takes two measurements more, the first time.
        self.redraw()
        for baseline in (self.yarn, self.start):
            self._perplexity(baseline, length)
        self.redraw()
        return edit

    def draw(self) -> tuple[Figure, str]:
        """The profile beside YaRN's and the start's, and what they are worth."""
        profiles = {"yarn": self.yarn, "at the start": self.start, "custom": self.scaling}
        figure = plots.factor_profile(profiles, self.figure)
        figure.set_figheight(HEIGHT)
        words = [self._worth(), self._moves, self._shape()]
        return figure, "<br>".join(filter(None, words))

    def _listen(self) -> None:
        """Follow the controls."""
        for k in range(len(self._knots)):
            self.controls[f"knot_{k}"].observe(
                lambda change, k=k: self._dragged(k, change["new"]), names="value"
            )
        for name in ("start_tokens", "attention_factor", "rising", "length"):
            self.controls[name].observe(self._set, names="value")
        self.controls["measure"].on_click(lambda _: self.measure())
        self.controls["reset"].on_click(lambda _: self.show(self.start))
        self.controls["best"].on_click(lambda _: self.show(self.best.scaling))

    def _perplexity(self, scaling: RopeScaling, length: int) -> float:
        if (scaling, length) not in self._measured:
            with apply_scaling(self.model, scaling):
                loss = float(token_losses(self.model, self.document.ids[:length]).double().mean())
            self._measured[scaling, length] = perplexity_of(loss)
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
        edits = [e for e in self.edits if e.length == length and e.scaling != self.scaling]
        return (
            f"<b>perplexity {now:.4g}</b> = {now / yarn:.3f} × YaRN's {yarn:.4g} = "
            f"{now / start:.3f} × the start's {start:.4g}; best so far {self.best.perplexity:.4g}"
            + (f"<br>{changed_by(now, edits[-1].perplexity)}" if edits else "")
        )

    def _shape(self) -> str:
        falls = falling(self.scaling.factors)
        order = f"λ falls after pair {', '.join(map(str, falls))}" if falls.size else ""
        return (
            f"first {self.controls['length'].value:,} tokens of {escape(self.document.title)}, in "
            f"{self._seconds:.2f} s; n̂ = {self.scaling.start_tokens}, "
            f"m = {self.scaling.attention_factor:.4g}; {order or 'λ rises throughout'}"
        )

    def _dragged(self, knot: int, value: float) -> None:
        factors, octaves = self.scaling.factors, self._octaves
        before = step_of(factors[self._knots[knot]], octaves)
        if self._listening and step_of(value, octaves) != before:
            moved, free = (
                drag(factors, self._knots, knot, value, rising)
                for rising in (self.controls["rising"].value, False)
            )
            self._moves = moved_pairs(self._knots[knot], factors, free, moved)
            self.scaling = replace(self.scaling, factors=moved, method="longrope")
            self._changed()

    def _set(self, _: object) -> None:
        """The other settings, as their controls say."""
        if not self._listening:
            return
        factors, m = self.scaling.factors, self.scaling.attention_factor
        new_m = self.controls["attention_factor"].value
        edited = replace(
            self.scaling,
            factors=np.maximum.accumulate(factors) if self.controls["rising"].value else factors,
            start_tokens=self.controls["start_tokens"].value,
            attention_factor=m if round(m / M_STEP) == round(new_m / M_STEP) else new_m,
        )
        if edited != self.scaling:
            self._moves = ""
            self.scaling = replace(edited, method="longrope")
        if (self.scaling, self.controls["length"].value) in self._measured:
            self.redraw()
        else:
            self._changed()

    def _changed(self) -> None:
        """Redraw at once, and measure once nothing moves.

        Where no event loop would come back to it, it is measured at once, too."""
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
        scaling = self.scaling
        for k, pair in enumerate(self._knots):
            self.controls[f"knot_{k}"].value = shown(scaling.factors[pair], self._octaves)
        counts = self.controls["start_tokens"]
        if scaling.start_tokens not in counts.options:
            counts.options = sorted({*counts.options, scaling.start_tokens})
        counts.value = scaling.start_tokens
        self.controls["attention_factor"].value = m_shown(scaling.attention_factor)
        if falling(scaling.factors).size:
            self.controls["rising"].value = False

    @contextmanager
    def _silence(self) -> Iterator[None]:
        self._listening = False
        try:
            yield
        finally:
            self._listening = True


def edit_factors(
    model: PreTrainedModel,
    document: Document,
    scaling: RopeScaling,
    length: int | None = None,
    knots: int = 8,
) -> FactorEditor:
    """Edit a profile of rescale factors, and measure it live on one document beside YaRN.

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
            f"length is {length:,}: give from 2 to the {len(document):,} tokens of "
            f"{document.title!r}, or a longer document"
        )
    places = np.linspace(0, pairs - 1, knots).round().astype(int).tolist()
    return FactorEditor(model, document, scaling, length, places)
