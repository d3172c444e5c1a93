"""The database connection: what each database is told, with its reason, and the two kinds of transaction."""

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import sqlalchemy as sa
import structlog
from sqlalchemy import event
from sqlalchemy.engine import URL, make_url
from sqlalchemy.orm import Session, configure_mappers, sessionmaker

from app.errors import BadSettingsError, InvalidRequestError, UnavailableError

log = structlog.get_logger(__name__)

#: The first SQLite whose WAL mode has no reset bug (https://www.sqlite.org/wal.html#walresetbug).
SAFE_WAL = (3, 51, 3)
BUSY_TIMEOUT_MS = 10_000
#: SQLite's code for a lock that somebody else has; further bits tell which (https://www.sqlite.org/rescode.html#busy).
BUSY = 5
#: For who only wants to know.
PROBE_TIMEOUT_MS = 1_000
#: What a PostgreSQL server is told of each connection, in milliseconds and seconds. A peer that was cut off is given up
#: within a lease, and one that stands still inside of a transaction must not keep its locks from everybody else.
POSTGRESQL = {
    "lock_timeout": BUSY_TIMEOUT_MS,
    "idle_in_transaction_session_timeout": BUSY_TIMEOUT_MS,
    "tcp_keepalives_idle": 5,
    "tcp_keepalives_interval": 2,
    "tcp_keepalives_count": 3,
    "tcp_user_timeout": BUSY_TIMEOUT_MS,
}
#: And the same for this end of it (https://www.postgresql.org/docs/current/libpq-connect.html).
LIBPQ = {
    "connect_timeout": 5,
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": BUSY_TIMEOUT_MS,
    "application_name": "tokenyard",
}


class Database:
    """Opens transactions. `read()` sees one snapshot; `write()` takes SQLite's write lock at its beginning."""

    def __init__(self, url: str) -> None:
        """Connects to nothing yet. Raises BadSettingsError."""
        with _understood():
            self._engine = _create_engine(make_url(url))
        self._reader = sessionmaker(self._engine, expire_on_commit=False)
        self._writer, self._unsynced = (
            sessionmaker(
                self._engine.execution_options(begin="IMMEDIATE", synced=synced),
                expire_on_commit=False,
                autoflush=False,
                execution_options={"synchronize_session": False},  # whoever updates rows does not read them again
            )
            for synced in (True, False)
        )

    @property
    def engine(self) -> sa.Engine:
        """For Alembic and for backups."""
        return self._engine

    @contextmanager
    def read(self) -> Iterator[Session]:
        """A transaction that changes nothing. Raises UnavailableError."""
        with _available(), self._reader() as session, session.begin():
            yield session

    @contextmanager
    def write(self, *, synced: bool = True) -> Iterator[Session]:
        """A transaction that commits at the end of the block. Raises UnavailableError.

        Not `synced`: SQLite does not wait for the disk, which gets it with the next commit that does. Every process
        sees it at once, whoever is killed; a power cut may undo it, and then all that came after it.
        """
        with _available(), (self._writer if synced else self._unsynced)() as session, session.begin():
            yield session

    def probe(self) -> None:
        """Takes SQLite's write lock for a moment, without waiting for it as long as a write would.

        Raises UnavailableError.
        """
        with _available(), self._engine.connect() as connection:
            connection = connection.execution_options(begin="IMMEDIATE", patience=PROBE_TIMEOUT_MS)
            connection.exec_driver_sql("SELECT 1")

    def begin(self) -> None:
        """Opens the first connection now, while nobody else does. A database that is away is no fault here.

        SQLAlchemy sets an engine up under a lock, at its first connection, and its mappers at the first query. In a
        gevent process these locks are gevent's, and native threads that wait for one another's hang: the first
        requests, had they come together, for ever.
        """
        configure_mappers()
        with suppress(UnavailableError), _available(), self._engine.connect():
            pass

    def close(self) -> None:
        """Closes every connection of this process."""
        self._engine.dispose()


@contextmanager
def _available() -> Iterator[None]:
    """Only what a user can mend becomes our error: locked, full, gone. A wrong statement stays a bug."""
    try:
        yield
    except sa.exc.DataError as error:
        # PostgreSQL alone minds: text with a NUL, or beyond a column's length.
        log.warning("not_storable", reason=str(error.orig))
        raise InvalidRequestError("The request has a text or a number that the database cannot hold.") from error
    except (sa.exc.OperationalError, sa.exc.InterfaceError, sa.exc.TimeoutError) as error:
        log.warning("database_unavailable", reason=str(getattr(error, "orig", error)))
        raise UnavailableError(
            "database_unavailable",
            "The database does not answer. Try again in a few seconds; operators find the reason in the log.",
        ) from error


