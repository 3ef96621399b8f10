"""Which recorded tables and figures the page shows for each experiment."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from operator import itemgetter

import pandas as pd

from ..common.files import Json
from ..measure.stats import perplexity_summary
from .claims_searched_factors import by_round
from .experiments import Experiment
from .recorded import (
    BENCHMARKS,
    EXTENSION,
    LONG,
    NONUNIFORMITY,
    ONE_BY_ONE,
    PASSKEY,
    RECOVERY,
    SEARCH,
    WITHOUT,
    NotMeasuredError,
    Results,
)

# The texts that a table is about, from the parameters of its run.
Texts = Callable[[Json], object]


@dataclass(frozen=True)
class Table:
    """A recorded table, as rows and columns of one value.

    Args:
        notebook, name: where the CSV is, and its name without the suffix.
        caption: what the values are.
        rows, columns: columns of the CSV whose values label the rows and columns. Where `columns`
            is empty, `side_by_side` takes its place.
        value: the column shown, with the interval where the CSV has low and high.
        side_by_side: columns that are shown as they are.
        take: makes the table to show from the recorded one.
        texts: which texts it is about, where no column says it.
    """

    notebook: str
    name: str
    caption: str
    rows: tuple[str, ...] = ("scaling",)
    columns: tuple[str, ...] = ("length",)
    value: str = "perplexity"
    side_by_side: tuple[str, ...] = ()
    take: Callable[[pd.DataFrame], pd.DataFrame] | None = None
    texts: Texts = itemgetter("corpus")

    def read(self, results: Results) -> pd.DataFrame:
        """The table to show, from a profile's results; raises NotMeasuredError."""
        recorded = results.table(self.name, self.notebook)
        return self.take(recorded) if self.take else recorded


@dataclass(frozen=True)
class Picture:
    """A recorded figure: its notebook, its name without a suffix, what it shows."""

    notebook: str
    name: str
    caption: str


def _ratios(
    notebook: str, name: str, of: str, *columns: str, texts: Texts = itemgetter("corpus")
) -> Table:
    """A table that `paired_comparison` made."""
    caption = f"Perplexity of {of} over that of each"
    return Table(notebook, name, caption, ("baseline",), columns, "ratio", texts=texts)


def _first_corpus(parameters: Json) -> object:
    return parameters["corpora"][0]


def _long_corpus(parameters: Json) -> object:
    return parameters["corpora"][parameters["long_corpus"]]


def _filler(parameters: Json) -> object:
    return parameters.get("filler_corpus")


def _at_target(table: pd.DataFrame) -> pd.DataFrame:
    """Table 2's perplexities of all tokens to the target, not only of those to the largest n̂."""
    here = table[table["length"] == table["target"]]
    groups = here.groupby(["method", "target"], sort=False)
    parts = {key: perplexity_summary(group) for key, group in groups}
    return pd.concat(parts, names=["method", "target"]).reset_index(["method", "target"])


def _after(table: pd.DataFrame) -> pd.DataFrame:
    return table[table["part"].str.contains("tokens after")]


