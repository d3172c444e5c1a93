"""A stack to measure, and what its processes cost."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from tests.stack import Stack, broker, eventually

#: What a stack runs; a worker is named after its device.
PARTS = ("web", "cpu.0", "keeper", "beat")


@contextmanager
def yard(*parts: str, **settings: str) -> Iterator[Stack]:
    """A stack on free ports in a folder that goes with it."""
    with tempfile.TemporaryDirectory(prefix="bench-") as folder, broker(Path(folder)) as url:
        stack = Stack(Path(folder), url, **{"AUDIT_LOG": "0", **settings})
        try:
            stack.run("migrate")
            stack.start(*(parts or PARTS))
            stack.ready() if "cpu.0" in stack.processes else eventually(
                lambda: stack.http.get("/health").status_code == 200
            )
            yield stack
        finally:
            stack.close()


class Cost:
    """Seconds of processor time that each part of a stack took since this was made."""

    def __init__(self, stack: Stack) -> None:
        self._parts = {name: stack.family(name) for name in stack.processes}
        self._parts["broker"] = [p for p in psutil.process_iter(["cmdline"]) if _is_broker(p, stack)]
        self._before = self._read()

    def _read(self) -> dict[str, float]:
        found = {}
        for name, family in self._parts.items():
            for process in family:
                part = "engine" if process.name() and "inference.host" in " ".join(process.cmdline()) else name
                times = process.cpu_times()
                found[part] = found.get(part, 0.0) + times.user + times.system
        return found

    def spent(self) -> dict[str, float]:
        """By part; an engine's child is one of its own."""
        return {name: round(value - self._before.get(name, 0.0), 3) for name, value in self._read().items()}


def _is_broker(process: psutil.Process, stack: Stack) -> bool:
    port = stack.env["REDIS_URL"].rpartition(":")[2].partition("/")[0]
    return any("valkey" in word or "redis" in word for word in process.info["cmdline"] or []) and any(
        port in word for word in process.info["cmdline"]
    )
