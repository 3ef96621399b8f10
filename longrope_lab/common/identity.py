"""Who made what: digests, what differs between two identities, and folders that belong to one run."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

from .files import Json, read_json, write_json

# Characters of a value in a message: of longer ones the beginning is shown.
SHOWN = 80


def digest(*parts: bytes | str) -> str:
    """Tells contents from others: 16 hexadecimal digits of their SHA-256, one after the other."""
    content = hashlib.sha256()
    for part in parts:
        content.update(part.encode() if isinstance(part, str) else part)
    return content.hexdigest()[:16]


def differences(there: Mapping[str, object], here: Mapping[str, object]) -> str:
    """What two identities differ in, as "seed: 0 there, 1 here; ..."; "" if in nothing."""
    named = [name for name in {**here, **there} if there.get(name) != here.get(name)]
    return "; ".join(
        f"{name}: {_short(there.get(name))} there, {_short(here.get(name))} here" for name in named
    )


def take(path: Path, kind: str, identity: Json) -> None:
    """Make a folder the own of one run, by a file in it that holds its identity; or see that it is
    that run's already.

    Args:
        path: the file.
        kind: of run, in words.
        identity: what tells one run from another, by name; its "format" is the version of the files
            beside it.

    Raises:
        ValueError: the folder is another run's (the error says what differs) or another version's,
            or holds anything else.
    """
    identity = json.loads(json.dumps(identity))
    if path.is_file():
        theirs = read_json(path)
        if not isinstance(theirs, dict):
            raise ValueError(
                f"{path} is no {kind}'s: it is damaged; name another folder, or remove {path.parent}"
            )
        if theirs.get("format") != identity.get("format"):
            raise ValueError(
                f"{path.parent} holds a {kind} of another version of longrope_lab (format {theirs.get('format', 1)}, "
                f"and this one writes {identity.get('format', 1)}), whose files mean something else: name another "
                "folder, or remove this one"
            )
        if differ := differences(theirs, identity):
            raise ValueError(
                f"{path.parent} holds another {kind} ({differ}): name another folder, or remove this one"
            )
    elif path.parent.exists() and any(other.suffix != ".part" for other in path.parent.iterdir()):
        raise ValueError(f"{path.parent} is not empty and holds no {kind}: name another folder")
    else:
        write_json(path, identity)


def _short(value: object) -> str:
    words = value if isinstance(value, str) else "nothing" if value is None else json.dumps(value)
    return words if len(words) <= SHOWN else words[: SHOWN - 3] + "..."
