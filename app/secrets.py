"""Passwords that a stack makes for itself at its first start, each in a file that its owner alone may read."""

import contextlib
import os
import secrets
import tempfile
from pathlib import Path

from app.errors import BadSettingsError


def made(path: Path) -> str:
    """The password in a file, made where there is none; whoever comes second gets the first's. BadSettingsError."""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not path.exists():
            _make(path)
        path.chmod(0o600)
        return path.read_text().strip()
    except OSError as error:
        raise BadSettingsError(f"The password in {path} cannot be used ({error.strerror}).") from error


def kept(path: Path) -> str | None:
    """The password in a file, where somebody made one that this user may read."""
    with contextlib.suppress(OSError):
        return path.read_text().strip() or None
    return None


def without(text: str) -> str:
    """The same, and of a URL neither who asks, nor with which password, nor its parameters."""
    scheme, mark, rest = text.partition("://")
    return f"{scheme}{mark}{rest.rpartition('@')[2].partition('?')[0]}" if mark else text


def _make(path: Path) -> None:
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=".new-")  # of its owner alone from the beginning
    try:
        with os.fdopen(handle, "w") as file:
            file.write(f"{secrets.token_urlsafe(32)}\n")
        with contextlib.suppress(FileExistsError):
            os.link(name, path)  # whole or not at all, and the first one stays
    finally:
        os.unlink(name)
