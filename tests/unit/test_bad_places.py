"""`make up` where it cannot work: one line that says what to do, and no traceback."""

import os
import resource
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from app.cli import place
from app.cli.migrate import migrate
from app.errors import TokenyardError
from app.settings import Settings
from tests.stack import ROOT, free_port


def settings_of(folder: Path, **fields: object) -> Settings:
    return Settings(_env_file=None, data_dir=folder, **fields)


def begin(settings: Settings) -> None:
    """What `up` does before it starts anything."""
    with place.hold(settings):
        place.check_port(settings)
        migrate(settings)


def refused(settings: Settings) -> str:
    with pytest.raises(TokenyardError) as caught:
        begin(settings)
    return caught.value.message


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    message = refused(settings_of(tmp_path / "file" / "data"))
    assert message.startswith(f"DATA_DIR={tmp_path}/file/data cannot be used (Not a directory)")
    assert "make up DATA_DIR=" in message


def test_a_host_that_is_none_of_ours(tmp_path: Path) -> None:
    message = refused(settings_of(tmp_path, host="nowhere.invalid", api_key="key"))
    assert message == "HOST=nowhere.invalid is no address of this machine. Take 127.0.0.1."


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("nonsense", "DATABASE_URL is not the URL of a database"),
        ("nosuch://host/name", "DATABASE_URL is not the URL of a database"),
        ("mysql+aiomysql://host/name", "DATABASE_URL needs the Python package 'aiomysql'"),
        ("sqlite:////nowhere/jobs.db", "The database at sqlite:////nowhere/jobs.db cannot be used: unable to open"),
    ],
)
def test_a_database_that_cannot_be_reached(tmp_path: Path, url: str, words: str) -> None:
    assert words in refused(settings_of(tmp_path, database_url=url))


def test_a_file_that_is_no_database(tmp_path: Path) -> None:
    (tmp_path / "jobs.db").write_bytes(os.urandom(20_000))
    message = refused(settings_of(tmp_path))
    assert "file is not a database. Move the file away" in message


def test_a_database_of_a_later_version(tmp_path: Path) -> None:
    settings = settings_of(tmp_path)
    begin(settings)
    with sqlite3.connect(tmp_path / "jobs.db") as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    connection.close()
    message = refused(settings)
    assert "was made by a later version of Tokenyard" in message
    assert "9999" in message


def test_a_disk_that_is_full(tmp_path: Path) -> None:
    """No file may grow beyond a few pages: what a full disk is to whoever writes to it."""
    env = {**os.environ, "DATA_DIR": str(tmp_path), "PORT": str(place.pick_port(18005))}
    done = subprocess.run(
        [sys.executable, "-m", "app.cli", "up"],
        cwd=ROOT,
        env=env,
        capture_output=True,
        text=True,
        timeout=60,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, 40_000)),
    )
    assert done.returncode == 1
    assert done.stderr.startswith(f"tokenyard: The database at sqlite:///{tmp_path}/jobs.db cannot be used")
    assert "Free some space on its disk" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "command",
    [
        ["-m", "app.cli", "up"],
        ["-m", "gunicorn", "--config", "app/web/gunicorn.py", "app.web:create_app()"],
    ],
)
def test_a_server_for_others_without_a_key(tmp_path: Path, command: list[str]) -> None:
    settings = {"HOST": "0.0.0.0", "PORT": str(free_port()), "DATA_DIR": str(tmp_path), "STARTER_GGUF": "/nowhere"}
    env = {name: value for name, value in os.environ.items() if name not in ("API_KEY", "REDIS_URL", "DATABASE_URL")}
    migrate(settings_of(tmp_path))
    done = subprocess.run(
        [sys.executable, *command], cwd=ROOT, env=env | settings, capture_output=True, text=True, timeout=60
    )
    assert done.returncode != 0
    assert "HOST=0.0.0.0 would serve beyond this machine without a key" in done.stderr
    assert "tokenyard keys create NAME --role operator" in done.stderr
    assert "Traceback" not in done.stderr
