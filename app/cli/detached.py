"""`start`, `stop`, `status` and `logs`: the same stack, without a terminal."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import psutil
from rich.console import Console

from app.cli import place, words
from app.settings import Settings

console = Console(highlight=False, soft_wrap=True)
#: What `up` prints when the stack answers.
READY_LINE = "Ctrl-C ends everything"


def start(settings: Settings) -> int:
    """Starts `up` in a session of its own and waits for its ready line; shows what it printed."""
    logs = settings.data_dir / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    path = logs / "up.log"
    with path.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "app.cli", "up"],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    while process.poll() is None and READY_LINE not in path.read_text():
        time.sleep(0.1)
    said = path.read_text().split(READY_LINE)[0].strip()
    console.print(said, markup=False)
    if process.poll() is not None:
        return process.returncode or 1
    console.print("\nIt runs detached. `make status`, `make logs`, `make stop`.")
    return 0


def stop(settings: Settings) -> int:
    """Ends the stack and waits for it."""
    card = place.read_card(settings)
    if card is None:
        left = place.kill_members(settings)
        console.print(f"Ended {left} processes that were left." if left else "Nothing runs here.")
        return 0
    os.kill(card["pid"], signal.SIGTERM)
    with contextlib.suppress(psutil.NoSuchProcess):
        psutil.Process(card["pid"]).wait(60)
    console.print("Stopped.")
    return 0


def status(settings: Settings, *, as_json: bool = False) -> int:
    """Shows the processes and what /health says; 0 when healthy, 3 when nothing runs."""
    card = place.read_card(settings)
    rows = []
    for process in sorted(place.members(settings), key=lambda p: p.pid) if card else ():
        with contextlib.suppress(psutil.Error, OSError):  # as `members`, which reads their environment too
            rows.append(_row(process))
    health = _health(card["address"], settings) if card else "stopped"
    if as_json:
        processes = [dict(zip(("process", "pid", "memory", "since"), row, strict=True)) for row in rows]
        words.dump({"address": card and card["address"], "health": health, "processes": processes})
    elif card is None:
        console.print(f"No stack runs on {settings.data_dir}. Start one: make start")
    else:
        console.print(words.table("PROCESS", "PID", "MEMORY", "SINCE", rows=rows), markup=False)
        console.print(f"{card['address']} is {health}")
        if card.get("flower"):
            console.print(f"Flower: {card['flower']} ({place.flower_login(settings)})")
    return 3 if card is None else 0 if health == "healthy" else 1


def _row(process: psutil.Process) -> tuple[str, str, str, str]:
    since = time.strftime("%H:%M:%S", time.localtime(process.create_time()))
    memory = f"{process.memory_info().rss / 2**20:.0f} MB"
    line = " ".join(process.cmdline()).split()[:4]  # a title that a process gave itself is one long word
    role = process.environ().get("ROLE", "")
    return " ".join((role, *(Path(word).name for word in line))).strip(), str(process.pid), memory, since


def _health(address: str, settings: Settings) -> str:
    from app.cli.sample import headers

    try:
        answer: dict[str, Any] = httpx.get(f"{address}/health", headers=headers(settings), trust_env=False).json()
    except (httpx.TransportError, ValueError):
        return "not answering"
    return str(answer.get("status", answer))


def logs(settings: Settings) -> None:
    """Follows every log, each line behind the name of its process, until Ctrl-C."""
    folder = settings.data_dir / "logs"
    at: dict[Path, int] = {}
    with contextlib.suppress(KeyboardInterrupt):
        while True:
            for path in sorted(folder.glob("*.log")):
                at[path] = _print_new(path, at.get(path))
            time.sleep(0.3)


def _print_new(path: Path, at: int | None, *, backlog: int = 4_000) -> int:
    """Prints what came since; of a log that is new to us, its end."""
    size = path.stat().st_size
    begin = max(0, size - backlog) if at is None else (0 if size < at else at)
    with path.open(errors="replace") as file:
        file.seek(begin)
        for line in file:
            console.print(f"{path.stem:>10} | {line.rstrip()}", markup=False)
        return file.tell()
