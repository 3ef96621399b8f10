"""Figures of what takes many steps: a search by forward passes, fine-tuning by tokens."""

from __future__ import annotations

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from .axes import check_drawable, legend_aside, log_y, panels_of, small_multiples, subplots
from .style import RC, Style, styles_of


def search_curves(table: pd.DataFrame, panels: str | None = None) -> Figure:
    """Validation perplexity against forward passes spent, one curve per search.

    Steps are the best so far, from the best of the scalings that the search began with; dots are
    candidates, triangles at the edge those above it. A search by gradient measures on all documents
    only now and then: these measurements are dots that straight lines join.

    Args:
        table: histories of `search` one below the other, with a further column "search" that names
            each.
        panels: a further column of the table; one panel for each of its values.
    """
    check_drawable(table, "search (its history)", "search", "forwards", "best_perplexity")
    groups = panels_of(table, panels)
    styles = styles_of(table["search"].unique())
    with mpl.rc_context(RC):
        figure, axes = small_multiples(len(groups), 3, height=3.5)
        for ax, (value, group) in zip(axes, groups, strict=True):
            searches = {str(name): rows for name, rows in group.groupby("search", sort=False)}
            log_y(ax)
            ax.set_ylim(*_limits([_descent(history) for history in searches.values()]))
            for name, history in searches.items():
                _draw(ax, history, styles[name])
            ax.set_xlim(left=0)
            ax.set_title("" if panels is None else f"{panels} {value!s}")
        figure.supylabel("validation perplexity (log scale)", fontsize=10)
        figure.supxlabel(
            "forward passes of one document (a gradient counts 4)\n"
            "steps: best so far; dots: candidates (triangles: above the edge); "
            "joined: measurements of a gradient search",
            fontsize=9,
        )
        legend_aside(axes[-1])
    return figure


def _by_gradient(history: pd.DataFrame) -> bool:
    return bool((history["kind"] == "validation").any())


def _descent(history: pd.DataFrame) -> pd.DataFrame:
    """Columns forwards and perplexity of a search's curve, from the best of where it began."""
    if _by_gradient(history):
        whole = history[history["kind"] == "validation"]
        curve = whole.assign(perplexity=np.exp(whole["loss"]))
        starts = curve["round"] == curve["round"].min()
    else:
        curve = history.assign(perplexity=history["best_perplexity"])
        starts = curve["kind"] == "initial"
    first = int(np.flatnonzero(starts)[-1]) if starts.any() else 0
    curve = curve.iloc[first:][["forwards", "perplexity"]]
    return curve.replace(np.inf, np.nan).dropna()


def _limits(curves: list[pd.DataFrame]) -> tuple[float, float]:
    """What the curves span, and a sixth of that as room on both sides."""
    ends = np.log(np.concatenate([curve["perplexity"] for curve in curves]))
    room = max((ends.max() - ends.min()) / 6, 0.001)
    return float(np.exp(ends.min() - room)), float(np.exp(ends.max() + room))


def _draw(ax: Axes, history: pd.DataFrame, style: Style) -> None:
    """The curve of one search, and its candidates that were measured whole."""
    curve, colour = _descent(history), style.colour
    x, y = curve["forwards"], curve["perplexity"]
    if _by_gradient(history):
        ax.plot(x, y, style.line, marker=style.marker, ms=7, color=colour, label=style.label)
        return
    ax.step(x, y, style.line, color=colour, where="post", label=style.label)
    ax.plot(x[:1], y[:1], style.marker, color=colour, ms=6)
    measured = ~history["dropped"] & np.isfinite(history["loss"]) & (history["kind"] != "initial")
    spent, perplexity = history["forwards"][measured], np.exp(history["loss"][measured])
    top = ax.get_ylim()[1]
    inside = perplexity <= top
    ax.scatter(spent[inside], perplexity[inside], s=9, color=colour, alpha=0.4, lw=0)
    ax.plot(spent[~inside], np.full((~inside).sum(), top), "^", color=colour, alpha=0.4, ms=5,
            mew=0, clip_on=False)  # fmt: skip


def loss_curves(table: pd.DataFrame) -> Figure:
    """Training loss against tokens, one line per run, which averages an eighth of the steps.

    Dots are the steps.

    Args:
        table: what `finetune` returns, one below the other, with a further column "scaling" that
            names each run.
    """
    check_drawable(table, "finetune", "scaling", "tokens", "loss")
    styles = styles_of(table["scaling"].unique())
    with mpl.rc_context(RC):
        figure, (ax,) = subplots(1, 1, height=3.5)
        for name, run in table.groupby("scaling", sort=False):
            colour, line, _, label = styles[str(name)]
            smooth = run["loss"].rolling(max(len(run) // 8, 1), center=True, min_periods=1).mean()
            ax.scatter(run["tokens"], run["loss"], s=9, color=colour, alpha=0.35, lw=0)
            ax.plot(run["tokens"], smooth, line, color=colour, lw=1.6, label=label)
        many = table["tokens"].max() >= 2e6  # in full they would not fit
        ax.xaxis.set_major_formatter(
            FuncFormatter(lambda n, _: f"{n / 1e6:g}" if many else f"{n:,.0f}")
        )
        ax.set_xlabel(f"tokens trained on{' (millions)' if many else ''}")
        ax.set_ylabel("training loss (nats per token)")
        legend_aside(ax)
    return figure
