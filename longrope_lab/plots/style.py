"""One colour per method in every figure, and how numbers are written in them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import cycle, product
from typing import Any, NamedTuple, TypedDict

import numpy as np
from matplotlib.colors import to_hex, to_rgb


class Style(NamedTuple):
    """How one method is drawn, in every figure; the label is its name in a legend."""

    colour: str
    line: str
    marker: str
    label: str


class LineStyle(TypedDict, total=False):
    """What matplotlib takes about a line."""

    color: str
    linestyle: str | tuple[int, tuple[int, int]]
    linewidth: float
    zorder: float


BLACK, GREY = "#000000", "#7F7F7F"
# LongRoPE's, for all that it makes: a search's best, an extended model, what recovery gives back.
VERMILION, LIGHT, DARK = "#D55E00", "#F0A06A", "#8A3300"

STYLES = {
    "none": Style(BLACK, ":", "x", "no scaling"),
    "pi": Style("#E69F00", "-", "s", "PI"),
    "ntk": Style("#56B4E9", "-", "^", "NTK"),
    "dynamic_ntk": Style("#0072B2", "--", "v", "Dynamic NTK"),
    "yarn": Style("#009E73", "-", "D", "YaRN"),
    "ramp": Style("#66A61E", "-", "d", "ramp"),
    "geometric": Style("#7A8B00", "--", "d", "geometric ramp"),
    "llama3": Style("#B0307A", "-", "p", "llama3"),
    "longrope": Style(VERMILION, "-", "o", "LongRoPE"),
    "evolution": Style(VERMILION, "-", "o", "evolution"),
    "gradient": Style(DARK, "-", "P", "gradient"),
    "random": Style("#8C6D31", "-", ".", "random"),
    "custom": Style(VERMILION, "-", "o", "custom"),
    # Names that the notebooks give.
    "at the start": Style(LIGHT, "--", ".", "at the start"),
    "extended model": Style(DARK, "-", "P", "extended model"),
    "search": Style(VERMILION, "-", "o", "search"),
    "search, n̂ too": Style(DARK, "-", "P", "search, n̂ too"),
    "dimensions": Style(LIGHT, "-", "o", "dimensions"),
    "dimensions and start tokens": Style(VERMILION, "-", "o", "dimensions and start tokens"),
    "recovery on": Style(VERMILION, "-", "o", "recovery on"),
    "recovery off": Style(LIGHT, "-", "o", "recovery off"),
    "two steps": Style(VERMILION, "-", "o", "two steps"),
    "as it is": Style(VERMILION, "-", "o", "as it is"),
    "no scaling": Style(BLACK, ":", "x", "no scaling"),
    "as loaded": Style(BLACK, ":", "+", "as loaded"),
    "control": Style(GREY, "--", "h", "control"),
}
# Those whose names begin other names, too: "longrope, 65,536", "PI, n̂ = 16", "YaRN's factors".
FAMILIES = ("none", "pi", "ntk", "dynamic_ntk", "yarn", "ramp", "geometric", "llama3",
            "longrope", "evolution", "gradient", "random")  # fmt: skip
BEGINNINGS = {key: key for key in FAMILIES} | {STYLES[key].label.lower(): key for key in FAMILIES}
BEGINNINGS["extended"] = "longrope"
OTHERS = ("#CC79A7", "#5D3FD3", "#A89B00", "#44617B")

# The line that everything else is compared with, and the one at the trained window.
REFERENCE_STYLE: LineStyle = {"color": "#777777", "linewidth": 1.2, "zorder": 1}
WINDOW_STYLE: LineStyle = {**REFERENCE_STYLE, "linestyle": (0, (4, 3))}

# Any: matplotlib types the keys of a style sheet one by one.
RC: Any = {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#E6E6E6",
    "axes.axisbelow": True,
    "axes.titlesize": 10,
    "axes.titley": 1.0,  # left to itself, matplotlib measures every tick label to place a title
    "legend.frameon": False,
}


def styles_of(
    names: Iterable[object], methods: Mapping[str, str] | None = None
) -> dict[str, Style]:
    """The style of each name: one of its own, a shade of its method's, or a remaining colour.

    A name belongs to the method that it begins with. Where several belong to one, the shades go
    from light to dark by the length that ends the name, and are dashed beside the method itself.
    Other names take the remaining colours in order, then these again with dashed lines.

    Args:
        names: in the order of the legend.
        methods: name -> the method behind it, where the name does not say.
    """
    wanted = [str(name) for name in names]
    found = {name: STYLES[name] for name in wanted if name in STYLES}
    kin: dict[str, list[str]] = {}
    for name in dict.fromkeys(wanted):
        family = _family(name) or (methods or {}).get(name)
        if name not in found and family in FAMILIES:
            kin.setdefault(family, []).append(name)
    for family, members in kin.items():
        taken = any(style.colour == STYLES[family].colour for style in found.values())
        found |= _shades(family, sorted(members, key=_length), taken)
    rest = ((colour, line, "o") for line, colour in cycle(product(("-", "--", ":"), OTHERS)))
    return {name: found.get(name) or Style(*next(rest), name) for name in wanted}


def _family(name: str) -> str | None:
    """The method that a name begins with, as a whole word: the longest, if several do."""
    begins = [b for b in BEGINNINGS if re.match(rf"{re.escape(b)}(?![^\W_])", name.lower())]
    return BEGINNINGS[max(begins, key=len)] if begins else None


def _length(name: str) -> float:
    """The last number of a name: 65536 of "longrope, 65,536"; 0 without one."""
    numbers = re.findall(r"\d[\d,]*", name)
    return float(numbers[-1].replace(",", "")) if numbers else 0.0


def _shades(family: str, names: Sequence[str], taken: bool) -> dict[str, Style]:
    """Shades of a method's style from light to dark, dashed if the style itself is `taken`."""
    style = STYLES[family]
    tones = np.linspace(-0.5, 0.4, len(names)) if len(names) > 1 else [0.4 if taken else 0.0]
    shades = {}
    for name, tone in zip(names, tones, strict=True):
        label = style.label + name[len(family) :] if name.startswith(family) else name
        line = "--" if taken else style.line
        shades[name] = Style(_tone(style.colour, float(tone)), line, style.marker, label)
    return shades


def _tone(colour: str, tone: float) -> str:
    """A colour mixed with so much black, or with white where `tone` is below 0."""
    end = 0.0 if tone > 0 else 1.0
    red, green, blue = (part + abs(tone) * (end - part) for part in to_rgb(colour))
    return to_hex((red, green, blue))


def tokens(count: float) -> str:
    """512, 4k, 2M: a length as people say it."""
    for unit, size in (("M", 2**20), ("k", 2**10)):
        if count >= size:
            return f"{count / size:g}{unit}" if count % size == 0 else f"{count / size:.3g}{unit}"
    return f"{count:g}"


def three_digits(number: float) -> str:
    """6.28, 62.8, 6,283: three digits, or all of a whole number's."""
    return f"{number:.3g}" if number < 100 else f"{number:,.0f}"


def plain(number: float, _: int | None = None) -> str:
    """A tick's label on a log axis: 0.5, 16, 10,000."""
    return f"{number:,.0f}" if number >= 10_000 else f"{number:g}"
