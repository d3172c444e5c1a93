"""A folder of safetensors in the form of transformers: its configuration, and the headers of its weights.

The format of a header: https://github.com/huggingface/safetensors#format. A folder comes from strangers, so sizes are
bounded and every tensor must lie within its file; the weights themselves are not read.
"""

import json
import math
import re
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec

#: The format's own bound of a header, in bytes.
MOST_HEADER = 100_000_000
#: No configuration of a model is larger, in bytes.
MOST_JSON = 1 << 24
#: Bits of one element. What is not here counts no elements, and is no weight of a language model.
BITS = {"F64": 64, "F32": 32, "F16": 16, "BF16": 16, "I64": 64, "I32": 32, "I16": 16, "I8": 8, "U8": 8, "BOOL": 8} | {
    "F8_E4M3": 8,
    "F8_E5M2": 8,
    "F8_E8M0": 8,
    "F4": 4,
    "U64": 64,
    "U32": 32,
    "U16": 16,
}
#: Where a model of several parts keeps the configuration of its language.
_LANGUAGE = (("thinker_config", "text_config"), ("text_config",), ("llm_config",), ("language_config",))
_PART = re.compile(r"-\d{5}-of-(\d{5})\.safetensors$")


class BadCheckpointError(ValueError):
    """The folder holds a damaged model, or a part of one."""


class Tensor(msgspec.Struct, frozen=True):
    """A tensor as the header gives it; `data_offsets` are bytes from the end of the header."""

    dtype: str = ""
    shape: list[int] = []  # msgspec copies it for each instance
    data_offsets: tuple[int, int] = (0, 0)

    @property
    def elements(self) -> int:
        """How many numbers it holds, as it is stored."""
        return math.prod(self.shape)

    @property
    def size(self) -> int:
        """In bytes."""
        return self.data_offsets[1] - self.data_offsets[0]