@contextmanager
def _understood() -> Iterator[None]:
    try:
        yield
    except sa.exc.ArgumentError:
        raise BadSettingsError(
            "DATABASE_URL is not the URL of a database: it has the form sqlite:////folder/jobs.db or "
            "postgresql+psycopg://user@host/name. Without it, jobs are kept in DATA_DIR."
        ) from None
    except ModuleNotFoundError as error:
        raise BadSettingsError(
            f"DATABASE_URL needs the Python package '{error.name}': .venv/bin/pip install '{error.name}'"
        ) from None


def _create_engine(url: URL) -> sa.Engine:
    if url.get_backend_name() != "sqlite":
        return _create_postgresql(url)
    module = sqlite_module()
    # Threads bound the connections. A bound here too would have readers wait for those that wait for a lock.
    engine = sa.create_engine(url, module=module, connect_args={"timeout": BUSY_TIMEOUT_MS / 1000}, max_overflow=-1)
    wal = module.sqlite_version_info >= SAFE_WAL
    if not wal:
        log.warning("sqlite_is_old", version=module.sqlite_version, needed="3.51.3", journal="delete")

    @event.listens_for(engine, "connect")
    def _configure(connection: Any, _record: object) -> None:
        _set_pragmas(connection, wal=wal)

    @event.listens_for(engine, "begin")
    def _begin(connection: sa.Connection) -> None:
        options = connection.get_execution_options()
        if options.get("begin") == "IMMEDIATE":
            # Without a WAL, a power cut in a commit that does not wait could break the file itself.
            _begin_writing(connection, synced=options.get("synced", True) or not wal)
        else:
            connection.exec_driver_sql("BEGIN DEFERRED")

    return engine


def _begin_writing(connection: sa.Connection, *, synced: bool) -> None:
    """Takes SQLite's write lock, as soon as it is free for whoever asks next; `synced`: as `Database.write` has it.

    SQLite's own way to wait sleeps ever longer, up to 100 ms: among many writers the lock lies idle half the time, and
    who has waited longest asks least often (https://www.sqlite.org/c3ref/busy_timeout.html). Here each asks once a
    millisecond, all with the same chance. SQLite does the sleeping: in a gevent process `time.sleep` is gevent's, which
    no native thread may call.
    """
    patience = connection.get_execution_options().get("patience", BUSY_TIMEOUT_MS)
    deadline = time.monotonic() + patience / 1000
    driver: Any = connection.connection.driver_connection
    # The connection's last transaction may have been of the other kind.
    driver.execute(f"PRAGMA synchronous = {'FULL' if synced else 'NORMAL'}")
    driver.execute("PRAGMA busy_timeout = 1")
    try:
        while time.monotonic() < deadline:
            try:
                driver.execute("BEGIN IMMEDIATE")
                return
            except driver.OperationalError as error:
                if error.sqlite_errorcode & 0xFF != BUSY:
                    break
        connection.exec_driver_sql("BEGIN IMMEDIATE")  # fails in SQLAlchemy's own words
    finally:
        driver.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_MS}")


def _create_postgresql(url: URL) -> sa.Engine:
    if url.drivername in ("postgres", "postgresql"):  # as most tools write it
        url = url.set(drivername="postgresql+psycopg")
    if url.drivername == "postgresql+psycopg":
        from psycopg import waiting

        # In the web process every call is made on a native thread; gevent's own way to wait would start a hub there.
        waiting.wait = waiting.wait_c
    told = " ".join(f"-c {name}={value}" for name, value in POSTGRESQL.items())
    # As many at once as a web process has threads that ask; what is more than the usual is closed again.
    return sa.create_engine(url, pool_pre_ping=True, max_overflow=25, connect_args=LIBPQ | {"options": told})


def sqlite_module() -> Any:
    """A build of SQLite that is new enough for WAL where its wheel is installed, else Python's own."""
    try:
        from pysqlite3 import dbapi2 as module
    except ImportError:
        import sqlite3 as module
    return module


def _set_pragmas(connection: Any, *, wal: bool) -> None:
    # The driver must not begin transactions by itself: ours say IMMEDIATE where they write, so that two writers
    # queue at BEGIN instead of failing at their first UPDATE.
    connection.isolation_level = None
    cursor = connection.cursor()
    cursor.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_MS}")
    # Readers go on while one writer writes. An older SQLite may lose pages in this mode, so it gets the journal.
    cursor.execute(f"PRAGMA journal_mode = {'WAL' if wal else 'DELETE'}")
    # An accepted job outlives a power cut: the commit reaches the disk before the client hears of it.
    cursor.execute("PRAGMA synchronous = FULL")
    # Off by default in SQLite: results and pulls go with their job.
    cursor.execute("PRAGMA foreign_keys = ON")
    cursor.close()
