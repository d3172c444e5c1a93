"""Passwords that a stack makes for itself: who may read them, and where they do not show."""

import stat
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
import redis

from app.secrets import kept, made
from app.settings import Settings
from inference import remote
from tests.stack import broker


def test_a_password_is_made_once_and_is_its_owners_alone(tmp_path: Path) -> None:
    path = tmp_path / "secrets" / "broker"
    assert kept(path) is None
    with ThreadPoolExecutor(8) as pool:
        found = set(pool.map(lambda _: made(path), range(32)))
    assert found == {kept(path)}
    assert len(found.pop()) > 40
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert list(path.parent.iterdir()) == [path]


def test_a_file_that_others_could_read_is_closed_to_them(tmp_path: Path) -> None:
    path = tmp_path / "broker"
    path.write_text("word\n")
    path.chmod(0o644)
    assert made(path) == "word"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_the_broker_wants_its_password_and_shows_it_nowhere(tmp_path: Path) -> None:
    with broker(tmp_path) as url:
        password = str(kept(tmp_path / "secrets" / "broker"))
        port = int(url.rpartition(":")[2].partition("/")[0])
        ours = Settings(_env_file=None, data_dir=tmp_path, broker_port=port)
        assert ours.redis_url == url
        assert password not in repr(ours)
        with redis.Redis.from_url(url) as client:
            assert client.ping()
            assert client.config_get("bind")["bind"] == "127.0.0.1"
        for wrong in (None, "wrong"):
            with redis.Redis(port=port, password=wrong) as client, pytest.raises(redis.AuthenticationError):
                client.ping()
        listed = subprocess.run(["ps", "-eww", "-o", "args"], capture_output=True, text=True, check=True).stdout
        assert f"-server 127.0.0.1:{port}" in listed
        assert password not in listed
        serving = next(p for p in psutil.process_iter(["name"]) if _works_in(p, tmp_path / "broker"))
        assert {address.laddr.ip for address in serving.net_connections() if address.status == "LISTEN"} == {
            "127.0.0.1"
        }
    assert password not in (tmp_path / "broker.log").read_text()


def _works_in(process: psutil.Process, folder: Path) -> bool:
    try:
        return "server" in process.name() and process.cwd() == str(folder)
    except psutil.Error:
        return False


def test_an_engine_does_not_get_to_know_our_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in remote.SECRETS:
        monkeypatch.setenv(name, "secret")
    assert "secret" not in remote._environment().values()
