"""Summaries of a book, judged by what can be checked: the names in them, and their order.

What a summary should say is a matter of taste. Whether a name in it stands in the book is not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations, product
from typing import TYPE_CHECKING

import pandas as pd

from ..common.checks import whole
from ..common.progress import progress
from ..models.estimates import check_fits
from ..models.rotary import by_name
from ..rope.schedule import Scaling
from ..texts.needle_writing import ids_of
from ..texts.tokens import Document
from .book_questions import NAME, book_text, check_whole
from .choices import beginning
from .needle_prompts import lengths_asked, trials_asked
from .needles import answers_to

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

# How a summary begins.
LEAD = "\n\nIn short, this book tells of"

COLUMNS = [
    "scaling", "length", "trial", "read", "summary", "names", "here", "elsewhere", "ordered",
]  # fmt: skip


def book_summaries(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    documents: Sequence[Document],
    lengths: Sequence[int] = (512,),
    trials: int = 4,
    scalings: Mapping[str, Scaling | None] | None = None,
    seed: int = 0,
    *,
    window: int | None = None,
    answer_tokens: int = 64,
) -> pd.DataFrame:
    """Summaries of stretches of books, under each scaling, and what can be checked of them.

    Args:
        model, tokenizer: a Hugging Face causal language model and its tokenizer.
        documents: books, each at least twice as long as the longest length.
        lengths: tokens of text and summary together.
        trials: stretches per length, from a random place of a random document on.
        scalings: name -> scaling; None as a scaling (or as `scalings`) means the model as it
            stands.
        seed: of places.
        window: tokens that the model gets to use: of a longer text it reads the last. None: all.
        answer_tokens: of a summary, which is the greedy continuation.

    Returns:
        One row per stretch: scaling, length, trial, read (tokens), summary, names (how many
        different ones are in it), here (how many of these stand in the stretch, whether it was
        read or not), elsewhere (how many stand in another stretch of the same book, as long, which
        nobody read: what common names alone give), ordered (the share of pairs of names that come
        in the order in which the stretch first tells of them; NaN without a pair).

    Raises:
        ValueError: numbers that are not whole ones from 1, a length or a window without room for a
            text beside the summary, or a document shorter than twice a length.
    """
    scalings, answer_tokens = by_name(scalings), whole("answer_tokens", answer_tokens, 1)
    begun, lead = beginning(tokenizer), ids_of(LEAD, tokenizer)
    kept = len(begun) + len(lead) + answer_tokens
    rule = f"{kept} tokens of it are kept for the summary, so it takes {kept + 1} at least"
    lengths = lengths_asked(lengths, kept + 1, rule)
    trials = trials_asked(trials, lengths, [0.0])
    most = max(lengths)
    window = most if window is None else whole("window", window, kept + 1, rule)
    check_fits(model, min(most, window))
    check_whole(documents, most)
    work = list(product(lengths, range(trials), scalings.items()))
    rows: list[tuple[object, ...]] = []
    for length, trial, (name, scaling) in progress(
        work, "book summaries", [min(length, window) for length, _, _ in work]
    ):
        text = book_text(tokenizer, documents, length - kept, length, trial, seed)
        read = text.ids[-(min(length, window) - kept) :]
        prompt = [*begun, *read, *lead]
        (summary,) = answers_to(model, tokenizer, [prompt], scaling, answer_tokens)
        checked = names_checked(f"{LEAD} {summary}", text.here, text.elsewhere)
        rows.append((name, length, trial, len(read), summary, *checked))
    return pd.DataFrame(rows, columns=COLUMNS)


def names_checked(summary: str, here: str, elsewhere: str) -> tuple[int, int, int, float]:
    """Of a summary: names, those here, those elsewhere, and the share of pairs that are in order.

    >>> names_checked("It tells of Moses and Aaron.", "of Aaron, and then of Moses", "of Moses")
    (2, 2, 1, 0.0)
    """
    names = list(dict.fromkeys(NAME.findall(summary)))
    places = [here.index(name) for name in names if name in here]
    pairs = [first < second for first, second in combinations(places, 2)]
    there = sum(name in elsewhere for name in names)
    ordered = sum(pairs) / len(pairs) if pairs else float("nan")
    return len(names), len(places), there, ordered
