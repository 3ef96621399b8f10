"""The verdict on one exhibit, from the tables that a notebook has just recorded."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..common.checks import unknown
from ..common.markup import as_markdown

# Imported, they register their claims.
from . import claims_extended_models, claims_searched_factors  # noqa: F401
from .claims import NOT_MEASURED, Decided, Outcome, judge
from .experiments import Experiment, experiment
from .markdown import papers_figures, rows_of
from .recorded import Results, Run, read_origin

SAYS = {True: "yes", False: "no", None: NOT_MEASURED}


@dataclass(frozen=True, eq=False)
class Verdict:
    """Whether an exhibit's finding shows in one notebook's tables; it prints itself.

    Args:
        experiment: the table or figure of the paper.
        verdict: "yes", "partly", "no" or "not measured", as on the page of results.
        outcomes: what each claim of the finding came to, place by place.
        notebook: whose tables were judged.
    """

    experiment: Experiment
    verdict: str
    outcomes: Sequence[Outcome]
    notebook: str

    def __str__(self) -> str:
        lines = [f"{self._title}: {self.verdict}", f"The paper: {self.experiment.finding}."]
        for outcome in self.outcomes:
            lines += ["", outcome.says]
            lines += ["  " + "  ".join(filter(None, row)) for row in _rows(outcome)]
        return "\n".join([*lines, "", *self._elsewhere, papers_figures(self.experiment).rstrip()])

    __repr__ = __str__

    def _repr_markdown_(self) -> str:
        rows = [
            [outcome.says if i == 0 else "", *map(as_markdown, row)]
            for outcome in self.outcomes
            for i, row in enumerate(_rows(outcome))
        ]
        return "\n".join(
            [
                f"**{self._title}: {self.verdict}**\n",
                f"The paper: {self.experiment.finding}.\n",
                rows_of(["what has to hold", "place", "holds", "what decided it"], rows),
                *(f"{line}\n" for line in self._elsewhere),
                papers_figures(self.experiment),
            ]
        )

    @property
    def _title(self) -> str:
        return f"{self.experiment.source.partition(', ')[2]}, {self.experiment.title}"

    @property
    def _elsewhere(self) -> list[str]:
        """Where else the exhibit is measured, if it is."""
        others = [name for name in self.experiment.notebooks if name != self.notebook]
        if not others:
            return []
        return [f"Judged from {self.notebook} alone; {', '.join(others)} measures it too."]


def _rows(outcome: Outcome) -> list[list[str]]:
    """Place, verdict and figure of each place; or why there is none."""
    places = outcome.places or {"": Decided(None, outcome.why)}
    return [[place, SAYS[each.holds], each.figure] for place, each in places.items()]


def verdict(
    name: str, out: str | os.PathLike[str], *, notebook: str = "", **parameters: Any
) -> Verdict:
    """Whether the paper's finding shows in the tables that a notebook has just recorded.

    The rule is the one by which ``longrope-lab report`` judges finished runs: the two cannot
    disagree. In a notebook, the verdict shows itself as a table.

    Args:
        name: the exhibit, such as "T9" for Table 9 or "F4" for Figure 4.
        out: the folder of the tables.
        notebook: whose tables these are, such as "05_progressive_extension"; if empty, the folder's
            name says it, or the exhibit does because it has one notebook alone.
        parameters: those of the notebook that a claim needs ("T5" needs ``target``). A finished run
            has them in its ``run.json``.

    Raises:
        FileNotFoundError: no such folder.
        ValueError: no such exhibit, or a notebook that does not measure it (the nearest is
            offered), a damaged table (the file is named), or a folder that could be of several
            notebooks.
    """
    exhibit, folder = experiment(name), Path(out)
    if not folder.is_dir():
        raise FileNotFoundError(f"no folder of tables at {folder}: record them first (lab.record)")
    if notebook and notebook not in exhibit.notebooks:
        raise unknown(f"notebook of {exhibit.id}", notebook, exhibit.notebooks)
    source = notebook or _notebook_of(exhibit, folder)
    path = folder / "run.json"
    recorded = read_origin(path) if path.is_file() else {"parameters": {}}
    run = Run(folder, {**recorded, "parameters": recorded["parameters"] | parameters})
    answer, outcomes = judge(exhibit.id, Results(folder.parent.name, {source: run}))
    return Verdict(exhibit, answer, outcomes, source)


def _notebook_of(exhibit: Experiment, folder: Path) -> str:
    """The notebook whose tables a folder holds; runs at work end in ``.running``."""
    named = folder.resolve().name.partition(".")[0]
    if named in exhibit.notebooks:
        return named
    if len(exhibit.notebooks) == 1:
        return exhibit.notebooks[0]
    raise ValueError(
        f"{folder} does not say whose tables it holds: {exhibit.id} is measured in "
        f"{' and '.join(exhibit.notebooks)}; name one with notebook=..."
    )
