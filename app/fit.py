"""Whether a model fits the memory that there is. An estimate: the worker that loads it plans exactly."""

from typing import Any

#: A model with its cache and buffers takes about so much more than its files.
MARGIN = 1.2
#: Weights of 16 bits shrink to about this share in 4 bits (NF4).
NF4_SHARE = 0.3


def verdict(size: int, memory: int, *, can_shrink: bool = False) -> dict[str, Any]:
    """The answer as the API shows it. `memory`: the largest device's, in bytes. `can_shrink`: to 4 bits, at loading."""
    needs = int(size * MARGIN)
    shown: dict[str, Any] = {"fits": needs <= memory, "needs_bytes": needs, "memory_bytes": memory}
    if can_shrink:
        shown["fits_in_4_bits"] = int(needs * NF4_SHARE) <= memory
    return shown
