"""Figures of what takes many steps: a search by forward passes, fine-tuning by tokens."""

from __future__ import annotations

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from .style import RC, Style, few_numbers, legend_aside, panels_of, styles_of, subplots


def search_curves(table: pd.DataFrame, panels: str | None = None) -> Figure:
    """Best validation perplexity so far against forward passes spent, one line per search.

    Dots are the candidates.

    Args:
        table: histories of `search` one below the other, with a further column "search" that names
            each.
        panels: a further column of the table; one panel for each of its values.
    """
    groups = panels_of(table, panels)
    styles = styles_of(table["search"].unique())
    with mpl.rc_context(RC):
        figure, axes = subplots(1, len(groups), width=4.6, height=3.9)
        for ax, (value, group) in zip(axes, groups, strict=True):
            for name, history in group.groupby("search", sort=False):
                _descent(ax, history, styles[str(name)])
            ax.set_ylim(*_limits(group))
            few_numbers(ax)
            ax.set_xlabel("forward passes of one document (a gradient counts 4)")
            ax.set_title("" if panels is None else f"{panels} {value!s}", fontsize=10)
        axes[0].set_ylabel("best validation perplexity (log scale)")
        legend_aside(axes[-1])
    return figure


def _descent(ax: Axes, history: pd.DataFrame, style: Style) -> None:
    """The best so far as steps, and each candidate that was measured whole as a dot."""
    measured = (history["kind"] != "step") & ~history["dropped"] & np.isfinite(history["loss"])
    whole = history[measured]
    perplexity = np.exp(whole["loss"])
    ax.scatter(whole["forwards"], perplexity, s=7, color=style.colour, alpha=0.3, lw=0)
    known = history[np.isfinite(history["best_perplexity"])]
    ax.step(known["forwards"], known["best_perplexity"], style.line, color=style.colour,
            where="post", label=style.label)  # fmt: skip


def _limits(group: pd.DataFrame) -> tuple[float, float]:
    """The axis begins at the best of each first round.

    Worse candidates would squeeze the rest into a corner."""
    best = group[np.isfinite(group["best_perplexity"])]
    first = best[best["round"] == best.groupby("search")["round"].transform("min")]
    highest = first.groupby("search")["best_perplexity"].last().max()
    return best["best_perplexity"].min() / 1.02, highest * 1.15


def loss_curves(table: pd.DataFrame) -> Figure:
    """Training loss against tokens, one line per run, which averages an eighth of the steps.

    Dots are the steps.

    Args:
        table: what `finetune` returns, one below the other, with a further column "scaling" that
            names each run.
    """
    styles = styles_of(table["scaling"].unique())
    with mpl.rc_context(RC):
        figure, (ax,) = subplots(1, 1, width=5.4, height=3.6)
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
        ax.set_ylabel("training loss (nats a token)")
        legend_aside(ax)
    return figure
