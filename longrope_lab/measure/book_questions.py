"""Questions about a whole book whose answers can be checked: lines, names, and their order.

Nobody has to judge an answer. Which of two lines stands in the text, and which comes first, is
known from the text itself; and both choices are from one book, so that style gives nothing away.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Mapping, Sequence
from itertools import product
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ..common.checks import known_only, seed_of, whole
from ..common.progress import progress
from ..models.estimates import check_fits
from ..models.rotary import by_name
from ..rope.schedule import Scaling
from ..texts.needle_writing import ids_of
from ..texts.tokens import Document, without_ends
from .choices import COLUMNS, Asked, beginning, choice_losses, nothing
from .needle_prompts import lengths_asked, trials_asked

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

# Words of a line that is quoted: shorter ones stand in many texts.
WORDS = range(8, 21)

# A name stands inside a sentence, and has a capital there.
NAME = re.compile(r"(?<=[a-z,;] )[A-Z][a-z]{3,}\b")

# How a question begins, after the text.
LEADS = {
    "line": '\n\nIn this book it is written: "',
    "name": "\n\nThis book tells of",
    "order": '\n\nFirst it is written: "',
}
# What stands between the two lines of an order.
THEN = '" And after that: "'

# Tokens of each length that are kept for question and answer, which two lines of a text may fill.
KEPT = 128
TOO_SHORT = f"{KEPT} tokens of it are kept for the question, so it takes {2 * KEPT} at least"


class Text(NamedTuple):
    """A stretch of a book, and another as long that is not read.

    Args:
        title: of the book.
        ids: token ids of the stretch.
        here: the stretch as text.
        elsewhere: the other one as text.
    """

    title: str
    ids: list[int]
    here: str
    elsewhere: str


class Choice(NamedTuple):
    """Two answers in words, the right one first, and what a text must hold to tell."""

    right: str
    wrong: str
    needed: tuple[str, ...]

    def in_sight(self, read: str) -> bool:
        """Whether a text that is read holds all of it."""
        return all(each in read for each in self.needed)


def book_questions(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    documents: Sequence[Document],
    tasks: Sequence[str] = ("line", "name", "order"),
    lengths: Sequence[int] = (512,),
    trials: int = 4,
    scalings: Mapping[str, Scaling | None] | None = None,
    *,
    window: int | None = None,
    questions: int = 4,
    seed: int = 0,
) -> pd.DataFrame:
    """Questions with two answers about stretches of books, under each scaling.

    The tasks are: "line", which of two lines stands in the text; "name", which of two names does;
    "order", which of two lines comes first. The wrong line or name stands elsewhere in the same
    book. The choice wins whose log-probability the text raises more.

    Args:
        model, tokenizer: a Hugging Face causal language model and its tokenizer.
        documents: books, each at least twice as long as the longest length.
        tasks: of those above.
        lengths: tokens of text, question and answer together.
        trials: stretches per length, from a random place of a random document on.
        scalings: name -> scaling; None as a scaling (or as `scalings`) means the model as it
            stands.
        window: tokens that the model gets to read: of a longer text the last ones. None: all.
        questions: of each task about each stretch, or as many as it has names and lines for; none
            is seen by another.
        seed: of places, lines and names.

    Returns:
        The columns of a `many_examples` table, with no examples: in_sight says whether what is
        asked for stands in the tokens that were read; loss, in nats, is of the right choice of the
        two.

    Raises:
        ValueError: an unknown task, numbers that are not whole ones from 1, a document shorter than
            twice a length or that nothing can be asked of, a length without room for a question,
            or a model whose own factors depend on the length, without a scaling that fixes them.
    """
    tasks, scalings = list(dict.fromkeys(tasks)), by_name(scalings)
    known_only("task", tasks, LEADS)
    lengths = lengths_asked(lengths, 2 * KEPT, TOO_SHORT)
    trials, questions = trials_asked(trials, lengths, [0.0]), whole("questions", questions, 1)
    window = max(lengths) if window is None else whole("window", window, 2 * KEPT, TOO_SHORT)
    check_fits(model, min(max(lengths), window))
    check_whole(documents, max(lengths))
    work = list(product(lengths, range(trials), scalings.items()))
    rows: list[tuple[object, ...]] = []
    for length, trial, (name, scaling) in progress(
        work, "book questions", [min(length, window) for length, _, _ in work]
    ):
        asked, text = book_prompt(tokenizer, documents, tasks, length, trial, seed, questions)
        read = text.ids[-(min(length, window) - KEPT) :]
        losses = _raised(model, tokenizer, read, [each[-1] for each in asked], scaling)
        seen = tokenizer.decode(read)
        for (task, number, choice, question), loss in zip(asked, losses, strict=True):
            place = name, task, length, trial, number, len(read), 0
            rows.append((*place, choice.in_sight(seen), *question.row(loss)))
    names: list[object] = [*scalings]
    rows.sort(key=lambda row: (names.index(row[0]), tasks.index(str(row[1]))))
    return pd.DataFrame(rows, columns=COLUMNS)


def _raised(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    read: list[int],
    asked: list[Asked],
    scaling: Scaling | None,
) -> list[NDArray[np.float64]]:
    """Each choice's loss after the text less its loss without it: a rare name is no wrong one."""
    begun = beginning(tokenizer)
    after = choice_losses(model, [*begun, *read], asked, scaling)
    alone = choice_losses(model, begun or [nothing(tokenizer)], asked, scaling)
    return [one - other for one, other in zip(after, alone, strict=True)]


