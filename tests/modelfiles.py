"""Models for tests that only read their headers: small files, whole in form, with no sense in their weights."""

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 2048,
    "torch_dtype": "bfloat16",
}
#: name: (dtype, shape)
WEIGHTS: dict[str, tuple[str, list[int]]] = {"embed.weight": ("BF16", [100, 64]), "norm.weight": ("BF16", [64])}
_BYTES = {"BF16": 2, "F16": 2, "F32": 4, "I32": 4, "U8": 1}


def safetensors(tensors: Mapping[str, tuple[str, list[int]]]) -> bytes:
    """A file's bytes, all weights zero."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    at = 0
    for name, (dtype, shape) in tensors.items():
        size = _BYTES[dtype]
        for side in shape:
            size *= side
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + size]}
        at += size
    raw = json.dumps(header).encode()
    return struct.pack("<Q", len(raw)) + raw + bytes(at)


def write_folder(folder: Path, config: Mapping[str, Any] = LLAMA, **files: str) -> Path:
    """A safetensors model; further files by their names, with `_` for the dot: README_md="…"."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "model.safetensors").write_bytes(safetensors(WEIGHTS))
    for name, text in files.items():
        stem, _, suffix = name.rpartition("_")
        (folder / f"{stem}.{suffix}").write_text(text)
    return folder


def gguf(values: Mapping[str, object] | None = None, *, tensors: int = 2, kind: int = 2) -> bytes:
    """A GGUF file's bytes: tensors of 64 elements, Q4_0 unless told otherwise, all zero."""
    values = {"general.architecture": "llama", "general.file_type": 15, "llama.context_length": 4096} | dict(
        values or {}
    )
    raw = b"GGUF" + struct.pack("<IQQ", 3, tensors, len(values))
    for key, value in values.items():
        raw += _string(key) + _value(value)
    size = {0: 256, 1: 128, 2: 36}[kind]
    for n in range(tensors):
        raw += _string(f"blk.{n}.weight") + struct.pack("<IQIQ", 1, 64, kind, n * 64 if kind == 2 else n * size)
    raw += bytes(-len(raw) % 32)
    return raw + bytes((tensors - 1) * (64 if kind == 2 else size) + size if tensors else 0)


def write_gguf(path: Path, values: Mapping[str, object] | None = None, **shape: int) -> Path:
    """The same, in a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gguf(values, **shape))
    return path


def _string(text: str) -> bytes:
    return struct.pack("<Q", len(text.encode())) + text.encode()


def _value(value: object) -> bytes:
    if isinstance(value, str):
        return struct.pack("<I", 8) + _string(value)
    assert isinstance(value, int)
    return struct.pack("<II", 4, value)
