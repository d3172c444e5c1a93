"""The header of a GGUF file: enough to plan memory before a model is loaded, and to refuse what is no model.

The format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md (little endian, versions 2 and 3). A file comes
from strangers, so each size in it is checked against a bound and the file's own length before it is believed.
"""

import math
import re
import struct
from pathlib import Path
from typing import BinaryIO

import msgspec

from inference.ggml import FILE_TYPES, GUESSED, TYPES

MAGIC = b"GGUF"
_STRING, _ARRAY = 8, 9
#: Value types of one number, by the format's numbering.
_LETTERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_NUMBERS = {kind: struct.Struct("<" + letter) for kind, letter in _LETTERS.items()}
#: More than any real header has of it; a number beyond is garbage, not a size to allocate.
_MOST_BYTES = 1 << 26
_MOST_ITEMS = 1 << 24
_MOST_KEYS = 1 << 14
_MOST_FIRST_KEYS = 64
_MOST_TENSORS = 1 << 18
_MOST_NAME = 1 << 16
_MOST_HEADER = 1 << 27
_MOST_DIMENSIONS = 4
#: Longer arrays than one entry a layer are vocabularies and their scores; nobody asks for them here.
_KEPT_ITEMS = 4096
_KEPT_TEXT = 1 << 20
_ALIGNMENT = 32
_PART = re.compile(r"-\d{5}-of-(\d{5})\.gguf$")

Value = str | int | float | bool | list[int | float | bool] | None


class BadGgufError(ValueError):
    """The file is no GGUF file, or a damaged one."""


class Shape(msgspec.Struct, frozen=True):
    """What of a model decides the size of its KV cache."""

    context: int  #: tokens it was trained for
    kv_bytes: int  #: of KV cache for one token, in 16 bits


class Header(msgspec.Struct, frozen=True):
    """What a file says of itself."""

    values: dict[str, Value]
    tensors: int
    elements: int  #: of all tensors together, which is the model's number of parameters
    quantization: str  #: "Q4_K_M", "F16", …; "": unknown
    bytes: int  #: of all tensors together


def parts(path: Path) -> list[Path]:
    """All files of a model that was cut into several, the first one first, whether they are there or not."""
    cut = _PART.search(path.name)
    if cut is None:
        return [path]
    stem, count = path.name[: cut.start()], max(1, int(cut[1]))
    return [path.with_name(f"{stem}-{n:05d}-of-{cut[1]}.gguf") for n in range(1, count + 1)]


def is_gguf(path: Path) -> bool:
    """Whether a file begins like one. Raises OSError."""
    with path.open("rb") as file:
        return file.read(len(MAGIC)) == MAGIC


def read_shape(path: Path) -> Shape:
    """The shape of the model in a file. Raises BadGgufError, OSError."""
    return shape_of(read_values(path))


def shape_of(values: dict[str, Value]) -> Shape:
    """The shape, out of a header's values; zeros where they do not tell."""
    name = values.get("general.architecture")

    def number(key: str, default: int) -> int:
        value = values.get(f"{name}.{key}", default)
        return int(value) if isinstance(value, int | float) and math.isfinite(value) else default

    heads = number("attention.head_count", 1)
    width = number("embedding_length", 0) // max(1, heads)
    per_head = number("attention.key_length", width) + number("attention.value_length", width)
    layers = number("block_count", 0)
    kv_heads = values.get(f"{name}.attention.head_count_kv", heads)
    of_all_layers = sum(kv_heads) if isinstance(kv_heads, list) else number("attention.head_count_kv", heads) * layers
    return Shape(number("context_length", 0), int(of_all_layers) * per_head * 2)


def read_values(path: Path) -> dict[str, Value]:
    """The header's keys and values; vocabularies and what else is long are skipped over, as None.

    Raises BadGgufError, OSError.
    """
    with path.open("rb") as file:
        return _begin(file)[0]


