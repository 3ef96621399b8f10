"""Learning from examples in the prompt: how much do hundreds of them tell that a few do not?

No text teaches these rules: labels are dealt out anew in each prompt. So what a model answers above
chance, it has from the examples that its window holds (Agarwal et al., Many-Shot In-Context
Learning, arXiv 2404.11018).
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import permutations, product
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from ..common.checks import known_only, seed_of, whole
from ..common.memory import check_listed
from ..common.progress import progress
from ..models.estimates import check_fits
from ..models.rotary import by_name
from ..rope.schedule import Scaling
from ..texts.needle_wordings import words_of
from ..texts.needle_writing import ids_of
from .choices import COLUMNS, Asked, beginning, choice_losses
from .needle_prompts import lengths_asked, trials_asked

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

# Examples that a prompt needs at least, as with fewer a label may not have been shown.
FEWEST = 4

# A question, with its choices and its row, takes at least as much memory as so many pointers.
ITEMS = 64


@dataclass(frozen=True)
class ExampleTask:
    """Examples of inputs and their labels, and how they are written.

    Args:
        name: in tables and figures.
        labels: what inputs are mapped to; two or more.
        kinds: the inputs of each label, as many groups as labels. A kind gets its label anew in
            each prompt, and what is asked for is never among the examples: the rule must be found.
            Empty: a mapping, in which each input gets a label of its own by chance, so that what is
            asked for must have been seen.
        inputs: of a mapping, how many there are.
        line: an example, with {input} and {label} at its end, but for marks.

    Raises:
        ValueError: fewer than two labels, one twice, groups that are not one per label or share an
            input, a mapping of fewer than two inputs or more than there are words, a line without
            its two fields.
    """

    name: str
    labels: tuple[str, ...] = ("red", "blue")
    kinds: tuple[tuple[str, ...], ...] = ()
    inputs: int = 64
    line: str = "\n{input} {label}"

    def __post_init__(self) -> None:
        if len(set(self.labels)) < max(len(self.labels), 2):
            raise ValueError(f"labels are {self.labels}: give two or more, each once")
        both = [word for kind in self.kinds for word in kind]
        if self.kinds and (len(self.kinds) != len(self.labels) or len(set(both)) < len(both)):
            raise ValueError(
                f"there are {len(self.kinds)} kinds for {len(self.labels)} labels: give one group "
                "of inputs per label, and each input once"
            )
        if any(len(kind) < 2 for kind in self.kinds):
            raise ValueError("a kind has one input or none: give two or more, as one is asked for")
        most = len(words_of(0))
        if not self.kinds and not 2 <= whole("inputs", self.inputs, 2) <= most:
            raise ValueError(f"inputs is {self.inputs}: a mapping has 2 to {most} words")
        if [self.line.count(field) for field in ("{input}", "{label}")] != [1, 1]:
            raise ValueError(f"line is {self.line!r}: it has {{input}} and {{label}}, each once")
        if self.line.index("{label}") < self.line.index("{input}"):
            raise ValueError(f"line is {self.line!r}: the label comes after the input")

    @property
    def chance(self) -> float:
        """The accuracy of guessing."""
        return 1 / len(self.labels)


NUMBERS = tuple(str(number) for number in range(100, 1000))
EXAMPLES = {
    task.name: task
    for task in (
        ExampleTask("numbers or words", kinds=(NUMBERS, tuple(words_of(0)))),
        ExampleTask("16 words", inputs=16),
        ExampleTask("256 words", inputs=256),
    )
}

# An input, and the index of its label.
Pair = tuple[str, int]


@dataclass(frozen=True)
class Prompt:
    """Examples, first to last, and what is asked after them.

    Args:
        task: what they are of.
        begun: token ids before the first one; none, for many tokenizers.
        shown: examples.
        ids: token ids of each example.
        asked: what is asked, each alone after all examples.
        questions: the same as token ids.
    """

    task: ExampleTask
    begun: list[int]
    shown: list[Pair]
    ids: list[list[int]]
    asked: list[Pair]
    questions: list[Asked]

    @property
    def read(self) -> list[int]:
        """Token ids of all examples."""
        return [*self.begun, *(token for example in self.ids for token in example)]

    def within(self, window: int) -> Prompt:
        """The same with the last examples that a window holds beside the longest question.

        Raises:
            ValueError: it holds fewer than four.
        """
        room = window - len(self.begun) - max(question.tokens for question in self.questions)
        sizes = np.cumsum([len(example) for example in reversed(self.ids)])
        count = int(np.searchsorted(sizes, room, side="right"))
        if count < FEWEST:
            missing = int(sizes[min(FEWEST, len(sizes)) - 1]) - room
            raise ValueError(
                f"{window} tokens have room for {count} examples of {self.task.name!r} beside a "
                f"question, and {FEWEST} are needed, which take {missing} tokens more"
            )
        return replace(self, shown=self.shown[-count:], ids=self.ids[-count:])

    def in_sight(self, word: str) -> bool:
        """Whether the examples hold what the answer takes: the word, or of a rule each label."""
        if self.task.kinds:
            return len({label for _, label in self.shown}) == len(self.task.labels)
        return word in dict(self.shown)


def many_examples(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    tasks: str | ExampleTask | Sequence[str | ExampleTask] = ("numbers or words", "16 words"),
    lengths: Sequence[int] = (512,),
    trials: int = 4,
    scalings: Mapping[str, Scaling | None] | None = None,
    seed: int = 0,
    *,
    questions: int = 8,
    window: int | None = None,
) -> pd.DataFrame:
    """Answers after as many examples as a length holds, under each scaling.

    All scalings and windows get the same examples and questions.

    Args:
        model, tokenizer: a Hugging Face causal language model and its tokenizer.
        tasks: names in `EXAMPLES`, or tasks.
        lengths: tokens of examples, question and answer together.
        trials: prompts per task and length, each with labels dealt out anew.
        scalings: name -> scaling; None as a scaling (or as `scalings`) means the model as it
            stands.
        seed: of examples and questions.
        questions: asked after each prompt, one by one: none is seen by another.
        window: tokens that the model gets to read: of a longer prompt the last examples that fit.
            None: all of them.

    Returns:
        One row per question: scaling, task, length, trial, question, read (tokens), examples (of
        those read), in_sight (whether the asked input stands among these; of a rule, whether each
        label does), choices (how many labels), expected, answer (the likeliest label), loss (of the
        right one among the labels, in nats), correct.

    Raises:
        ValueError: an unknown task, numbers that are not whole ones from 1, a length or a window
            without room for four examples, labels that the tokenizer writes alike, or a model whose
            own factors depend on the length, without a scaling that fixes them.
    """
    named, scalings = examples_of(tasks), by_name(scalings)
    lengths = lengths_asked(lengths)
    trials = trials_asked(trials, lengths, [0.0])
    most = max(lengths)
    window = most if window is None else whole("window", window, 1)
    check_fits(model, min(most, window))
    places = list(product(named, lengths, range(trials)))
    prompts = [
        examples_prompt(tokenizer, *place, seed, questions).within(window) for place in places
    ]
    work = list(product(scalings.items(), zip(places, prompts, strict=True)))
    rows: list[tuple[object, ...]] = []
    for (name, scaling), ((task, length, trial), prompt) in progress(
        work, "many examples", [len(prompt.read) for _, (_, prompt) in work]
    ):
        losses = choice_losses(model, prompt.read, prompt.questions, scaling)
        for number, (word, _) in enumerate(prompt.asked):
            place = name, task.name, length, trial, number, len(prompt.read), len(prompt.ids)
            end = prompt.questions[number].row(losses[number])
            rows.append((*place, prompt.in_sight(word), *end))
    return pd.DataFrame(rows, columns=COLUMNS)


def examples_of(tasks: str | ExampleTask | Sequence[str | ExampleTask]) -> list[ExampleTask]:
    """Tasks by name or as they are.

    Raises:
        ValueError: an unknown name, no task, or two of one name.
    """
    listed = [tasks] if isinstance(tasks, str | ExampleTask) else list(tasks)
    known_only("task", [task for task in listed if isinstance(task, str)], EXAMPLES)
    found = [EXAMPLES[task] if isinstance(task, str) else task for task in listed]
    names = [task.name for task in found]
    if not names or len(set(names)) < len(names):
        raise ValueError(f"tasks are {names}: name at least one, and each once")
    return found


def examples_prompt(
    tokenizer: PreTrainedTokenizerBase,
    task: ExampleTask,
    length: int,
    trial: int = 0,
    seed: int = 0,
    questions: int = 8,
) -> Prompt:
    """The prompt behind rows of a `many_examples` table that reads it whole.

    Raises:
        ValueError: a length without room for four examples, labels that are written alike, numbers
            that are not whole ones from 1 (0 for a trial), or more than memory holds.
    """
    length, trial = whole("length", length, 1), whole("trial", trial, 0)
    check_listed(length, f"the examples of a prompt of length {length:,}")
    rng = np.random.default_rng([seed_of(seed), length, trial, zlib.crc32(repr(task).encode())])
    shown, held = _dealt(task, rng)
    count = whole("questions", questions, 1)
    check_listed(ITEMS * count, f"{count:,} questions")
    # Each pair once before one comes again, so that labels are asked for about equally often.
    asked = [held[i] for _ in range(-(-count // len(held))) for i in rng.permutation(len(held))]
    asked = asked[:count]
    choices, after = _written(tokenizer, task)
    leads = _leads(tokenizer, task, [*shown, *held])
    examples = [shown[i] for i in rng.integers(len(shown), size=length)]  # each has a token or more
    prompt = Prompt(
        task,
        beginning(tokenizer),
        examples,
        [[*leads[word], *choices[right], *after] for word, right in examples],
        asked,
        [Asked(leads[word], choices, task.labels, right) for word, right in asked],
    )
    return prompt.within(length)


def _dealt(task: ExampleTask, rng: np.random.Generator) -> tuple[list[Pair], list[Pair]]:
    """Pairs to show and pairs to ask for, with labels dealt out anew.

    Of a rule, half of each kind is shown and the other half asked for; of a mapping, all of it.
    """
    labels = rng.permutation(len(task.labels)).tolist()
    if not task.kinds:
        words = rng.choice(words_of(0), task.inputs, replace=False).tolist()
        pairs = [(word, labels[number % len(labels)]) for number, word in enumerate(words)]
        return pairs, pairs
    kinds = [rng.permutation(kind).tolist() for kind in task.kinds]
    least = min(map(len, kinds)) // 2  # as many of each, so that no label is the commoner one
    shown = [(w, k) for kind, k in zip(kinds, labels, strict=True) for w in kind[:least]]
    held = [(w, k) for kind, k in zip(kinds, labels, strict=True) for w in kind[-least:]]
    return shown, held


def _written(
    tokenizer: PreTrainedTokenizerBase, task: ExampleTask
) -> tuple[tuple[list[int], ...], list[int]]:
    """Token ids of each label, with the space before it, and of what follows it in a line.

    Raises:
        ValueError: labels that no model could tell apart.
    """
    before, after = task.line.split("{label}")
    space = " " if before.endswith(" ") else ""
    choices = tuple(ids_of(f"{space}{label}", tokenizer) for label in task.labels)
    for (one, ids), (other, others) in permutations(zip(task.labels, choices, strict=True), 2):
        if ids == others[: len(ids)]:
            raise ValueError(
                f"the tokenizer writes the label {one!r} as the beginning of {other!r}, or alike, "
                "so their log-probabilities do not compare: choose other labels"
            )
    return choices, ids_of(after, tokenizer) if after else []


def _leads(
    tokenizer: PreTrainedTokenizerBase, task: ExampleTask, pairs: Sequence[Pair]
) -> dict[str, list[int]]:
    """Token ids of each line up to its label."""
    before = task.line.partition("{label}")[0].rstrip(" ")
    words = list(dict(pairs))
    lines = [before.format(input=word) for word in words]
    made = tokenizer(lines, add_special_tokens=False)["input_ids"]
    return dict(zip(words, made, strict=True))
