"""How much memory is free, as the kernel and a container's limit say; and how a size is told."""

import ctypes
import gc
import re
from pathlib import Path

import psutil

#: A container sees its own group here.
GROUP = Path("/sys/fs/cgroup")


def available() -> int:
    """Bytes that this process could still take without pushing others out."""
    return min(int(psutil.virtual_memory().available), _container())


def _container() -> int:
    """What cgroup v2's limit leaves; without a limit, no bound.

    What is in use counts cached files as well. Of those that were not read of late the kernel lets go first: a model
    that was downloaded just now must not leave too little memory to load it.
    """
    try:
        limit = (GROUP / "memory.max").read_text().strip()
        used = int((GROUP / "memory.current").read_text())
        cached = re.search(r"^inactive_file (\d+)$", (GROUP / "memory.stat").read_text(), re.MULTILINE)
    except FileNotFoundError:
        return 1 << 62
    return 1 << 62 if limit == "max" else max(0, int(limit) - used + (int(cached[1]) if cached else 0))


def gigabytes(size: int) -> str:
    """A size as people read it."""
    return f"{size / 1e9:.2f} GB"


def give_back() -> None:
    """Return to the kernel what this process has freed. glibc keeps most of what many small steps took and left."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's alone
    if trim is not None:
        trim(0)
