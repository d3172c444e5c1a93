"""The child that downloads: what it is told, and its lines."""

import os
import re
import selectors
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import msgspec

import inference
from app.disk import folder_of
from app.settings import Settings
from inference.process import Process, spawn
from inference.remote import SECRETS, TOKENS

#: How often its reader looks up without a line, in seconds.
POLL_SECONDS = 0.25
_USERINFO = re.compile(r"//[^/]*@")

Line = dict[str, Any]


@contextmanager
def child(order: Line, settings: Settings) -> Iterator[Iterator[Line | None]]:
    """The lines of a download, with None where a poll found none. At the end of the block nothing of it is left."""
    out, into = os.pipe()
    try:
        try:
            argv = [sys.executable, "-m", "inference.download", msgspec.json.encode(order).decode(), str(into)]
            process: Process = spawn(argv, pass_fds=(into,), env=_environment(settings))
        finally:
            os.close(into)
        try:
            yield _lines(out)
        finally:
            with suppress(TimeoutError):  # it hangs in the kernel, and is gone when that lets it go
                process.kill()
    finally:
        os.close(out)


def _lines(fd: int) -> Iterator[Line | None]:
    rest = b""
    with selectors.DefaultSelector() as selector:
        selector.register(fd, selectors.EVENT_READ)
        while True:
            if not selector.select(POLL_SECONDS):
                yield None
                continue
            data = os.read(fd, 65536)
            if not data:
                return
            *whole, rest = (rest + data).split(b"\n")
            for line in whole:
                yield msgspec.json.decode(line)


def order_of(settings: Settings, model: str, **fields: Any) -> Line:
    """What a download of a model is told."""
    return {
        "repo": model,
        # All of the order is in the list of processes. Credentials reach the child in its environment.
        "endpoint": _USERINFO.sub("//", settings.hf_endpoint.rstrip("/")),
        "cache": str(settings.hub_cache),
        "converted": str(folder_of(settings, model)) if settings.allow_pickle_conversion else "",
        "staging": str(settings.data_dir / "pulls"),
        "reserve": int(settings.pull_disk_reserve),
        "stall": settings.pull_stall_seconds,
        "hosts": list(settings.hf_redirect_hosts),
        **fields,
    }


def _environment(settings: Settings) -> dict[str, str]:
    """Ours without what a download need not know, and the hub's settings, which may come from `.env`."""
    env = {name: value for name, value in os.environ.items() if name not in SECRETS or name in TOKENS}
    roots = [str(Path(inference.__file__ or "").resolve().parent.parent), env.get("PYTHONPATH", "")]
    env |= {"PYTHONPATH": os.pathsep.join(filter(None, roots)), "HF_ENDPOINT": settings.hf_endpoint}
    env |= {"HF_HUB_DISABLE_TELEMETRY": "1"}
    if settings.hf_home is not None:
        env["HF_HOME"] = str(settings.hf_home.expanduser().absolute())
    if settings.hf_token is not None:
        env["HF_TOKEN"] = settings.hf_token.get_secret_value()
    return env
