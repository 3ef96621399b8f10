"""Needle documents: a number hidden far back, asked for at the end, and answered.

A model that is trained on books alone forgets how to look something up, inside its old window
too. So a `Recipe` can give a share of its segments to such documents (`needle_share`). Their loss
is that of the answers alone: among the tokens of a long segment an answer would hardly count.
Factors that are searched on perplexity alone lose it likewise, so a `Search` can measure such
documents beside the books (`needles`).

They are never those that are reported on. Names, wordings and fillers are others than those of
`passkey`, the numbers have no five digits, and the books are the ones that are trained on.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ..common.checks import seed_of, whole
from ..texts.tokens import Document

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Share of the rows that hold one document; the others are packed with shorter ones.
WHOLE = 0.6

# Tokens of filler in the shortest document that a segment is packed with.
LEAST = 16

# Digits of a number. Those that `passkey` asks for have five.
DIGITS = (4, 6, 7)

# Many names and wordings, so that a model learns to look up what is asked for, whatever its name.
NAMES = (
    "access code", "account number", "alarm code", "case number", "customer number", "door code",
    "exam number", "flight number", "invoice number", "licence number", "locker code",
    "lucky number", "magic number", "member number", "order number", "parcel number",
    "patient number", "phone number", "prize number", "reference number", "room number",
    "safe combination", "secret number", "serial number", "station number", "ticket number",
    "vault number", "winning number",
)  # fmt: skip
ANNOUNCED = (
    "There is a {name} somewhere in the text below. You will be asked for it.\n",
    "Look out for the {name}, which is given once, and keep it in mind.\n",
    "Read all of this with care. At the end you have to say the {name}.\n",
    "In a long text, one line tells the {name}. All the rest is of no importance.\n",
)
TOLD = (
    "\nThe {name} is {key}. Keep it in mind: {key} is the {name}.\n",
    "\nNote that the {name} is {key}. Once more: {key}.\n",
    "\nHere is the {name}: {key}. Do not forget that the {name} is {key}.\n",
)
ASKED = (
    "\nWhat is the {name}? The {name} is",
    "\nTell me the {name}. The {name} is",
    "\nWhich {name} was given? The {name} is",
)
FILLERS = (
    "The river runs down to the sea. A cloud passes over the hill. The dog sleeps at the door. ",
    "It is morning. The bread is warm. The window is open. Somebody sings in the street. ",
    "Snow falls on the roof. The fire burns low. The clock strikes nine. Nobody comes. ",
    "The train leaves at noon. The road is long. There is time to read. The next stop is far. ",
)


def needle_segments(
    docs: Sequence[Document],
    length: int,
    count: int,
    tokenizer: PreTrainedTokenizerBase,
    rng: np.random.Generator,
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Segments of needle documents with their answers, BOS before each document and EOS after it.

    Three of five hold one document. The others are packed with shorter ones, whose lengths are
    uniform on a logarithmic scale up to a quarter of the segment. Half of the documents hide their
    number in a stretch of `docs`, half in repeated sentences, at any depth.

    Args:
        docs: to hide numbers in; those shorter than a segment are left out.
        length: tokens per segment.
        count: segments.
        tokenizer: a Hugging Face tokenizer.
        rng: draws everything.

    Returns:
        Token ids and which of them are answers (number, full stop, EOS), both (count, length).

    Raises:
        ValueError: no document of that length, or a length without room for a needle document.
    """
    writer = _Writer(_long_enough(docs, length), tokenizer, rng)
    writer.check_room(length)
    made = [writer.segment(length) for _ in range(count)]
    shape = (count, length)
    ids = np.array([ids for ids, _ in made], np.int64).reshape(shape)
    return ids, np.array([answers for _, answers in made], np.bool_).reshape(shape)


def needle_documents(
    docs: Sequence[Document],
    length: int,
    count: int,
    tokenizer: PreTrainedTokenizerBase,
    *,
    seed: int = 0,
) -> list[Document]:
    """Needle documents to search on: one number each, at any depth, its answer marked.

    Every other one hides its number in a stretch of `docs`, and the rest in repeated sentences.
    `search` measures the answers of such documents alone, as LongRoPE2 does (arXiv 2502.20082,
    section 3); books beside them keep perplexity in view.

    Args:
        docs: to hide numbers in; those shorter than `length` are left out.
        length: tokens per document.
        count: documents.
        tokenizer: a Hugging Face tokenizer.
        seed: of numbers, wordings and places.

    Returns:
        Documents of exactly that length, with `Document.answers`.

    Raises:
        ValueError: as `needle_segments`; no document asked for.
    """
    rng = np.random.default_rng(seed_of(seed))
    writer = _Writer(_long_enough(docs, length), tokenizer, rng)
    writer.check_room(length)
    made = [
        writer.document(length, in_book=number % 2 == 0)
        for number in range(whole("count", count, 1))
    ]
    return [
        Document(f"needle {number}", np.array(ids, np.int64), np.array(answers, np.bool_))
        for number, (ids, answers) in enumerate(made)
    ]


