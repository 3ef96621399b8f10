"""Multiple-choice questions of one's own: read from a file, or made from a corpus."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..common.checks import unknown
from ..texts.corpora import iterate_texts
from ..texts.readers import jsonl_values

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Words of a sentence that a question may ask for: shorter ones fit anywhere.
WORDS = range(8, 41)

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
        ValueError: an empty text, a single choice, or an answer that is none of them.
    """

    context: str
    choices: tuple[str, ...]
    answer: int

    def __post_init__(self) -> None:
        if not self.context.strip() or not all(choice.strip() for choice in self.choices):
            raise ValueError(
                "a context or a choice is empty: a model scores the words of a choice after a context's"
            )
        if len(self.choices) < 2:
            raise ValueError(f"it has {len(self.choices)} choices: a question has two or more")
        if not 0 <= self.answer < len(self.choices):
            raise ValueError(
                f"answer is {self.answer}: it is the index of a choice, 0 to {len(self.choices) - 1}"
            )


def read_questions(path: str | os.PathLike[str]) -> tuple[Question, ...]:
    """The questions of a .jsonl file, one a line: {"question": "...", "choices": ["...", "..."],
        "answer": 0}.

    "context" may stand for "question". The answer is the index of the right choice, from 0.

    Raises:
        FileNotFoundError: nothing there.
        ValueError: a line that is no such question (it is named), or a file that is not UTF-8 or
            holds none.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f"no file of questions at {path}: check the path")
    found = tuple(
        _question(values, f"{path}, line {number}") for number, values in jsonl_values(path)
    )
    if not found:
        raise ValueError(f"{path} holds no questions: one JSON object a line")
    return found


def _question(values: Any, where: str) -> Question:
    values = values if isinstance(values, dict) else {}
    context, choices = values.get("question", values.get("context")), values.get("choices")
    answer = values.get("answer")
    if (
        not isinstance(context, str)
        or not (isinstance(choices, list) and all(isinstance(choice, str) for choice in choices))
        or (not isinstance(answer, int) or isinstance(answer, bool))
    ):
        raise ValueError(
            f"{where} is no question: it takes a text 'question' (or 'context'), a list of texts 'choices', and as "
            f"'answer' the right one's index, a whole number from 0; it has {sorted(values) or 'none of these'}"
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
    """Which of these sentences continues the passage? Made from a corpus: HellaSwag in kind,
    without its filtering.

    The right choice is the sentence that follows in the text. The wrong ones are as long, and from
    elsewhere in the same document, so that neither length nor style gives the answer away.
    Sentences end with a full stop, a question or an exclamation mark; those that are asked for have
    8 to 40 words.

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
    if count < 1 or choices < 2 or passage_tokens < 16:
        raise ValueError(
            f"count is {count}, choices {choices}, passage_tokens {passage_tokens}: at least 1 question of 2 choices "
            "after 16 tokens"
        )
    rng = np.random.default_rng(seed)
    documents = [
        re.split(r"(?<=[.?!])\s+", text.strip()) for _, text in iterate_texts(source, split)
    ]
    fit = [
        np.array([i for i, s in enumerate(d) if len(s.split()) in WORDS], dtype=int)
        for d in documents
    ]
    places = [(d, int(i)) for d, indices in enumerate(fit) for i in indices]
    made: list[Question] = []
    for place in rng.permutation(len(places)):
        document, right = places[place]
        sentences = documents[document]
        passage = _passage(sentences, right, passage_tokens, tokenizer)
        first = right - len(passage)
        others = [
            i
            for i in fit[document]
            if not first - NEAR <= i <= right + NEAR
            and abs(len(sentences[i]) - len(sentences[right]))
            <= SAME_LENGTH * len(sentences[right])
        ]
        if (
            not passage or first == 0 or len(others) < choices - 1
        ):  # the text begins in the passage, or is too short
            continue
        offered = [sentences[i] for i in (right, *rng.choice(others, choices - 1, replace=False))]
        order = rng.permutation(choices).tolist()
        made.append(Question(" ".join(passage), tuple(offered[i] for i in order), order.index(0)))
        if len(made) == count:
            return tuple(made)
    raise ValueError(
        f"{str(source)!r} gives {len(made)} questions after passages of {passage_tokens:,} tokens, and {count} were "
        "asked for: ask for fewer or shorter ones, or use a corpus of longer documents"
    )


def _passage(
    sentences: list[str], end: int, tokens: int, tokenizer: PreTrainedTokenizerBase
) -> list[str]:
    """As many whole sentences before `end` as `tokens` hold."""
    start = end
    while (
        start > 0
        and len(tokenizer(" ".join(sentences[start - 1 : end]), verbose=False)["input_ids"])
        <= tokens
    ):
        start -= 1
    return sentences[start:end]


# What may be asked of questions of one's own.
METRICS = ("acc", "acc_norm", "acc_mutual_info")


@dataclass(frozen=True)
class BenchmarkTask:
    """A benchmark, and how it is asked.

    Args:
        name: as the harness knows it, or any name for questions of one's own.
        shots: solved questions shown before each one.
        metric: "acc": is the likeliest choice the right one? "acc_norm": after division of each
            log-likelihood by the choice's number of characters. "acc_mutual_info": after
            subtraction of the choice's log-likelihood without the context. A task of the harness
            may have others, which give one number a question.
        questions: one's own; None for a task of the harness.

    Raises:
        ValueError: shots that are no count, or more than there are other questions, or an unknown
            metric for these.
    """

    name: str
    shots: int = 0
    metric: str = "acc"
    questions: tuple[Question, ...] | None = None

    def __post_init__(self) -> None:
        if self.shots < 0:
            raise ValueError(
                f"shots is {self.shots}: it counts solved questions, so a whole number from 0"
            )
        if self.questions is not None and self.metric not in METRICS:
            raise unknown("metric", self.metric, METRICS)
        if self.questions is not None and len(self.questions) <= self.shots:
            raise ValueError(
                f"the task {self.name!r} has {len(self.questions)} questions: {self.shots} shots need as many others"
            )

    @classmethod
    def from_file(
        cls, path: str | os.PathLike[str], *, shots: int = 0, metric: str = "acc_norm"
    ) -> BenchmarkTask:
        """The questions of a .jsonl file, under its name; its form and the errors are those of `read_questions`."""
        return cls(Path(path).stem, shots, metric, read_questions(path))

    @classmethod
    def from_corpus(
        cls, source: str | os.PathLike[str], tokenizer: PreTrainedTokenizerBase, **options: Any
    ) -> BenchmarkTask:
        """Which sentence continues the passage? Options and errors are those of `continuation_questions`."""
        return cls(
            "continuations",
            0,
            "acc_mutual_info",
            continuation_questions(source, tokenizer, **options),
        )


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
            f"{task}: the longest question has {longest:,} tokens with its shots and answer, and {window:,} are "
            "allowed (max_length; the trained window unless given): use fewer shots, shorter questions, a model with a "
            "longer window, or a larger max_length for an extended model"
        )
