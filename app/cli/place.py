"""Where a stack runs: its ports, its lock, and the processes that belong to it."""

import contextlib
import fcntl
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO

import psutil

from app.errors import BadSettingsError, TokenyardError
from app.settings import Settings

#: In the environment of every process of a stack: its data folder. This is how none is overlooked.
MARK = "TOKENYARD_STACK"


#: The names of the broker's process.
BROKERS = ("redis-server", "valkey-server")


class PlaceTakenError(TokenyardError):
    """The port or the data folder is in use."""

    code = "place_taken"


@contextmanager
def hold(settings: Settings) -> Iterator[None]:
    """Keeps a data folder to one stack. Raises PlaceTakenError, BadSettingsError."""
    with _open(settings) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise PlaceTakenError(
                f"A stack runs on {settings.data_dir} already. `make stop` ends it, if it was started detached; "
                "or run another: make up PORT=… DATA_DIR=…"
            ) from None
        yield


def _open(settings: Settings) -> TextIO:
    try:
        # Prompts and answers lie here: they are nobody else's.
        settings.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        settings.lock_dir.mkdir(parents=True, exist_ok=True)
        return (settings.lock_dir / "up.lock").open("a")
    except OSError as error:
        raise BadSettingsError(
            f"DATA_DIR={settings.data_dir} cannot be used ({error.strerror}). Take another: make up DATA_DIR=…"
        ) from error


def check_port(settings: Settings) -> None:
    """Raises PlaceTakenError, BadSettingsError."""
    try:
        socket.getaddrinfo(settings.host, settings.port)
    except OSError as error:
        raise BadSettingsError(f"HOST={settings.host} is no address of this machine. Take 127.0.0.1.") from error
    if not is_free(settings.port, settings.host):
        raise PlaceTakenError(
            f"Port {settings.port} is in use. Stop what listens there, or take another: "
            f"make up PORT={settings.port + 1}"
        )


def is_free(port: int, host: str = "127.0.0.1") -> bool:
    """Whether a server could listen there."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True


def pick_port(preferred: int) -> int:
    """The preferred port where it is free, else any."""
    if 1024 < preferred < 65536 and is_free(preferred):
        return preferred
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def members(settings: Settings) -> list[psutil.Process]:
    """Every process of the stack on this data folder but this one and its parents."""
    mark = str(settings.data_dir)
    ours = {os.getpid(), *(parent.pid for parent in psutil.Process().parents())}
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.pid not in ours and (process.environ().get(MARK) == mark or _is_broker(process, settings)):
                found.append(process)
    return found


def _is_broker(process: psutil.Process, settings: Settings) -> bool:
    """Redis and Valkey write their title over their environment, our mark included; they work in their own folder.

    One that is left would write to the same file as the next one.
    """
    if process.name() not in BROKERS:
        return False
    return bool(os.path.realpath(settings.data_dir / "broker") == process.cwd())


def kill_members(settings: Settings) -> int:
    """Ends by force what is left of the stack; returns how many processes that were."""
    ended = 0
    # A few times: a supervisor that was still alive may have started one in between.
    for _ in range(5):
        left = members(settings)
        if not left:
            break
        for process in left:
            with contextlib.suppress(psutil.Error):
                process.kill()
        gone, _ = psutil.wait_procs(left, timeout=10)
        ended += len(gone)
    return ended


def flower_login(settings: Settings) -> str:
    """Who Flower asks for; where the password is, and not what it is: what we print ends in logs."""
    return f"user tokenyard, password in {settings.secrets_dir / 'flower'}"


def write_card(settings: Settings, card: dict[str, Any]) -> None:
    """Leaves a note of the running stack for `stop`, `status` and `logs`."""
    path = settings.lock_dir / "stack.json"
    path.with_suffix(".new").write_text(json.dumps(card))
    path.with_suffix(".new").replace(path)


def read_card(settings: Settings) -> dict[str, Any] | None:
    """The note, where its `up` still runs."""
    try:
        card: dict[str, Any] = json.loads((settings.lock_dir / "stack.json").read_text())
        alive = abs(psutil.Process(card["pid"]).create_time() - card["started"]) < 1.0
    except (FileNotFoundError, ValueError, KeyError, psutil.Error):
        return None
    return card if alive else None
