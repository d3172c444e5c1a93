"""Migrations, with a backup first."""

import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util.exc import CommandError
from sqlalchemy.engine import make_url

from app.cli.backup import copy
from app.database import Database
from app.errors import TokenyardError
from app.locks import OURS
from app.settings import Settings

ROOT = Path(__file__).resolve().parent.parent.parent


class BadDatabaseError(TokenyardError):
    """The database cannot be used as it is."""

    code = "bad_database"


#: How many backups of earlier versions stay.
KEPT = 5


def migrate(settings: Settings) -> str:
    """Applies what is missing; says what it did. Raises BadDatabaseError."""
    settings.data_dir.mkdir(parents=True, exist_ok=True)
    with _explained(settings), _alone(settings):
        return _migrate(settings)


def _migrate(settings: Settings) -> str:
    with closing(Database(settings.database_url)) as database:
        current, head = versions(settings, database)
    if current == head:
        return f"The database is at version {head}."
    saved = _backup(settings, current) if current else ""
    command.upgrade(_config(settings), "head")
    return f"The database is now at version {head}.{saved}"


@contextmanager
def _alone(settings: Settings) -> Iterator[None]:
    """Of several machines that start at once, one migrates and the others wait for it. SQLite's is one machine's."""
    if not settings.database_url.startswith("postgres"):
        yield
        return
    with (
        closing(Database(settings.database_url)) as database,
        database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection,
    ):
        connection.exec_driver_sql("SET lock_timeout = 0")
        connection.exec_driver_sql(f"SELECT pg_advisory_lock({OURS}, 0)")
        yield
        connection.invalidate()  # with its lock


@contextmanager
def _explained(settings: Settings) -> Iterator[None]:
    try:
        yield
    except CommandError as error:
        raise BadDatabaseError(
            f"The database at {_where(settings)} was made by a later version of Tokenyard ({error}). Update Tokenyard, "
            "or start with another DATA_DIR."
        ) from error
    except sa.exc.DatabaseError as error:
        raise BadDatabaseError(
            f"The database at {_where(settings)} cannot be used: {error.orig}. {_remedy(error)}"
        ) from error


def _where(settings: Settings) -> str:
    return make_url(settings.database_url).render_as_string(hide_password=True)


def _remedy(error: sa.exc.DatabaseError) -> str:
    reason = str(error.orig)
    if "full" in reason or "disk I/O" in reason:
        return "Free some space on its disk, or take another: make up DATA_DIR=…"
    if "not a database" in reason or "malformed" in reason:
        return "Move the file away: a new one is made, and DATA_DIR/backups may hold an earlier one."
    return "Check that it runs, that it may be written to, and DATABASE_URL."


def versions(settings: Settings, database: Database) -> tuple[str | None, str | None]:
    """The database's version, and the one that this code wants."""
    with database.engine.connect() as connection:
        current = MigrationContext.configure(connection).get_current_revision()
    return current, ScriptDirectory.from_config(_config(settings)).get_current_head()


def _config(settings: Settings) -> Config:
    config = Config(str(ROOT / "alembic.ini"))
    config.set_main_option("script_location", str(ROOT / "migrations"))
    config.attributes["url"] = settings.database_url
    return config


def _backup(settings: Settings, version: str) -> str:
    if not settings.database_url.startswith("sqlite"):
        return ""
    folder = settings.data_dir / "backups"
    target = folder / f"jobs-{version}-{time.strftime('%Y%m%dT%H%M%S')}.db"
    with closing(Database(settings.database_url)) as database:
        copy(database, target)
    for stale in sorted(folder.glob("jobs-*.db"), key=lambda path: path.stat().st_mtime)[:-KEPT]:
        stale.unlink()
    return f" The one before is kept in {target}"
