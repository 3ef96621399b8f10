"""One search under way: round after round within a budget, and what comes out at its end."""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from ..common.progress import Progress
from ..common.quantities import amount, duration
from ..models.forward import perplexity_of
from ..rope.scaling import RopeScaling
from ..texts.tokens import Document
from .budget import Ahead, Budget
from .checkpoint import Log
from .measuring import Results
from .objective import GRADIENT_FORWARDS, Measured, Objective, Trial, opening_of
from .settings import Searcher
from .weighing import FLOOR

COLUMNS = [
    "round",
    "number",
    "kind",
    "documents",
    "loss",
    "best_loss",
    "best_perplexity",
    "dropped",
    "forwards",
    "tokens",
    "start_tokens",
    "attention_factor",
    "text_loss",
    "needle_loss",
    "objective",
]


@dataclass(frozen=True, eq=False, repr=False)
class SearchResult:
    """What a search found; it prints itself in a few lines.

    Args:
        best: the best scaling that was measured on all documents.
        best_loss: its objective, in nats per token.
        history: one row per trial, in the order in which they were asked for; see below.
        scalings: the scaling of each row.
        seconds: how long measuring took, summed over workers.
        finished: whether the method came to its end, and no budget or interruption before it.
        text_loss: of the best, the mean token loss of the texts, in nats; nan without texts.
        needle_loss: of the best, that of the answers in needle documents; nan without any.
        searched_on: how its documents begin, which tells them from others (`opening_of`).

    The columns of the history:

        round, number                where the trial stands: in which round, and where in it
        kind                         where it comes from; see `Trial`
        documents                    how many were measured
        loss                         the mean over these, in nats per token
        best_loss, best_perplexity   of all so far
        dropped                      whether racing gave the trial up
        forwards                     passes of one document, all so far; a gradient counts 4
        tokens                       the same in tokens
        start_tokens, attention_factor
        text_loss, needle_loss       of the documents measured, the means of either kind
        objective                    what the search was told to minimise; empty if nothing
    """

    best: RopeScaling
    best_loss: float
    history: pd.DataFrame
    scalings: list[RopeScaling]
    seconds: float
    finished: bool
    text_loss: float = math.nan
    needle_loss: float = math.nan
    searched_on: frozenset[str] = frozenset()

    def check_unseen(self, docs: Sequence[Document]) -> None:
        """See that what is reported on was not searched on.

        Raises:
            ValueError: one of these documents begins as one of the search's.
        """
        for doc in docs:
            if opening_of(doc.ids) in self.searched_on:
                raise ValueError(
                    f"{doc.title!r} was searched on, so that its figures say how well it was "
                    "fitted: report on documents that no search saw, such as another split"
                )

    @property
    def at_floor(self) -> bool:
        """Whether needles count, and one of the first scalings on them found their answers already.

        Such needles tell the search nothing: hide harder ones, in books and among others like them.
        """
        told = self.history.dropna(subset=["needle_loss"])
        first = told.loc[told["round"] == told["round"].min(), "needle_loss"]
        return len(first) > 0 and bool(first.min() < FLOOR)

    def __repr__(self) -> str:
        last = self.history.iloc[-1]
        trials = "1 trial" if len(self.history) == 1 else f"{len(self.history):,} trials"
        found = f"perplexity {last['best_perplexity']:.4g}, {self.best_loss:.4f} nats per token"
        work = f"{trials}, {amount(last['tokens'])} tokens in {duration(self.seconds)}"
        end = "finished" if self.finished else "stopped before its end"
        lines = [f"SearchResult: {found}", str(self.best), f"{work}; {end}"]
        if not math.isnan(self.needle_loss):
            texts = "" if math.isnan(self.text_loss) else f"texts {self.text_loss:.4f}, "
            lines.append(f"{texts}answers of needles {self.needle_loss:.4f} nats per token")
        if self.at_floor:
            lines.append("its needles were found from the start, and told it nothing")
        return "\n  ".join(lines)


