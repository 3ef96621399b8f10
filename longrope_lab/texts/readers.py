"""Reads texts from files and from data sets of the Hugging Face hub."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

FILE_TYPES = (".txt", ".jsonl", ".parquet")


class Text(NamedTuple):
    """A document before tokenising."""

    title: str
    text: str


def file_texts(files: list[Path], source: str) -> Iterator[Text]:
    """The texts in files, one after the other; `source` is named where there are no files.

    Raises:
        FileNotFoundError: there are no files.
        ValueError: a file of another kind, damaged, not UTF-8, or without a column of text.
    """
    if not files:
        raise FileNotFoundError(f"no {', '.join(FILE_TYPES)} files at {source}: check the path")
    for path in files:
        if path.suffix not in FILE_TYPES:
            raise ValueError(
                f"{path} is a {path.suffix or 'nameless'} file: a corpus is {', '.join(FILE_TYPES)}"
            )
        yield from _one_file(path)


def _one_file(path: Path) -> Iterator[Text]:
    if path.stat().st_size == 0:
        raise ValueError(f"{path} is empty: a corpus file holds text")
    if path.suffix == ".txt":
        yield Text(path.stem, utf8_text(path))
        return
    in_rows = path.suffix == ".parquet"
    for number, values in _parquet_rows(path) if in_rows else jsonl_values(path):
        where = f"{path}, {'row' if in_rows else 'line'} {number}"
        yield _from_row(values, f"{path.stem}[{number}]", where)


def _parquet_rows(path: Path) -> Iterator[tuple[int, Any]]:
    """The rows of a parquet file, each after its number from 0."""
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            batches = file.iter_batches(batch_size=16)
            yield from enumerate(row for batch in batches for row in batch.to_pylist())
    except (pyarrow.ArrowException, OSError) as error:  # damaged at the end, or in the middle
        raise ValueError(f"{path} is not a readable parquet file: {error}") from None


def utf8_text(path: Path) -> str:
    """A file's text, with or without a byte order mark.

    Raises:
        ValueError: it is not UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path} is not UTF-8 (byte {error.start} is {error.object[error.start]:#04x}): "
            "convert it, for example with iconv -f latin1 -t utf-8"
        ) from None


def jsonl_values(path: Path) -> Iterator[tuple[int, Any]]:
    """What each line of a .jsonl file holds, after its number from 1; empty lines are left out.

    Raises:
        ValueError: it is not UTF-8, or a line, which is named, is not JSON.
    """
    # Python's splitlines would also cut at U+2028, inside a string.
    for number, line in enumerate(utf8_text(path).split("\n"), start=1):
        if line.strip():
            try:
                yield number, json.loads(line)
            except json.JSONDecodeError as error:
                raise ValueError(f"{path}, line {number} is not JSON: {error}") from None


def _from_row(values: Any, title: str, where: str) -> Text:
    columns = values if isinstance(values, dict) else {}
    title = str(columns.get("title") or columns.get("short_book_title") or title)
    for column in ("text", "content"):
        if isinstance(columns.get(column), str):
            return Text(title, columns[column])
    raise ValueError(
        f"{where} has no column 'text' (or 'content'); it has {sorted(columns) or 'none'}"
    )


def hub_texts(repository: str, split: str) -> Iterator[Text]:
    """The texts of a data set of the hub, streamed: no more rows are fetched than are used.

    Raises:
        ValueError: the datasets package is missing, the data set cannot be read, or it has no
            column of text.
    """
    try:
        import datasets
    except ImportError:
        raise ValueError(
            f"the hub data set {repository!r} needs the datasets package: pip install datasets"
        ) from None
    for number, values in enumerate(_hub_rows(datasets, repository, split)):
        yield _from_row(values, f"{repository}[{number}]", f"{repository}, row {number}")


def _hub_rows(datasets: Any, repository: str, split: str) -> Iterator[Any]:
    try:
        yield from datasets.load_dataset(repository, split=split, streaming=True)
    except Exception as error:  # the library raises many kinds, its network layer more, at any row
        raise ValueError(
            f"the hub data set {repository!r} (split {split!r}) cannot be read: {error}. Without a "
            "network, use a packaged corpus ('kjv', 'python') or a local file; a data set that "
            "needs its own loading script, download as files"
        ) from error
