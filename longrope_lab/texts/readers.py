"""Reads texts, or their token ids, from files and from data sets of the Hugging Face hub."""

from __future__ import annotations

import bz2
import codecs
import gzip
import io
import lzma
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple

from ..common.files import from_json

# What a corpus may be. Of a folder those that hold data are read, and the others only where there
# is nothing else: beside data they are mostly about it, as a data set's README.md.
DATA, PROSE = (".txt", ".jsonl", ".parquet"), (".md", ".json")
FILE_TYPES = (*DATA, *PROSE)

# Columns that hold texts, if none is named.
COLUMNS = ("text", "content")


class Text(NamedTuple):
    """A document before tokenising."""

    title: str
    text: str


class Row(NamedTuple):
    """A document as it is stored: a text, or token ids of some tokenizer, or nothing (null).

    `where` is its place, in the words of an error.
    """

    title: str
    content: str | list[int] | None
    where: str


def _zstandard(path: Path, _: str) -> IO[bytes]:
    import pyarrow

    return io.BufferedReader(pyarrow.input_stream(str(path), compression="zstd"))


PACKED: dict[str, Callable[[Path, str], Any]] = {
    ".gz": gzip.open,
    ".bz2": bz2.open,
    ".xz": lzma.open,
    ".zst": _zstandard,
}


def inner_name(path: Path) -> Path:
    """The name of a file without the suffix of its packing: a.jsonl of a.jsonl.gz."""
    return Path(path.stem) if path.suffix.lower() in PACKED else Path(path.name)


def type_of(path: Path) -> str:
    """What a file holds, by its name, in lower case: ".jsonl" of a.JSONL, and of a.jsonl.gz."""
    return inner_name(path).suffix.lower()


def file_rows(files: list[Path], source: str, column: str | None = None) -> Iterator[Row]:
    """What is in files, one after the other; `source` is named where there are no files.

    Args:
        files: of the types above, packed or not.
        column: the one that holds texts or token ids; None for that of a text.

    Raises:
        FileNotFoundError: there are no files.
        ValueError: a file of another kind, damaged, not UTF-8, or without the column.
    """
    types = f"{', '.join(FILE_TYPES[:-1])} or {FILE_TYPES[-1]}"
    if not files:
        raise FileNotFoundError(f"no {types} files at {source}: check the path")
    for path in files:
        if type_of(path) not in FILE_TYPES:
            raise ValueError(
                f"{path} is a {path.suffix or 'nameless'} file: a corpus is {types}, or one of "
                f"these packed as {', '.join(PACKED)}"
            )
        yield from _one_file(path, column)


def _one_file(path: Path, column: str | None) -> Iterator[Row]:
    if path.stat().st_size == 0:
        raise ValueError(f"{path} is empty: a corpus file holds text")
    kind, name = type_of(path), inner_name(path).stem
    if kind in (".txt", ".md"):
        if column is not None:
            raise ValueError(f"{path} is text without columns: leave out column={column!r}")
        yield Row(name, utf8_text(path), str(path))
        return
    values_of, unit = {
        ".jsonl": (jsonl_values, "line"),
        ".json": (_json_values, "item"),
        ".parquet": (_parquet_rows, "row"),
    }[kind]
    for number, values in values_of(path):
        yield _from_row(values, f"{name}[{number}]", f"{path}, {unit} {number}", column)


def _parquet_rows(path: Path) -> Iterator[tuple[int, object]]:
    """The rows of a parquet file, each after its number from 0."""
    import pyarrow.parquet

    packed = path.suffix.lower() in PACKED  # a parquet file is read from its end
    source = pyarrow.BufferReader(b"".join(_lines(path))) if packed else path
    try:
        with pyarrow.parquet.ParquetFile(source) as file:
            batches = file.iter_batches(batch_size=16)
            yield from enumerate(row for batch in batches for row in batch.to_pylist())
    except (pyarrow.ArrowException, OSError) as error:  # damaged at the end, or in the middle
        raise ValueError(f"{path} is not a readable parquet file: {error}") from None


def _lines(path: Path) -> Iterator[bytes]:
    """The lines of a file, unpacked, with their ends.

    Raises:
        ValueError: it cannot be read, or not unpacked.
    """
    try:
        with PACKED.get(path.suffix.lower(), Path.open)(path, "rb") as file:
            yield from file
    except (OSError, EOFError, ValueError, zlib.error, lzma.LZMAError) as error:
        raise ValueError(
            f"{path} cannot be read ({error}): check that it is whole, and what its name says"
        ) from None


