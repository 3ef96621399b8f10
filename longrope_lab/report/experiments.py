"""The experiments of the LongRoPE paper (arXiv 2402.13753): what each is, which notebook holds it,
the paper's figures.

An id is the paper's own number: "T1" is its Table 1, "F6" its Figure 6.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import pandas as pd

from ..common.checks import unknown

# A figure of the paper, or what it says where it gives no number.
Cell = float | str


@dataclass(frozen=True, eq=False)
class Experiment:
    """A table or figure of the paper.

    Args:
        id: "T1" for Table 1, "F6" for Figure 6.
        title: what is measured.
        notebooks: those with a section for it.
        measure: what the figures are.
        columns: headings of the figures, in the paper's order.
        rows: label -> a figure a column; labels of methods are those that `rope_scaling` and
            `search` know.
        finding: what the paper concludes.
    """

    id: str
    title: str
    notebooks: tuple[str, ...]
    measure: str
    columns: tuple[str, ...]
    rows: Mapping[str, tuple[Cell, ...]]
    finding: str

    @property
    def source(self) -> str:
        """Where the figures stand."""
        kind = {"T": "Table", "F": "Figure"}[self.id[0]]
        return f"LongRoPE, {kind} {self.id[1:]}"


def experiment(name: str) -> Experiment:
    """The experiment with this id, in capitals or not.

    Raises:
        ValueError: no such id; the nearest is offered.
    """
    if name.upper() not in EXPERIMENTS:
        raise unknown("experiment", name.upper(), EXPERIMENTS)
    return EXPERIMENTS[name.upper()]


def experiments_in(notebook: str) -> list[str]:
    """The ids of the experiments that the notebook of this name has sections for."""
    return [e.id for e in EXPERIMENTS.values() if notebook in e.notebooks]


def paper(name: str) -> pd.DataFrame:
    """The paper's own figures for an experiment, to be shown beside ours.

    ``paper("T1").pivot_table("value", "row", "column", sort=False)`` gives them the paper's shape.

    Args:
        name: "T1" (Table 1) to "F6" (Figure 6).

    Returns:
        A row a figure, in the paper's order: row and column (its labels), value (NaN where the
        paper gives no number), note (what it says instead, if anything).

    Raises:
        ValueError: no such id; the nearest is offered.
    """
    of = experiment(name)
    figures = [
        (
            row,
            column,
            math.nan if isinstance(cell, str) else float(cell),
            cell if isinstance(cell, str) else "",
        )
        for row, cells in of.rows.items()
        for column, cell in zip(of.columns, cells, strict=True)
    ]
    table = pd.DataFrame(figures, columns=["row", "column", "value", "note"])
    return table.astype({"row": object, "column": object, "value": float, "note": object})


PERPLEXITY = "perplexity"
NONUNIFORMITY, EXTENSION, LONG = "02_nonuniformity", "05_progressive_extension", "10_long_documents"
LENGTHS_BOOKS3 = ("8k", "16k", "32k", "64k", "128k", "256k", "512k", "1024k", "2048k")
BOOKS3: dict[str, tuple[Cell, ...]] = {
    "LLaMA2 ft128k": (6.55, 6.35, 6.24, 6.18, 6.17, 6.17, 6.36, 6.83, 7.80),
    "LLaMA2 ft256k": (6.81, 6.66, 6.31, 6.27, 6.21, 6.17, 6.17, 6.35, 7.08),
    "LLaMA2 YaRN s=32": (6.38, 6.25, 6.16, 6.11, 6.12, *4 * ("over 10⁴",)),
    "Mistral ft128k": (6.64, 6.48, 6.39, 6.45, 6.64, 7.08, 7.71, 8.93, 12.78),
}
FINE_TUNING: dict[str, tuple[Cell, ...]] = {
    "straight at 256k": (4.51, 1.95),
    "from the 128k checkpoint": (2.66, 1.87),
}

EXPERIMENTS: dict[str, Experiment] = {
    e.id: e
    for e in (
        Experiment(
            "T1",
            "searched factors against the formulas at 2 and 4 times the window, without fine-tuning",
            (NONUNIFORMITY,),
            PERPLEXITY,
            ("PG19 8k", "PG19 16k", "Proof-pile 8k", "Proof-pile 16k"),
            {
                "pi": (10.65, 20.49, 3.65, 4.93),
                "dynamic_ntk": (10.21, 23.29, 3.50, 3.87),
                "yarn": (32.64, 87.89, 3.49, 3.25),
                "search": (9.37, 11.34, 3.45, 3.13),
            },
            "searched factors have the lowest perplexity everywhere",
        ),
        Experiment(
            "T2",
            "leaving the first tokens unscaled, without fine-tuning",
            (NONUNIFORMITY,),
            "perplexity on PG19, by start tokens kept",
            ("pi 8k", "pi 16k", "dynamic_ntk 8k", "dynamic_ntk 16k"),
            {
                "0": (10.65, 20.49, 10.21, 23.29),
                "2": (10.65, 20.39, 10.21, 23.29),
                "4": (10.65, 20.36, 10.21, 23.27),
                "8": (10.65, 20.02, 10.21, 23.08),
                "16": (10.66, 19.64, 10.22, 22.68),
                "32": (10.59, 19.96, 10.20, 22.94),
                "64": (10.49, 20.64, 10.15, 23.58),
                "128": (10.54, 22.27, 10.13, 27.94),
                "256": (11.74, 34.65, 10.62, 90.99),
            },
            "some start tokens left alone lower perplexity; how many depends on the length",
        ),
        Experiment(
            "T3",
            "16 times the window, before and after fine-tuning",
            (NONUNIFORMITY, EXTENSION),
            "perplexity on Proof-pile at 64k",
            ("before", "after"),
            {"pi": (72.54, 2.44), "yarn": (4.15, 2.42), "search": (3.22, 2.36)},
            "searched factors are the better start for fine-tuning, and end lower",
        ),
        Experiment(
            "F3",
            "perplexity against length to 8 times the window, without fine-tuning",
            ("04_without_finetuning",),
            "perplexity on PG19 and Proof-pile, as curves",
            (),
            {},
            "only LongRoPE stays low to 32k",
        ),
        Experiment(
            "T5",
            "perplexity against length to 256k, sliding window of 256",
            (EXTENSION, LONG),
            "perplexity on Proof-pile",
            ("4k", "8k", "32k", "64k", "96k", "128k", "256k"),
            {
                "LLaMA2 ft128k": (3.71, 3.50, 2.60, 2.36, 2.27, 2.26, 1.88),
                "LLaMA2 ft256k": (3.85, 3.65, 2.63, 2.38, 2.28, 2.26, 1.87),
                "LLaMA2 YaRN s=32": (3.75, 3.56, 2.70, 2.45, 2.36, 2.37, 99.64),
            },
            "perplexity falls with the length to 256k; YaRN breaks past its target",
        ),
        Experiment(
            "T6",
            "perplexity against length to 2048k, sliding window of 256k",
            (LONG,),
            "perplexity on 20 books of Books3",
            LENGTHS_BOOKS3,
            BOOKS3,
            "low to 2048k, where YaRN ends at 128k",
        ),
        Experiment(
            "F1",
            "perplexity against length to 2048k, as a curve",
            (LONG,),
            "perplexity on 20 books of Books3 (the figures of Table 6)",
            LENGTHS_BOOKS3,
            BOOKS3,
            "low to 2048k, where the others break",
        ),
        Experiment(
            "T7",
            "perplexity against length on books",
            (LONG,),
            "perplexity on PG19",
            ("8k", "64k", "128k"),
            {"LLaMA2 ft128k": (6.98, 6.59, 6.35), "LLaMA2 ft256k": (7.37, 6.64, 6.31)},
            "perplexity falls with the length",
        ),
        Experiment(
            "F4",
            "passkey accuracy by length, 4k to 2048k, 10 trials a length",
            ("07_passkey",),
            "accuracy, %",
            ("4k to 128k", "256k to 2048k"),
            {"LLaMA2 ft256k": ("at least 90", "at least 90"), "the others": ("", 0.0)},
            "LongRoPE finds at least 90 % to 2048k; the others fall to none past 128k",
        ),
        Experiment(
            "T8",
            "benchmarks inside the original window",
            ("08_short_context_benchmarks",),
            "accuracy, %",
            ("ARC-c (25-shot)", "HellaSwag (10-shot)", "MMLU (5-shot)", "TruthfulQA (0-shot)"),
            {"LLaMA2": (53.1, 78.6, 46.6, 39.0), "LLaMA2 ft128k": (52.9, 76.5, 43.4, 38.8)},
            "the extended model keeps nearly all of its accuracy",
        ),
        Experiment(
            "T9",
            "a second extension of the fine-tuned model, without more training",
            (EXTENSION,),
            "perplexity on Books3",
            ("512k", "1024k", "2048k"),
            {"pi": (6.60, 8.73, 20.17), "yarn": (6.39, 6.79, 8.27), "search": (6.17, 6.35, 7.08)},
            "a second search extends by 8 more; PI and YaRN degrade",
        ),
        Experiment(
            "T10",
            "recovery of the short context, off and on",
            ("06_short_context_recovery",),
            "perplexity; the benchmarks' average in %",
            ("Proof-pile 4k", "Proof-pile 8k", "benchmarks"),
            {
                "LLaMA2 ft128k, off": (4.16, 3.72, 49.3),
                "LLaMA2 ft128k, on": (3.71, 3.50, 52.9),
                "LLaMA2 ft256k, off": (4.51, 3.82, 47.9),
                "LLaMA2 ft256k, on": (3.85, 3.65, 50.8),
            },
            "smaller factors for short texts win back most of what the extension cost there",
        ),
        Experiment(
            "T11",
            "the two non-uniformities, one after the other",
            (NONUNIFORMITY, "09_two_nonuniformities"),
            PERPLEXITY,
            ("PG19 16k", "PG19 32k", "Books3 2048k"),
            {
                "pi": (14.88, 136.30, 20.17),
                "dimensions": (7.28, 13.00, 7.08),
                "dimensions + start tokens": (7.22, 11.51, 7.08),
            },
            "dimensions bring most; start tokens add at 16k and 32k, nothing at 2048k",
        ),
        Experiment(
            "T12",
            "how to fine-tune to 256k: text length, window, starting checkpoint",
            (EXTENSION,),
            "perplexity, its first and last figure",
            ("first", "last"),
            FINE_TUNING,
            "from the 128k checkpoint it ends lower than straight at 256k",
        ),
        Experiment(
            "F5",
            "fine-tuning to 256k, straight and from the 128k checkpoint",
            (EXTENSION,),
            "perplexity, its first and last figure (those of Table 12)",
            ("first", "last"),
            FINE_TUNING,
            "from the 128k checkpoint it ends lower than straight at 256k",
        ),
        Experiment(
            "F6",
            "validation perplexity by search round",
            ("03_search",),
            "validation perplexity of the best so far",
            ("first round", "last round"),
            {"64x (256k)": (273.27, 118.47)},
            "it falls by more than half over the rounds",
        ),
    )
}
