"""How needle tasks are put in words to search and train on: nothing of it is ever reported on.

Keys, wordings and fillers are others than in `needle_wordings`, a list has other words, and no
number has five digits.
"""

from __future__ import annotations

import string
from collections.abc import Callable

import numpy as np

from .needle_tasks import NeedleTask
from .needle_wordings import (
    Quiz,
    a_number,
    a_uuid,
    chains_of,
    common_and_others,
    distinct,
    listed,
    told_by,
)

# Digits of a number.
DIGITS = (4, 6, 7)

# Many names and wordings, so that a model learns to look up what is asked for, whatever its name.
NAMES = (
    "access code", "account number", "alarm code", "case number", "customer number", "door code",
    "exam number", "flight number", "invoice number", "licence number", "locker code",
    "lucky number", "badge number", "member number", "order number", "parcel number",
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
QUESTIONS = ("\nWhat is the {name}?", "\nTell me the {name}.", "\nWhich {name} was given?")
OPENED = "The {name} is"
FILLERS = (
    "The river runs down to the sea. A cloud passes over the hill. The dog sleeps at the door. ",
    "It is morning. The bread is warm. The window is open. Somebody sings in the street. ",
    "Snow falls on the roof. The fire burns low. The clock strikes nine. Nobody comes. ",
    "The train leaves at noon. The road is long. There is time to read. The next stop is far. ",
)
ANNOUNCED_MANY = (
    "Several lines below give a number. You will be asked for some of these numbers.\n",
    "Look out for lines that tell a number, and keep all of them in mind.\n",
    "Read all of this with care. At the end you have to say some of its numbers.\n",
)
TOLD_ONE_OF = (
    "\nOne {name} is {key}. Keep it in mind.\n",
    "\nNote this {name}: {key}.\n",
    "\nHere is another {name}: {key}.\n",
)
QUESTIONS_MANY = ("\nWhat are the {names}?", "\nTell me the {names}.")
OPENED_MANY = "They are"


def practice(task: NeedleTask, rng: np.random.Generator) -> Quiz:
    """A quiz of a task to search and train on: nothing of it is ever reported on.

    Raises:
        ValueError: more keys than there are names.
    """
    draw: dict[str, Callable[[NeedleTask, np.random.Generator], Quiz]] = {
        "variables": _variables,
        "words": _words,
    }
    usual = _uuids if task.haystack == "uuids" else _retrieval
    return draw.get(task.kind, usual)(task, rng)


def _retrieval(task: NeedleTask, rng: np.random.Generator) -> Quiz:
    if task.keys > len(NAMES):
        raise ValueError(
            f"keys is {task.keys}: there are {len(NAMES)} names for the keys of needle documents, "
            "so take as many at most"
        )
    keys = distinct(task.keys * task.values, rng, a_number(int(rng.choice(DIGITS))))
    names = distinct(task.keys, rng, lambda r: str(r.choice(NAMES)))
    announced = str(rng.choice(ANNOUNCED if task.keys * task.values == 1 else ANNOUNCED_MANY))
    many = task.needles > 1
    tell = str(rng.choice(TOLD if task.values == 1 else TOLD_ONE_OF))
    asked = str(rng.choice(QUESTIONS_MANY if many else QUESTIONS))
    plural = "s" if task.values > 1 else ""
    said = {"name": names[0], "names": listed([n + plural for n in names[: task.queries]])}
    return Quiz(
        announced.format(**said),
        told_by(tell, names, keys, task.values),
        asked.format(**said),
        (OPENED_MANY if many else OPENED).format(**said),
        tuple(keys[: task.needles]),
    )


def _uuids(task: NeedleTask, rng: np.random.Generator) -> Quiz:
    names = distinct(task.keys, rng, a_uuid)
    keys = distinct(task.keys * task.values, rng, a_uuid)
    line = "Entry {name} holds {key}.\n"
    asked = listed(names[: task.queries])
    return Quiz(
        "Each entry below holds something. You will be asked for a part of it.\n",
        told_by(line, names, keys, task.values),
        f"\nWhat is held by {asked}?",
        "They hold" if task.queries > 1 else "It holds",
        tuple(keys[: task.needles]),
        line,
    )


def _variables(task: NeedleTask, rng: np.random.Generator) -> Quiz:
    letters = [*string.ascii_lowercase]
    names = distinct(task.keys * task.values, rng, lambda r: "".join(r.choice(letters, 4)))
    values = distinct(task.keys, rng, a_number(int(rng.choice(DIGITS))))
    told = chains_of(names, values, task.values, "\nLet {name} be {key}.\n", "the same as {key}")
    return Quiz(
        "Some names below stand for a number. Keep track of them.\n",
        told,
        f"\nWhich names stand for {values[0]}?",
        OPENED_MANY,
        tuple(names[: task.values]),
    )


def _words(task: NeedleTask, rng: np.random.Generator) -> Quiz:
    common, others = common_and_others(task, rng, 1)
    return Quiz(
        "Here are many words. Some of them come often, the others seldom.\n",
        (),
        f"\nWhich {len(common)} words came often?",
        "They were",
        common,
        " {word},",
        others,
    )
