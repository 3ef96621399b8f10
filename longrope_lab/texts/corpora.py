"""Long documents to measure and search on: packaged, on disk, or on the Hugging Face hub.

    "kjv"                  the King James Bible, one document per book; split "test" is the Old
                           Testament, "validation" the New
    "kjv-parts"            the same in ten long parts (Law, History, ...), for lengths that no
                           single book reaches
    "python"               the installed Python's standard library, one document per module or
                           package; the splits "validation" and "test" alternate
    a path                 a .txt, .md, .jsonl, .json or .parquet file, packed (.gz, .bz2, .xz,
                           .zst) or not, a folder of them, or a glob; splits do not apply
    "pg19", "proof-pile"   data sets of the hub, streamed (pip install datasets)
    "owner/name"           any other data set of the hub, streamed too

Documents keep their natural length. What is shorter than asked for is left out and counted, never
padded.
"""

from __future__ import annotations

import glob
import logging
import os
import re
import sysconfig
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..common.checks import unknown, whole
from ..common.files import at_home
from .readers import DATA, FILE_TYPES, PROSE, Row, Text, file_rows, hub_rows, type_of
from .tokens import Document, check_ids, tokenize

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

log = logging.getLogger(__name__)

# What no text in UTF-8 holds.
HALF = re.compile("[\ud800-\udfff]")

SPLITS = ("train", "validation", "test")
HUB_NAMES = {"pg19": "emozilla/pg19", "proof-pile": "hoskinson-center/proof-pile"}
WITHDRAWN = {
    "books3": "Books3 was withdrawn by its publishers; the paper's figures on it cannot be "
    "measured again. For long books use 'pg19' (hub), 'kjv-parts' (packaged), or a folder of your "
    "own texts"
}


def load_corpus(
    source: str | os.PathLike[str],
    tokenizer: PreTrainedTokenizerBase,
    *,
    split: str = "test",
    min_tokens: int = 1,
    max_tokens: int | None = None,
    limit: int | None = None,
    column: str | None = None,
) -> list[Document]:
    """Tokenised documents of a corpus, in its own order.

    >>> model, tokenizer = lab.load_model("lab")
    >>> lab.load_corpus("kjv", tokenizer, min_tokens=4096, max_tokens=4096, limit=2)
    [Document('Genesis', 4,096 tokens), Document('Exodus', 4,096 tokens)]

    Args:
        source: a name, a path or a hub id, as listed at the top of this module.
        tokenizer: a Hugging Face tokenizer; it adds the special tokens that it adds by default.
        split: "train", "validation" or "test", where the corpus has splits.
        min_tokens: leave out documents shorter than this.
        max_tokens: cut documents after so many tokens.
        limit: stop after so many documents.
        column: the one that holds the texts, where it is not "text" or "content"; or token ids that
            this tokenizer made, which are taken as they are.

    Raises:
        ValueError: an unknown name or split, a file that is empty, damaged or not UTF-8, no such
            column, token ids that the tokenizer does not have, or fewer than `limit` (or no)
            documents of `min_tokens`; the error counts them.
        FileNotFoundError: there is nothing at a path.
    """
    min_tokens = whole("min_tokens", min_tokens, 1)
    if limit is not None:
        limit = whole("limit", limit, 1, "it counts documents, so a whole number from 1 (or None)")
    if max_tokens is not None:
        rule = f"it cuts documents, so a whole number from min_tokens, {min_tokens} (or None)"
        max_tokens = whole("max_tokens", max_tokens, min_tokens, rule)
    documents: list[Document] = []
    short: list[int] = []
    for title, content, where in _filled(_rows(source, split, column), str(source)):
        ids = _ids_of(content, where, tokenizer)
        if len(ids) < min_tokens:
            short.append(len(ids))
            continue
        documents.append(Document(title, ids[:max_tokens]))
        if limit is not None and len(documents) == limit:
            return documents
    if not documents or limit is not None:
        wanted = f"{limit} were asked for" if limit is not None else "at least one is needed"
        lacking = min_tokens - max(short, default=0)
        longest = f", the longest has {max(short):,}, {lacking:,} too few" if short else ""
        raise ValueError(
            f"{len(documents)} of the {len(documents) + len(short)} documents of {str(source)!r} "
            f"have {min_tokens:,} tokens or more, and {wanted}{longest}: ask for fewer or shorter "
            "documents, or use a corpus of longer ones"
        )
    if short:
        log.warning(
            "%s: %d documents shorter than %d tokens are left out", source, len(short), min_tokens
        )
    return documents