def _long_enough(docs: Sequence[Document], length: int) -> list[Document]:
    """The documents that a needle document of `length` tokens can be cut from."""
    books = [doc for doc in docs if len(doc) >= length]
    if not books:
        longest = max(map(len, docs), default=0)
        raise ValueError(
            f"none of the {len(docs)} documents has {length:,} tokens to hide needles in (the "
            f"longest has {longest:,}): load longer ones, or leave needles out"
        )
    return books


class _Writer:
    """Writes needle documents: pairs of token ids and of marks, true for the tokens of answers."""

    def __init__(
        self, books: list[Document], tokenizer: PreTrainedTokenizerBase, rng: np.random.Generator
    ) -> None:
        self.books, self.tokenizer, self.rng = books, tokenizer, rng
        ends = (tokenizer.bos_token_id, tokenizer.eos_token_id)
        self.before, self.after = ([] if token is None else [token] for token in ends)
        self.fillers = [self.ids(text) for text in FILLERS]
        said = {"name": max(NAMES, key=len), "key": "9" * max(DIGITS)}
        longest = (
            max(len(self.ids(text.format(**said))) for text in texts)
            for texts in (ANNOUNCED, TOLD, ASKED, [" {key}."])
        )
        self.shortest = sum(longest) + len(self.before) + len(self.after) + LEAST

    def check_room(self, length: int) -> None:
        """Refuse a length that is too short for some of the texts, whichever are drawn."""
        if length < self.shortest:
            raise ValueError(
                f"a needle document of {length} tokens has no room for its text, which takes up to "
                f"{self.shortest} with this tokenizer: take a longer one, or leave needles out"
            )

    def ids(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def segment(self, length: int) -> tuple[list[int], list[bool]]:
        """One document of that length, or several shorter ones."""
        if self.rng.random() < WHOLE:
            return self.document(length)
        ids: list[int] = []
        answers: list[bool] = []
        while len(ids) < length:
            more = self.document(self._part(length, length - len(ids)))
            ids += more[0]
            answers += more[1]
        return ids, answers

    def _part(self, length: int, left: int) -> int:
        """Tokens of the next document of a packed segment; the last one takes what is left."""
        if left <= 2 * self.shortest:
            return left
        most = max(min(length // 4, left - self.shortest), self.shortest)
        return int(np.exp(self.rng.uniform(np.log(self.shortest), np.log(most))) + 1e-9)

    def document(self, length: int, in_book: bool | None = None) -> tuple[list[int], list[bool]]:
        """Announcement, filler, number, filler, question, answer: exactly so many tokens.

        Whether the filler is a stretch of a book is drawn, unless it is said.
        """
        rng, digits = self.rng, int(self.rng.choice(DIGITS))
        key = str(rng.integers(10 ** (digits - 1), 10**digits))
        name = rng.choice(NAMES)
        announced, told, asked = (
            self.ids(rng.choice(texts).format(name=name, key=key))
            for texts in (ANNOUNCED, TOLD, ASKED)
        )
        answer = self.ids(f" {key}.") + self.after
        fixed = [*self.before, *announced, *told, *asked, *answer]
        room = length - len(fixed)
        filler, at = self._filler(room, in_book), int(rng.integers(room + 1))
        ids = [*self.before, *announced, *filler[:at], *told, *filler[at:], *asked, *answer]
        return ids, [False] * (length - len(answer)) + [True] * len(answer)

    def _filler(self, room: int, in_book: bool | None) -> list[int]:
        if self.rng.random() < 0.5 if in_book is None else in_book:
            book = self.books[int(self.rng.integers(len(self.books)))]
            start = int(self.rng.integers(len(book) - room + 1))
            stretch: list[int] = book.ids[start : start + room].tolist()
            return stretch
        unit = self.fillers[int(self.rng.integers(len(self.fillers)))]
        return (unit * (room // len(unit) + 1))[:room]
