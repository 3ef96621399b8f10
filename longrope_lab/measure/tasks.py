"""Multiple-choice questions of one's own, from a file or a corpus, and how a benchmark is asked."""

from __future__ import annotations

import bisect
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..common.checks import seed_of, unknown, whole
from ..common.files import at_home
from ..texts.corpora import iterate_texts
from ..texts.readers import jsonl_values

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Words of a sentence that a question may ask for: shorter ones fit anywhere.
WORDS = range(8, 41)

# Tokens before them: in fewer there is hardly a whole sentence.
LEAST_PASSAGE = 16

# Wrong sentences stand at least so many away from the passage, and differ in characters from the
# right one by at most this share: a likelihood falls with every word, so a shorter sentence would
# win for its length.
NEAR = 10
SAME_LENGTH = 0.1


@dataclass(frozen=True)
class Question:
    """Which choice continues the context? A space goes between the two.

    Args:
        context: what comes before.
        choices: two or more continuations.
        answer: index of the right one.

    Raises:
        ValueError: an empty text, a single choice, or an answer that is not an index of one.
    """

    context: str
    choices: tuple[str, ...]
    answer: int

    def __post_init__(self) -> None:
        if not self.context.strip() or not all(choice.strip() for choice in self.choices):
            raise ValueError(
                "a context or a choice is empty: a model scores the words of a choice after a "
                "context's"
            )
        if len(self.choices) < 2:
            raise ValueError(f"it has {len(self.choices)} choices: a question has two or more")
        rule = f"it is the index of a choice, 0 to {len(self.choices) - 1}"
        answer = whole("answer", self.answer, 0, rule)
        if answer >= len(self.choices):
            raise ValueError(f"answer is {answer}: {rule}")
        object.__setattr__(self, "answer", answer)


def read_questions(path: str | os.PathLike[str]) -> tuple[Question, ...]:
    """The questions of a .jsonl file, one per line.

    A line is {"question": "...", "choices": ["...", "..."], "answer": 0}, where "context" may stand
    for "question". The answer is the index of the right choice, from 0.

    Raises:
        FileNotFoundError: nothing there.
        ValueError: a line that is not such a question (it is named), or a file that is not UTF-8 or
            holds no questions.
    """
    path = at_home(path)
    if not path.is_file():
        raise FileNotFoundError(f"no file of questions at {path}: check the path")
    found = tuple(
        _question(values, f"{path}, line {number}") for number, values in jsonl_values(path)
    )
    if not found:
        raise ValueError(f"{path} holds no questions: one JSON object per line")
    return found


def _question(values: object, where: str) -> Question:
    values = values if isinstance(values, dict) else {}
    context, choices = values.get("question", values.get("context")), values.get("choices")
    answer = values.get("answer")
    if (
        not isinstance(context, str)
        or not (isinstance(choices, list) and all(isinstance(choice, str) for choice in choices))
        or (not isinstance(answer, int) or isinstance(answer, bool))
    ):
        raise ValueError(
            f"{where} is not a question: it takes a text 'question' (or 'context'), a list of "
            "texts 'choices', and as 'answer' the right one's index, a whole number from 0; it has "
            f"{sorted(values) or 'none of these'}"
        )
    try:
        return Question(context, tuple(choices), answer)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None


def continuation_questions(
    source: str | os.PathLike[str],
    tokenizer: PreTrainedTokenizerBase,
    *,
    count: int = 60,
    passage_tokens: int = 128,
    choices: int = 4,
    split: str = "test",
    seed: int = 0,
) -> tuple[Question, ...]:
    """Which of these sentences continues the passage? Questions made from a corpus.

    They are HellaSwag's in kind, without its filtering. The right choice is the sentence that
    follows in the text. The wrong ones are as long, and from elsewhere in the same document, so
    that neither length nor style gives the answer away. Sentences end with a full stop, a question
    or an exclamation mark; those that are asked for have 8 to 40 words.

    Args:
        source, split: as `load_corpus` takes them.
        tokenizer: counts the passage's tokens.
        count: questions.
        passage_tokens: whole sentences before the right one, as many as fit.
        choices: sentences to choose from.
        seed: of places, wrong sentences and their order.

    Raises:
        ValueError: a number that makes no question, too little text for so many, or what
            `load_corpus` refuses.
    """
    count, choices = whole("count", count, 1), whole("choices", choices, 2)
    passage_tokens = whole("passage_tokens", passage_tokens, LEAST_PASSAGE)
    rng = np.random.default_rng(seed_of(seed))
    documents = [
        re.split(r"(?<=[.?!])\s+", text.strip()) for _, text in iterate_texts(source, split)
    ]
    fit = [
        np.array([i for i, s in enumerate(d) if len(s.split()) in WORDS], dtype=int)
        for d in documents
    ]
    places = [(d, int(i)) for d, indices in enumerate(fit) for i in indices]
    begins = [np.cumsum([0, *(len(s.encode()) + 1 for s in d)]) for d in documents]  # bytes before
    if count > len(places):
        raise _too_few(source, f"at most {len(places):,}", passage_tokens, count)
    made: list[Question] = []
    for place in rng.permutation(len(places)):
        document, right = places[place]
        sentences = documents[document]
        if begins[document][right] < passage_tokens:  # no token is shorter than a byte
            continue
        passage = _passage(sentences, right, passage_tokens, tokenizer)
        first = right - len(passage)
        others = _others(sentences, fit[document], first, right)
        # A passage that begins the text may be cut short there.
        if not passage or first == 0 or len(others) < choices - 1:
            continue
        offered = [sentences[i] for i in (right, *rng.choice(others, choices - 1, replace=False))]
        order = rng.permutation(choices).tolist()
        made.append(Question(" ".join(passage), tuple(offered[i] for i in order), order.index(0)))
        if len(made) == count:
            return tuple(made)
    raise _too_few(source, str(len(made)), passage_tokens, count)


