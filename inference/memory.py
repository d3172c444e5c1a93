"""How much memory is free, as the kernel and a container's limit say; and how a size is told."""

import ctypes
import gc
from pathlib import Path

import psutil


def available() -> int:
    """Bytes that this process could still take without pushing others out."""
    return min(int(psutil.virtual_memory().available), _container())


def _container() -> int:
    """What cgroup v2's limit leaves; without a limit, no bound."""
    try:
        group = Path("/sys/fs/cgroup")
        limit = (group / "memory.max").read_text().strip()
        used = (group / "memory.current").read_text()
    except FileNotFoundError:
        return 1 << 62
    return 1 << 62 if limit == "max" else max(0, int(limit) - int(used))


def gigabytes(size: int) -> str:
    """A size as people read it."""
    return f"{size / 1e9:.2f} GB"


def give_back() -> None:
    """Return to the kernel what this process has freed. glibc keeps most of what many small steps took and left."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's alone
    if trim is not None:
        trim(0)
