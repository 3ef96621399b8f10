"""Several plans on the same model, one after the other or side by side."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from ..common.checks import whole
from ..common.progress import announce
from ..searches.workers import WorkerProcesses
from ..texts.tokens import Document
from .extended import Extended
from .plan import Plan
from .progressive import progressive

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def run_plans(
    model: str | Callable[[], PreTrainedModel],
    tokenizer: PreTrainedTokenizerBase,
    plans: Mapping[str, Plan],
    folder: str | os.PathLike[str],
    *,
    train_docs: Sequence[Document] = (),
    search_docs: Sequence[Document] = (),
    seed: int = 0,
    processes: int = 1,
) -> dict[str, Extended]:
    """Run each plan on a model of its own, as `progressive` does; finished stages are not repeated.

    Args:
        model: its name for `load_model`, or a function without arguments that returns it; it is
            loaded anew for each plan.
        tokenizer: the model's.
        plans: by name.
        folder: gets a folder per plan, under its name with ``_`` for spaces.
        train_docs, search_docs, seed: as `progressive` takes them.
        processes: plans at a time, each on a GPU of its own where there are any.

    Returns:
        What became of each plan, by name. The weights are in the folders: `progressive` with the
        plan and its folder puts them into a model.

    Raises:
        ValueError, RuntimeError: as `progressive`; and no plans, two that would share a folder, or
            processes that are not a whole number from 1; or a model that is loaded already.
    """
    if hasattr(model, "parameters"):  # a module can be called, too
        raise ValueError(
            f"model is a {type(model).__name__}, and each plan would begin with the weights that "
            "the one before left: pass its name for load_model, or a function that returns it"
        )
    processes, places = whole("processes", processes, 1), _places(plans, Path(folder))
    given = partial(progressive, train_docs=train_docs, search_docs=search_docs, seed=seed)
    if processes == 1:
        done: dict[str, Extended] = {}
        for name, plan in plans.items():
            announce(f"plan {len(done) + 1} of {len(plans)}: {name}")
            done[name] = given(model, tokenizer, plan, places[name])
        return done
    with WorkerProcesses(processes) as workers:
        tasks = {
            name: workers.submit(given, model, tokenizer, plan, places[name])
            for name, plan in plans.items()
        }
        return {name: task.result() for name, task in tasks.items()}


def _places(plans: Mapping[str, Plan], folder: Path) -> dict[str, Path]:
    """The folder of each plan."""
    if not plans:
        raise ValueError("plans is empty: give at least one plan, by a name")
    places = {name: folder / name.replace(" ", "_") for name in plans}
    for name, place in places.items():
        if place.parent != folder or place.name in ("", ".."):
            raise ValueError(f"a plan is called {name!r}: its name is that of a folder, without /")
    if len(set(places.values())) < len(places):
        raise ValueError(f"two of the plans {', '.join(plans)} would share a folder: rename one")
    return places
