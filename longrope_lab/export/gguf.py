"""Puts a scaling into a GGUF file, so that llama.cpp and what is built on it turn by its angles.

What is written here (`gguf_rotary.py` says what that is) `models/gguf_files.py` reads.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from ..common.checks import whole
from ..common.files import at_home, replacing
from ..common.progress import Progress
from ..models.gguf_files import GgufFile, architecture_of, check_keys, file_of, scaling_of_file
from ..models.gguf_header import (
    FLOAT32,
    TEXT,
    UINT32,
    GgufHeader,
    entry,
    read_header,
    start,
    tensor_entry,
)
from ..rope.schedule import Scaling
from ..rope.spec import RopeSpec
from .gguf_rotary import RotaryEntries, check_same_model, rotary_entries

# Bytes that are copied at a time, and the errors of systems that copy between sockets alone.
PIECE = 1 << 26
NOT_IN_KERNEL = (errno.EINVAL, errno.ENOSYS, errno.ENOTSOCK, errno.EOPNOTSUPP)


def add_scaling_to_gguf(
    source: str | os.PathLike[str],
    scaling: Scaling,
    path: str | os.PathLike[str],
    *,
    window: int | None = None,
    overwrite: bool = False,
) -> Path:
    """Copy a GGUF file, quantised or not, with a scaling in it; weights are copied as they are.

    One set of factors becomes the tensor ``rope_freqs.weight``, which llama.cpp uses at every
    length. Two become ``rope_factors_short.weight`` and ``rope_factors_long.weight``; of these,
    llama.cpp takes the long set once a context is made for more tokens than the short set serves.
    Position Interpolation and YaRN are written as keys where a graph takes no factors (Qwen 2, 3).

    A file that says "longrope" and holds no factors, as llama.cpp's converter writes of many
    models, gets those that it lacks.

    Args:
        source: the file; it is not changed.
        scaling: made for this model: a `RopeScaling`, or a schedule of at most two.
        path: the new file.
        window: the window that the model was trained on, in tokens, where the file states another.
        overwrite: take the place of a file that is there.

    Returns:
        The new file.

    Raises:
        FileNotFoundError: there is no source.
        FileExistsError: the new file is there already.
        ValueError: a source that is cut, in parts, or scaled already; a scaling for another model,
            or one that this architecture, or any GGUF file, cannot hold.
        UnwritableError: the new file cannot be written (a full disk); nothing is kept.
    """
    source, path = at_home(source), at_home(path)
    header = read_header(source)
    check_free_file(path, overwrite=overwrite)
    if path.exists() and path.samefile(source):
        raise ValueError(
            f"{path} is the source itself, which is not written over: name another file"
        )
    file, architecture = file_of(header), architecture_of(header)
    plain = _plain(header, file, architecture, window)
    _check_unscaled(header, file, plain)
    check_same_model(scaling.spec, plain, str(source))
    entries = rotary_entries(scaling, plain, architecture)
    with replacing(path) as part:
        _copy(header, architecture, entries, part)
    return path


def check_free_file(path: str | os.PathLike[str], *, overwrite: bool = False) -> None:
    """Refuse a name that no GGUF file can get.

    Raises:
        ValueError: it does not end with ".gguf", by which everybody knows such files.
        FileExistsError: there is one, or a folder.
    """
    path = at_home(path)
    if path.suffix != ".gguf":
        raise ValueError(f"{path} would not be known as a GGUF file: name one that ends in .gguf")
    if path.is_dir():
        raise FileExistsError(f"{path} is a folder: name a new file")
    if path.exists() and not overwrite:
        raise FileExistsError(
            f"{path} is there already, and nothing is written over unasked: name a new file, or "
            "pass overwrite=True (--overwrite)"
        )


def _plain(header: GgufHeader, file: GgufFile, architecture: str, window: int | None) -> RopeSpec:
    """The rotary embedding under any scaling, as llama.cpp reads a header.

    Raises:
        ValueError: the header does not state it.
    """
    if window is not None:
        window = whole("window", window, 2, "a window has at least 2 tokens")

    def of(name: str) -> int | None:
        value = header.values.get(f"{architecture}.{name}")
        return value if isinstance(value, int) else None

    stated = file.rope.get("scaling.original_context_length") or file.context
    heads, width = of("attention.head_count"), of("embedding_length")
    head = of("attention.key_length") or (width // heads if width and heads else None)
    turned = file.rope.get("dimension_count", head)
    if not stated or not turned:
        raise ValueError(
            f"{header.path} does not state its context length, or how many dimensions are rotated: "
            "it holds no language model with a rotary embedding"
        )
    return RopeSpec(turned, window or int(stated), float(file.rope.get("freq_base", 10_000.0)))


def _check_unscaled(header: GgufHeader, file: GgufFile, plain: RopeSpec) -> None:
    """Refuse a file that scales already; one that says so and holds no factors does not.

    Raises:
        ValueError: it does, or in a way that is not known.
    """
    check_keys(file)
    if file.rope.get("scaling.type") == "longrope" and not file.factors:
        return
    before = scaling_of_file(file, plain)
    if before is not None:
        raise ValueError(
            f"{header.path} is scaled already ({before.method}, for {file.context or 0:,} tokens), "
            "and a second scaling on top is not what was searched: take the file without it"
        )


def _copy(header: GgufHeader, architecture: str, entries: RotaryEntries, part: Path) -> None:
    """Write a file with other entries; what is not of the scaling stays to the byte."""
    new = {f"{architecture}.{name}": value for name, value in entries.keys.items()}
    gone = (*new, f"{architecture}.rope.scale_linear")
    scaling = f"{architecture}.rope.scaling."
    keys = [e for n, e in header.entries.items() if n not in gone and not n.startswith(scaling)]
    keys += [_entry(name, value) for name, value in new.items()]
    tensors = [tensor.entry for tensor in header.tensors.values()]
    place = header.padded(header.end - header.data)
    for name, factors in entries.factors.items():
        tensors.append(tensor_entry(name, len(factors), place))
        place += header.padded(4 * len(factors))
    head = b"".join([start(header.version, len(tensors), len(keys)), *keys, *tensors])
    with Path(header.path).open("rb") as source, part.open("wb") as target:
        target.write(head.ljust(header.padded(len(head)), b"\0"))
        size = header.end - header.data
        with Progress("copying the weights (MB)", size // 1_000_000) as shown:
            for done in _copied(source, target, header.data, size):
                shown.advance(done // 1_000_000 - shown.done)
        target.write(b"\0" * (header.padded(size) - size))
        for factors in entries.factors.values():
            numbers = factors.astype("<f4").tobytes()
            target.write(numbers.ljust(header.padded(len(numbers)), b"\0"))


def _entry(name: str, value: str | int | float) -> bytes:
    kind = {str: TEXT, int: UINT32, float: FLOAT32}[type(value)]
    return entry(name, kind, value)


def _copied(source: BinaryIO, target: BinaryIO, begin: int, size: int) -> Iterator[int]:
    """Copy bytes from a place on, in the kernel where it can; yields how many are copied."""
    target.flush()
    source.seek(begin)
    in_kernel, done = hasattr(os, "sendfile"), 0
    while done < size:
        piece = min(PIECE, size - done)
        try:
            if in_kernel:
                count = os.sendfile(target.fileno(), source.fileno(), begin + done, piece)
            else:
                count = target.write(source.read(piece))
        except OSError as error:
            if not in_kernel or error.errno not in NOT_IN_KERNEL:
                raise
            in_kernel = False
            source.seek(begin + done)
            continue
        if not count:
            raise ValueError(f"{source.name} became shorter while it was copied: try it again")
        done += count
        yield done
