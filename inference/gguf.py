"""The header of a GGUF file: enough to plan memory before a model is loaded, and to refuse what is no model.

The format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md (little endian, versions 2 and 3).
"""

import struct
from pathlib import Path
from typing import BinaryIO

import msgspec

MAGIC = b"GGUF"
_STRING, _ARRAY = 8, 9
#: Value types of one number, by the format's numbering.
_LETTERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_NUMBERS = {kind: struct.Struct("<" + letter) for kind, letter in _LETTERS.items()}
#: More than any real header has of it; a number beyond is garbage, not a size to allocate.
_MOST = 1 << 26

Value = str | int | float | bool | list[int | float | bool] | None


class BadGgufError(ValueError):
    """The file is no GGUF file, or a damaged one."""


class Shape(msgspec.Struct, frozen=True):
    """What of a model decides the size of its KV cache."""

    context: int  #: tokens it was trained for
    kv_bytes: int  #: of KV cache for one token, in 16 bits


def read_shape(path: Path) -> Shape:
    """The shape of the model in a file. Raises BadGgufError, OSError."""
    values = read_values(path)
    name = values.get("general.architecture")

    def number(key: str, default: int) -> int:
        value = values.get(f"{name}.{key}", default)
        return int(value) if isinstance(value, int | float) else default

    heads = number("attention.head_count", 1)
    width = number("embedding_length", 0) // max(1, heads)
    per_head = number("attention.key_length", width) + number("attention.value_length", width)
    layers = number("block_count", 0)
    kv_heads = values.get(f"{name}.attention.head_count_kv", heads)
    of_all_layers = sum(kv_heads) if isinstance(kv_heads, list) else number("attention.head_count_kv", heads) * layers
    return Shape(number("context_length", 0), int(of_all_layers) * per_head * 2)


def read_values(path: Path) -> dict[str, Value]:
    """The header's keys and values; arrays of strings (vocabularies) are skipped over, as None."""
    with path.open("rb") as file:
        if file.read(4) != MAGIC:
            raise BadGgufError("it does not begin with GGUF")
        version = _number(file, 4)
        if version not in (2, 3):
            raise BadGgufError(f"it has format version {version}, and 2 and 3 are known")
        _number(file, 10)  # how many tensors
        return {_string(file): _value(file, int(_number(file, 4))) for _ in range(_size(file))}


def _value(file: BinaryIO, kind: int) -> Value:
    if kind == _STRING:
        return _string(file)
    return _array(file) if kind == _ARRAY else _number(file, kind)


def _array(file: BinaryIO) -> list[int | float | bool] | None:
    kind, size = int(_number(file, 4)), _size(file)
    if kind == _STRING:
        for _ in range(size):
            file.seek(_size(file), 1)
        return None
    return [_number(file, kind) for _ in range(size)]


def _number(file: BinaryIO, kind: int) -> int | float | bool:
    if kind not in _NUMBERS:
        raise BadGgufError(f"its header holds a value of the unknown type {kind}")
    layout = _NUMBERS[kind]
    value: int | float | bool = layout.unpack(_read(file, layout.size))[0]
    return value


def _size(file: BinaryIO) -> int:
    size = int(_number(file, 10))
    if size > _MOST:
        raise BadGgufError(f"its header gives a size of {size}")
    return size


def _string(file: BinaryIO) -> str:
    return _read(file, _size(file)).decode(errors="replace")


def _read(file: BinaryIO, size: int) -> bytes:
    data = file.read(size)
    if len(data) < size:
        raise BadGgufError("it ends within its header")
    return data
