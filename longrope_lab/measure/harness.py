"""EleutherAI's lm-evaluation-harness on a live model.

This is the one place that knows its interface (version 0.4.13). Importing this needs it installed:
pip install 'longrope_lab[benchmarks]'.
"""

from __future__ import annotations

import contextlib
import copy
import difflib
import io
import math
import sys
from collections.abc import Callable, Collection, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

import datasets
from lm_eval.api.task import ConfigurableTask
from lm_eval.evaluator import evaluate
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager

from ..common.checks import unknown
from ..common.files import Json
from ..common.progress import Progress
from ..models.forward import fast_attention
from .tasks import BenchmarkTask, Question, check_length

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

# What is scored by the likelihood of given answers; a written answer would be generated, and cut,
# by other rules.
BY_LIKELIHOOD = ("multiple_choice", "loglikelihood")


class Harness:
    """The harness around a model, which it takes as it stands.

    The scaling in place is so the one that is measured.

    Args:
        model, tokenizer: a Hugging Face causal language model and its tokenizer.
        batch_size: sequences per forward pass.
        window: tokens that a question may have with its shots and its answer.
        seed: of the choice of solved questions.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        batch_size: int,
        window: int,
        seed: int,
    ) -> None:
        with _quiet():
            self._model = _Model(
                pretrained=model,
                tokenizer=copy.deepcopy(tokenizer),  # it gets a padding token where it has none
                batch_size=batch_size,
                max_length=window,
                softmax_dtype="float32",  # else log-probabilities have a GPU model's 16 bits
            )
        self._seed = seed
        self._manager: Any = None

    def scorer(self, task: BenchmarkTask, limit: int | None) -> Callable[[str], dict[str, float]]:
        """Get a task's questions, and return what asks them.

        That takes words for its progress, and gives each question's score.

        Raises:
            ValueError: an unknown task or metric, a task that is not scored by likelihood, or
                questions that cannot be had; when asked: a question longer than the window, or a
                score that is not a number.
        """
        loaded = self._from_hub(task.name) if task.questions is None else _own(task, task.questions)
        for part in loaded["tasks"].values():
            if part.OUTPUT_TYPE not in BY_LIKELIHOOD:
                raise ValueError(
                    f"{part.config.task} asks for written answers: benchmarks here choose among "
                    "given ones"
                )
            if task.metric not in part.higher_is_better():
                raise unknown(f"metric of {part.config.task}", task.metric, part.higher_is_better())
            part.set_config("num_fewshot", task.shots)
        return partial(self._ask, task, loaded, limit)

    @staticmethod
    def check_name(name: str, known: Collection[str] | None = None) -> None:
        """Refuse a task that the harness does not know; to list those that it does takes seconds.

        Raises:
            ValueError: with the nearest names.
        """
        known = known or TaskManager().all_tasks
        if name not in known:
            near = difflib.get_close_matches(name, known, n=3)  # of thousands
            raise unknown(
                "task", name, [*near, "another task of the harness", "a .jsonl file of questions"]
            )

    def _from_hub(self, name: str) -> Any:
        if self._manager is None:
            self._manager = TaskManager()
        self.check_name(name, self._manager.all_tasks)
        try:
            return self._manager.load([name])
        except Exception as error:  # datasets raises many kinds, its network layer more
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise ValueError(
                f"the questions of {name!r} cannot be had ({reason}): they are on the Hugging Face "
                "hub. Without a network, name a .jsonl file of questions, make some from a corpus "
                "(BenchmarkTask.from_corpus), or measure perplexity inside the window with "
                "lab.perplexity"
            ) from error

    def _ask(
        self, task: BenchmarkTask, loaded: Any, limit: int | None, what: str
    ) -> dict[str, float]:
        for part in loaded["tasks"].values():
            part.set_fewshot_seed(self._seed)  # each time: every scaling sees the same shots
        self._model.asked, self._model.screen = what, sys.stderr
        with _quiet(), fast_attention():
            by_part = evaluate(self._model, loaded, limit=limit, bootstrap_iters=0)["samples"]
        return {
            str(sample["doc_id"]) if len(by_part) == 1 else f"{part} {sample['doc_id']}": _score(
                sample, task
            )
            for part, samples in by_part.items()
            for sample in samples
        }


class _Model(HFLM):  # type: ignore[misc]  # lm_eval is not typed
    """HFLM, except that it cuts nothing, and shows progress as everything here does."""

    asked = ""
    screen = sys.stderr

    def _loglikelihood_tokens(self, requests: Any, **options: Any) -> Any:
        longest = max(len(context) + len(answer) for _, context, answer in requests)
        check_length(self.asked, longest, self.max_length)
        with contextlib.redirect_stderr(self.screen), Progress(self.asked, len(requests)) as shown:
            self.set_cache_hook(_Count(shown))
            return super()._loglikelihood_tokens(requests, **{**options, "disable_tqdm": True})


class _Count:
    """Told of each answer, in place of the harness's cache."""

    def __init__(self, shown: Progress) -> None:
        self._shown = shown

    def add_partial(self, *answer: Any) -> None:
        self._shown.advance()


def _own(task: BenchmarkTask, questions: tuple[Question, ...]) -> Any:
    """Questions of one's own as a task in memory; shots are other ones of them."""
    rows = [
        {"context": q.context, "choices": list(q.choices), "answer": q.answer} for q in questions
    ]
    config = {
        "task": task.name,
        "custom_dataset": lambda **_: {"test": datasets.Dataset.from_list(rows)},
        "output_type": "multiple_choice",
        "test_split": "test",
        "fewshot_split": "test",
        "doc_to_text": "context",
        "doc_to_choice": "choices",
        "doc_to_target": "answer",
        "metric_list": [{"metric": task.metric, "aggregation": "mean", "higher_is_better": True}],
    }
    with _quiet():
        return {"tasks": {task.name: ConfigurableTask(config=config)}}


def _score(sample: Json, task: BenchmarkTask) -> float:
    value = sample.get(task.metric)
    try:
        score = float(value)  # type: ignore[arg-type]
    except TypeError:
        score = math.nan
    if not math.isfinite(score):
        raise ValueError(
            f"{task.name}: its metric {task.metric!r} gives {value!r} for a question, and not one "
            "number"
        )
    return score


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the harness's bars and advice on stderr.

    What it logs still reaches a log that was asked for.
    """
    with contextlib.redirect_stderr(io.StringIO()):
        yield
