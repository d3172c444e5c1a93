"""The database connection: how writers wait for SQLite's one lock."""

import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import sqlalchemy as sa

from app import database as module
from app.database import Database
from app.errors import UnavailableError
from tests.stack import eventually

#: More than SQLite's own handler would ask within a second.
OFTEN = 30
WRITE = sa.text("INSERT INTO things VALUES (1)")


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'jobs.db'}"


@pytest.fixture
def holder(url: str) -> Iterator[Database]:
    with closing(Database(url)) as database:
        with database.write() as session:
            session.execute(sa.text("CREATE TABLE things (number INTEGER)"))
        yield database


@pytest.fixture
def asked(url: str, holder: Database) -> Iterator[tuple[Database, list[str]]]:
    """Another process's connection, and what it says to SQLite."""
    with closing(Database(url)) as database:
        yield database, overheard(database)


def overheard(database: Database) -> list[str]:
    said: list[str] = []
    sa.event.listen(database.engine, "connect", lambda connection, _: connection.set_trace_callback(said.append))
    return said


def test_a_writer_that_waits_asks_often_and_gets_the_lock(holder: Database, asked: tuple[Database, list[str]]) -> None:
    """SQLite's own handler sleeps up to 100 ms, so that whoever comes meanwhile is served first."""
    database, said = asked

    def write() -> None:
        with database.write() as session:
            session.execute(WRITE)

    waiting = threading.Thread(target=write)
    with holder.write() as session:
        session.execute(WRITE)
        waiting.start()
        eventually(lambda: said.count("BEGIN IMMEDIATE") > OFTEN, what="a writer that asks")
    waiting.join(10)
    with holder.read() as session:
        assert session.scalar(sa.text("SELECT count(*) FROM things")) == 2


def test_a_writer_that_had_the_lock_waits_for_readers_as_before(asked: tuple[Database, list[str]]) -> None:
    database, _ = asked
    with database.write() as session:
        assert session.scalar(sa.text("PRAGMA busy_timeout")) == module.BUSY_TIMEOUT_MS


def test_only_what_may_be_undone_by_a_power_cut_does_not_wait_for_the_disk(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In turns, on one connection. A file without a WAL always waits: it could break."""
    full, normal = 2, 1
    synchronous = sa.text("PRAGMA synchronous")
    for has_wal, expected in ((True, [normal, full, normal]), (False, [full, full, full])):
        if not has_wal:
            monkeypatch.setattr(module, "SAFE_WAL", (99,))
        seen = []
        with closing(Database(url)) as database:
            for synced in (False, True, False):
                with database.write(synced=synced) as session:
                    seen.append(session.scalar(synchronous))
        assert seen == expected


def test_who_only_wants_to_know_gives_up_soon(
    holder: Database, asked: tuple[Database, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PROBE_TIMEOUT_MS", 20)
    database, _ = asked
    with holder.write() as session:
        session.execute(WRITE)
        with pytest.raises(UnavailableError):
            database.probe()
    database.probe()


def test_what_is_no_lock_is_not_asked_for_again(holder: Database, url: str, tmp_path: Path) -> None:
    with closing(Database(f"sqlite:///file:{tmp_path / 'jobs.db'}?mode=ro&uri=true")) as database:
        said = overheard(database)
        with pytest.raises(UnavailableError), database.write() as session:
            session.execute(WRITE)
        assert said.count("BEGIN IMMEDIATE") <= 2
