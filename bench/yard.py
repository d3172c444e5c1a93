"""A stack to measure, and what its processes cost."""

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from tests.stack import ROOT, Stack, broker, eventually

PARTS = ("web", "cpu.0", "keeper", "beat")


@contextmanager
def yard(*parts: str, root: str | Path = ROOT, **settings: str) -> Iterator[Stack]:
    """A stack on free ports, in a folder that goes with it. Without a worker, jobs stay where they are.

    `root` is where its code is.
    """
    with tempfile.TemporaryDirectory(prefix="bench-") as folder, broker(Path(folder)) as url:
        stack = Stack(Path(folder), url, **{"AUDIT_LOG": "0", "MAX_QUEUE": "4096", **settings})
        stack.root = Path(root)
        if key := settings.get("API_KEY"):
            stack.http.headers["Authorization"] = f"Bearer {key}"
        try:
            stack.run("migrate")
            if "STARTER_GGUF" in settings:
                stack.run("starter")
            stack.start(*(parts or PARTS))
            path = "/health/ready" if "cpu.0" in stack.processes else "/health"
            eventually(lambda: stack.http.get(path).status_code == 200, seconds=60, what=path)
            yield stack
        finally:
            stack.close()


def key(stack: Stack, *limits: str) -> str:
    """Of a user whose limits, as the command takes them, are counted."""
    command = [sys.executable, "-m", "app.cli", "keys", "create", "bench", *limits]
    made = subprocess.run(command, check=True, env=stack.env, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    return made.stdout.strip()


class Cost:
    """Seconds of processor time that each part of a stack took since this was made; an engine's child is a part."""

    def __init__(self, stack: Stack) -> None:
        self._parts = {name: stack.family(name) for name in stack.processes}
        port = stack.env["REDIS_URL"].rpartition(":")[2].partition("/")[0]
        self._parts["broker"] = [one for one in psutil.process_iter(["cmdline"]) if _serves(one, port)]
        self._before = self._read()

    def _read(self) -> dict[str, float]:
        found: dict[str, float] = {}
        for name, family in self._parts.items():
            for process in family:
                command = " ".join(process.cmdline())
                part = "core" if "VLLM" in command else "engine" if "inference" in command else name
                times = process.cpu_times()
                found[part] = found.get(part, 0.0) + times.user + times.system
        return found

    def spent(self) -> dict[str, float]:
        """By part."""
        return {name: value - self._before.get(name, 0.0) for name, value in self._read().items()}

    def per(self, tokens: int, *parts: str) -> float:
        """Microseconds a token, of some parts together."""
        spent = self.spent()
        return sum(spent.get(name, 0.0) for name in parts) / tokens * 1e6


def holders(stack: Stack) -> list[str]:
    """The workers that hold a model."""
    return [card["node"] for card in stack.http.get("/workers").json()["workers"] if card["models"]]


def busy(pid: int) -> float:
    """Seconds of processor time of a process, to the nanosecond: a tick of `Cost` has room for many tokens."""
    return sum(int(path.read_text().split()[0]) for path in Path(f"/proc/{pid}/task").glob("*/schedstat")) / 1e9


def _serves(process: psutil.Process, port: str) -> bool:
    command = " ".join(process.info["cmdline"] or [])
    return port in command and ("valkey-server" in command or "redis-server" in command)
