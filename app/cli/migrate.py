"""Migrations, with a backup first."""

import time
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory

from app.cli.backup import copy
from app.database import Database
from app.settings import Settings

ROOT = Path(__file__).resolve().parent.parent.parent
#: How many backups of earlier versions stay.
KEPT = 5


def migrate(settings: Settings) -> str:
    """Applies what is missing; says what it did."""
    settings.data_dir.mkdir(parents=True, exist_ok=True)
    database = Database(settings.database_url)
    try:
        current, head = versions(settings, database)
    finally:
        database.close()
    if current == head:
        return f"The database is at version {head}."
    saved = _backup(settings, current) if current else ""
    command.upgrade(_config(settings), "head")
    return f"The database is now at version {head}.{saved}"


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
    database = Database(settings.database_url)
    try:
        copy(database, target)
    finally:
        database.close()
    for stale in sorted(folder.glob("jobs-*.db"), key=lambda path: path.stat().st_mtime)[:-KEPT]:
        stale.unlink()
    return f" The one before is kept in {target}"