def _ids_of(
    content: str | list[int], where: str, tokenizer: PreTrainedTokenizerBase
) -> NDArray[np.int64]:
    """A text's token ids; those of a corpus that is tokenised are checked."""
    if isinstance(content, str):
        try:
            return tokenize(content, tokenizer)
        except (TypeError, UnicodeEncodeError):  # of half a character, as JSON may hold one
            if (half := HALF.search(content)) is None:
                raise
            raise ValueError(
                f"{where}: character {half.start()} is {half[0]!a}, half of one: mend the text"
            ) from None
    if content:
        vocabulary = len(tokenizer)
        way_out = "load it with the tokenizer that made these ids"
        try:
            check_ids(np.array(content, dtype=object), vocabulary, way_out)
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from None
    return np.array(content, dtype=np.int64)


def _filled(rows: Iterable[Row], source: str) -> Iterator[tuple[str, str | list[int], str]]:
    """The rows that hold something; those that hold nothing are counted, and the first named."""
    empty: list[str] = []
    try:
        for row in rows:
            if row.content is None:
                empty.append(row.where)
            else:
                yield row.title, row.content, row.where
    finally:  # also where no more rows are asked for
        if empty:
            log.warning(
                "%s: rows without a text (null) are left out: %d, the first %s",
                source, len(empty), empty[0],
            )  # fmt: skip


def iterate_texts(source: str | os.PathLike[str], split: str = "test") -> Iterator[Text]:
    """The documents of a corpus as text, one after the other.

    Arguments and errors are those of `load_corpus`.
    """
    rows = _rows(source, split, None)
    return (Text(title, str(text)) for title, text, _ in _filled(rows, str(source)))


def _rows(source: str | os.PathLike[str], split: str, column: str | None) -> Iterator[Row]:
    if split not in SPLITS:
        raise unknown("split", split, SPLITS)
    name = str(source)
    if name.lower() in WITHDRAWN:
        raise ValueError(WITHDRAWN[name.lower()])
    if name in PACKAGED:
        if column is not None:
            raise ValueError(f"{name!r} is text without columns: leave out column={column!r}")
        return (Row(title, text, title) for title, text in PACKAGED[name](split))
    if name in HUB_NAMES:
        return hub_rows(HUB_NAMES[name], split, column)
    path = at_home(name)
    if path.exists():
        return file_rows(_files_in(path) if path.is_dir() else [path], name, column)
    if glob.has_magic(name):
        # pathlib's own glob would match hidden files as well.
        matches = glob.glob(str(path), recursive=True)  # noqa: PTH207
        return file_rows(sorted(p for p in map(Path, matches) if p.is_file()), name, column)
    check_source(name)
    return hub_rows(name, split, column)


def check_source(name: str) -> None:
    """Refuse what is no name of a corpus; nothing is read, and the hub is not asked.

    Raises:
        ValueError: an unknown name (the nearest is offered).
        FileNotFoundError: there is nothing at a path.
    """
    path = at_home(name)
    if name in PACKAGED or name in HUB_NAMES or path.exists() or glob.has_magic(name):
        return
    if type_of(path) in FILE_TYPES or name.startswith((".", "~", os.sep)) or name.count("/") > 1:
        raise FileNotFoundError(f"no corpus at {name}: check the path")
    if name.count("/") != 1:
        known = [*PACKAGED, *HUB_NAMES, "a file or folder", "a hub id such as owner/name"]
        raise unknown("corpus", name, known)


