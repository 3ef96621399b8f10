"""Needle tasks, in the manner of RULER: what does a model find in a long text, and how far back?

Perplexity is not reach: factors that read a text at a low perplexity may find nothing in it. The
tasks are those of `NEEDLES` (Hsieh et al., arXiv 2404.06654), and answers are judged by RULER's
rule.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import groupby
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ..common.checks import known_only, seed_of, whole
from ..common.progress import progress
from ..models.estimates import check_fits
from ..models.rotary import by_name
from ..rope.schedule import Scaling
from ..texts.needle_tasks import NeedleTask, tasks_of
from ..texts.tokens import Document
from .needle_prompts import answer_room, check_filler, needle_prompt, places_asked, trials_asked
from .needles import answers_to, batches
from .stats import groups_of, perplexity_summary, share_interval

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

COLUMNS = ["scaling", "task", "length", "depth", "trial", "expected", "answer", "found"]

# Tokens in a row that two texts do not share by chance, and places of a text that are looked at.
SHARED, PLACES = 48, 16


def needles(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    tasks: str | NeedleTask | Sequence[str | NeedleTask] = ("single", "multikey", "multivalue"),
    lengths: Sequence[int] = (512,),
    depths: Sequence[float] = (0.0, 0.25, 0.5, 0.75, 1.0),
    trials: int = 5,
    scalings: Mapping[str, Scaling | None] | None = None,
    filler: Sequence[Document] | None = None,
    seed: int = 0,
    *,
    searched_on: Sequence[Document] = (),
    chat: bool = False,
    answer_tokens: int | None = None,
) -> pd.DataFrame:
    """Needle tasks at each length and depth, under each scaling.

    >>> model, tokenizer = lab.load_model("lab")  # a window of 512 tokens
    >>> table = lab.needles(model, tokenizer, "multikey", [512], [0.5], trials=1)
    >>> table[["task", "length", "expected", "found"]]
           task  length expected  found
    0  multikey     512    42218    0.0

    All scalings get the same prompts. Of a passkey they are those of `passkey`.

    Args:
        model, tokenizer: a Hugging Face causal language model and its tokenizer.
        tasks: names in `NEEDLES`, or tasks.
        lengths: tokens of prompt and answer together.
        depths: where a needle that is asked for stands, from 0.0 (beginning) to 1.0 (end); the
            other needles stand anywhere. The list of "words" has none, and is asked once.
        trials: prompts per task, length and depth, each with its own needles.
        scalings: name -> scaling; None as a scaling (or as `scalings`) means the model as it
            stands.
        filler: documents that hide the needles of tasks "in documents", from a random place on.
        seed: of needles and places.
        chat: ask through the tokenizer's chat template, for a model tuned to instructions.
        answer_tokens: room for the answer at the end of each length; None: what the task's answers
            take, and an eighth more.
        searched_on: documents that factors were searched on; `filler` must share no text with them.

    Returns:
        One row per prompt: scaling, task, length, depth (NaN for "words"), trial, expected (what
        the answer should contain, with commas), answer (the greedy continuation), found (the share
        of what is expected that stands in it, in any case: RULER's `string_match_all`).

    Raises:
        ValueError: an unknown task, lengths, trials or answer_tokens that are not whole numbers
            from 1, a length without room for a task, filler that is missing, not used, too short,
            of another vocabulary, or searched on, a tokenizer that cannot write what is asked for.
    """
    asked, scalings = tasks_of(tasks), by_name(scalings)
    if answer_tokens is not None:
        answer_tokens = whole("answer_tokens", answer_tokens, 1)
    lengths, depths = places_asked("needles", lengths, depths)
    trials, seed = trials_asked(trials, lengths, depths), seed_of(seed)
    check_filler(asked, filler)
    _check_unseen(filler or (), searched_on)
    check_fits(model, max(lengths))
    rooms = {task: answer_tokens or answer_room(tokenizer, task) for task in asked}
    write = partial(needle_prompt, tokenizer, filler=filler, seed=seed, chat=chat)
    prompts = [
        Prompt(task, length, depth, trial, *write(task, *place, answer_tokens=rooms[task]))
        for task in asked
        for length in lengths
        for depth in (depths if task.kind != "words" else [math.nan])
        for trial in range(trials)
        for place in [(length, 0.0 if math.isnan(depth) else depth, trial)]
    ]
    work = [(*named, batch) for named in scalings.items() for batch in _batches(prompts)]
    rows: list[tuple[object, ...]] = []
    sizes = [sum(prompt.length for prompt in batch) for _, _, batch in work]
    for name, scaling, batch in progress(work, "needles", sizes):
        ids = [prompt.ids for prompt in batch]
        answers = answers_to(model, tokenizer, ids, scaling, rooms[batch[0].task])
        rows += [(name, *p.row(answer)) for p, answer in zip(batch, answers, strict=True)]
    return pd.DataFrame(rows, columns=COLUMNS)


class Prompt(NamedTuple):
    """A prompt, and where it stands in a table."""

    task: NeedleTask
    length: int
    depth: float
    trial: int
    ids: list[int]
    expected: tuple[str, ...]

    def row(self, answer: str) -> tuple[object, ...]:
        """Its row under a scaling, without the scaling's name."""
        said, found = ", ".join(self.expected), found_share(answer, self.expected)
        return self.task.name, self.length, self.depth, self.trial, said, answer, found


def found_share(answer: str, expected: Sequence[str]) -> float:
    """The share of the expected strings that stand in an answer, in any case (RULER)."""
    return sum(text.lower() in answer.lower() for text in expected) / len(expected)


def _batches(prompts: Sequence[Prompt]) -> Iterator[Sequence[Prompt]]:
    """Prompts of one task and length each, as many as are answered together."""
    for (_, length), together in groupby(prompts, key=lambda prompt: prompt[:2]):
        yield from batches(list(together), length)


def _check_unseen(filler: Sequence[Document], searched_on: Sequence[Document]) -> None:
    """Refuse texts that cannot be reported on."""
    for document in filler:
        for other in searched_on:
            if _share(document.ids, other.ids):
                raise ValueError(
                    f"the filler document {document.title!r} shares text with {other.title!r}, "
                    "which was searched on: factors look better there than they are, so hide the "
                    "needles in other documents"
                )


def _share(one: NDArray[np.int64], other: NDArray[np.int64]) -> bool:
    """Whether a text holds one of some stretches of another, or the other way round."""
    for text, source in ((one, other), (other, one)):
        if len(source) < SHARED:
            continue
        whole_text = np.ascontiguousarray(text, np.int64).tobytes()
        for start in np.linspace(0, len(source) - SHARED, PLACES).astype(int):
            if source[start : start + SHARED].astype(np.int64).tobytes() in whole_text:
                return True
    return False


def needle_summary(
    table: pd.DataFrame, by: tuple[str, ...] = ("scaling", "task", "length")
) -> pd.DataFrame:
    """What a `needles` table found.

    Args:
        table: as `needles` returns it.
        by: columns whose values make a group.

    Returns:
        One row per group: the columns of `by`, prompts, found (the mean share), low, high (its
        95 % interval: Wilson's where each prompt's needles are all found or none, else a bootstrap
        over prompts).

    Raises:
        ValueError: no rows, or no such column.
    """
    rows = []
    for key, group in groups_of(table, by, "needles", "found"):
        found = group["found"]
        rows.append((*key, len(found), found.mean(), *share_interval(found)))
    return pd.DataFrame(rows, columns=[*by, "prompts", "found", "low", "high"])


def trade_off(
    losses: pd.DataFrame, found: pd.DataFrame, values: Mapping[str, float]
) -> pd.DataFrame:
    """Perplexity and what is found, side by side, over what a set of scalings differs in.

    Args:
        losses: as `perplexity` returns it, at one length.
        found: as `needles` returns it, at one length.
        values: name of a scaling -> its value, such as its attention factor.

    Returns:
        One row per scaling and task, in the order of the values: scaling, value, task, perplexity,
        low, high (its 95 % interval over documents), found, found_low, found_high (over prompts).

    Raises:
        ValueError: a scaling that one of the tables lacks, or tables of several lengths.
    """
    read, seen = perplexity_summary(losses), needle_summary(found)
    for table, made_by in ((read, "perplexity"), (seen, "needles")):
        if len(lengths := table["length"].unique()) > 1:
            raise ValueError(
                f"the table of {made_by} has {len(lengths)} lengths: pass the rows of one of them"
            )
        known_only(f"scaling of the table of {made_by}", values, table["scaling"].unique())
    names = {"low": "found_low", "high": "found_high"}
    pairs = read.merge(seen.rename(columns=names).drop(columns="length"), on="scaling")
    order = pd.DataFrame({"scaling": [*values], "value": [*values.values()]})
    columns = ["scaling", "value", "task", "perplexity", "low", "high", "found", *names.values()]
    return order.sort_values("value", kind="stable").merge(pairs, on="scaling")[columns]
