"""What `up` does once the stack answers: the engines that take minutes to install, and the starter's second form."""

import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path

from rich.console import Console

from app.cli.starter import StarterError, add_bf16, can_make_bf16
from app.settings import Settings

ROOT = Path(__file__).resolve().parent.parent.parent


def complete(console: Console, settings: Settings, env: Mapping[str, str], stopping: threading.Event) -> None:
    """Runs beside the stack. What it starts carries the stack's mark, and so ends with it; the next `up` goes on."""
    if settings.engine == "llamacpp":
        return
    if _is_bootstrapped():
        _install(console, env, stopping)
    if not can_make_bf16(settings):
        return
    try:
        said = add_bf16(settings, env)
    except StarterError as error:
        said = f"[yellow]{error.message}[/]"
    if not stopping.is_set():
        console.print(said)


def _is_bootstrapped() -> bool:
    """Whether bootstrap.py made the environment that we run in: then it is its to complete, else an operator's."""
    venv = ROOT / ".venv"
    return Path(sys.prefix) == venv and any(venv.glob(".base-*"))


def _install(console: Console, env: Mapping[str, str], stopping: threading.Event) -> None:
    command = ["nice", sys.executable, str(ROOT / "bootstrap.py"), "engines"]
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout is not None  # noqa: S101 - it is a pipe
        for line in process.stdout:
            if not stopping.is_set():
                console.print(line.rstrip(), markup=False)
