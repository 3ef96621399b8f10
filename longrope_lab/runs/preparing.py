"""What a run needs, checked before anything heavy is loaded; whether it is done (`--resume`)."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from ..common.files import Json, from_json
from ..common.identity import digest_at, digests_of, known_user, source_name
from .notebooks import check_parameter, find_notebook, parameters_of, profile_parameters
from .origin import clean_commit

# Parameters that name a place to write to; the other paths are read.
PLACES = frozenset(["out", "stages_folder", "checkpoints", "export_to", "files"])


@dataclass(frozen=True, eq=False)
class Prepared:
    """A notebook that is ready to run: it has the profile and the parameters.

    Args:
        notebook: its path.
        profile: whose parameters it takes.
        over: parameters that are set over the profile's.
        chosen: the profile's parameters, and those over them.
        parameters: all, with the notebook's defaults for the others.
        folder: where its results go.
    """

    notebook: Path
    profile: str
    over: Json
    chosen: Json
    parameters: Json
    folder: Path

    @cached_property
    def named(self) -> Json:
        """The parameters as ``run.json`` records them: paths without a machine's folders."""
        return {
            name: [_name(each) for each in value] if isinstance(value, list) else _name(value)
            for name, value in self.parameters.items()
        }

    @property
    def paths(self) -> Iterator[tuple[str, str]]:
        """Each text among the parameters, with the name of its parameter."""
        for name, value in self.parameters.items():
            for each in value if isinstance(value, list) else [value]:
                if isinstance(each, str) and each:
                    yield name, each

    def inputs(self) -> dict[str, str]:
        """The digest of each file or folder that the parameters name to be read, by its name."""
        read = [known_user(text) for name, text in self.paths if name not in PLACES]
        # A text may be no path at all, at which pathlib's own `exists` raises.
        there = [path for path in read if os.path.exists(path)]  # noqa: PTH110
        return {source_name(path): digest_at(path) for path in there}

    def is_done(self) -> bool:
        """Whether `folder` holds a finished run of this commit, profile and parameters.

        All that it recorded must be there as it was. What it read may have gone, but not changed.
        Code that differs from its commit is never done: nobody knows what ran.
        """
        commit = clean_commit()
        if commit is None:
            return False
        wanted = {"commit": commit, "profile": self.profile, "parameters": self.named}
        try:
            origin = from_json((self.folder / "run.json").read_bytes())
            same = {name: origin[name] for name in wanted} == json.loads(json.dumps(wanted))
            kept = same and origin["files"].items() <= digests_of(self.folder).items()
            return bool(kept and _unchanged(origin.get("inputs", {}), self.inputs()))
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return False  # not there, or damaged: run again


def _name(value: object) -> object:
    return source_name(value) if isinstance(value, str) and value else value


def _unchanged(then: Json, now: Json) -> bool:
    return all(then[name] == now[name] for name in then.keys() & now.keys())


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
