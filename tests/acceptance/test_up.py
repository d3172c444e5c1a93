"""`tokenyard up`: from nothing to a streamed answer, and back to nothing."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from app.cli.place import MARK
from tests.stack import ROOT, eventually, free_port, launch, stores


class Up:
    """A running `tokenyard up`."""

    def __init__(self, folder: Path, starters: dict[str, str]) -> None:
        self.folder = folder
        self.url = f"http://127.0.0.1:{(port := free_port())}"
        env = {k: v for k, v in os.environ.items() if k not in {"REDIS_URL", "DATABASE_URL", "API_KEY", MARK}}
        own = {"PORT": str(port), "DATA_DIR": str(folder), "DEVICES": "cpu.0,cpu.1", **starters}
        self.env = env | stores(folder) | own
        self.log = folder / "up.txt"
        self.process = self.run("up")

    def run(self, verb: str) -> "subprocess.Popen[bytes]":
        return launch([sys.executable, "-m", "app.cli", verb], self.env, self.log)

    def said(self) -> str:
        return self.log.read_text()

    def members(self) -> list[psutil.Process]:
        found = []
        for process in psutil.process_iter():
            try:
                if process.environ().get(MARK) == str(self.folder):
                    found.append(process)
            except (psutil.Error, OSError):
                continue
        return found


@pytest.fixture
def up(tmp_path: Path, starters: dict[str, str]) -> Iterator[Up]:
    running = Up(tmp_path, starters)
    try:
        eventually(lambda: "Ctrl-C ends" in running.said() or running.process.poll() is not None, seconds=100)
        yield running
    finally:
        if running.process.poll() is None:
            running.process.terminate()
            running.process.wait(60)
        for process in running.members():
            process.kill()


@pytest.mark.slow
def test_up_answers_restarts_what_dies_and_leaves_nothing_behind(up: Up) -> None:
    said = up.said()
    assert f"Tokenyard is ready: {up.url}" in said
    assert "The capital of France is Paris." in said
    assert "tokens/s" in said
    assert f"curl -N {up.url}/chat" in said
    assert "Devices: cpu.0 (CPU), cpu.1 (CPU)" in said
    workers = httpx.get(f"{up.url}/workers").json()["workers"]
    assert {worker["device"] for worker in workers} == {"cpu.0", "cpu.1"}

    if "STARTER_BF16" in up.env:
        eventually(lambda: "smollm2-bf16 is ready" in up.said())

    second = up.run("up")
    assert second.wait(30) == 1
    assert "runs on" in up.said()

    worker = next(
        p for p in up.members() if p.environ().get("ROLE") == "worker" and "inference" not in str(p.cmdline())
    )
    worker.kill()
    eventually(lambda: "cpu.0 died" in up.said())
    question = {"model": "smollm2", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 3}
    assert httpx.post(f"{up.url}/chat", json=question, timeout=60).status_code == 200

    up.process.send_signal(signal.SIGTERM)
    assert up.process.wait(60) == 0
    assert up.members() == []
    assert "Stopped." in up.said()


@pytest.mark.slow
def test_up_ends_what_an_earlier_one_left(up: Up) -> None:
    up.process.kill()
    up.process.wait()
    assert up.members()
    up.log.write_text("")

    up.process = up.run("up")
    eventually(lambda: "Ctrl-C ends" in up.said(), seconds=120)

    assert "that an earlier stack had left" in up.said()


def test_a_port_in_use_is_one_clear_line(tmp_path: Path) -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as taken:
        env = {**os.environ, "PORT": str(taken.getsockname()[1]), "DATA_DIR": str(tmp_path)}
        command = [sys.executable, "-m", "app.cli", "up"]
        done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=60)

    assert done.returncode == 1
    assert "is in use" in done.stderr
    assert "make up PORT=" in done.stderr
    assert "Traceback" not in done.stderr
