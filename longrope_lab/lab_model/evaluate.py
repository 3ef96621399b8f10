"""Measures what the lab model's card states, on books it was not trained on.

::

    python -m longrope_lab.lab_model.evaluate --books test.parquet

Writes ``evaluation.json`` beside the model: bits per character over windows of 512 tokens,
perplexity at the window and beyond it, and passkey retrieval inside it with either filler.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..common.files import Json
from ..measure.needles import passkey
from ..measure.perplexity import perplexity
from ..measure.stats import accuracy_summary, bootstrap_interval, perplexity_summary
from ..models.forward import token_losses
from ..models.loading import LAB_MODEL, load_model
from ..texts.corpora import load_corpus
from ..texts.tokens import Document

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

WINDOW = 512
WINDOWS_PER_BOOK = 8
DEPTHS = (0.0, 0.25, 0.5, 0.75, 1.0)


def evaluate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    books: list[Document],
    trials: int = 40,
    seed: int = 0,
) -> Json:
    """The card's figures, ready for JSON.

    Args:
        model, tokenizer: the lab model's.
        books: held out, of 8 windows at least.
        trials: passkeys per depth, length and filler.
        seed: of the windows and the passkeys.
    """
    bits = bits_per_character(model, tokenizer, books, seed)
    lengths = [WINDOW * factor for factor in (1, 2, 4, 8)]
    table = perplexity_summary(perplexity(model, books, lengths))
    fillers = {"paper filler": None, "book filler": books}
    keys = {
        name: passkey(model, tokenizer, [256, 512], DEPTHS, trials, filler=filler, seed=seed)
        for name, filler in fillers.items()
    }
    return {
        "books": len(books),
        "windows": len(books) * WINDOWS_PER_BOOK,
        "bits_per_character": float(np.mean(bits)),
        "bits_per_character_interval": bootstrap_interval(bits),
        "perplexity_without_scaling": table.to_dict("records"),
        "passkey": {name: accuracy_summary(t).to_dict("records") for name, t in keys.items()},
    }


def bits_per_character(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, books: list[Document], seed: int
) -> list[float]:
    """One number per book, over some windows of it that are drawn at random."""
    rng = np.random.default_rng(seed)
    bits = []
    for book in books:
        starts = rng.integers(0, len(book) - WINDOW, WINDOWS_PER_BOOK)
        windows = [book.ids[start : start + WINDOW] for start in starts]
        nats = sum(token_losses(model, window).sum().item() for window in windows)
        characters = sum(len(tokenizer.decode(window[1:])) for window in windows)
        bits.append(nats / math.log(2) / characters)
    return bits


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--books", required=True, help="held-out books as load_corpus takes them")
    shipped = "folder of the model (default: the one that ships)"
    add("--model", default=str(LAB_MODEL), help=shipped)
    add("--trials", type=int, default=40)
    arguments = parser.parse_args()
    model, tokenizer = load_model(arguments.model)
    books = load_corpus(arguments.books, tokenizer, min_tokens=8 * WINDOW)
    figures = evaluate(model, tokenizer, books, arguments.trials)
    text = json.dumps(figures, indent=1)
    print(text)
    Path(arguments.model, "evaluation.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
