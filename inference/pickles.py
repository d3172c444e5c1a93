"""The child that makes safetensors out of pickles: `python -m inference.pickles FOLDER PICKLE…`. It is confined.

Reading a pickle can run whatever it names. torch's `weights_only` reader builds tensors and refuses all else; below
that, this process may use so much memory and time and no more, and knows no secret. What goes wrong is told on stdout
in one line, with exit status 1.

Weights are mapped, not read: a tensor at a time goes from the mapped pickle to the new file, so that a shard of 10 GB
needs no 10 GB of memory. safetensors' own writer would take the whole of it. The format:
https://github.com/huggingface/safetensors#format
"""

import json
import os
import re
import sys
from pathlib import Path
from typing import Any

from inference.confine import confine

#: What torch itself takes of address space, in bytes; the pickle comes on top, mapped and once more for old formats.
OWN_MEMORY = 12 << 30
CPU_SECONDS = 3600
DTYPES = {
    "float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16",
    "int64": "I64", "int32": "I32", "int16": "I16", "int8": "I8", "uint8": "U8", "bool": "BOOL",
}  # fmt: skip


class BadPickleError(Exception):
    """The file holds something else than weights."""


def main() -> int:
    """Converts, and tells in one line what was wrong."""
    into, pickles = Path(sys.argv[1]), [Path(name) for name in sys.argv[2:]]
    confine(OWN_MEMORY + 2 * max(pickle.stat().st_size for pickle in pickles), CPU_SECONDS)
    try:
        convert(into, pickles)
    except BadPickleError as error:
        print(error)  # noqa: T201 - it is how the parent hears of it
        return 1
    except MemoryError:
        print("the conversion ran out of the memory that it may use")  # noqa: T201
        return 1
    return 0


def convert(into: Path, pickles: list[Path]) -> None:
    """Writes a safetensors file for each pickle, and the index where there are several. Raises BadPickleError."""
    places: dict[str, str] = {}
    size = 0
    for pickle in pickles:
        name = re.sub(r"^pytorch_model", "model", pickle.name).removesuffix(".bin") + ".safetensors"
        tensors = _load(pickle)
        size += _write(into / name, tensors)
        places |= dict.fromkeys(tensors, name)
    if len(pickles) > 1:
        index = {"metadata": {"total_size": size}, "weight_map": places}
        (into / "model.safetensors.index.json").write_text(json.dumps(index, indent=1))


def _load(pickle: Path) -> dict[str, Any]:
    import torch

    try:
        try:
            loaded = torch.load(pickle, map_location="cpu", weights_only=True, mmap=True)
        except RuntimeError:  # the format before torch 1.6 cannot be mapped
            loaded = torch.load(pickle, map_location="cpu", weights_only=True)
    except MemoryError:
        raise
    except Exception as error:
        reason = str(error).partition("\n")[0][:200]
        raise BadPickleError(f"'{pickle.name}' is not read as weights ({type(error).__name__}: {reason})") from error
    tensors = {str(name): tensor for name, tensor in dict(loaded).items() if isinstance(tensor, torch.Tensor)}
    strange = {str(tensor.dtype) for tensor in tensors.values() if str(tensor.dtype)[6:] not in DTYPES}
    if not tensors or strange:
        raise BadPickleError(f"'{pickle.name}' holds {', '.join(sorted(strange)) or 'no tensors'}")
    return tensors


def _write(path: Path, tensors: dict[str, Any]) -> int:
    """Tensors that share their storage (tied weights) are written once each: the format has no sharing."""
    import torch

    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, tensor in tensors.items():
        begin, end = end, end + tensor.numel() * tensor.element_size()
        header[name] = {
            "dtype": DTYPES[str(tensor.dtype)[6:]],
            "shape": list(tensor.shape),
            "data_offsets": [begin, end],
        }
    raw = json.dumps(header).encode()
    raw += b" " * (-len(raw) % 8)
    with path.open("wb") as file:
        file.write(len(raw).to_bytes(8, "little") + raw)
        for tensor in tensors.values():
            file.write(tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().data)
        file.flush()
        os.fsync(file.fileno())
    return end


if __name__ == "__main__":
    sys.exit(main())
