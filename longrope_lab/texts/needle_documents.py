"""Needle documents: something hidden far back, asked for at the end, and answered.

Models are searched and trained on them. They are never those that are reported on: keys, wordings
and fillers are others than those of `passkey` and `needles` (`needle_practice`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from ..common.checks import seed_of, whole
from ..common.memory import check_listed
from .needle_practice import ANNOUNCED, DIGITS, FILLERS, NAMES, OPENED, QUESTIONS, TOLD, practice
from .needle_tasks import NeedleTask, hides_in_documents, tasks_of
from .needle_wordings import Quiz
from .needle_writing import (
    Hay,
    Haystack,
    NoRoomError,
    check_writable,
    ids_of,
    sentences,
    uuid_lines,
    word_list,
    written,
)
from .tokens import Document

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Tokens of filler in the shortest document that a segment is packed with.
LEAST = 16

SINGLE = NeedleTask()


def needle_documents(
    docs: Sequence[Document],
    length: int,
    count: int,
    tokenizer: PreTrainedTokenizerBase,
    *,
    tasks: str | NeedleTask | Sequence[str | NeedleTask] | None = None,
    seed: int = 0,
) -> list[Document]:
    """Needle documents to search on, at any depth, their answers marked.

    >>> model, tokenizer = lab.load_model("lab")
    >>> (doc,) = lab.needle_documents([], 256, 1, tokenizer, tasks="multiquery")
    >>> tokenizer.decode(doc.ids[doc.answers])
    ' 6732655, 5600228, 3428080 and 3770464.<|endoftext|>'

    `search` measures the answers of such documents alone, as LongRoPE2 does (arXiv 2502.20082,
    section 3); books beside them keep perplexity in view.

    Args:
        docs: to hide needles in; those shorter than `length` are left out. Empty where no task
            hides in documents.
        length: tokens per document.
        count: documents.
        tokenizer: a Hugging Face tokenizer.
        tasks: names in `NEEDLES`, or tasks, which take turns. None: one number per document, which
            a stretch of `docs` and repeated sentences hide by turns.
        seed: of numbers, wordings and places.

    Returns:
        Documents of exactly that length, with `Document.answers`: what is asked for, what stands
        between, the full stop and EOS.

    Raises:
        ValueError: none of `docs` is long enough, no room for a task, more keys than there are
            names, a tokenizer that cannot write a key, an unknown task, no document asked for.
    """
    rng, count = np.random.default_rng(seed_of(seed)), whole("count", count, 1)
    check_listed(count * length, f"{count:,} needle documents of {length:,} tokens")
    turns = [SINGLE] if tasks is None else tasks_of(tasks)
    books = long_enough(docs, length) if tasks is None or hides_in_documents(turns) else []
    writer = NeedleWriter(books, tokenizer, rng)
    if tasks is None:
        writer.check_room(length)
    made = []
    for number in range(count):
        task = turns[number % len(turns)]
        in_book = number % 2 == 0 if tasks is None else task.haystack == "documents"
        title = f"needle {number}" + ("" if tasks is None else f", {task.name}")
        ids, answers = writer.document(length, in_book, task)
        made.append(Document(title, np.array(ids, np.int64), np.array(answers, np.bool_)))
    return made


def long_enough(docs: Sequence[Document], length: int) -> list[Document]:
    """The documents that a needle document of `length` tokens can be cut from.

    Raises:
        ValueError: there are none.
    """
    books = [doc for doc in docs if len(doc) >= length]
    if not books:
        longest = max(map(len, docs), default=0)
        raise ValueError(
            f"none of the {len(docs)} documents has {length:,} tokens to hide needles in (the "
            f"longest has {longest:,}): load longer ones, or leave needles out"
        )
    return books


class NeedleWriter:
    """Writes needle documents: pairs of token ids and of marks, true for the tokens of answers."""

    def __init__(
        self, books: list[Document], tokenizer: PreTrainedTokenizerBase, rng: np.random.Generator
    ) -> None:
        self.books, self.tokenizer, self.rng = books, tokenizer, rng
        ends = (tokenizer.bos_token_id, tokenizer.eos_token_id)
        self.before, self.after = ([] if token is None else [token] for token in ends)
        said = {"name": max(NAMES, key=len), "key": "9" * max(DIGITS)}
        asked = [f"{question} {OPENED}" for question in QUESTIONS]
        longest = (
            max(len(ids_of(text.format(**said), tokenizer)) for text in texts)
            for texts in (ANNOUNCED, TOLD, asked, [" {key}."])
        )
        self.shortest = sum(longest) + len(self.before) + len(self.after) + LEAST

    def check_room(self, length: int) -> None:
        """Refuse a length that is too short for some document with one needle, whatever is drawn.

        Raises:
            ValueError: it is too short.
        """
        if length < self.shortest:
            raise ValueError(
                f"a needle document of {length} tokens has no room for its text, which takes up to "
                f"{self.shortest} with this tokenizer: take a longer one, or leave needles out"
            )

    def document(
        self, length: int, in_book: bool | None = None, task: NeedleTask = SINGLE
    ) -> tuple[list[int], list[bool]]:
        """Announcement, filler with needles, question, answer: exactly so many tokens.

        Whether a stretch of a book is the filler is drawn, unless it is said.

        Raises:
            ValueError: no room, more keys than names, a tokenizer that cannot write a key.
        """
        quiz = practice(task, self.rng)
        if task != SINGLE:
            check_writable(quiz, self.tokenizer)
        before, question, answer = (
            ids_of(text, self.tokenizer) for text in (quiz.announced, quiz.question, quiz.answer)
        )
        answer += self.after
        frame = [*self.before, *before], [*question, *answer]
        hay = self._haystack(task, quiz, in_book)
        try:
            ids = written(quiz, *frame, length, hay, None, self.rng, self.tokenizer)
        except NoRoomError as error:
            raise ValueError(
                f"a needle document of {length} tokens has no room for {task.name!r}, which takes "
                f"{length + error.missing} with this tokenizer: take a longer one, or fewer needles"
            ) from None
        return ids, [False] * (length - len(answer)) + [True] * len(answer)

    def _haystack(self, task: NeedleTask, quiz: Quiz, in_book: bool | None) -> Haystack:
        if task.kind == "words":
            return word_list(quiz, self.rng, self.tokenizer)
        if task.haystack == "uuids":
            return uuid_lines(quiz, self.rng, self.tokenizer)
        return lambda room: self._filler(room, in_book)

    def _filler(self, room: int, in_book: bool | None) -> Hay:
        if self.rng.random() < 0.5 if in_book is None else in_book:
            book = self.books[int(self.rng.integers(len(self.books)))]
            start = int(self.rng.integers(len(book) - room + 1))
            return Hay(book.ids[start : start + room].tolist())
        text = FILLERS[int(self.rng.integers(len(FILLERS)))]
        return sentences(text, self.tokenizer)(room)