def book_prompt(
    tokenizer: PreTrainedTokenizerBase,
    documents: Sequence[Document],
    tasks: Sequence[str],
    length: int,
    trial: int = 0,
    seed: int = 0,
    questions: int = 4,
) -> tuple[list[tuple[str, int, Choice, Asked]], Text]:
    """What rows of a `book_questions` table ask, and the text that they are about.

    Raises:
        ValueError: no task has a question about the text.
    """
    text = book_text(tokenizer, documents, length - KEPT, length, trial, seed)
    most = KEPT - len(beginning(tokenizer))
    asked: list[tuple[str, int, Choice, Asked]] = []
    for task in tasks:
        own = np.random.default_rng([seed_of(seed), length, trial, zlib.crc32(task.encode())])
        made = [
            (c, _asked(tokenizer, task, c, own)) for c in CHOICES[task](text, own, 4 * questions)
        ]
        fitting = [each for each in made if each[1].tokens <= most][:questions]
        asked += [(task, number, *each) for number, each in enumerate(fitting)]
    if not asked:
        raise ValueError(
            f"{length:,} tokens of {text.title!r} give no question of {', '.join(tasks)}: take "
            "longer texts, or other books"
        )
    return asked, text


def _asked(
    tokenizer: PreTrainedTokenizerBase, task: str, choice: Choice, rng: np.random.Generator
) -> Asked:
    """A question as token ids, with its choices in an order that is drawn."""
    names = choice.right, choice.wrong
    order = rng.permutation(2).tolist()
    choices = tuple(ids_of(names[place], tokenizer) for place in order)
    lead = ids_of(LEADS[task], tokenizer)
    return Asked(lead, choices, tuple(names[place].strip() for place in order), order.index(0))


def book_text(
    tokenizer: PreTrainedTokenizerBase,
    documents: Sequence[Document],
    size: int,
    length: int,
    trial: int,
    seed: int,
) -> Text:
    """Two stretches of a document, both of `size` tokens, that do not overlap; one is read."""
    rng = np.random.default_rng([seed_of(seed), length, trial])
    document = documents[int(rng.integers(len(documents)))]
    ids = without_ends(document.ids, tokenizer)
    first, second = sorted(rng.integers(len(ids) - 2 * size + 1, size=2).tolist())
    stretches = [ids[start : start + size].tolist() for start in (first, second + size)]
    here, there = (stretches[place] for place in rng.permutation(2))
    return Text(document.title, here, tokenizer.decode(here), tokenizer.decode(there))


def _lines(text: str) -> list[str]:
    """Its lines that can be quoted, in their order, each once; the first and last may be cut."""
    found = re.split(r"(?<=[.?!:;])\s+", text)[1:-1]
    return [s for s in dict.fromkeys(found) if len(s.split()) in WORDS and "\n" not in s]


def _names(text: str) -> list[str]:
    return list(dict.fromkeys(NAME.findall(text)))


def _of_two(
    here: list[str], there: list[str], text: Text, rng: np.random.Generator, most: int
) -> list[tuple[str, str]]:
    """Pairs of what stands here alone, and what stands elsewhere alone and is about as long."""
    ours = rng.permutation([one for one in here if one not in text.elsewhere]).tolist()[:most]
    theirs = [one for one in there if one not in text.here]
    pairs = []
    for one in ours:
        if not theirs:
            break
        other = min(theirs, key=lambda each: abs(len(each) - len(one)))
        theirs.remove(other)
        pairs.append((one, other))
    return pairs


def _line_choices(text: Text, rng: np.random.Generator, most: int) -> list[Choice]:
    pairs = _of_two(_lines(text.here), _lines(text.elsewhere), text, rng, most)
    return [Choice(one, other, (one,)) for one, other in pairs]


def _name_choices(text: Text, rng: np.random.Generator, most: int) -> list[Choice]:
    pairs = _of_two(_names(text.here), _names(text.elsewhere), text, rng, most)
    return [Choice(f" {one}", f" {other}", (one,)) for one, other in pairs]


def _order_choices(text: Text, rng: np.random.Generator, most: int) -> list[Choice]:
    """Two lines in their order and the other way round."""
    lines = [line for line in _lines(text.here) if text.here.count(line) == 1]
    places = rng.permutation(len(lines))[: len(lines) // 2 * 2].reshape(-1, 2)
    pairs = [(lines[min(two)], lines[max(two)]) for two in places[:most].tolist()]
    return [Choice(f"{a}{THEN}{b}", f"{b}{THEN}{a}", (a, b)) for a, b in pairs]


CHOICES: dict[str, Callable[[Text, np.random.Generator, int], list[Choice]]] = {
    "line": _line_choices,
    "name": _name_choices,
    "order": _order_choices,
}


def check_whole(documents: Sequence[Document], length: int) -> None:
    """Refuse documents that do not hold two stretches of a length, or are made to search on.

    Raises:
        ValueError: naming the document, and the tokens that are missing.
    """
    if not len(documents):
        raise ValueError("documents is empty: load some with load_corpus")
    for document in documents:
        if document.answers is not None:
            raise ValueError(
                f"the document {document.title!r} marks answers, so it is made to search on: pass "
                "documents of load_corpus"
            )
        if (missing := 2 * length - len(document)) > 0:
            raise ValueError(
                f"the document {document.title!r} has {len(document):,} tokens, {missing:,} too "
                f"few: half of it is read up to {length:,} tokens, and wrong answers are from the "
                f"other half, so load it with min_tokens={2 * length}"
            )
