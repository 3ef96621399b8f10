"""Figures of what takes many steps: a search by forward passes, fine-tuning by tokens."""

from __future__ import annotations

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from .style import RC, few_minor_labels, legend_aside, styles_of, subplots


def search_curves(table: pd.DataFrame, panels: str | None = None) -> Figure:
    """Best validation perplexity so far against forward passes spent, a line a search; dots are its
    candidates.

    Args:
        table: histories of `search` one below the other, with a further column "search" that names
            each.
        panels: a further column of the table; one panel for each of its values.
    """
    groups = [("", table)] if panels is None else list(table.groupby(panels, sort=False))
    styles = styles_of(table["search"].unique())
    with mpl.rc_context(RC):
        figure, axes = subplots(1, len(groups), width=4.6, height=3.9)
        for ax, (value, group) in zip(axes, groups, strict=True):
            for name, history in group.groupby("search", sort=False):
                colour, line, _, label = styles[str(name)]
                whole = history[
                    (history["kind"] != "step") & ~history["dropped"] & np.isfinite(history["loss"])
                ]
                ax.scatter(
                    whole["forwards"], np.exp(whole["loss"]), s=7, color=colour, alpha=0.3, lw=0
                )
                known = history[np.isfinite(history["best_perplexity"])]
                ax.step(
                    known["forwards"],
                    known["best_perplexity"],
                    line,
                    color=colour,
                    where="post",
                    label=label,
                )
            best = group[np.isfinite(group["best_perplexity"])]
            # The axis begins at the best of each first round: worse candidates would squeeze the
            # rest into a corner.
            first = best[best["round"] == best.groupby("search")["round"].transform("min")]
            highest = first.groupby("search")["best_perplexity"].last().max()
            ax.set_ylim(best["best_perplexity"].min() / 1.02, highest * 1.15)
            ax.set_yscale("log")
            ax.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}"))
            ax.yaxis.set_minor_formatter(FuncFormatter(few_minor_labels(ax)))
            ax.set_xlabel("forward passes of one document (a gradient counts 4)")
            ax.set_title("" if panels is None else f"{panels} {value!s}", fontsize=10)
        axes[0].set_ylabel("best validation perplexity (log scale)")
        legend_aside(axes[-1])
    return figure


def loss_curves(table: pd.DataFrame) -> Figure:
    """Training loss against tokens, a line a run: its mean over an eighth of the steps around each;
        dots are the steps.

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
        unit, words = (
            (1e6, " (millions)") if table["tokens"].max() >= 2e6 else (1, "")
        )  # in full they would not fit
        ax.xaxis.set_major_formatter(
            FuncFormatter(lambda n, _: f"{n:,.0f}" if unit == 1 else f"{n / unit:g}")
        )
        ax.set_xlabel(f"tokens trained on{words}")
        ax.set_ylabel("training loss (nats a token)")
        legend_aside(ax)
    return figure
