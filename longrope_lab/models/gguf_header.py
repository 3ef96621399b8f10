"""The header of a GGUF file: its keys, and where its tensors lie. Tensors are not read.

Entries are kept as bytes, too, so that a copy with other entries states the rest as it was. The
gguf package makes arrays of its own of every token; here a vocabulary is passed over, so that a
file of any size is looked at in tenths of a second. The format is llama.cpp's (``gguf.md``).
"""

from __future__ import annotations

import mmap
import os
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..common.files import Json
from ..rope.spec import Floats

MAGIC, VERSIONS = b"GGUF", (2, 3)
POINTER = b"version https://git-lfs"  # what Git leaves of a large file that it has not fetched
START = struct.Struct("<4sIQQ")  # magic, version, number of tensors, number of keys

# Types of values: numbers with their format, then text, then arrays of any of them.
NUMBERS = {
    0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d",
}  # fmt: skip
FLOAT32, UINT32, TEXT, ARRAY = 6, 4, 8, 9

# Arrays of more numbers are of the vocabulary: nobody asks for their values here.
LONGEST = 1024

# How llama.cpp names the parts of a model, and finds one by another.
NUMBERED = re.compile(r"-\d{5}-of-(\d{5})\.gguf$")

# A tensor of a layer, with its number.
LAYER = re.compile(r"blk\.(\d{1,6})\.")

# Tensors of factors are of these types.
FLOATS = {0: "<f4", 1: "<f2"}


@dataclass(frozen=True)
class Tensor:
    """One tensor: its entry in the header as it stands there, and where it lies in the file.

    Args:
        entry: name, shape, type and offset, as bytes.
        kind: the number of its type.
        start, size: of its data, in bytes.
    """

    entry: bytes
    kind: int
    start: int
    size: int


