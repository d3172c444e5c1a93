"""The Procfile, the one list of processes, as a configuration for supervisord."""

import os
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path

from app.errors import BadSettingsError

PROCFILE = Path(__file__).resolve().parent.parent.parent / "Procfile"

_HEAD = """[supervisord]
nodaemon=true
logfile={logs}/supervisor.log
pidfile={run}/supervisord.pid
childlogdir={logs}
directory={root}
minfds=4096
"""

_PROGRAM = """
[program:{name}]
command=/bin/sh -c {command}
priority={order}
autorestart=true
startsecs=3
startretries=1000000
stopasgroup=true
killasgroup=true
stopwaitsecs={patience}
redirect_stderr=true
stdout_logfile={logs}/{name}.log
stdout_logfile_maxbytes=10MB
stdout_logfile_backups=2
"""

#: The broker goes last, so that the others can say goodbye to it. In seconds, before SIGKILL.
PATIENCE = 15


def become(name: str) -> None:
    """Replaces this process by one of the list. Raises BadSettingsError."""
    commands = dict(_lines())
    if name not in commands:
        raise BadSettingsError(f"The Procfile has no process '{name}'. It has: {', '.join(commands)}.")
    os.chdir(PROCFILE.parent)
    os.execv("/bin/sh", ["/bin/sh", "-c", f"exec {commands[name]}"])


def read(devices: Sequence[str]) -> dict[str, str]:
    """Each process's command, by its name. The worker's line is one process a device, which has the device's name."""
    commands: dict[str, str] = {}
    for name, command in _lines():
        commands |= {device: _on(device, command) for device in devices} if name == "worker" else {name: command}
    return commands


def _lines() -> Iterator[tuple[str, str]]:
    for line in PROCFILE.read_text().splitlines():
        if line.strip() and not line.startswith("#"):
            name, _, command = line.partition(":")
            yield name.strip(), command.strip()


def _on(device: str, command: str) -> str:
    return f"env DEVICE={device} /bin/sh -c {shlex.quote(f'exec {command}')}"


def configure(processes: dict[str, str], *, root: Path, run: Path, logs: Path) -> str:
    """supervisord's configuration. It waits a second longer before each further try of what does not start."""
    parts = [_HEAD.format(root=_quoted(root), run=_quoted(run), logs=_quoted(logs))]
    for order, (name, command) in enumerate(processes.items(), start=1):
        shell = shlex.quote(f"exec {command}").replace("%", "%%")
        parts.append(_PROGRAM.format(name=name, command=shell, order=order, logs=_quoted(logs), patience=PATIENCE))
    return "".join(parts)


def _quoted(path: Path) -> str:
    return str(path).replace("%", "%%")