def _too_few(
    source: str | os.PathLike[str], given: str, passage_tokens: int, count: int
) -> ValueError:
    return ValueError(
        f"{str(source)!r} gives {given} questions after passages of {passage_tokens:,} tokens, and "
        f"{count} were asked for: ask for fewer or shorter ones, or use a corpus of longer "
        "documents"
    )


def _passage(
    sentences: list[str], end: int, tokens: int, tokenizer: PreTrainedTokenizerBase
) -> list[str]:
    """As many whole sentences before `end` as `tokens` hold."""

    def size(count: int) -> int:
        text = " ".join(sentences[end - count : end])
        return len(tokenizer(text, verbose=False)["input_ids"])

    most = 1  # doubled, since a text may be long, and a passage too
    while most < end and size(most) <= tokens:
        most *= 2
    count = bisect.bisect_right(range(1, min(most, end) + 1), tokens, key=size)
    return sentences[end - count : end]


def _others(sentences: list[str], fit: NDArray[np.int64], first: int, right: int) -> list[np.int64]:
    """Of the sentences that fit, those as long as the right one and away from the passage."""
    length = len(sentences[right])
    return [
        i
        for i in fit
        if not first - NEAR <= i <= right + NEAR
        and abs(len(sentences[i]) - length) <= SAME_LENGTH * length
    ]


# What may be asked of questions of one's own.
METRICS = ("acc", "acc_norm", "acc_mutual_info")


@dataclass(frozen=True)
class BenchmarkTask:
    """A benchmark, and how it is asked.

    Args:
        name: as the harness knows it, or any name for questions of one's own.
        shots: solved questions shown before each one.
        metric: see below. A task of the harness may have others, which give one number per
            question.
        questions: one's own; None for a task of the harness.

    The metrics ask whether the likeliest choice is the right one:

        acc               by its log-likelihood
        acc_norm          by this, divided by the choice's number of characters
        acc_mutual_info   by this, less the choice's log-likelihood without the context

    Raises:
        ValueError: shots that are not a count, or more than there are other questions, or an
            unknown metric for these.
    """

    name: str
    shots: int = 0
    metric: str = "acc"
    questions: tuple[Question, ...] | None = None

    def __post_init__(self) -> None:
        rule = "it counts solved questions, so a whole number from 0"
        object.__setattr__(self, "shots", whole("shots", self.shots, 0, rule))
        if self.questions is not None and self.metric not in METRICS:
            raise unknown("metric", self.metric, METRICS)
        if self.questions is not None and len(self.questions) <= self.shots:
            raise ValueError(
                f"the task {self.name!r} has {len(self.questions)} questions: {self.shots} shots "
                "need as many others"
            )

    @classmethod
    def from_file(
        cls, path: str | os.PathLike[str], *, shots: int = 0, metric: str = "acc_norm"
    ) -> BenchmarkTask:
        """The questions of a .jsonl file, under its name; see `read_questions`."""
        return cls(Path(path).stem, shots, metric, read_questions(path))

    @classmethod
    def from_corpus(
        cls, source: str | os.PathLike[str], tokenizer: PreTrainedTokenizerBase, **options: Any
    ) -> BenchmarkTask:
        """Which sentence continues the passage? See `continuation_questions`."""
        questions = continuation_questions(source, tokenizer, **options)
        return cls("continuations", 0, "acc_mutual_info", questions)


# LongRoPE, Table 8, with its shots. The paper follows the Hugging Face Open LLM Leaderboard, hence
# the metrics.
PAPER_TASKS = (
    BenchmarkTask("arc_challenge", 25, "acc_norm"),
    BenchmarkTask("hellaswag", 10, "acc_norm"),
    BenchmarkTask("mmlu", 5, "acc"),
    BenchmarkTask("truthfulqa_mc2", 0, "acc"),
)


def check_length(task: str, longest: int, window: int) -> None:
    """Refuse what the harness would cut off at the left.

    Raises:
        ValueError: a question of more tokens than the window.
    """
    if longest > window:
        raise ValueError(
            f"{task}: the longest question has {longest:,} tokens with its shots and answer, and "
            f"{window:,} are allowed (max_length; the trained window unless given): use fewer "
            "shots, shorter questions, a model with a longer window, or a larger max_length for an "
            "extended model"
        )
