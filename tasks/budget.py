"""Memory: what a model will take, what its device has, and how much an engine is granted of it."""

from collections.abc import Callable, Iterable
from typing import NamedTuple

from app.settings import Settings
from app.stock import Model
from inference.errors import LoadError
from inference.memory import gigabytes
from tasks.choice import NAMES, Candidate

#: Of a 16-bit checkpoint's bytes, what its weights take in memory. Embeddings and norms are never quantized.
FACTORS = {"no": 1.0, "q4": 0.35, "q8": 0.6, "fp16": 1.0, "fp32": 2.0}
#: What an engine's processes take besides weights and cache, measured on the CPU, in bytes.
OVERHEAD = {"vllm": 1_300_000_000, "transformers": 800_000_000, "llamacpp": 150_000_000, "scripted": 40_000_000}
#: The same of a GPU's memory: its context, and kernels' workspaces.
GPU_OVERHEAD = 800_000_000
#: Room for keys and values, and for what a step needs, in parts of the weights.
CACHE = 0.1
#: Of a device's memory, the part that is shared out; drivers and the rest of the machine live on what is left.
SHARED = 0.9


class Memory(NamedTuple):
    """Bytes of a device; a total of 0 says that nobody knows."""

    total: int
    free: int


class Need(NamedTuple):
    """Bytes: without `least` a load must fail, with `good` it works well."""

    least: int
    good: int


def need(row: Model, candidate: Candidate, *, gpu: bool) -> Need:
    """What a model takes under an engine, by the size of its files."""
    factor = FACTORS[candidate.quantize]
    if candidate.quantize != "no" and (row.facts or {}).get("dtype") == "float32":
        factor /= 2
    weights = int(row.size_bytes * factor)
    overhead = GPU_OVERHEAD if gpu and candidate.engine != "scripted" else OVERHEAD[candidate.engine]
    return Need(max(0, weights - _overflow(candidate, gpu)), int(weights * (1 + CACHE)) + overhead)


def _overflow(candidate: Candidate, gpu: bool) -> int:
    """Bytes of the weights that may lie in main memory though the device is a GPU. Quantized ones never do."""
    allowed = candidate.options.get("max_cpu_memory") if gpu and candidate.quantize not in ("q4", "q8") else None
    return int(allowed or 0)


class Budget:
    """The memory of one worker's device, for all the models that it may hold."""

    def __init__(
        self,
        settings: Settings,
        measure: Callable[[], Memory],
        *,
        gpu: bool = False,
        peers: Callable[[], int] = lambda: 1,
    ) -> None:
        """`peers` tells how many workers share the device's memory: several on one CPU do."""
        self.gpu = gpu
        self._limit = settings.max_gpu_memory if gpu else settings.max_cpu_memory
        self._places = settings.max_cache_models
        self._measure = measure
        self._peers = peers

    def memory(self, held: Iterable[int]) -> Memory:
        """What engines may take, and what of it is free while those that are held take so many bytes each."""
        total, free = self._measure()
        if self._limit is None:
            return Memory(total, free)
        total = min(total or self._limit, self._limit)
        return Memory(total, max(0, min(free or total, total - sum(held))))

    def grant(self, wanted: Need, now: Memory) -> int | None:
        """Bytes for weights and cache of one engine, so that the other places have theirs. None: unknown."""
        if not now.total:
            return None
        share = int(now.total * SHARED) // (self._places * max(1, self._peers()))
        return max(wanted.least, min(max(share, wanted.good), int(now.free * SHARED)))


def too_large(row: Model, candidate: Candidate, wanted: Need, now: Memory) -> LoadError:
    """The error for a model that does not fit even alone."""
    return LoadError(
        "out_of_memory",
        f"Model '{row.name}' needs {gigabytes(wanted.least)} for its weights on {NAMES[candidate.engine]}, and this "
        f"device has {gigabytes(now.free)} to give of {gigabytes(now.total)}. {advice(row, candidate)}",
    )


def advice(row: Model, candidate: Candidate) -> str:
    """What helps where memory is short."""
    ways = ["lower MAX_CACHE_MODELS or unload other models", "a smaller context"]
    if row.format == "safetensors" and candidate.quantize not in ("q4", "q8"):
        ways.insert(1, '4-bit weights (pull it with "quantize": "q4")')
    if row.format == "gguf":
        ways.insert(1, "a smaller quantization of it")
    return f"Try: {', '.join(ways)}."