EXHIBITS: dict[str, tuple[Table | Picture, ...]] = {
    "T1": (
        Table(NONUNIFORMITY, "t1_summary", "Perplexity", columns=("corpus", "length")),
        _ratios(NONUNIFORMITY, "t1_paired", "the search", "corpus", "length"),
        Picture(NONUNIFORMITY, "t1_ratios", "Searched factors over each formula, in pairs"),
    ),
    "T2": (
        Table(
            NONUNIFORMITY, "t2", "Perplexity, all tokens, by n̂", columns=("method", "length"),
            take=_at_target, texts=_first_corpus,
        ),
        Table(
            NONUNIFORMITY, "t2_ratios",
            "Perplexity of the tokens after the largest n̂, by n̂, over that with n̂ = 0",
            ("start_tokens",), ("method", "length"), "ratio", take=_after, texts=_first_corpus,
        ),
        Picture(NONUNIFORMITY, "start_token_curves", "Perplexity by n̂, over that with n̂ = 0"),
    ),
    "T3": (
        Table(
            NONUNIFORMITY, "t3", "Perplexity without fine-tuning", take=perplexity_summary,
            texts=_long_corpus,
        ),
        _ratios(NONUNIFORMITY, "t3_paired", "the search", "length", texts=_long_corpus),
        Table(EXTENSION, "t3_summary", "Perplexity", columns=("fine-tuning", "length")),
        _ratios(EXTENSION, "t3_paired", "LongRoPE", "fine-tuning", "length"),
        Table(
            EXTENSION, "t3_price",
            "Perplexity after fine-tuning over that of the model trained as much inside its "
            "window, and read there",
            value="ratio",
        ),
        Picture(EXTENSION, "t3_ratios", "LongRoPE over the others, before and after fine-tuning"),
    ),
    "F3": (
        Table(WITHOUT, "f3_summary", "Perplexity", columns=("corpus", "length")),
        _ratios(WITHOUT, "f3_paired", "LongRoPE", "corpus", "length"),
        Table(
            WITHOUT, "f3_stays",
            "Perplexity at the longest length over the unscaled model's at its window",
            columns=("corpus", "length"), value="ratio",
        ),
        Picture(WITHOUT, "perplexity_curves", "Perplexity against length, without fine-tuning"),
        Picture(WITHOUT, "f3_ratios", "LongRoPE over the others at the longest length"),
    ),
    "T5": (
        Table(
            LONG, "t5_summary", "Perplexity by sliding window", texts=itemgetter("sliding_corpus")
        ),
        Picture(LONG, "t5_curves", "Perplexity against the length of a sliding window"),
        Table(
            EXTENSION, "t5", "Perplexity of the fine-tuned models on the first tokens",
            take=perplexity_summary,
        ),
        Picture(
            EXTENSION, "perplexity_curves", "Perplexity of the fine-tuned models against length"
        ),
    ),
    "T6": (
        Table(LONG, "t6_summary", "Perplexity", texts=itemgetter("books")),
        Picture(LONG, "t6_curves", "Perplexity on books against length"),
    ),
    "F1": (
        Picture(LONG, "t6_curves", "Perplexity on books against length"),
        Table(
            LONG, "reach",
            "The longest length with at most 1.1 times the lowest perplexity before it", columns=(),
            side_by_side=("holds to", "times the window"), texts=itemgetter("books"),
        ),
    ),
    "T7": (
        Table(
            LONG, "t7", "Perplexity at a length, over that of the unscaled model at the shortest",
            value="ratio", texts=itemgetter("books"),
        ),
    ),
    "F4": (
        Table(PASSKEY, "f4_summary", "Share of the keys found", value="accuracy", texts=_filler),
        Table(
            PASSKEY, "effective", "Longest length to which 90 % are found, 0 if nowhere",
            columns=(), side_by_side=("effective window",), texts=_filler,
        ),
        Picture(PASSKEY, "accuracy_curves", "Share of the keys found, against length"),
        Picture(PASSKEY, "passkey_heatmap", "Keys found, by length and depth"),
    ),
    "T8": (
        Table(BENCHMARKS, "t8_summary", "Accuracy", columns=("task",), value="accuracy"),
        Table(
            BENCHMARKS, "t8_paired", "Accuracy less the original's", columns=("task",),
            value="difference",
        ),
        Picture(BENCHMARKS, "t8_scores", "Accuracy by task"),
        Table(BENCHMARKS, "window_perplexity_summary", "Perplexity inside the window"),
    ),
    "T9": (
        Table(EXTENSION, "t9_summary", "Perplexity after the second extension"),
        _ratios(EXTENSION, "t9_paired", "LongRoPE", "length"),
        Picture(EXTENSION, "t9_ratios", "LongRoPE over the others after the second extension"),
    ),
    "T10": (
        Table(RECOVERY, "t10_summary", "Perplexity"),
        _ratios(RECOVERY, "t10_paired", "the model with recovery", "length"),
        Table(
            RECOVERY, "passkey_summary", "Share of passkeys found", value="accuracy", texts=_filler
        ),
        Picture(RECOVERY, "t10_ratios", "With recovery, over other ways to read short texts"),
    ),
    "T11": (
        Table(ONE_BY_ONE, "t11_summary", "Perplexity"),
        _ratios(ONE_BY_ONE, "t11_paired", "both non-uniformities", "length"),
        Picture(ONE_BY_ONE, "t11_ratios", "Both non-uniformities over PI and over one"),
        Table(
            NONUNIFORMITY, "t11", "Perplexity; n̂ chosen after the dimensions",
            take=perplexity_summary, texts=_long_corpus,
        ),
        _ratios(NONUNIFORMITY, "t11_paired", "both non-uniformities", "length", texts=_long_corpus),
    ),
    "T12": (
        Table(EXTENSION, "t12_summary", "Perplexity"),
        _ratios(EXTENSION, "t12_paired", "two steps", "length"),
    ),
    "F5": (Picture(EXTENSION, "t12_curves", "Perplexity against length, by variant of training"),),
    "F6": (
        Table(
            SEARCH, "history", "The evolution's best perplexity on the documents it searches",
            ("to",), (), side_by_side=("rounds", "first round", "last round", "ratio"),
            take=by_round,
        ),
        Picture(SEARCH, "search_curves", "The best perplexity found, against forward passes"),
    ),
}  # fmt: skip


def windows_read(each: Experiment, results: Results) -> float | None:
    """How many trained windows long the longest text of an experiment is, in a profile's tables.

    None where they do not say: without a length in them, or without a table of Figure 1, whose
    lengths stand in windows, too.
    """
    try:
        reach = results.table("reach", LONG, needs=("holds to", "times the window")).iloc[0]
    except NotMeasuredError:
        return None
    longest = [_longest(shown, results) for shown in EXHIBITS[each.figures_of or each.id]]
    return max(longest) * reach["times the window"] / reach["holds to"] or None


def _longest(shown: Table | Picture, results: Results) -> float:
    """The longest length in a table, in tokens; 0 where there is none."""
    if isinstance(shown, Picture):
        return 0
    try:
        table = results.table(shown.name, shown.notebook)  # `take` may cost a bootstrap
    except NotMeasuredError:
        return 0
    return float(table["length"].max()) if "length" in table else 0
