"""A needle task as token ids: its needles at their places in a haystack, to the token."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from .needle_wordings import Quiz, uuid_line
from .tokens import opening

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# What stands for the message while a chat template is laid around it.
MESSAGE = "longrope-lab-message"

# RULER's list of words: how often a common one stands in it, and how many times as often as the
# others.
OFTEN, TIMES = 30, 10


@dataclass(frozen=True)
class Hay:
    """What hides needles.

    Args:
        ids: token ids, exactly as many as there was room for.
        gaps: where a needle may be put, rising; None: between any two tokens.
    """

    ids: list[int]
    gaps: NDArray[np.int64] | None = None


# Fills a room of so many tokens.
Haystack = Callable[[int], Hay]


class NoRoomError(ValueError):
    """A text that takes so many tokens more than there are."""

    def __init__(self, missing: int) -> None:
        self.missing = missing
        super().__init__(f"{missing} tokens are missing")


def ids_of(text: str, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Token ids of a part of a text."""
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def written(
    quiz: Quiz,
    before: list[int],
    after: list[int],
    length: int,
    haystack: Haystack,
    depth: float | None,
    rng: np.random.Generator,
    tokenizer: PreTrainedTokenizerBase,
) -> list[int]:
    """Exactly `length` token ids: what stands before, the haystack with its needles, what is after.

    Args:
        quiz: what is hidden.
        before, after: token ids of what announces and asks.
        length: tokens in all.
        haystack: fills what room is left.
        depth: where a needle that is asked for stands, from 0 (the beginning) to 1 (the end); the
            other ones stand anywhere. None: all stand anywhere.
        rng: draws places, after what the haystack draws.
        tokenizer: a Hugging Face tokenizer.

    Raises:
        NoRoomError: the needles and what stands around them take more.
    """
    told = [[ids_of(needle, tokenizer) for needle in group] for group in quiz.told]
    taken = len(before) + len(after) + sum(len(needle) for group in told for needle in group)
    if taken > length:
        raise NoRoomError(taken - length)
    hay = haystack(length - taken)
    ids, done = [*before], 0
    for place, needle in _placed(told, hay, depth, rng):
        ids += [*hay.ids[done:place], *needle]
        done = place
    return [*ids, *hay.ids[done:], *after]


def _placed(
    told: list[list[list[int]]], hay: Hay, depth: float | None, rng: np.random.Generator
) -> list[tuple[int, list[int]]]:
    """Each needle's place, rising; those of a group stay in their order."""
    room, placed = len(hay.ids), []
    for number, group in enumerate(told):
        first = [] if depth is None or number else [round(depth * room)]
        drawn = [int(rng.integers(room + 1)) for _ in range(len(group) - len(first))]
        placed += [*zip(sorted(_gap(place, hay) for place in [*first, *drawn]), group, strict=True)]
    return sorted(placed, key=lambda pair: pair[0])


def _gap(place: int, hay: Hay) -> int:
    """The nearest place where a needle may stand."""
    if hay.gaps is None:
        return place
    return int(hay.gaps[np.abs(hay.gaps - place).argmin()])


