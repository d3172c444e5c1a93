"""Migrations, with a backup first."""

import sqlite3
import time
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory

from app.database import Database
from app.settings import Settings

ROOT = Path(__file__).resolve().parent.parent.parent
#: How many backups of earlier versions stay.
KEPT = 5


def migrate(settings: Settings) -> str:
    """Applies what is missing; says what it did."""
    settings.data_dir.mkdir(parents=True, exist_ok=True)
    config = Config(str(ROOT / "alembic.ini"))
    config.set_main_option("script_location", str(ROOT / "migrations"))
    config.attributes["url"] = settings.database_url
    database = Database(settings.database_url)
    with database.engine.connect() as connection:
        current = MigrationContext.configure(connection).get_current_revision()
    database.close()
    head = ScriptDirectory.from_config(config).get_current_head()
    if current == head:
        return f"The database is at version {head}."
    saved = _backup(settings, current) if current else ""
    command.upgrade(config, "head")
    return f"The database is now at version {head}.{saved}"


def _backup(settings: Settings, version: str) -> str:
    source = settings.data_dir / "jobs.db"
    if not source.exists() or not settings.database_url.startswith("sqlite"):
        return ""
    folder = settings.data_dir / "backups"
    folder.mkdir(exist_ok=True)
    target = folder / f"jobs-{version}-{time.strftime('%Y%m%dT%H%M%S')}.db"
    # SQLite's own copy is whole even while others write.
    with sqlite3.connect(source) as old, sqlite3.connect(target) as new:
        old.backup(new)
    new.close()
    old.close()
    for stale in sorted(folder.glob("jobs-*.db"), key=lambda path: path.stat().st_mtime)[:-KEPT]:
        stale.unlink()
    return f" The one before is kept in {target}"
