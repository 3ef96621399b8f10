"""Needle tasks: what is hidden in a long text, in what, and how much of it is asked for.

In the manner of RULER (Hsieh et al., arXiv 2404.06654): retrieval of one or several values under
one or several keys, variables that are assigned to one another, and the words that a list repeats
most often. The passkey of Mohtashami and Jaggi (arXiv 2305.16300) is one of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from ..common.checks import unknown, whole

KINDS = ("passkey", "retrieval", "variables", "words")
HAYSTACKS = ("sentences", "documents", "uuids")

# Needles in a text, no two of which tell the same number: there are 9,000 of four digits.
MOST = 5_000

# Common words that can be asked for: a twelfth of those that a list is made of.
MOST_WORDS = 100


@dataclass(frozen=True)
class NeedleTask:
    """A needle task.

    >>> task = lab.NeedleTask("retrieval", keys=8, queries=2, haystack="documents")
    >>> task.name
    'retrieval of 2 of 8 keys in documents'
    >>> lab.NEEDLES["multikey"]
    NeedleTask(kind='retrieval', keys=4, values=1, queries=1, haystack='sentences')

    Args:
        kind: "passkey" (the papers' five-digit number), "retrieval" (values under keys),
            "variables" (which of them hold a value, assigned from one to the next) or "words"
            (the most frequent ones of a list).
        keys: how many keys are told; of variables, how many chains.
        values: how many values each key has; of variables, how many are in a chain; of words, how
            many are asked for, each ten times as frequent as the others.
        queries: how many of the keys are asked for.
        haystack: what hides the needles: "sentences" that repeat, "documents" such as books, or
            "uuids" (lines like the needles, whose keys and values are all UUIDs).

    Raises:
        ValueError: an unknown kind or haystack, counts that are not whole numbers from 1, more
            queries than keys, more needles than there are numbers, or what a kind does not have.
    """

    kind: str = "retrieval"
    keys: int = 1
    values: int = 1
    queries: int = 1
    haystack: str = "sentences"

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise unknown("kind of needle task", self.kind, KINDS)
        if self.haystack not in HAYSTACKS:
            raise unknown("haystack", self.haystack, HAYSTACKS)
        for name in ("keys", "values", "queries"):
            object.__setattr__(self, name, whole(name, getattr(self, name), 1))
        if self.queries > self.keys:
            raise ValueError(
                f"queries is {self.queries} and keys is {self.keys}: only a key that is told can "
                "be asked for, so at most as many"
            )
        self._check_kind()

    def _check_kind(self) -> None:
        """Refuse what a kind does not have, and needles that numbers do not suffice for."""
        one = {"passkey": ("keys", "values"), "variables": ("queries",), "words": ("keys",)}
        for name in one.get(self.kind, ()):
            if (count := getattr(self, name)) != 1:
                raise ValueError(f"{name} is {count}: a task of kind {self.kind!r} takes 1")
        most = MOST_WORDS if self.kind == "words" else MOST
        if (told := self.keys * self.values) > most:
            raise ValueError(
                f"keys times values is {told:,}: a task of kind {self.kind!r} takes at most "
                f"{most:,}"
            )
        takes = {"retrieval": HAYSTACKS, "words": HAYSTACKS[:1]}.get(self.kind, HAYSTACKS[:2])
        if self.haystack not in takes:
            raise ValueError(
                f"haystack is {self.haystack!r}: a task of kind {self.kind!r} takes "
                f"{' or '.join(takes)}"
            )

    @property
    def needles(self) -> int:
        """How many strings are asked for."""
        return self.queries * self.values

    @property
    def name(self) -> str:
        """What tables and figures call it: its name in `NEEDLES`, or a description."""
        for name, task in NEEDLES.items():
            if task == self:
                return name
        told = {
            "variables": f"variables, {self.keys} chains of {self.values}",
            "words": f"the {self.values} most frequent words",
        }.get(self.kind, f"retrieval of {self.queries} of {self.keys} keys")
        if self.kind == "retrieval" and self.values > 1:
            told += f" with {self.values} values"
        return told if self.haystack == "sentences" else f"{told} in {self.haystack}"


# RULER's own sizes, but that its chain of variables and most of its needles stand in essays.
_PLAIN = {
    "passkey": NeedleTask("passkey"),
    "single": NeedleTask(),
    "multikey": NeedleTask(keys=4),
    "multivalue": NeedleTask(values=4),
    "multiquery": NeedleTask(keys=4, queries=4),
    "variables": NeedleTask("variables", values=5),
    "words": NeedleTask("words", values=10),
}
NEEDLES: Mapping[str, NeedleTask] = _PLAIN | {
    f"{name} in {haystack}": replace(task, haystack=haystack)
    for haystack in HAYSTACKS[1:]
    for name, task in _PLAIN.items()
    if task.kind == "retrieval" or (haystack == "documents" and task.kind != "words")
}


def tasks_of(tasks: str | NeedleTask | Sequence[str | NeedleTask]) -> list[NeedleTask]:
    """Needle tasks, as they are or by their names in `NEEDLES`; each once.

    Raises:
        ValueError: an unknown name, or no task at all.
    """
    given = [tasks] if isinstance(tasks, str | NeedleTask) else list(tasks)
    for task in given:
        if not isinstance(task, NeedleTask) and task not in NEEDLES:
            raise unknown("needle task", task, NEEDLES)
    if not given:
        raise ValueError(f"no needle task is named: take some of {', '.join(NEEDLES)}")
    found = [task if isinstance(task, NeedleTask) else NEEDLES[task] for task in given]
    return list(dict.fromkeys(found))


def hides_in_documents(tasks: Sequence[NeedleTask]) -> list[str]:
    """The names of those tasks that need documents to hide their needles in."""
    return [task.name for task in tasks if task.haystack == "documents"]
