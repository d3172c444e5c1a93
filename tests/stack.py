"""A whole stack for tests: real processes on free loopback ports in a temporary folder, each ended by its id."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import httpx
import psutil

from tests import described

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent
Value = TypeVar("Value")


def take_sigterm_for_ctrl_c() -> None:
    """SIGTERM leaves each block by its end from now on, as Ctrl-C does: no process that was started stays behind."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)


def free_port() -> int:
    """A port that nobody listens on just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def eventually(ask: Callable[[], Value], *, seconds: float = 60.0, what: str = "the condition") -> Value:
    """The first true answer. Fails when none came in time."""
    deadline = time.monotonic() + seconds
    last: Any = None
    while time.monotonic() < deadline:
        try:
            last = ask()
            if last:
                return last
        except (httpx.TransportError, ConnectionError, AssertionError) as error:
            last = error
        time.sleep(0.05)
    raise AssertionError(f"{what} did not come true within {seconds} s; last: {last!r}")


def launch(command: list[str], env: dict[str, str], log: Path, root: Path = ROOT) -> "subprocess.Popen[bytes]":
    """A process of the project, whose output goes to a file."""
    with log.open("ab") as out:
        return subprocess.Popen(
            command, cwd=root, env=env, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT
        )


@contextmanager
def broker(folder: Path) -> Iterator[str]:
    """A broker of its own; yields its URL."""
    port = free_port()
    env = {**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}", "DATA_DIR": str(folder), "BROKER_PORT": str(port)}
    process = launch([str(BIN / "tokenyard"), "broker"], env, folder / "broker.log")
    try:
        eventually(lambda: _listens(port), what="the broker")
        yield broker_url(folder, port)
    finally:
        end(process)


def broker_url(folder: Path, port: int) -> str:
    """With the password that the broker made at its start."""
    return f"redis://:{(folder / 'secrets' / 'broker').read_text().strip()}@127.0.0.1:{port}/0"


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def end(process: "subprocess.Popen[bytes]", *, patience: float = 20.0) -> None:
    """SIGTERM, then SIGKILL for the process and what is left of its children."""
    try:
        family = psutil.Process(process.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        family = []
    if process.poll() is None:
        process.terminate()
    try:
        process.wait(patience)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    for child in family:
        if child.is_running():
            child.kill()
    psutil.wait_procs(family, timeout=5)


def stores(folder: Path) -> dict[str, str]:
    """Settings that keep a stack out of what the tools of whoever runs the tests have in their home."""
    names = {"HF_HOME": "hf", "OLLAMA_MODELS": "ollama", "LMSTUDIO_MODELS": "lmstudio"}
    return {name: str(folder / place) for name, place in names.items()} | {"MODELS_EXTRA_SCAN_DIRS": ""}


class Stack:
    """Broker, web, worker, puller, keeper and beat, each of which a test may kill and start again."""

    def __init__(self, folder: Path, redis_url: str, **settings: str) -> None:
        self.folder = folder
        self.root = ROOT  # where the code is that `run` and `start` take
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.env = {
            **{k: v for k, v in os.environ.items() if k not in {"API_KEY", "DATABASE_URL", "HF_HUB_CACHE"}},
            **stores(folder),
            "PATH": f"{BIN}:{os.environ['PATH']}",
            "DATA_DIR": str(folder),
            "REDIS_URL": redis_url,
            "PORT": str(self.port),
            "ENABLE_SCRIPTED_ENGINE": "1",
            "SWEEP_SECONDS": "1",
            **settings,
        }
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.http = httpx.Client(base_url=self.url, timeout=60)

    def command(self, name: str) -> str:
        """The Procfile's line."""
        lines = dict(line.split(":", 1) for line in (self.root / "Procfile").read_text().splitlines() if ":" in line)
        return lines[name].strip()

    def run(self, verb: str) -> None:
        """One of the command's verbs, to its end."""
        subprocess.run(
            [sys.executable, "-m", "app.cli", verb], check=True, env=self.env, cwd=self.root, capture_output=True
        )

    def start(self, *names: str) -> None:
        """Starts processes by their names in the Procfile; `cpu.1` is a worker on that device, `web.b` one more web."""
        for name in names:
            command = [
                "/bin/sh",
                "-c",
                f"exec {self.command('worker' if _is_device(name) else name.partition('.')[0])}",
            ]
            self.processes[name] = launch(command, self.env_of(name), self.folder / f"{name}.log", self.root)

    def env_of(self, name: str) -> dict[str, str]:
        """What a process finds in its environment."""
        return self.env | {"DEVICE": name} if _is_device(name) else self.env

    def ready(self, seconds: float = 120.0) -> None:
        """Waits until jobs can run. From then on, every answer must be as /openapi.json describes it."""
        well = f"ready; logs in {self.folder}"
        eventually(lambda: self.http.get("/health/ready").status_code == 200, seconds=seconds, what=well)
        if not self.http.event_hooks["response"]:
            self.http.event_hooks["response"] = [described.hook(self.http.get("/openapi.json").json())]

    def kill(self, name: str) -> None:
        """SIGKILL, as the kernel does when memory is short."""
        process = self.processes.pop(name)
        # Gunicorn's children serve on for a moment without their master; a worker's engines must end by themselves.
        children = psutil.Process(process.pid).children() if name.partition(".")[0] == "web" else []
        process.send_signal(signal.SIGKILL)
        process.wait()
        for child in children:
            child.kill()
        psutil.wait_procs(children, timeout=5)

    def family(self, name: str) -> list[psutil.Process]:
        """A process of ours and all that it started."""
        process = psutil.Process(self.processes[name].pid)
        return [process, *process.children(recursive=True)]

    def job(self, job_id: str) -> dict[str, Any]:
        """What the API says of a job."""
        answer: dict[str, Any] = self.http.get(f"/jobs/{job_id}").json()
        return answer

    def finished(self, job_id: str, *, seconds: float = 60.0) -> dict[str, Any]:
        """A job in its terminal state."""
        over = {"succeeded", "failed", "cancelled", "timed_out"}
        return eventually(
            lambda: job if (job := self.job(job_id))["status"] in over else None, seconds=seconds, what=f"job {job_id}"
        )

    def events(self, job_id: str, after: int = 0) -> list[dict[str, Any]]:
        """A follower's whole transcript: the events' data, with their `id` under "id"."""
        with self.http.stream("GET", f"/jobs/{job_id}/stream", params={"after": after}) as response:
            return list(sse(response.iter_lines()))

    def close(self) -> None:
        """Ends every process, in the reverse order of their start."""
        self.http.close()
        for process in reversed(self.processes.values()):
            end(process)


def _is_device(name: str) -> bool:
    return name.startswith(("cpu.", "gpu."))


def sse(lines: Iterable[str]) -> Iterator[dict[str, Any]]:
    """The events in the lines of an SSE answer; heartbeats are left out."""
    number = 0
    for line in lines:
        if line.startswith("id:"):
            number = int(line[3:])
        elif line.startswith("data:"):
            yield {**json.loads(line[5:]), "id": number}
