"""What a run needs, checked before anything heavy is loaded; whether it is done (`--resume`)."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from ..common.files import Json, from_json
from ..common.identity import digests_of
from .notebooks import check_parameter, find_notebook, parameters_of, profile_parameters
from .origin import clean_commit


@dataclass(frozen=True, eq=False)
class Prepared:
    """A notebook that is ready to run: it has the profile and the parameters.

    Args:
        notebook: its path.
        profile: whose parameters it takes.
        over: parameters that are set over the profile's.
        chosen: the profile's parameters, and those over them.
        parameters: all, with the notebook's defaults for the others, as ``run.json`` records them.
        folder: where its results go.
    """

    notebook: Path
    profile: str
    over: Json
    chosen: Json
    parameters: Json
    folder: Path

    def is_done(self) -> bool:
        """Whether `folder` holds a finished run of this commit, profile and parameters.

        All that it recorded must be there as it was. Code that differs from its commit is never
        done: nobody knows what ran.
        """
        commit = clean_commit()
        if commit is None:
            return False
        wanted = {"commit": commit, "profile": self.profile, "parameters": self.parameters}
        try:
            origin = from_json((self.folder / "run.json").read_bytes())
            same = {name: origin[name] for name in wanted} == json.loads(json.dumps(wanted))
            return bool(same and origin["files"].items() <= digests_of(self.folder).items())
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return False  # not there, or damaged: run again


def prepare(
    name: str,
    profile: str = "cpu",
    parameters: Json | None = None,
    *,
    results: str | Path = "results",
) -> Prepared:
    """Check what a run needs; the arguments are those of `run_one.run`.

    Raises:
        ValueError: an unknown notebook, profile or parameter (the nearest name is offered, or the
            new one), or a value that the parameter does not take.
    """
    notebook = find_notebook(name)
    known = parameters_of(notebook)
    over = dict(parameters or {})
    chosen = profile_parameters(notebook, profile) | over
    for parameter, value in chosen.items():
        check_parameter(notebook.stem, parameter, value, known)
    folder = Path(results) / profile / notebook.stem
    defaults = {name: parameter.default for name, parameter in known.items()}
    recorded = {**defaults, **chosen, "out": folder.as_posix()}
    return Prepared(notebook, profile, over, chosen, recorded, folder)