def sentences(text: str, tokenizer: PreTrainedTokenizerBase) -> Haystack:
    """Sentences that repeat."""
    unit = ids_of(text, tokenizer)
    return lambda room: Hay((unit * (room // len(unit) + 1))[:room])


def uuid_lines(
    quiz: Quiz, rng: np.random.Generator, tokenizer: PreTrainedTokenizerBase
) -> Haystack:
    """Lines like the quiz's needles, of other keys. Needles stand between lines.

    The first line is cut, where it has to be, as if the text began earlier.
    """

    def fill(room: int) -> Hay:
        lines: list[list[int]] = []
        while (left := room - sum(map(len, lines))) > 0:
            one = ids_of(uuid_line(quiz, rng), tokenizer)
            more = [uuid_line(quiz, rng) for _ in range(left // len(one))]
            lines += [
                one,
                *(tokenizer(more, add_special_tokens=False)["input_ids"] if more else []),
            ]
        ends = np.cumsum([0, *map(len, lines)])
        cut = int(ends[-1]) - room
        gaps = ends - cut
        return Hay([token for line in lines for token in line][cut:], gaps[gaps >= 0])

    return fill


def word_list(quiz: Quiz, rng: np.random.Generator, tokenizer: PreTrainedTokenizerBase) -> Haystack:
    """RULER's list: common words thirty times, the others three times; fewer in a shorter list.

    The common words fill at most half of it. Their first places are in the quiz's order. The list
    is cut at its beginning, where it has to be.
    """

    def entries(words: Sequence[str]) -> list[list[int]]:
        texts = [quiz.line.format(number=n, word=word) for n, word in enumerate(words, 1)]
        made: list[list[int]] = tokenizer(texts, add_special_tokens=False)["input_ids"]
        return made

    def fill(room: int) -> Hay:
        some = [*quiz.expected, *quiz.others[:90]]
        most = room * len(some) // sum(map(len, entries(some))) + 1  # their numbers are short
        sizes = [len(entry) for entry in entries([*itertools.islice(itertools.cycle(some), most)])]
        words = _words(quiz, int(np.searchsorted(np.cumsum(sizes), room)), rng)
        spare = rng.choice(quiz.others, len(words) // 4 + 8).tolist()
        # What is cut belongs to the first two, so every common word is whole.
        lines = entries([*spare[:2], *words, *spare])
        count = int(np.searchsorted(np.cumsum([len(line) for line in lines]), room)) + 1
        ids = [token for line in lines[:count] for token in line]
        return Hay(ids[len(ids) - room :])

    return fill


def _words(quiz: Quiz, count: int, rng: np.random.Generator) -> list[str]:
    """So many words in a random order, the common ones often."""
    common, others = quiz.expected, quiz.others
    often = min(count // (2 * len(common)), OFTEN)
    seldom = max(often // TIMES, 1)
    if (needed := -(-(count - often * len(common)) // len(others))) > seldom:
        seldom, often = needed, needed * TIMES  # a very long list, which the others do not fill
    if often < 3:
        raise ValueError(
            f"a list of {count} words is too short for {len(common)} that come often: ask for "
            "fewer (values of the task), or take a longer text"
        )
    words = [*common * often, *(others * seldom)[: count - often * len(common)]]
    words = rng.permutation(words).tolist()
    first = [word for word in dict.fromkeys(words) if word in common]
    renamed = dict(zip(first, common, strict=True))
    return [renamed.get(word, word) for word in words]


def framed(
    quiz: Quiz, tokenizer: PreTrainedTokenizerBase, *, chat: bool
) -> tuple[list[int], list[int]]:
    """Token ids of all that stands before and after the haystack of a prompt.

    A chat template is laid around the message as `apply_chat_template` does, and brings its own
    special tokens. The answer is begun after it.

    Raises:
        ValueError: a chat without a template that takes a message as it is.
    """
    if not chat:
        return opening(quiz.announced, tokenizer), ids_of(quiz.question, tokenizer)
    if tokenizer.chat_template is None:
        raise ValueError(
            "the tokenizer has no chat template, so its model was not tuned to chats: leave out "
            "chat=True, or set tokenizer.chat_template"
        )
    message = [{"role": "user", "content": MESSAGE}]
    try:
        text = tokenizer.apply_chat_template(message, tokenize=False, add_generation_prompt=True)
    except Exception as error:  # of the template's own, or of Jinja's
        raise ValueError(f"the tokenizer's chat template cannot be used ({error})") from error
    before, *rest = text.split(MESSAGE)
    if len(rest) != 1:
        raise ValueError(
            f"the tokenizer's chat template gives a message back {len(rest)} times, and once is "
            "needed: leave out chat=True, or set another tokenizer.chat_template"
        )
    texts = (before + quiz.announced, quiz.asked + rest[0] + quiz.begun)
    opened, asked = (ids_of(text, tokenizer) for text in texts)
    return opened, asked


def check_writable(quiz: Quiz, tokenizer: PreTrainedTokenizerBase) -> None:
    """Refuse a tokenizer that does not give back what is asked for.

    Raises:
        ValueError: naming a key that comes back as something else.
    """
    for text in quiz.expected:
        back = tokenizer.decode(ids_of(f" {text}", tokenizer))
        if text.lower() not in back.lower():
            raise ValueError(
                f"the tokenizer cannot write {text!r}: it comes back as {back!r}, so no answer "
                "could be right. Take the tokenizer that belongs to the model, or another task"
            )