def read_tensors(path: Path) -> dict[str, Tensor]:
    """A safetensors file's tensors by name. Raises BadCheckpointError, OSError."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        whole = path.stat().st_size
        if not 2 <= length <= min(MOST_HEADER, whole - 8):
            raise BadCheckpointError(f"{path.name} is no safetensors file, or only a part of one")
        raw = file.read(length)
    try:
        tensors = msgspec.json.decode(raw, type=dict[str, Tensor])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise BadCheckpointError(f"{path.name} has a header that cannot be read") from None
    tensors.pop("__metadata__", None)
    for tensor in tensors.values():
        _check(tensor, whole - 8 - length, path.name)
    return tensors


def _check(tensor: Tensor, room: int, name: str) -> None:
    begin, end = tensor.data_offsets
    if min(tensor.shape, default=0) < 0 or not 0 <= begin <= end:
        raise BadCheckpointError(f"{name} has a header that makes no sense")
    if end > room:
        raise BadCheckpointError(f"{name} ends before its last tensor does: it was not downloaded whole")
    if tensor.dtype in BITS and -(-tensor.elements * BITS[tensor.dtype] // 8) != tensor.size:
        raise BadCheckpointError(f"{name} has a header that makes no sense")


def read_json(path: Path) -> dict[str, Any]:
    """A file of configuration; {} where there is none. Raises BadCheckpointError, OSError."""
    try:
        about = path.stat()
    except FileNotFoundError:
        return {}
    if not stat.S_ISREG(about.st_mode) or about.st_size > MOST_JSON:
        raise BadCheckpointError(f"{path.name} is no file of configuration")
    try:
        # Not msgspec: configurations in use hold Infinity, which strict JSON has not.
        value = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        raise BadCheckpointError(f"{path.name} is not JSON") from None
    return value if isinstance(value, dict) else {}


def weight_files(folder: Path) -> list[str]:
    """The files that hold the weights, once each. Raises BadCheckpointError where one is missing."""
    listed = read_json(folder / "model.safetensors.index.json").get("weight_map")
    if isinstance(listed, dict) and listed:
        names = sorted({str(name) for name in listed.values()})
        missing = [name for name in names if not (folder / name).is_file() or Path(name).name != name]
        if missing:
            raise BadCheckpointError(f"{len(missing)} of its {len(names)} weight files are missing, {missing[0]} first")
        return names
    found = sorted(path.name for path in folder.glob("*.safetensors") if path.name != "adapter_model.safetensors")
    # Mistral's repositories hold the same weights twice: `consolidated` is for their own runtime.
    found = [name for name in found if not name.startswith("consolidated")] or found
    for name in found:
        # A link in a hub's cache whose blob has not arrived, or a part without the others.
        part = _PART.search(name)
        if not (folder / name).is_file() or (part and int(part[1]) != len(found)):
            raise BadCheckpointError(f"{name} was not downloaded whole")
    return found


def all_tensors(folder: Path, names: Iterable[str]) -> dict[str, Tensor]:
    """The tensors of several files of weights. Raises BadCheckpointError, OSError."""
    return {name: tensor for file in names for name, tensor in read_tensors(folder / file).items()}


def language(config: dict[str, Any]) -> dict[str, Any]:
    """The part of a configuration that describes the language model."""
    for path in _LANGUAGE:
        part: Any = config
        for key in path:
            part = part.get(key) if isinstance(part, dict) else None
        if isinstance(part, dict):
            return part
    return config


def dtype(config: dict[str, Any]) -> str | None:
    """What a configuration says that the weights are: "bfloat16", "float32", …"""
    for part in (config, language(config)):
        stated = part.get("dtype") or part.get("torch_dtype")
        if isinstance(stated, str):
            return stated.removeprefix("torch.")
    return None


def whole(part: dict[str, Any], *keys: str) -> int | None:
    """The first of the keys that has a positive whole number."""
    for key in keys:
        value = part.get(key)
        if isinstance(value, int) and not isinstance(value, bool) and 0 < value < 1 << 40:
            return value
    return None


def kv_bytes(config: dict[str, Any]) -> int | None:
    """Bytes of KV cache for one token, in 16 bits; None where the configuration does not tell."""
    part = language(config)
    layers = whole(part, "num_hidden_layers", "n_layer", "num_layers", "n_layers")
    heads = whole(part, "num_attention_heads", "n_head", "n_heads")
    width = whole(part, "hidden_size", "n_embd", "d_model")
    latent = whole(part, "kv_lora_rank")
    if layers is None:
        return None
    if latent is not None:  # DeepSeek's MLA keeps one compressed vector a layer
        return layers * (latent + (whole(part, "qk_rope_head_dim") or 0)) * 2
    if heads is None or width is None:
        return None
    per_head = whole(part, "head_dim") or width // heads
    kv_heads = 1 if part.get("multi_query") is True else whole(part, "num_key_value_heads", "num_kv_heads") or heads
    return layers * kv_heads * per_head * 2 * 2


def context(config: dict[str, Any]) -> int | None:
    """Tokens that the model was made for."""
    return whole(
        language(config), "max_position_embeddings", "n_positions", "n_ctx", "max_sequence_length", "seq_length"
    )


def quantization(config: dict[str, Any]) -> dict[str, Any]:
    """How the weights were quantized, as transformers keeps it; {} where they are as they were trained."""
    for part in (config, language(config)):
        for key in ("quantization_config", "compression_config", "quantization"):
            found = part.get(key)
            if isinstance(found, dict) and found:
                return found
    return {}


def parameters(tensors: dict[str, Tensor], quantized: dict[str, Any]) -> int:
    """How many parameters the tensors hold. Packed ones count what they hold; scales and zeros of groups don't."""
    if not quantized:
        return sum(tensor.elements for tensor in tensors.values())
    bits = _bits(quantized)
    return sum(tensor.elements * _packed(name, tensor, bits) for name, tensor in tensors.items())


def _bits(quantized: dict[str, Any]) -> int:
    if quantized.get("load_in_4bit") or "4" in str(quantized.get("quant_method", "")):
        return 4
    return whole(quantized, "bits", "w_bit") or 8


_HELPERS = ("scale", "zero", "g_idx", "absmax", "quant_map", "quant_state", "scb")


def _packed(name: str, tensor: Tensor, bits: int) -> int:
    """How many parameters one element of a tensor stands for; 0 for what only helps to read the others."""
    if any(word in name.lower().rpartition("weight")[2] or word in name.lower().split(".")[-1] for word in _HELPERS):
        return 0
    integer = tensor.dtype[:1] in ("I", "U")
    return max(1, BITS.get(tensor.dtype, bits) // bits) if integer else 1