class Rounds:
    """The log, the budget and the history of a search.

    Args:
        log: what was measured before, and where to keep what will be.
        budget: when to stop early.
        length: tokens per document.
        measure: measures trials, given by their number in the round.
        ahead: how much work there is.
        objective: what is measured.
    """

    def __init__(
        self,
        log: Log,
        budget: Budget,
        length: int,
        measure: Callable[[dict[int, Trial]], Results],
        ahead: Ahead,
        objective: Objective,
    ) -> None:
        self.log, self.budget, self.length, self.measure = log, budget, length, measure
        self.ahead, self.objective = ahead, objective
        self.rows: list[tuple[object, ...]] = []
        self.scalings: list[RopeScaling] = []
        self.best: tuple[float, RopeScaling | None] = (math.inf, None)
        self.means = (math.nan, math.nan)  # of the best: its texts, its needles' answers
        self.forwards = 0

    def result(self, searcher: Searcher, name: str) -> SearchResult:
        """Let a searcher ask and tell until its end or the budget's.

        Raises:
            RuntimeError: no trial gave a finite loss.
            ValueError: the budget is too small for one trial.
        """
        finished = False
        with Progress(f"{name} search", self.ahead.trials) as bar:
            for number in itertools.count():
                trials = searcher.ask()
                if not trials:
                    finished = True
                    break
                affordable = trials[: self._affordable(trials)]
                results = self._round(number, affordable, bar)
                if len(results) < len(trials):
                    break
                searcher.tell(results)
        best_loss, best = self.best
        if best is None:
            raise RuntimeError(
                f"none of the {len(self.rows)} trials gave a finite loss on all documents: check "
                "the model, its dtype and the documents, or give the search a larger budget"
            )
        history = pd.DataFrame(self.rows, columns=COLUMNS)
        kept = self.scalings, self.log.seconds, finished
        searched_on = frozenset(map(opening_of, self.objective.documents))
        return SearchResult(best, best_loss, history, *kept, *self.means, searched_on)

    def _affordable(self, trials: Sequence[Trial]) -> int:
        """How many of a round's trials the budget has room for, each at its full cost."""
        candidates, tokens = self.budget.candidates, self.budget.tokens
        count = len(trials) if candidates is None else min(len(trials), candidates - len(self.rows))
        if tokens is not None:
            costs = np.cumsum([trial.forwards for trial in trials])
            left = tokens // self.length - self.forwards
            count = min(count, int(np.searchsorted(costs, left, side="right")))
        if count == 0 and not self.rows:
            needed = trials[0].forwards * self.length
            raise ValueError(
                f"the budget of {tokens:,} tokens is too small for one trial of {needed:,}: give "
                "more, or fewer or shorter documents"
            )
        return count

    def _round(self, number: int, trials: list[Trial], bar: Progress) -> list[Measured]:
        """Results of the trials in order, up to the first that was not measured."""
        known = {i: self.log.get((number, i), trial) for i, trial in enumerate(trials)}
        done = {i: measured for i, measured in known.items() if measured is not None}
        missing = {i: trial for i, trial in enumerate(trials) if i not in done}
        if done:
            bar.skip(len(done), self._share(trials[i] for i in done))
        if missing and not self._out_of_time:
            self._measure(number, missing, done, bar)
        in_order = [done[i] for i in itertools.takewhile(done.__contains__, range(len(trials)))]
        for i, (trial, measured) in enumerate(zip(trials, in_order, strict=False)):
            self._note(number, i, trial, measured)
        return in_order

    def _share(self, trials: Iterable[Trial]) -> float | None:
        """Of all the work, the share that is done when these trials are, too."""
        return self.ahead.share(sum(trial.forwards for trial in trials), self.log.seconds)

    @property
    def _out_of_time(self) -> bool:
        return self.budget.seconds is not None and self.log.seconds >= self.budget.seconds

    def _measure(
        self, number: int, missing: dict[int, Trial], done: dict[int, Measured], bar: Progress
    ) -> None:
        """Add to `done` what is missing, unless the time is up or Ctrl-C comes before."""
        lowest = self.best[0]
        with contextlib.closing(self.measure(missing)) as results:
            try:
                for i, measured, seconds in results:
                    self.log.add((number, i), missing[i], measured, seconds)
                    done[i] = measured
                    if not missing[i].in_passing:
                        lowest = min(lowest, measured.loss)
                    perplexity = perplexity_of(lowest)
                    note = f"best perplexity {perplexity:.4g}" if perplexity < math.inf else ""
                    bar.advance(1, note, self._share([missing[i]]))
                    if self._out_of_time:
                        break
            except KeyboardInterrupt:
                if not (self.rows or done):
                    raise  # there is nothing to return
                bar.say(
                    f"stopped by hand after {len(self.log.measured)} trials; with a checkpoint, "
                    "call again to go on"
                )

    def _note(self, number: int, i: int, trial: Trial, measured: Measured) -> None:
        """A row of the history."""
        means = self.objective.means(trial.documents, measured.losses)
        if not trial.in_passing and measured.loss < self.best[0]:
            self.best, self.means = (measured.loss, trial.scaling), means
        self.forwards += len(measured.losses) * (GRADIENT_FORWARDS if trial.gradient else 1)
        best_loss = self.best[0]
        self.scalings.append(trial.scaling)
        self.rows.append(
            (
                number,
                i,
                trial.kind,
                len(measured.losses),
                measured.mean,
                best_loss,
                perplexity_of(best_loss),
                measured.dropped,
                self.forwards,
                self.forwards * self.length,
                trial.scaling.start_tokens,
                trial.scaling.attention_factor,
                *means,
                "" if self.objective.goal is None else str(self.objective.goal),
            )
        )
