"""What the explorers share: controls beside a picture that is redrawn as they move."""

from __future__ import annotations

import io
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import ipywidgets
import numpy as np
from IPython.display import display
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.image import imsave

# Dots an inch, and inches of room around each panel: later tick labels may be wider than those it
# was laid out for.
DPI = 96
ROOM = 0.14

# A change of fewer dots than this, or of fainter ones (of 255), nobody sees.
VISIBLE_DOTS, VISIBLE_SHADE = 12, 40
UNSEEN = "<i>the last move changed nothing, or too little to be seen in the picture</i>"

# Shown under an explorer of JupyterLab whose kernel is gone, and on pages without widgets.
STOPPED = "The controls above need their kernel: run this cell again to bring them back."
LIVE = "longrope-lab-explorer"
STOPPED_HTML = f"""
<style>
.jp-OutputArea:not(:has(.{LIVE}:not(.jupyter-widgets-disconnected))) .{LIVE}-stopped {{
    display: block !important;
}}
</style>
<p class="{LIVE}-stopped" style="display: none"><b>{STOPPED}</b></p>
"""

# Input widgets by name: ipywidgets has no types.
Controls = dict[str, Any]


class Shown:
    """What a notebook shows as its `.widget`, and a page without widgets as a sentence."""

    widget: Any

    def _repr_mimebundle_(self, **options: Any) -> Any:
        bundle = self.widget._repr_mimebundle_(**options)
        data = bundle[0] if isinstance(bundle, tuple) else bundle
        data["text/plain"] = f"{type(self).__name__}: shown in JupyterLab while its kernel runs"
        return bundle

    def _ipython_display_(self) -> None:
        """Also under it what to do once its kernel is gone, hidden as long as it is there."""
        self.widget.add_class(LIVE)
        bundle = self._repr_mimebundle_()
        data, metadata = bundle if isinstance(bundle, tuple) else (bundle, {})
        show: Any = display  # IPython has no types
        show(data, raw=True, metadata=metadata)
        show({"text/html": STOPPED_HTML, "text/plain": STOPPED}, raw=True)


class Explorer(Shown, ABC):
    """Controls, a line of words and a picture.

    `.widget` shows them, and `.figure` is what is drawn now.

    Args:
        controls: the input widgets by name.
        above: the names of those that stand above the picture, a row each.
        below: and of those in one row under it; then the words are on their right.
    """

    def __init__(
        self, controls: Controls, above: Sequence[Sequence[str]], below: Sequence[str] = ()
    ) -> None:
        self.controls = dict(controls)
        self.figure: Figure | None = None
        self._painted: tuple[list[Any], Any] | None = None
        self._dots: Any = None
        words = ipywidgets.Layout(flex="1 1 0", min_width="240px")
        self.caption = ipywidgets.HTML(layout=words)
        # At its own size: left to itself, the picture would be stretched over the width of the
        # page.
        layout = ipywidgets.Layout(max_width="100%", align_self="flex-start")
        self.image = ipywidgets.Image(format="png", layout=layout)
        over = [ipywidgets.HBox([self.controls[n] for n in row]) for row in above]
        parts = [self.caption, self.image]
        if below:
            wrap = ipywidgets.Layout(flex_flow="row wrap", max_width="560px")
            sliders = ipywidgets.HBox([self.controls[n] for n in below], layout=wrap)
            parts = [self.image, ipywidgets.HBox([sliders, self.caption])]
        self.widget = ipywidgets.VBox([*over, *parts])

    @abstractmethod
    def draw(self) -> tuple[Figure, str]:
        """The figure and the words for the controls as they stand.

        If there is a `self.figure`, it is drawn anew."""

    def redraw(self, moved: object = None) -> None:
        """Show what `draw` gives; after a control `moved`, say so if nobody can see it."""
        figure, words = self.draw()
        if self.figure is None:
            figure.set_dpi(DPI)
            figure.set_layout_engine("constrained", w_pad=ROOM)
            FigureCanvasAgg(figure)
        png = io.BytesIO()
        dots = np.asarray(self._paint(figure))
        imsave(png, dots, format="png", pil_kwargs={"compress_level": 1})
        figure.set_layout_engine("none")  # laid out once
        unseen = moved is not None and self._dots is not None and look_alike(dots, self._dots)
        self.figure, self._dots = figure, dots.copy()
        self.image.value = png.getvalue()
        words = f"{words}<br>{UNSEEN}" if unseen else words
        self.caption.value = f'<div style="line-height: 1.4">{words}</div>'

    def _paint(self, figure: Figure) -> Any:
        """The figure's dots, (height, width, 4).

        What moves is painted over a copy of the rest, while that is the same: most of the time
        goes into the words along the axes."""
        canvas: Any = figure.canvas
        moving = [
            (ax, artist)
            for ax in figure.axes
            for artist in (*ax.patches, *ax.collections, *ax.lines, ax.title)
        ]
        rest = [
            (ax.get_xlim(), ax.get_ylim(), list(ax.get_xticks()), list(ax.get_yticks()),
             ax.get_xscale(), ax.get_yscale(), ax.get_xlabel(), ax.get_ylabel(), ax.get_legend())
            for ax in figure.axes
        ]  # fmt: skip
        if self._painted is None or self._painted[0] != rest:
            for _, artist in moving:
                artist.set_animated(True)  # leaves it out
            canvas.draw()
            self._painted = rest, canvas.copy_from_bbox(figure.bbox)
        canvas.restore_region(self._painted[1])
        for ax, artist in sorted(moving, key=lambda pair: pair[1].get_zorder()):
            ax.draw_artist(artist)
        return canvas.buffer_rgba()


def look_alike(dots: Any, others: Any) -> bool:
    """Whether two pictures, (height, width, 4), differ too little for anybody to see."""
    if dots.shape != others.shape:
        return False
    apart = np.abs(dots.astype(int) - others).max(axis=-1)
    return bool((apart > VISIBLE_SHADE).sum() < VISIBLE_DOTS)


def choice(name: str, options: Sequence[int], value: int) -> Any:
    """A slider over a few whole numbers, among them the first value."""
    return ipywidgets.SelectionSlider(
        options=sorted({*options, value}), value=value, description=name
    )