def utf8_text(path: Path) -> str:
    r"""A file's text, with or without a byte order mark; lines end with \n alone.

    Raises:
        ValueError: it is not UTF-8, or cannot be unpacked.
    """
    content = b"".join(_lines(path)).removeprefix(codecs.BOM_UTF8)
    return _decoded(content, path, 0).replace("\r\n", "\n").replace("\r", "\n")


def _decoded(content: bytes, path: Path, start: int) -> str:
    """Bytes of a file as text; `start` is where they begin in it."""
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path} is not UTF-8 (byte {start + error.start} is {content[error.start]:#04x}): "
            "convert it, for example with iconv -f latin1 -t utf-8"
        ) from None


def jsonl_values(path: Path) -> Iterator[tuple[int, object]]:
    """What each line of a .jsonl file holds, after its number from 1; empty lines are left out.

    No more of the file is read than is used.

    Raises:
        ValueError: it is not UTF-8, or a line, which is named, is not JSON.
    """
    start = 0
    for number, line in enumerate(_lines(path), start=1):
        text = _decoded(line, path, start).removeprefix("\ufeff")
        start += len(line)
        if text.strip():
            yield number, _json(text, f"{path}, line {number}")


def _json(text: str, where: str) -> object:
    try:
        return from_json(text)
    except ValueError as error:
        raise ValueError(f"{where} is not JSON: {error}") from None


def _json_values(path: Path) -> Iterator[tuple[int, object]]:
    """The items of a .json file's list, or its one value, each after its number from 0.

    Some files of that name hold one value per line; they are read as .jsonl.
    """
    try:
        found = _json(utf8_text(path), str(path))
    except ValueError as error:
        if "Extra data" not in str(error):
            raise
        yield from jsonl_values(path)
        return
    yield from enumerate(found if isinstance(found, list) else [found])


def _from_row(values: object, title: str, where: str, column: str | None) -> Row:
    """A row's document, from the column named, or from the first of `COLUMNS` that is not null."""
    columns = values if isinstance(values, dict) else {}
    title = str(columns.get("title") or columns.get("short_book_title") or title)
    wanted = COLUMNS if column is None else (column,)
    there = [name for name in wanted if name in columns]
    if not there:
        words = "'text' (or 'content')" if column is None else repr(column)
        raise ValueError(
            f"{where} has no column {words}; it has {sorted(columns) or 'none'}: name another "
            "with column=. One of token ids will do, if they are this tokenizer's"
        )
    name = next((name for name in there if columns[name] is not None), there[0])
    content = columns[name]
    if content is None or isinstance(content, str) or (column is not None and _are_ids(content)):
        return Row(title, content, where)
    raise ValueError(
        f"{where}: its column {name!r} holds {_described(content)}, which is no text: name another "
        "with column=. One of token ids will do, if they are this tokenizer's"
    )


def _are_ids(content: object) -> bool:
    return isinstance(content, list) and all(type(each) is int for each in content)


def _described(content: object) -> str:
    if not isinstance(content, list):
        return f"a value of type {type(content).__name__}"
    kinds = sorted({type(each).__name__ for each in content})
    return f"a list of {', '.join(kinds) or 'nothing'}"


def hub_rows(repository: str, split: str, column: str | None = None) -> Iterator[Row]:
    """A data set of the hub, streamed: no more rows are fetched than are used.

    Raises:
        ValueError: the datasets package is missing, the data set cannot be read, or it has no such
            column.
    """
    try:
        import datasets
    except ImportError:
        raise ValueError(
            f"the hub data set {repository!r} needs the datasets package: pip install datasets"
        ) from None
    for number, values in enumerate(_streamed(datasets, repository, split)):
        where = f"{repository}, row {number}"
        yield _from_row(values, f"{repository}[{number}]", where, column)


def _streamed(datasets: Any, repository: str, split: str) -> Iterator[Any]:
    try:
        yield from datasets.load_dataset(repository, split=split, streaming=True)
    except Exception as error:  # the library raises many kinds, its network layer more, at any row
        raise ValueError(
            f"the hub data set {repository!r} (split {split!r}) cannot be read: {error}. Without a "
            "network, use a packaged corpus ('kjv', 'python') or a local file; a data set that "
            "needs its own loading script, download as files"
        ) from error
