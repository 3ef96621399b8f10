"""What a plan will do and cost, before anything runs."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pandas as pd

from ..common.quantities import amount, duration
from ..measure.meters import operations_per_second
from ..models.estimates import GIB, forward_flops, peak_bytes
from ..models.read_config import spec_from_config
from ..models.rotary import rope_spec
from ..rope.spec import RopeSpec
from ..searches.objective import GRADIENT_FORWARDS, Measured
from ..searches.settings import Settings
from ..searches.space import SearchSpace
from .low_rank import trained_parameters
from .rules import check_stage
from .stages import FineTune, Formula, Recover, Search, Stage, measured, method_name, searched
from .wording import counted, naming

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# Tokens of the forward pass that is timed; a GPU is not busy with fewer.
TIMED_TOKENS = {"cpu": 512, "cuda": 8192}

EXAFLOP = 1e18


class Explained(pd.DataFrame):
    """The table of `Plan.explain`; it prints itself in fitting units, with totals.

    What pandas makes of it, such as some of its columns, is an ordinary table.
    """

    def __repr__(self) -> str:
        table = self._readable()
        table["stage"] = table["stage"].str.ljust(table["stage"].str.len().max())
        header, *rows = table.drop(columns="does").to_string(index=False).splitlines()
        does = ["\n  ".join(["", *textwrap.wrap(words, 77)]) for words in table["does"]]
        return "\n".join([header, *(row + words for row, words in zip(rows, does, strict=True))])

    def _repr_html_(self) -> str:
        with pd.option_context("display.max_colwidth", None):
            return str(self._readable().to_html(index=False))

    def _readable(self) -> pd.DataFrame:
        """All as texts, and a last row: sums, and the largest peak."""
        costs = {
            "tokens": (self["forward_tokens"], amount),
            "work": (EXAFLOP * self["exaflops"], lambda flops: amount(flops, "FLOP")),
            "time": (self["seconds"], duration),
            "memory": (self["peak_gib"], _memory),
        }
        table = {"stage": [*self["stage"], "total"], "does": [*self["does"], ""]}
        for name, (values, form) in costs.items():
            whole = values.max() if name == "memory" else values.sum(skipna=False)
            table[name] = [_in_units(value, form) for value in [*values, whole]]
        return pd.DataFrame(table)


def _in_units(value: float, form: Callable[[float], str]) -> str:
    """A cost in words; nothing is a dash, and what nobody knows a question mark."""
    if math.isnan(value):
        return "?"
    return form(value) if value else "-"


def _memory(gib: float) -> str:
    return f"{gib:.3g} GiB" if gib >= 1 else f"{1024 * gib:.0f} MiB"


@dataclass(frozen=True)
class Work:
    """What a stage does.

    Args:
        does: in words.
        length: tokens per forward pass.
        passes: forward passes of so many tokens; a gradient counts four.
        short: how many of these are taken in pieces of the model's window.
        peak: estimated bytes on one device.
    """

    does: str
    length: int
    passes: int = 0
    short: int = 0
    peak: float = 0.0

    def flops(self, model: PreTrainedModel, window: int) -> float:
        """Floating point operations of all passes."""
        whole = (self.passes - self.short) * forward_flops(model, self.length)
        return whole + self.short * self.length / window * forward_flops(model, window)


def explain(stages: Mapping[str, Stage], model: PreTrainedModel) -> Explained:
    """`Plan.explain`, of stages by the names of their folders."""
    spec = spec_from_config(model.config) if model.device.type == "meta" else rope_spec(model)
    works = works_of(stages, model, spec)
    pace = _flops_per_second(model, spec.window)
    rows = []
    for name, work in works.items():
        flops = work.flops(model, spec.window)
        tokens = work.passes * work.length
        costs = (tokens, flops / EXAFLOP, flops / pace, work.peak / GIB)
        rows.append((name, work.does, work.length, *costs))
    columns = ["stage", "does", "length", "forward_tokens", "exaflops", "seconds", "peak_gib"]
    return Explained(rows, columns=columns)


def works_of(
    stages: Mapping[str, Stage], model: PreTrainedModel, spec: RopeSpec
) -> dict[str, Work]:
    """What each stage does, by the names of their folders.

    Raises:
        ValueError: a stage that does not fit the model.
    """
    for stage in stages.values():
        check_stage(stage, spec)
    longest = max(stage.length for stage in stages.values())
    tuned: int | None = None
    works = {}
    for name, stage in stages.items():
        with naming(stage):
            works[name] = _work(stage, model, spec, longest, tuned)
        tuned = stage.length if isinstance(stage, FineTune) else tuned
    return works


def _flops_per_second(model: PreTrainedModel, window: int) -> float:
    """How fast the model runs here, by a pass over some tokens; NaN if it has no weights."""
    if model.device.type == "meta":
        return float("nan")
    return operations_per_second(model, min(window, TIMED_TOKENS.get(model.device.type, window)))


def _work(
    stage: Stage, model: PreTrainedModel, spec: RopeSpec, longest: int, tuned: int | None
) -> Work:
    match stage:
        case FineTune():
            return _training(stage, model)
        case Formula():
            return Work(f"{stage}, {_start(stage.on_top_of or tuned)}", stage.length)
        case Search():
            space = SearchSpace(spec, stage.length)
            return _searching(stage, space, model, _start(stage.on_top_of or tuned))
        case Recover():
            space = SearchSpace(spec, stage.length, high=longest / spec.window)
            return _searching(stage, space, model, "below the last factors")


def _start(below: int | None) -> str:
    """What a stage starts from, in words."""
    return f"on top of the factors for {below:,} tokens" if below else "from the model as it is"


def _training(stage: FineTune, model: PreTrainedModel) -> Work:
    recipe, length = stage.recipe, stage.segment_tokens
    count = recipe.steps * recipe.batch
    short = recipe.short_of(count)
    words = f"{counted(recipe.steps, 'step')} of {counted(recipe.batch, 'segment')}"
    words += f", low-rank updates of rank {recipe.lora_rank}" if recipe.lora_rank else ""
    words += f", at the factors for {stage.length:,} tokens"
    if short:
        pieces = counted(short, "segment")
        words += f"; {pieces} of {count:,} in pieces of the window, unscaled"
    if needles := recipe.needles_of(count):
        words += f"; {counted(needles, 'needle document')} among {count:,} segments"
    if skipping := recipe.skipping_of(count):
        words += f"; {counted(skipping, 'segment')} of {count:,} with positions that skip"
    trained = trained_parameters(model, recipe)
    peak = peak_bytes(model, length, backward=True, trained=trained)
    return Work(words, length, count * GRADIENT_FORWARDS, short * GRADIENT_FORWARDS, peak)


def _searching(
    stage: Search | Recover, space: SearchSpace, model: PreTrainedModel, start: str
) -> Work:
    passes, trials, backward = _trials(space, stage.method, searched(stage))
    words = f"{method_name(stage)} search, {trials:,} trials on {measured(stage)}, {start}"
    peak = peak_bytes(model, stage.length, backward=backward)
    return Work(words, stage.length, passes, peak=peak)


def _trials(space: SearchSpace, method: Settings, documents: int) -> tuple[int, int, bool]:
    """Forward passes of one document, trials, and whether there are gradients.

    The search itself is asked, and told that all it tries is the same.
    """
    searcher = method.start(space, documents, 0)
    passes = trials = 0
    backward = False
    flat = (0.0,) * (space.spec.rotary_dim // 2 + 1)
    while asked := searcher.ask():
        trials += len(asked)
        passes += sum(trial.forwards for trial in asked)
        backward = backward or any(trial.gradient for trial in asked)
        searcher.tell(
            [Measured((0.0,) * len(t.documents), flat if t.gradient else None) for t in asked]
        )
    return passes, trials, backward
