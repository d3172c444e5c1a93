"""Whether a model fits the memory that there is. An estimate: the worker that loads it plans exactly."""

from typing import Any

from app.placement import MARGIN
from app.suggested import Suggestion

#: Weights of 16 bits shrink to about this share in 4 bits (NF4).
NF4_SHARE = 0.3


def verdict(size: int, memory: int, *, can_shrink: bool = False) -> dict[str, Any]:
    """The answer as the API shows it. `memory`: the largest device's, in bytes. `can_shrink`: to 4 bits, at loading."""
    needs = int(size * MARGIN)
    shown: dict[str, Any] = {"fits": needs <= memory, "needs_bytes": needs, "memory_bytes": memory}
    if can_shrink:
        shown["fits_in_4_bits"] = int(needs * NF4_SHARE) <= memory
    return shown


def is_better_as_safetensors(entry: Suggestion, gpu: int) -> bool:
    """Which form of a suggested model suits a machine whose largest GPU has so many bytes; 0: it has none.

    On a GPU, vLLM serves many at once out of safetensors, in 4 bits where they are too large; elsewhere GGUF does best.
    """
    found = verdict(entry.safetensors_bytes, gpu, can_shrink=True)
    return gpu > 0 and bool(found["fits"] or found["fits_in_4_bits"])
