"""Prompts of needle tasks, to the token: what hides the answer, and how much room it has."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..common.checks import seed_of, whole
from ..common.memory import check_listed
from ..texts import needle_writing
from ..texts.needle_tasks import NEEDLES, NeedleTask, tasks_of
from ..texts.needle_wordings import FILLER, Quiz, reported
from ..texts.tokens import Document, without_ends

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PASSKEY = NEEDLES["passkey"]

# Room for a passkey at the end of the sequence: a space and five digits take at most six tokens.
ANSWER_TOKENS = 8

# Answers of a task whose longest says how much room its answers get.
SAMPLES = 24


def needle_prompt(
    tokenizer: PreTrainedTokenizerBase,
    task: str | NeedleTask,
    length: int,
    depth: float = 0.5,
    trial: int = 0,
    filler: Sequence[Document] | None = None,
    seed: int = 0,
    *,
    chat: bool = False,
    answer_tokens: int | None = None,
) -> tuple[list[int], tuple[str, ...]]:
    """The prompt behind a row of a `needles` table, made with its other arguments.

    >>> prompt, expected = lab.needle_prompt(tokenizer, "multivalue", 512)
    >>> len(prompt), expected
    (480, ('60270', '96663', '16917', '45532'))

    Returns:
        The prompt's token ids and the strings that its answer should contain.

    Raises:
        ValueError: an unknown task, a filler document shorter than `length` or none where the task
            needs one, a length without room for the task, a depth outside 0 to 1, a tokenizer that
            cannot write what is asked for.
    """
    (task,) = tasks_of(task)
    trial = whole("trial", trial, 0)
    if answer_tokens is None:
        answer_tokens = answer_room(tokenizer, task)
    # A passkey's numbers do not depend on what hides it; every other task has numbers of its own.
    own = [] if task.kind == "passkey" else [zlib.crc32(repr(task).encode())]
    check_depth(depth)  # first: what is drawn depends on it
    place = round(depth * 1e6) if task.kind != "words" else 0
    rng = np.random.default_rng([seed_of(seed), max(length, 0), place, trial, *own])
    text = None
    if task.haystack == "documents":
        check_filler([task], filler)
        text = _stretch(filler or [], length, rng, tokenizer)
    return _prompt(tokenizer, task, length, depth, rng, text, chat, answer_tokens)


def passkey_prompt(
    tokenizer: PreTrainedTokenizerBase,
    length: int,
    depth: float,
    trial: int = 0,
    filler: Sequence[Document] | None = None,
    seed: int = 0,
    *,
    chat: bool = False,
    answer_tokens: int = ANSWER_TOKENS,
) -> tuple[list[int], str]:
    """The prompt behind a row of a `passkey` table, made with its other arguments.

    Returns:
        The prompt's token ids and the five-digit key.

    Raises:
        ValueError: a filler document shorter than `length`, or what `passkey_sequence` refuses.
    """
    task = PASSKEY if filler is None else NEEDLES["passkey in documents"]
    ids, (key,) = needle_prompt(
        tokenizer, task, length, depth, trial, filler, seed, chat=chat, answer_tokens=answer_tokens
    )
    return ids, key


def passkey_sequence(
    tokenizer: PreTrainedTokenizerBase,
    length: int,
    depth: float,
    rng: np.random.Generator,
    filler: ArrayLike | None = None,
    *,
    chat: bool = False,
    answer_tokens: int = ANSWER_TOKENS,
) -> tuple[list[int], str]:
    """A prompt of exactly ``length - answer_tokens`` tokens, so that there is room for the answer.

    Args:
        tokenizer: a Hugging Face tokenizer.
        length: tokens of prompt and answer together.
        depth: where the key stands in the filler, from 0 (the beginning) to 1 (the end).
        rng: draws the key.
        filler: token ids (T,) to hide it in, at least `length`; None for the paper's repeated
            sentences.
        chat, answer_tokens: as `passkey` takes them.

    Returns:
        The prompt's token ids and the five-digit key.

    Raises:
        ValueError: a depth outside 0 to 1, a length with no room for the question, too little
            filler, or a chat without a template that takes a message as it is.
    """
    text = None if filler is None else np.asarray(filler)
    ids, (key,) = _prompt(tokenizer, PASSKEY, length, depth, rng, text, chat, answer_tokens)
    return ids, key


def _prompt(
    tokenizer: PreTrainedTokenizerBase,
    task: NeedleTask,
    length: int,
    depth: float,
    rng: np.random.Generator,
    text: NDArray[np.integer] | None,
    chat: bool,
    answer_tokens: int,
) -> tuple[list[int], tuple[str, ...]]:
    """A prompt of a task and what is expected; `text` hides it where it is given."""
    check_depth(depth)
    check_listed(length, f"the tokens of a prompt of length {length:,}")
    quiz = reported(task, rng)
    if task.kind != "passkey":
        needle_writing.check_writable(quiz, tokenizer)
    haystack = _haystack(task, quiz, length, rng, text, tokenizer)
    before, after = needle_writing.framed(quiz, tokenizer, chat=chat)
    size = length - answer_tokens
    try:
        ids = needle_writing.written(quiz, before, after, size, haystack, depth, rng, tokenizer)
    except needle_writing.NoRoomError as error:
        raise ValueError(
            f"length {length} has no room for a {task.name} prompt: with this tokenizer it takes "
            f"at least {length + error.missing}"
        ) from None
    for key in quiz.expected:
        least = len(needle_writing.ids_of(key, tokenizer))
        whole("answer_tokens", answer_tokens, least, f"the key {key} alone takes {least} tokens")
    return ids, quiz.expected


def _haystack(
    task: NeedleTask,
    quiz: Quiz,
    length: int,
    rng: np.random.Generator,
    text: NDArray[np.integer] | None,
    tokenizer: PreTrainedTokenizerBase,
) -> needle_writing.Haystack:
    if task.kind == "words":
        return needle_writing.word_list(quiz, rng, tokenizer)
    if task.haystack == "uuids":
        return needle_writing.uuid_lines(quiz, rng, tokenizer)
    if text is None:
        return needle_writing.sentences(FILLER, tokenizer)

    def beginning(room: int) -> needle_writing.Hay:
        if len(text) < room:
            raise ValueError(
                f"the filler has {len(text)} tokens: a prompt of length {length} needs {room}"
            )
        return needle_writing.Hay(text[:room].tolist())

    return beginning


def _stretch(
    filler: Sequence[Document],
    length: int,
    rng: np.random.Generator,
    tokenizer: PreTrainedTokenizerBase,
) -> NDArray[np.int64]:
    """A prompt's length of a document, from a random place on."""
    document = filler[int(rng.integers(len(filler)))]
    if len(document) < length:
        raise ValueError(
            f"the filler document {document.title!r} has {len(document):,} tokens and a prompt "
            f"may need {length:,}: load it with min_tokens={length}"
        )
    ids = without_ends(document.ids, tokenizer)
    start = int(rng.integers(0, max(len(ids) - length, 0) + 1))
    return ids[start : start + length]


