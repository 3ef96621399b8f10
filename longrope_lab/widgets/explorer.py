"""What the explorers share: controls above a picture that is redrawn as they move."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any, cast

import ipywidgets
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

# Dots an inch, and inches of room around each panel: later tick labels may be wider than those it was laid out for.
DPI = 96
ROOM = 0.14


class Shown:
    """Something that a notebook shows as its `.widget`, and a page without widgets as a sentence."""

    widget: Any

    def _repr_mimebundle_(self, **options: Any) -> Any:
        bundle = self.widget._repr_mimebundle_(**options)
        data = bundle[0] if isinstance(bundle, tuple) else bundle
        data["text/plain"] = f"{type(self).__name__}: shown in JupyterLab while its kernel runs"
        return bundle


class Explorer(Shown):
    """Controls, a line of words and a picture: `.widget` shows them, `.figure` is what is drawn now.

    Args:
        controls: the input widgets by name.
        above: the names of those that stand above the picture, a row each.
        below: and of those under it.
    """

    def __init__(
        self, controls: Mapping[str, Any], above: Sequence[Sequence[str]], below: Sequence[Sequence[str]] = ()
    ) -> None:
        self.controls = dict(controls)
        self.figure: Figure | None = None
        self.caption = ipywidgets.HTML()
        # At its own size: left to itself, the picture would be stretched over the width of the page.
        layout = ipywidgets.Layout(max_width="100%", align_self="flex-start")
        self.image = ipywidgets.Image(format="png", layout=layout)
        over, under = ([ipywidgets.HBox([self.controls[n] for n in row]) for row in rows] for rows in (above, below))
        self.widget = ipywidgets.VBox([*over, self.caption, self.image, *under])

    def draw(self) -> tuple[Figure, str]:
        """The figure and the words for the controls as they stand; `self.figure`, if there is one, drawn anew."""
        raise NotImplementedError

    def redraw(self, _: object = None) -> None:
        """Show what `draw` gives."""
        first = self.figure is None
        figure, self.caption.value = self.draw()
        if first:
            figure.set_dpi(DPI)
            figure.set_layout_engine("constrained", w_pad=ROOM)
            FigureCanvasAgg(figure)
        png, canvas = io.BytesIO(), cast(Any, figure.canvas)
        canvas.print_png(png, pil_kwargs={"compress_level": 1})  # savefig would draw twice
        figure.set_layout_engine("none")  # laid out once
        self.figure, self.image.value = figure, png.getvalue()


def choice(name: str, options: Sequence[int], value: int) -> Any:
    """A slider over a few whole numbers, among them the first value."""
    return ipywidgets.SelectionSlider(options=sorted({*options, value}), value=value, description=name)
