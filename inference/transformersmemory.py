"""How much memory a model takes under transformers: told from its files before it is loaded, measured afterwards."""

import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import torch

from inference import memory
from inference.checkpoint import BITS, Tensor
from inference.errors import LoadError
from inference.memory import gigabytes
from inference.protocol import Spec
from inference.source import Source

#: Bytes of one weight that bitsandbytes quantizes: NF4 with its scales (quantized again), and LLM.int8.
QUANTIZED = {"q4": 0.516, "q8": 1.002}
#: Bytes of all others. With "no" they stay as they are.
PLAIN = {"q4": 2, "q8": 2, "fp16": 2, "fp32": 4}
#: What bitsandbytes leaves alone: it takes the weights of linear layers, and not those of the last one, which gives
#: the scores. Experts of a mixture lie together in one parameter that is no layer.
UNTOUCHED = re.compile(r"embed|lm_head|output_layer|\bwte\b|\bwpe\b|\.experts\.|\.gate\.weight$")
#: Parts of an omni model that make speech; they are not loaded.
SPEECH = ("talker.", "code2wav.", "token2wav.")
#: Of the memory that is free beside the weights, the part that a cache may take when nobody gave a budget.
SHARE = 0.5
#: A context that is worth having, in tokens.
LEAST = 256
#: Where neither the model nor anybody else bounds the context, in tokens.
MOST = 1 << 20
#: Tokens of one measuring pass.
PROBE = 8


class Growth(NamedTuple):
    """Bytes that one request's cache takes: for each token, and besides (states of fixed size)."""

    token: int
    fixed: int


class Plan(NamedTuple):
    """Tokens: what one request may have, and what all that run have together."""

    context: int
    total: int


class Room(NamedTuple):
    """Bytes that a model may take on its device, and those in main memory for what does not fit there."""

    device: int
    overflow: int = 0


def needed(source: Source, quantize: str, device: str) -> int:
    """About how many bytes a folder's weights will take."""
    if source.method:
        return weights_as_stored(source.tensors, source.method, device)
    return weights(source.tensors, quantize, source.dtype)


def weights(tensors: dict[str, Tensor], quantize: str, stated: str | None) -> int:
    """About how many bytes the weights will take. `stated`: the dtype that the configuration gives."""
    return int(sum(_size(name, tensor, quantize, stated) for name, tensor in _kept(tensors)))


def weights_as_stored(tensors: dict[str, Tensor], method: str, device: str) -> int:
    """The same of weights that are quantized already. FP8 without a GPU is turned into 16 bits."""
    stored = sum(tensor.size for _, tensor in _kept(tensors))
    return stored * 2 if device == "cpu" and method in ("fp8", "mxfp8") else stored


def _kept(tensors: dict[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    return ((name, tensor) for name, tensor in tensors.items() if not name.startswith(SPEECH))


def _size(name: str, tensor: Tensor, quantize: str, stated: str | None) -> float:
    if quantize in QUANTIZED and len(tensor.shape) == 2 and not UNTOUCHED.search(name):
        return tensor.elements * QUANTIZED[quantize]
    if quantize in PLAIN:
        return float(tensor.elements * PLAIN[quantize])
    bits = {"float32": 32, "float16": 16, "bfloat16": 16}.get(stated or "") or BITS.get(tensor.dtype, 16)
    return tensor.elements * bits / 8


def room(spec: Spec, device: str) -> Room:
    """What there is, within the spec's budget and the operator's MAX_GPU_MEMORY and MAX_CPU_MEMORY."""
    gpu, cpu = _option(spec, "max_gpu_memory"), _option(spec, "max_cpu_memory")
    if device == "cpu":
        return Room(_least(memory.available(), spec.memory, cpu))
    # Quantized layers cannot live in main memory while others are on a GPU.
    overflow = 0 if spec.quantize in QUANTIZED or cpu is None else min(cpu, memory.available())
    return Room(_least(free(device), spec.memory, gpu), overflow)


def _option(spec: Spec, name: str) -> int | None:
    value = spec.options.get(name)
    return None if value is None else int(value)


def free(device: str) -> int:
    """Bytes that the device has left."""
    return memory.available() if device == "cpu" else int(torch.cuda.mem_get_info()[0])


def _least(*sizes: int | None) -> int:
    return min(size for size in sizes if size is not None)


def too_large(needed: int, where: Room, quantize: str) -> LoadError:
    """The error for a model that will not fit."""
    ways = ["unload other models", "lower MAX_CACHE_MODELS"]
    if quantize not in QUANTIZED:
        ways.insert(0, 'take it in 4 bits ("quantize": "q4")')
    return LoadError(
        "out_of_memory",
        f"The weights need {gigabytes(needed)}, and this device has {gigabytes(where.device + where.overflow)} for "
        f"them. Ways out: {', '.join(ways)}, or take a smaller model.",
    )


def measure(cache_sizes: Iterable[int]) -> Growth:
    """From the size of a cache after PROBE tokens, and after twice as many."""
    first, second = cache_sizes
    token = (second - first) // PROBE
    return Growth(token, max(0, first - token * PROBE))


def plan(own: int | None, asked: int | None, growth: Growth, left: int, slots: int) -> Plan:
    """The model's own context, or what was asked for, where `left` bytes hold it; else the largest that they do.

    Raises LoadError.
    """
    affordable = max(0, left - growth.fixed * slots) // growth.token if growth.token else MOST
    wanted = min(own or MOST, asked or MOST)
    if affordable < min(LEAST, wanted):
        raise LoadError(
            "out_of_memory",
            f"Beside the weights, {gigabytes(left)} are left for keys and values, which hold {affordable} tokens of "
            f"context at {growth.token} bytes each; {min(LEAST, wanted)} is the least. Unload other models, lower "
            'MAX_CACHE_MODELS, or take the model in 4 bits ("quantize": "q4").',
        )
    context = min(wanted, affordable)
    return Plan(context, max(context, min(affordable, slots * context)))


def left(spec: Spec, device: str, taken: int) -> int:
    """Bytes for caches, once the weights have taken theirs."""
    if spec.memory is None:
        return int(free(device) * SHARE)
    return max(0, min(spec.memory - taken, free(device)))