def _files_in(folder: Path) -> list[Path]:
    """The corpus files in a folder and those below it, but for hidden ones."""
    visible = [
        p
        for p in sorted(folder.rglob("*"))
        if p.is_file() and not any(part.startswith(".") for part in p.relative_to(folder).parts)
    ]
    data = [p for p in visible if type_of(p) in DATA]
    prose = [p for p in visible if type_of(p) in PROSE]
    if data and prose:
        log.warning(
            "%s: left out are %d files %s, which beside data are mostly about it: name them by a "
            "glob to read them", folder, len(prose), " and ".join(PROSE),
        )  # fmt: skip
    return data or prose


# --- packaged ---

TESTAMENTS = {"test": "OLD_TESTAMENT", "validation": "NEW_TESTAMENT"}
PARTS = {  # groups as pythonbible names them; together each testament once
    "OLD_TESTAMENT": ["LAW", "HISTORY", "POETRY_WISDOM", "MAJOR_PROPHETS", "MINOR_PROPHETS"],
    "NEW_TESTAMENT": ["GOSPELS", "HISTORY", "PAUL_EPISTLES", "GENERAL_EPISTLES", "APOCALYPTIC"],
}


def _kjv(split: str, by_part: bool) -> Iterator[Text]:
    if split not in TESTAMENTS:
        raise ValueError(
            f"'kjv' has no split {split!r}: it has 'validation' (New Testament) and 'test' (Old "
            "Testament)"
        )
    import pythonbible

    testament = TESTAMENTS[split]
    for part in PARTS[testament]:
        books = pythonbible.BookGroup[f"{testament}_{part}"].books
        if by_part:
            title = f"{testament} {part}".replace("_", " ").title()
            yield Text(title, "\n\n".join(_kjv_book(book) for book in books))
        else:
            for book in books:
                yield Text(book.title, _kjv_book(book))


def _kjv_book(book: Any) -> str:
    """A book as running text, one paragraph per chapter.

    The brackets around the translators' additions are taken out.
    """
    import pythonbible

    chapters = []
    for chapter in range(1, pythonbible.get_number_of_chapters(book) + 1):
        verses = range(1, pythonbible.get_number_of_verses(book, chapter) + 1)
        ids = (pythonbible.get_verse_id(book, chapter, verse) for verse in verses)
        texts = (pythonbible.get_verse_text(i, version=pythonbible.Version.KING_JAMES) for i in ids)
        chapters.append(" ".join(" ".join(texts).split()))  # a few verses have two spaces in a row
    return f"{book.title}\n\n" + "\n\n".join(chapters).replace("[", "").replace("]", "")


def _python(split: str) -> Iterator[Text]:
    if split == "train":
        raise ValueError(
            "'python' has no split 'train': its modules alternate between 'validation' and 'test'"
        )
    root = Path(sysconfig.get_path("stdlib"))
    leave_out = {"site-packages", "test", "idlelib", "lib2to3", "__pycache__", "ensurepip"}
    names = sorted(
        p
        for p in root.iterdir()
        if p.name not in leave_out and (p.suffix == ".py" or (p / "__init__.py").is_file())
    )
    for path in names[SPLITS.index(split) - 1 :: 2]:
        files = [path] if path.is_file() else _modules(path)
        # A few of the library's files are in another encoding on purpose, to test with.
        texts = (f.read_text(encoding="utf-8", errors="replace") for f in files)
        yield Text(path.stem, "\n\n".join(texts))


def _modules(package: Path) -> list[Path]:
    """The files of a package without its tests.

    Only folders below the package count: Python itself may be installed under one called "test".
    """
    tests = {"test", "tests"}
    files = package.rglob("*.py")
    return sorted(p for p in files if tests.isdisjoint(p.relative_to(package).parts))


PACKAGED: dict[str, Callable[[str], Iterator[Text]]] = {
    "kjv": lambda split: _kjv(split, by_part=False),
    "kjv-parts": lambda split: _kjv(split, by_part=True),
    "python": _python,
}