def read_header(path: Path) -> Header:
    """The whole header. Raises BadGgufError, also where the file ends before its last tensor does; OSError."""
    with path.open("rb") as file:
        values, count = _begin(file)
        tensors = [_tensor(file) for _ in range(count)]
        alignment = values.get("general.alignment", _ALIGNMENT)
        if not isinstance(alignment, int) or not 0 < alignment <= _MOST_BYTES:
            raise BadGgufError("its alignment is no size")
        start = -(-file.tell() // alignment) * alignment
        if start + max((tensor.end for tensor in tensors), default=0) > path.stat().st_size:
            raise BadGgufError("it ends before its last tensor does")
    return Header(
        values=values,
        tensors=count,
        elements=sum(tensor.elements for tensor in tensors),
        quantization=_quantization(values, tensors),
        bytes=sum(tensor.size for tensor in tensors),
    )


class _Tensor(msgspec.Struct, frozen=True):
    """One tensor; `size` and `end`, counted from the start of all tensors, in bytes. An unknown type counts none."""

    kind: int
    elements: int
    size: int
    end: int


def _begin(file: BinaryIO) -> tuple[dict[str, Value], int]:
    """The values, and how many tensors follow them."""
    if file.read(4) != MAGIC:
        raise BadGgufError("it does not begin with GGUF")
    version = _number(file, 4)
    if version not in (2, 3):
        raise BadGgufError(f"it has format version {version}, and 2 and 3 are known")
    tensors = _size(file, _MOST_TENSORS)
    values: dict[str, Value] = {}
    for _ in range(_size(file, _MOST_KEYS)):
        name, kind = _string(file), int(_number(file, 4))
        values[name] = _value(file, kind)
        if file.tell() > _MOST_HEADER:
            raise BadGgufError("its header is longer than any real one")
    return values, tensors


def _tensor(file: BinaryIO) -> _Tensor:
    _string(file)
    dimensions = int(_number(file, 4))
    if dimensions > _MOST_DIMENSIONS:
        raise BadGgufError(f"a tensor of it has {dimensions} dimensions")
    elements = math.prod(int(_number(file, 10)) for _ in range(dimensions))
    kind, offset = int(_number(file, 4)), int(_number(file, 10))
    layout = TYPES.get(kind)
    size = -(-elements // layout.block) * layout.size if layout is not None else 0
    return _Tensor(kind, elements, size, offset + size)


def _quantization(values: dict[str, Value], tensors: list[_Tensor]) -> str:
    stated = values.get("general.file_type")
    if isinstance(stated, int) and stated & ~GUESSED in FILE_TYPES:
        return FILE_TYPES[stated & ~GUESSED]
    sizes: dict[int, int] = {}
    for tensor in tensors:
        sizes[tensor.kind] = sizes.get(tensor.kind, 0) + tensor.size
    most = max(sizes, key=lambda kind: sizes[kind], default=-1)
    return TYPES[most].name if most in TYPES else ""


def _value(file: BinaryIO, kind: int) -> Value:
    if kind == _STRING:
        return _text(file)
    return _array(file) if kind == _ARRAY else _number(file, kind)


def _text(file: BinaryIO) -> str | None:
    size = _size(file, _MOST_BYTES)
    if size > _KEPT_TEXT:
        file.seek(size, 1)
        return None
    return _read(file, size).decode(errors="replace")


def _array(file: BinaryIO) -> list[int | float | bool] | None:
    kind, size = int(_number(file, 4)), _size(file, _MOST_ITEMS)
    if kind == _STRING:
        for _ in range(size):
            file.seek(_size(file, _MOST_BYTES), 1)
        return None
    if size > _KEPT_ITEMS:
        file.seek(size * _layout(kind).size, 1)
        return None
    return [_number(file, kind) for _ in range(size)]


def _layout(kind: int) -> struct.Struct:
    if kind not in _NUMBERS:
        raise BadGgufError(f"its header holds a value of the unknown type {kind}")
    return _NUMBERS[kind]


def _number(file: BinaryIO, kind: int) -> int | float | bool:
    layout = _layout(kind)
    value: int | float | bool = layout.unpack(_read(file, layout.size))[0]
    return value


def _size(file: BinaryIO, most: int) -> int:
    size = int(_number(file, 10))
    if size > most:
        raise BadGgufError(f"its header gives a size of {size}")
    return size


def _string(file: BinaryIO) -> str:
    return _read(file, _size(file, _MOST_NAME)).decode(errors="replace")


def _read(file: BinaryIO, size: int) -> bytes:
    data = file.read(size)
    if len(data) < size:
        raise BadGgufError("it ends within its header")
    return data


def read_architecture(path: Path) -> str | None:
    """The architecture that a file names at its beginning, where writers put it; None where too little is there.

    Raises BadGgufError, OSError.
    """
    with path.open("rb") as file:
        if file.read(4) != MAGIC:
            raise BadGgufError("it does not begin with GGUF")
        try:
            _number(file, 4), _number(file, 10)
            for _ in range(min(int(_number(file, 10)), _MOST_FIRST_KEYS)):
                name, value = _string(file), _value(file, int(_number(file, 4)))
                if name == "general.architecture":
                    return str(value)
        except BadGgufError:
            if file.read(1):  # it went wrong before the end of what is there
                raise
    return None
