"""Benchmarks of short texts: what does an extension cost inside the original window?

That is LongRoPE's Table 8. Standard tasks are scored by EleutherAI's lm-evaluation-harness, through
the live model with each scaling in place. It comes with pip install 'longrope_lab[benchmarks]', and
the tasks' questions are on the Hugging Face hub.

Where the hub is out of reach, multiple-choice questions from a .jsonl file, or made from a corpus,
take their place. The harness scores these too, where it is installed. Without it `_plain_scorer`
does, and comes to the same answers.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from ..common.checks import seed_of, whole
from ..common.progress import progress
from ..models.forward import token_losses
from ..models.parts import check_has_weights
from ..models.rotary import by_name, rope_spec, scaled
from ..rope.schedule import Scaling
from ..texts.tokens import opening
from .choices import nothing
from .tasks import PAPER_TASKS, BenchmarkTask, check_length

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from .harness import Harness

COLUMNS = ["scaling", "task", "shots", "metric", "question", "score"]

# Asks the model as it stands, and gives a score for each question; the words say what is being
# asked.
Scorer = Callable[[str], dict[str, float]]


def benchmarks(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    tasks: Sequence[str | os.PathLike[str] | BenchmarkTask] = PAPER_TASKS,
    scalings: Mapping[str, Scaling | None] | None = None,
    *,
    limit: int | None = None,
    batch_size: int = 8,
    max_length: int | None = None,
    seed: int = 0,
) -> pd.DataFrame:
    """Scores of benchmarks under each scaling.

    All scalings get the same questions, after the same solved ones.

    Args:
        model, tokenizer: a Hugging Face causal language model and its tokenizer.
        tasks: names of the paper's four (with its shots) or of other tasks of the harness that
            offer answers to choose from (no shots), .jsonl files (`BenchmarkTask.from_file`), or
            tasks.
        scalings: name -> scaling; None as a scaling (or as `scalings`) means the model as it
            stands. A schedule is fixed to the set for `max_length`.
        limit: ask only the first so many questions of each task, and of each part of a task such as
            MMLU.
        batch_size: sequences per forward pass of the harness.
        max_length: the longest question, with its shots and its answer, in tokens; None: the
            trained window, since what an extension costs there is the point. A longer one is an
            error: nothing is cut.
        seed: of the choice of solved questions.

    Returns:
        One row per scaling, task and question: scaling, task, shots, metric, question (its number,
        after the name of its part in a task of several), score (1 right, 0 wrong; truthfulqa_mc2
        lies between). `benchmark_summary` makes accuracies with intervals of it, `paired_scores`
        compares scalings question by question.

    Raises:
        ValueError: a number that is not a whole one from 1, an unknown task or metric, a question
            that is too long, questions that cannot be had without a network, or a task that needs
            the harness where it is not installed; the error says what to do.
        FileNotFoundError: a file that is not there.
    """
    check_has_weights(model)  # the harness would ask it as it is
    limit, seed = None if limit is None else whole("limit", limit, 1), seed_of(seed)
    batch_size = whole("batch_size", batch_size, 1)
    window = rope_spec(model).window if max_length is None else whole("max_length", max_length, 1)
    if isinstance(tasks, str | os.PathLike):
        raise ValueError(f"tasks is {str(tasks)!r}: name tasks in a list, even one")
    asked = [_task(task) for task in tasks]
    names = [task.name for task in asked]
    if not names or len(set(names)) < len(names):
        raise ValueError(f"tasks are {names}: name at least one, and each once")
    scorers = _scorers(model, tokenizer, asked, limit, batch_size, window, seed)
    rows = []
    for name, scaling in by_name(scalings).items():
        with scaled(model, scaling, length=window):
            for task, scorer in zip(asked, scorers, strict=True):
                scores = scorer(f"{task.name}, {name}")
                rows += [
                    (name, task.name, task.shots, task.metric, *score) for score in scores.items()
                ]
    return pd.DataFrame(rows, columns=COLUMNS)


def _task(task: str | os.PathLike[str] | BenchmarkTask) -> BenchmarkTask:
    if isinstance(task, BenchmarkTask):
        return task
    if str(task).endswith(".jsonl"):
        return BenchmarkTask.from_file(task)
    return {known.name: known for known in PAPER_TASKS}.get(str(task)) or BenchmarkTask(str(task))


def check_tasks(tasks: Sequence[str | os.PathLike[str]]) -> None:
    """See whether tasks are known, and can be asked here; whether the hub is in reach is left open.

    Raises:
        ValueError, FileNotFoundError: one cannot, as of `benchmarks`.
    """
    asked = [_task(task) for task in tasks]
    harness = _harness(asked)
    for task in asked:
        # To know others takes seconds.
        if harness and task.questions is None and task not in PAPER_TASKS:
            harness.check_name(task.name)


def _harness(tasks: Sequence[BenchmarkTask]) -> type[Harness] | None:
    """The harness, if it is installed.

    Raises:
        ValueError: it is not, and a task needs it.
    """
    try:
        from .harness import Harness
    except ImportError as error:
        needing = [task.name for task in tasks if task.questions is None or task.shots]
        if needing:
            raise ValueError(
                f"{', '.join(needing)}: tasks of EleutherAI's lm-evaluation-harness, and shots, "
                f"need it installed ({error}): pip install 'longrope_lab[benchmarks]', or pip "
                "install lm_eval. Without it, ask questions of your own (a .jsonl file, "
                "BenchmarkTask.from_corpus) without shots"
            ) from None
        return None
    return Harness


def _scorers(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    tasks: list[BenchmarkTask],
    limit: int | None,
    batch_size: int,
    window: int,
    seed: int,
) -> list[Scorer]:
    harness = _harness(tasks)
    if harness is None:
        return [_plain_scorer(model, tokenizer, task, limit, window) for task in tasks]
    live = harness(model, tokenizer, batch_size, window, seed)
    return [live.scorer(task, limit) for task in tasks]


def _plain_scorer(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    task: BenchmarkTask,
    limit: int | None,
    window: int,
) -> Scorer:
    """What the harness does with questions of one's own, without it.

    One sequence at a time, in float32.
    """
    questions = (task.questions or ())[:limit]
    encoded = [[_encode(tokenizer, q.context, choice) for choice in q.choices] for q in questions]
    check_length(task.name, max(len(ids) for choices in encoded for ids, _ in choices), window)

    def loss(ids: list[int], start: int) -> float:
        return float(token_losses(model, ids)[start - 1 :].double().sum())

    def score(what: str) -> dict[str, float]:
        scores = {}
        for number, (question, ids) in enumerate(
            progress(list(zip(questions, encoded, strict=True)), what)
        ):
            losses = np.array([loss(*pair) for pair in ids])
            if task.metric == "acc_norm":
                losses /= [len(choice) for choice in question.choices]
            elif task.metric == "acc_mutual_info":
                losses -= [loss(*_encode(tokenizer, "", choice)) for choice in question.choices]
            scores[str(number)] = float(losses.argmin() == question.answer)
        return scores

    return score


def _encode(tokenizer: PreTrainedTokenizerBase, context: str, choice: str) -> tuple[list[int], int]:
    """Token ids of a context with a choice after it, and where the choice begins.

    As the harness has it: the two are tokenised together, a context's last spaces count with the
    choice, and an empty context is the token that begins a text, or else the one that ends it. No
    token that ends a text stands after either.
    """
    if context:
        start = opening(context.rstrip(), tokenizer, verbose=False)
        return opening(f"{context} {choice}", tokenizer, verbose=False), len(start)
    ids = list(tokenizer(f" {choice}", verbose=False, add_special_tokens=False)["input_ids"])
    first = nothing(tokenizer)
    return ids if ids[0] == first else [first, *ids], 1
