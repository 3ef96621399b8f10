"""Measures what the lab model's card states, on books it was not trained on.

    python -m longrope_lab.lab_model.evaluate --books test.parquet

Writes ``evaluation.json`` beside the model: bits a character over windows of 512 tokens, perplexity
at the window and beyond it, and passkey retrieval inside it with either filler."""

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
WINDOWS_A_BOOK = 8
DEPTHS = (0.0, 0.25, 0.5, 0.75, 1.0)


def evaluate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    books: list[Document],
    trials: int = 40,
    seed: int = 0,
) -> Json:
    """The card's figures: one dictionary, ready for JSON; `trials` passkeys a depth, length and filler."""
    rng = np.random.default_rng(seed)
    bits = []
    for book in books:
        starts = rng.integers(0, len(book) - WINDOW, WINDOWS_A_BOOK)
        windows = [book.ids[start : start + WINDOW] for start in starts]
        nats = sum(token_losses(model, window).sum().item() for window in windows)
        bits.append(
            nats / math.log(2) / sum(len(tokenizer.decode(window[1:])) for window in windows)
        )
    lengths = [WINDOW * factor for factor in (1, 2, 4, 8)]
    keys = {
        name: accuracy_summary(
            passkey(model, tokenizer, [256, 512], DEPTHS, trials, filler=filler, seed=seed)
        )
        for name, filler in (("paper filler", None), ("book filler", books))
    }
    return {
        "books": len(books),
        "windows": len(books) * WINDOWS_A_BOOK,
        "bits_per_character": float(np.mean(bits)),
        "bits_per_character_interval": bootstrap_interval(bits),
        "perplexity_without_scaling": perplexity_summary(perplexity(model, books, lengths)).to_dict(
            "records"
        ),
        "passkey": {name: table.to_dict("records") for name, table in keys.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--books", required=True, help="held-out books as load_corpus takes them")
    parser.add_argument(
        "--model", default=str(LAB_MODEL), help="folder of the model (default: the one that ships)"
    )
    parser.add_argument("--trials", type=int, default=40)
    arguments = parser.parse_args()
    model, tokenizer = load_model(arguments.model)
    books = load_corpus(arguments.books, tokenizer, min_tokens=8 * WINDOW)
    figures = evaluate(model, tokenizer, books, arguments.trials)
    text = json.dumps(figures, indent=1)
    print(text)
    Path(arguments.model, "evaluation.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