def answer_room(tokenizer: PreTrainedTokenizerBase, task: NeedleTask) -> int:
    """Tokens that an answer to a task gets: its own, as sentences put it, and an eighth more."""
    if task.kind == "passkey":
        return ANSWER_TOKENS
    rng = np.random.default_rng(0)
    longest = max(
        len(needle_writing.ids_of(f" {', '.join(reported(task, rng).expected)} and.", tokenizer))
        for _ in range(SAMPLES)
    )
    return longest + max(longest // 8, 2)


def check_depth(depth: float) -> None:
    """Refuse a depth that is no share of the text.

    Raises:
        ValueError: it is below 0 or above 1.
    """
    if not 0 <= depth <= 1:
        raise ValueError(
            f"depth is {depth}: it is a share of the text, from 0.0 (beginning) to 1.0 (end)"
        )


def lengths_asked(lengths: Sequence[int], least: int = 1, rule: str = "") -> list[int]:
    """The lengths of a measurement, each once: else the same prompts would count twice.

    Raises:
        ValueError: there are none, or one is not a whole number of at least `least`.
    """
    if not len(lengths):
        raise ValueError("lengths is empty: give at least one, in tokens")
    return list(dict.fromkeys(whole("length", length, least, rule) for length in lengths))


def places_asked(
    measured: str, lengths: Sequence[int], depths: Sequence[float]
) -> tuple[list[int], list[float]]:
    """The lengths, as `lengths_asked` has them, and the depths of a measurement, each once.

    Raises:
        ValueError: there are none, or such as no prompt has.
    """
    if not len(lengths) or not len(depths):
        raise ValueError(
            f"{measured} needs at least one length and one depth; got {len(lengths)} lengths and "
            f"{len(depths)} depths"
        )
    for depth in depths:
        check_depth(depth)
    return lengths_asked(lengths), list(dict.fromkeys(depths))


def trials_asked(trials: int, lengths: Sequence[int], depths: Sequence[float]) -> int:
    """The trials of each length and depth, as an int.

    Raises:
        ValueError: no whole number from 1, or more than memory holds the prompts of.
    """
    trials = whole("trials", trials, 1)
    if trials > 1:  # of one, it is a length that is too large
        check_listed(trials * sum(lengths) * len(depths), f"the prompts of {trials:,} trials")
    return trials


def check_filler(tasks: Sequence[NeedleTask], filler: Sequence[Document] | None) -> None:
    """Refuse documents to hide in that tasks lack, that none of them uses, or that hold needles.

    Raises:
        ValueError: naming the tasks or the document.
    """
    hidden = [task.name for task in tasks if task.haystack == "documents"]
    if filler is not None and not len(filler):
        raise ValueError(
            "filler is an empty list: pass documents, or None for the paper's repeated sentences"
        )
    if hidden and filler is None:
        raise ValueError(
            f"{hidden[0]!r} hides its needles in documents, and filler is None: load some with "
            "load_corpus"
        )
    if filler is not None and not hidden:
        raise ValueError(
            f"none of the tasks ({', '.join(task.name for task in tasks)}) hides its needles in "
            "documents, so filler would not be used: leave it out, or name tasks such as 'single "
            "in documents'"
        )
    for document in filler or ():
        if document.answers is not None:
            raise ValueError(
                f"the filler document {document.title!r} marks answers, so it is made to search "
                "on: pass documents of load_corpus"
            )
