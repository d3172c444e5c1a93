"""How much memory is free, as the kernel and a container's limit say; and how a size is told."""

import ctypes
import gc
from pathlib import Path


def available() -> int:
    """Bytes that this process could still take without pushing others out."""
    return min(_machine(), _container())


def _machine() -> int:
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return 0


def _container(group: Path = Path("/sys/fs/cgroup")) -> int:
    """What cgroup v2's limit leaves; without a limit, no bound."""
    try:
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
