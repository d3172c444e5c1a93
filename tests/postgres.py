"""A PostgreSQL of the tests' own, where its programs are on this machine."""

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest

from tests.stack import end, eventually, free_port

#: It refuses to run as root; then it runs as one of these.
USERS = ("postgres", "nobody")
SPEED = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}


def programs() -> Path | None:
    """Where initdb and postgres are; Debian keeps them off the PATH."""
    found = shutil.which("initdb")
    places = [Path(found).resolve().parent] if found else sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    return next((place for place in reversed(places) if (place / "postgres").exists()), None)


def user() -> str | None:
    """Who runs it: None is whoever runs the tests."""
    if os.getuid():
        return None
    known = {entry.pw_name for entry in pwd.getpwall()}
    return next(name for name in USERS if name in known)


@contextmanager
def server(address: str = "127.0.0.1", told: Mapping[str, str] = SPEED) -> Iterator[str]:
    """Its URL without a database's name. Skips the test where it is not installed. `told`: settings of the server's."""
    bin_dir = programs()
    if bin_dir is None:
        pytest.skip("PostgreSQL's server is not installed here (Debian: apt-get install postgresql)")
    folder, port, owner = Path(tempfile.mkdtemp(prefix="tokenyard-postgres-")), free_port(), user()
    if owner:
        shutil.chown(folder, owner)
    setup = ["--auth=trust", "--username=tokenyard", "--encoding=UTF8", "--locale=C.UTF-8", "--no-sync"]
    subprocess.run(
        [bin_dir / "initdb", *setup, folder / "data"], user=owner, cwd=folder, check=True, capture_output=True
    )
    settings = {**told, "listen_addresses": address, "port": str(port), "unix_socket_directories": str(folder)}
    with (folder / "log").open("wb") as out:
        process = subprocess.Popen(
            [bin_dir / "postgres", "-D", folder / "data", *(f"--{name}={value}" for name, value in settings.items())],
            **{"user": owner, "cwd": folder, "stdin": subprocess.DEVNULL, "stdout": out, "stderr": out},
        )
    url = f"postgresql://tokenyard@{address}:{port}"
    try:
        eventually(lambda: _answers(f"{url}/postgres"), what=f"PostgreSQL; its log is {folder / 'log'}")
        yield url
    finally:
        end(process)
        shutil.rmtree(folder, ignore_errors=True)


def _answers(url: str) -> bool:
    try:
        psycopg.connect(url, connect_timeout=2).close()
    except psycopg.OperationalError:
        return False
    return True


def create(url: str, name: str) -> str:
    """A new, empty database of a server; its own URL."""
    with psycopg.connect(f"{url}/postgres", autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    return f"{url.replace('postgresql:', 'postgresql+psycopg:')}/{name}"