@dataclass(frozen=True)
class GgufHeader:
    """What stands before the tensors.

    Args:
        path: of the file.
        version: of the format.
        values: of the keys, without long arrays and arrays of texts.
        entries: each key with its value as bytes.
        tensors: by name.
        alignment: that each tensor's place is a multiple of, in bytes.
        data: where the tensors begin.
    """

    path: str
    version: int
    values: Json
    entries: Mapping[str, bytes]
    tensors: Mapping[str, Tensor]
    alignment: int
    data: int

    @property
    def end(self) -> int:
        """Where the last tensor ends, in bytes from the start of the file."""
        return max((t.start + t.size for t in self.tensors.values()), default=self.data)

    @property
    def layers(self) -> int:
        """How many layers it holds tensors of."""
        found = (LAYER.match(name) for name in self.tensors)
        return max((int(each[1]) + 1 for each in found if each), default=0)

    def padded(self, size: int) -> int:
        """The next multiple of the alignment."""
        return -(-size // self.alignment) * self.alignment

    def floats(self, name: str) -> Floats:
        """A tensor of a few floating-point numbers, in one dimension."""
        tensor = self.tensors[name]
        if tensor.kind not in FLOATS:
            raise ValueError(f"{self.path} holds {name} in a type that factors do not have")
        with Path(self.path).open("rb") as file:
            file.seek(tensor.start)
            return np.frombuffer(file.read(tensor.size), FLOATS[tensor.kind]).astype(np.float64)


def read_header(path: str | os.PathLike[str]) -> GgufHeader:
    """Read the header of a file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no GGUF file, or one of several parts of one; is of a form that is not
            known; or ends too early.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no GGUF file at {path}: check the path")
    try:
        with path.open("rb") as file:
            _check_beginning(path, file.read(len(POINTER)))
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
                header = _read(str(path), content)
    except (struct.error, UnicodeDecodeError) as error:
        raise _cut(path, "in its header") from error
    except OSError as error:
        raise ValueError(
            f"{path} cannot be read ({error.strerror or error}): check its permissions and the disk"
        ) from error
    _check_whole(path, header)
    return header


def _check_whole(path: Path, header: GgufHeader) -> None:
    """Refuse a part: only the first one states a model, and none has all weights."""
    parts, number = (header.values.get(f"split.{key}", 0) for key in ("count", "no"))
    if parts in (0, 1):
        return
    which = f"part {number + 1}" if isinstance(number, int) else "a part"
    first = NUMBERED.sub(r"-00001-of-\1.gguf", path.name)
    if number != 0 and first == path.name:  # its name does not tell
        first = "FIRST.gguf"
    raise ValueError(
        f"{path} is {which} of {parts} of a model: make one file of them, by llama.cpp's "
        f"llama-gguf-split --merge {first} WHOLE.gguf, which is given the first"
    )


def _check_beginning(path: Path, begins: bytes) -> None:
    """Refuse what is no GGUF file, by its first bytes."""
    if begins == POINTER:
        raise ValueError(f"{path} is a pointer of Git LFS and not the file: fetch it, git lfs pull")
    if not begins.startswith(MAGIC):
        raise ValueError(
            f"{path} is no GGUF file: it does not begin with {MAGIC.decode()!r}; download or "
            "convert it again"
        )


def _cut(path: str | os.PathLike[str], where: str) -> ValueError:
    return ValueError(
        f"{path} ends {where}, or is damaged there: download or convert it again, and compare its "
        "size with the original's"
    )


def _read(path: str, content: mmap.mmap) -> GgufHeader:
    _, version, tensors, keys = START.unpack_from(content)
    if version not in VERSIONS:
        raise ValueError(
            f"{path} is of version {version} of GGUF (or of another byte order), and known are "
            f"{', '.join(map(str, VERSIONS))}: convert it again with a llama.cpp of today"
        )
    at = _Cursor(content, START.size)
    values: Json = {}
    entries: dict[str, bytes] = {}
    for _ in range(keys):
        start = at.place
        name = at.text()
        value = at.value(at.number("I"))
        if value is not None:
            values[name] = value
        entries[name] = content[start : at.place]
    alignment = int(values.get("general.alignment", 32))
    found = [_tensor(path, at) for _ in range(tensors)]
    data = -(-at.place // alignment) * alignment
    placed = {n: Tensor(e, kind, data + offset, size) for n, e, kind, offset, size in found}
    header = GgufHeader(path, version, values, entries, placed, alignment, data)
    if header.end > len(content):
        raise _cut(path, f"after {len(content):,} of {header.end:,} bytes")
    return header


def _tensor(path: str, at: _Cursor) -> tuple[str, bytes, int, int, int]:
    """The next tensor's name, entry, type, offset among the data, and size."""
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

    start = at.place
    name = at.text()
    shape = [at.number("Q") for _ in range(at.number("I"))]
    kind, offset = at.number("I"), at.number("Q")
    try:
        block, size = GGML_QUANT_SIZES[GGMLQuantizationType(kind)]
    except (KeyError, ValueError):
        raise ValueError(
            f"{path} holds {name} in a type, {kind}, that the installed gguf package does not "
            "know: update it, pip install -U gguf"
        ) from None
    count = 1
    for length in shape:
        count *= length
    return name, at.content[start : at.place], kind, offset, count // block * size


class _Cursor:
    """A place in the file that moves on as values are read."""

    def __init__(self, content: mmap.mmap, place: int) -> None:
        self.content, self.place = content, place

    def number(self, form: str) -> int:
        """The next number, of one of struct's formats."""
        (value,) = struct.unpack_from(f"<{form}", self.content, self.place)
        self.place += struct.calcsize(f"<{form}")
        return value  # type: ignore[no-any-return]

    def text(self) -> str:
        """The next text."""
        return self._skip(self.number("Q")).decode()

    def value(self, kind: int) -> object:
        """The next value; None for an array of texts, or a long one."""
        if kind in NUMBERS:
            return self.number(NUMBERS[kind])
        if kind == TEXT:
            return self.text()
        if kind != ARRAY:
            raise struct.error(f"no type of values has the number {kind}")
        of, count = self.number("I"), self.number("Q")
        if of in NUMBERS:
            size = struct.calcsize(f"<{NUMBERS[of]}")
            numbers = self._skip(count * size)
            return (
                list(struct.unpack(f"<{count}{NUMBERS[of]}", numbers)) if count <= LONGEST else None
            )
        for _ in range(count):
            if of == TEXT:
                self._pass(self.number("Q"))
            else:
                self.value(of)
        return None

    def _skip(self, size: int) -> bytes:
        start = self.place
        self._pass(size)
        return self.content[start : self.place]

    def _pass(self, size: int) -> None:
        self.place += size
        if self.place > len(self.content):
            raise struct.error("the file ends here")


def entry(name: str, kind: int, value: str | float) -> bytes:
    """A key with its value, as a header holds it."""
    if isinstance(value, str):
        return _text(name) + struct.pack("<I", kind) + _text(value)
    return _text(name) + struct.pack(f"<I{NUMBERS[kind]}", kind, value)


def tensor_entry(name: str, count: int, offset: int) -> bytes:
    """The entry of a tensor of `count` float32 numbers."""
    return _text(name) + struct.pack("<IQIQ", 1, count, 0, offset)


def start(version: int, tensors: int, keys: int) -> bytes:
    """What a header begins with."""
    return START.pack(MAGIC, version, tensors, keys)


def _text(text: str) -> bytes:
    encoded = text.encode()
    return struct.pack("<Q", len(encoded)) + encoded
