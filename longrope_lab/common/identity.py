"""Who made what: digests, what two identities differ in, and folders that belong to one run."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING

from .checks import shortened
from .files import Json, from_json, write_json

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

# Characters of a value that a message shows; a longer value is cut.
SHOWN = 80


def digest(*parts: bytes | str) -> str:
    """A short name for a content: 16 hexadecimal digits of the SHA-256 of its parts in a row.

    >>> digest("rope") == digest("ro", b"pe")
    True
    """
    content = hashlib.sha256()
    for part in parts:
        content.update(part.encode() if isinstance(part, str) else part)
    return content.hexdigest()[:16]


def digest_of(path: Path) -> str:
    """The `digest` of a file's content, which may be larger than the memory."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def digests_of(folder: Path) -> dict[str, str]:
    """The digest of each file in a folder, by name; folders in it are left out."""
    return {path.name: digest_of(path) for path in sorted(folder.iterdir()) if path.is_file()}


def digest_at(path: Path) -> str:
    """The digest of a file, or of a folder: the names and contents of all that is in it."""
    if not path.is_dir():
        return digest_of(path)
    files = sorted(file for file in path.rglob("*") if file.is_file())
    return digest(*(f"{file.relative_to(path).as_posix()} {digest_of(file)}\n" for file in files))


def source_name(source: str | os.PathLike[str]) -> str:
    """What results call a corpus or a model: a path loses the folders of one machine.

    A path below the current folder keeps what follows it, and another one keeps its last part.

    >>> source_name("/home/ada/books/test.parquet"), source_name("kjv"), source_name("owner/name")
    ('test.parquet', 'kjv', 'owner/name')
    """
    path = known_user(source)
    if not path.is_absolute() and ".." not in path.parts:
        return str(source)
    path, here = Path(os.path.normpath(Path.cwd() / path)), Path.cwd()
    return path.relative_to(here).as_posix() if here in path.parents else path.name or str(source)


def known_user(path: str | os.PathLike[str]) -> Path:
    """A path whose "~" is the user's folder; one of a user who is not known stays as it is."""
    return Path(os.path.expanduser(path))  # noqa: PTH111 - pathlib's own raises there


def source_names(sources: Sequence[str]) -> list[str]:
    """The `source_name` of each, for the rows and columns of tables.

    >>> lab.source_names(["kjv", "/home/ada/books/test.parquet"])
    ['kjv', 'test.parquet']

    Args:
        sources: corpora or models, by name or path.

    Raises:
        ValueError: two of them have the same name.
    """
    names = [source_name(source) for source in sources]
    for name in names:
        if names.count(name) > 1:
            same = [source for source, its in zip(sources, names, strict=True) if its == name]
            raise ValueError(
                f"{' and '.join(same)} would both be called {name!r} in the results: rename one, "
                "or start from a folder that holds both"
            )
    return names


def words_of(settings: DataclassInstance, later: Iterable[str]) -> str:
    """The repr of a dataclass, without fields that came later and have their default.

    So settings from before such a field have the words that their folders were taken by.

    Args:
        settings: a dataclass of fields that are all in its repr.
        later: the fields that came later.
    """
    shown = (
        f"{field.name}={value!r}"
        for field in fields(settings)
        if (value := getattr(settings, field.name)) != field.default or field.name not in later
    )
    return f"{type(settings).__name__}({', '.join(shown)})"


def differences(there: Mapping[str, object], here: Mapping[str, object]) -> str:
    """What two identities differ in, in words; empty where they are the same.

    >>> differences({"seed": 0, "model": "lab"}, {"seed": 1, "model": "lab"})
    'seed: 0 there, 1 here'
    """
    named = [name for name in {**here, **there} if there.get(name) != here.get(name)]
    return "; ".join(
        f"{name}: {_short(there.get(name))} there, {_short(here.get(name))} here" for name in named
    )


def take(path: Path, kind: str, identity: Json) -> None:
    """Take a folder for one run, or see that this run has it already.

    The first call writes the run's identity into `path`; a later one compares with it.

    Args:
        path: the file that holds the identity; its folder is the one that is taken.
        kind: what kind of run it is, in the words of an error: "fine-tuning".
        identity: what tells one run from another, by name; its "format" is the version of the files
            beside it.

    Raises:
        ValueError: the folder is another run's (the error says what differs), another version's, or
            holds anything else.
    """
    if not is_taken(path, kind, identity):
        write_json(path, identity)


def is_taken(path: Path, kind: str, identity: Json) -> bool:
    """Whether this run has the folder already; False where nobody has, and nothing is written.

    Arguments and errors are those of `take`.
    """
    identity = json.loads(json.dumps(identity))
    folder = path.parent
    if not path.is_file():
        if folder.is_file():
            raise ValueError(f"{folder} is a file: name a folder for the {kind}")
        if folder.exists() and any(other.suffix != ".part" for other in folder.iterdir()):
            raise ValueError(f"{folder} is not empty and holds no {kind}: name another folder")
        return False
    try:
        theirs = from_json(path.read_bytes())
        wrong = "" if isinstance(theirs, dict) else " (it holds no object)"
    except ValueError as error:
        wrong = f" ({error})"
    if wrong:
        raise ValueError(
            f"{path} does not describe a {kind}: it is damaged{wrong}; remove {folder}, and the "
            "same call begins again, or name another folder"
        )
    if theirs.get("format") != identity.get("format"):
        raise ValueError(
            f"{folder} holds a {kind} of another version of longrope_lab (format "
            f"{theirs.get('format', 1)}, and this one writes {identity.get('format', 1)}), whose "
            "files mean something else: name another folder, or remove this one"
        )
    if differ := differences(theirs, identity):
        raise ValueError(
            f"{folder} holds another {kind} ({differ}): name another folder, or remove this one"
        )
    return True


def _short(value: object) -> str:
    words = value if isinstance(value, str) else "nothing" if value is None else json.dumps(value)
    return shortened(words, SHOWN)
