"""How needle tasks are put in words to report on.

The wording is that of the passkey (Mohtashami and Jaggi, arXiv 2305.16300) and of RULER
(arXiv 2404.06654). Numbers have five digits throughout. What is searched and trained on has other
words (`needle_practice`).
"""

from __future__ import annotations

import functools
import string
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .needle_tasks import NeedleTask

TASK = (
    "There is an important info hidden inside a lot of irrelevant text. Find it and memorize it. "
    "I will quiz you about the important information there.\n"
)
FILLER = (
    "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again. "
)
KEY = "\nThe pass key is {key}. Remember it. {key} is the pass key.\n"
# In a chat, the first ends the message, and the second begins the answer.
ASKED, BEGUN = "\nWhat is the pass key?", "The pass key is"
# RULER's, for one number or UUID, and for several.
MAGIC = (
    "A special magic {what} is hidden within the following text. Make sure to memorize it. I will "
    "quiz you about the {what} afterwards.\n"
)
MAGICS = (
    "Some special magic {what}s are hidden within the following text. Make sure to memorize it. I "
    "will quiz you about the {what}s afterwards.\n"
)
MAGIC_ASKED = "\nWhat is the special magic {what} for {name} mentioned in the provided text?"
MAGICS_ASKED = "\nWhat are all the special magic {what}s for {name} mentioned in the provided text?"
MAGIC_BEGUN = "The special magic {what} for {name} mentioned in the provided text is"
MAGICS_BEGUN = "The special magic {what}s for {name} mentioned in the provided text are"


@dataclass(frozen=True)
class Quiz:
    """A task in words, before it is hidden.

    Args:
        announced: what the text opens with.
        told: the needles, a group per key or chain, those that are asked for first. Each group
            stands in its order in the text.
        asked, begun: the question, and how its answer begins.
        expected: the strings of the answer, in the order of the needles.
        line: of a haystack of UUIDs, one of its lines, with {name} and {key}; of a list of words,
            one of its entries, with {word} and perhaps {number}.
        others: of a list, the words beside the common ones, which are `expected`.
    """

    announced: str
    told: tuple[tuple[str, ...], ...]
    asked: str
    begun: str
    expected: tuple[str, ...]
    line: str = ""
    others: tuple[str, ...] = ()

    @property
    def question(self) -> str:
        """Asked and begun in one."""
        return f"{self.asked} {self.begun}"

    @property
    def answer(self) -> str:
        """What follows the question, as a text would put it."""
        return f" {listed(self.expected)}."


def listed(words: Sequence[str]) -> str:
    """Words as a list in a sentence.

    >>> listed(["a", "b", "c"])
    'a, b and c'
    """
    *before, last = words
    return f"{', '.join(before)} and {last}" if before else last


def reported(task: NeedleTask, rng: np.random.Generator) -> Quiz:
    """A quiz of a task to report on; `rng` draws its keys and values."""
    draw: dict[str, Callable[[NeedleTask, np.random.Generator], Quiz]] = {
        "passkey": _passkey,
        "retrieval": _retrieval,
        "variables": _variables,
        "words": _words,
    }
    return draw[task.kind](task, rng)


def _passkey(task: NeedleTask, rng: np.random.Generator) -> Quiz:
    key = str(rng.integers(10_000, 100_000))
    return Quiz(TASK, ((KEY.format(key=key),),), ASKED, BEGUN, (key,))


def _retrieval(task: NeedleTask, rng: np.random.Generator) -> Quiz:
    """RULER's needles in a haystack."""
    in_uuids = task.haystack == "uuids"
    words, draw = words_of(0), a_uuid if in_uuids else a_number(5)
    keys = distinct(
        task.keys, rng, a_uuid if in_uuids else lambda r: "-".join(r.choice(words, 2).tolist())
    )
    values = distinct(task.keys * task.values, rng, draw)
    what, one = "uuid" if in_uuids else "number", task.needles == 1
    line = f"One of the special magic {what}s for {{name}} is: {{key}}.\n"
    asked = listed(keys[: task.queries])
    return Quiz(
        (MAGIC if one else MAGICS).format(what=what),
        told_by(line if in_uuids else f"\n{line}", keys, values, task.values),
        (MAGIC_ASKED if one else MAGICS_ASKED).format(what=what, name=asked),
        (MAGIC_BEGUN if one else MAGICS_BEGUN).format(what=what, name=asked),
        tuple(values[: task.needles]),
        line,
    )


def _variables(task: NeedleTask, rng: np.random.Generator) -> Quiz:
    """RULER's variable tracking."""
    letters = [*string.ascii_uppercase]
    names = distinct(task.keys * task.values, rng, lambda r: "".join(r.choice(letters, 5)))
    values = distinct(task.keys, rng, a_number(5))
    told = chains_of(names, values, task.values, "\nVAR {name} = {key}\n", "VAR {key}")
    return Quiz(
        "Memorize and track the chain(s) of variable assignment hidden in the following text.\n\n",
        told,
        "\nQuestion: Find all variables that are assigned the value "
        f"{values[0]} in the text above.",
        "Answer: According to the chain(s) of variable assignment in the text above, "
        f"{task.values} variables are assigned the value {values[0]}, they are:",
        tuple(names[: task.values]),
    )


def _words(task: NeedleTask, rng: np.random.Generator) -> Quiz:
    """RULER's common words."""
    common, others = common_and_others(task, rng, 0)
    asked = f"What are the {len(common)} most common words in the above list?"
    return Quiz(
        "Below is a numbered list of words. In these words, some appear more often than others. "
        "Memorize the ones that appear most often.\n",
        (),
        f"\nQuestion: {asked}",
        f"Answer: The top {len(common)} words that appear most often in the list are:",
        common,
        " {number}. {word}",
        others,
    )


def told_by(
    tell: str, names: Sequence[str], keys: Sequence[str], values: int
) -> tuple[tuple[str, ...], ...]:
    """What tells each name its values, a group per name."""
    return tuple(
        tuple(
            tell.format(name=name, key=key) for key in keys[place * values : (place + 1) * values]
        )
        for place, name in enumerate(names)
    )


def chains_of(
    names: Sequence[str], values: Sequence[str], links: int, told: str, same: str
) -> tuple[tuple[str, ...], ...]:
    """Chains of assignments: the first name gets the value, each further one the name before."""
    made = []
    for number, value in enumerate(values):
        chain = names[number * links : (number + 1) * links]
        given = [value, *(same.format(key=name) for name in chain[:-1])]
        made.append(
            tuple(told.format(name=n, key=key) for n, key in zip(chain, given, strict=True))
        )
    return tuple(made)


def common_and_others(
    task: NeedleTask, rng: np.random.Generator, half: int
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Common words and the others, in an order that is drawn."""
    drawn = rng.permutation(words_of(half)).tolist()
    return tuple(drawn[: task.values]), tuple(drawn[task.values :])


@functools.cache
def words_of(half: int) -> list[str]:
    """English words of four to eight letters: half 0 is reported on, half 1 is searched on.

    They are those that stand in most of several hundred public-domain books.
    """
    text = Path(__file__).with_name("words.txt").read_text(encoding="utf-8")
    return text.split()[half::2]


def a_number(digits: int) -> Callable[[np.random.Generator], str]:
    return lambda rng: str(rng.integers(10 ** (digits - 1), 10**digits))


def a_uuid(rng: np.random.Generator) -> str:
    return str(uuid.UUID(bytes=rng.bytes(16), version=4))


def distinct(
    count: int, rng: np.random.Generator, draw: Callable[[np.random.Generator], str]
) -> list[str]:
    """So many draws, no two alike."""
    drawn: dict[str, None] = {}
    while len(drawn) < count:
        drawn[draw(rng)] = None
    return [*drawn]


def uuid_line(quiz: Quiz, rng: np.random.Generator) -> str:
    """Another line of a haystack of UUIDs."""
    return quiz.line.format(name=a_uuid(rng), key=a_uuid(rng))
