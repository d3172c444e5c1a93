"""`tokenyard backup`: the database as one file, whole even while others write."""

import time
from contextlib import closing
from pathlib import Path

from app.database import Database
from app.errors import BadSettingsError
from app.settings import Settings


def run(settings: Settings, target: Path | None) -> str:
    """Writes the copy; says how to restore it. Raises BadSettingsError."""
    if not settings.database_url.startswith("sqlite"):
        raise BadSettingsError(
            "DATABASE_URL is no SQLite database. Its own tool copies it, such as: pg_dump --format=custom"
        )
    path = target or settings.data_dir / "backups" / f"backup-{time.strftime('%Y%m%dT%H%M%S')}.db"
    path = path.expanduser().absolute()
    with closing(Database(settings.database_url)) as database:
        copy(database, path)
    live = database.engine.url.database
    return (
        f"Wrote {path} ({path.stat().st_size / 1e6:.1f} MB).\n"
        f"To restore it: tokenyard stop; rm -f {live} {live}-wal {live}-shm; cp {path} {live}; tokenyard start\n"
        f"Uploaded files lie beside the database, in {settings.data_dir / 'files'}; models can be pulled again."
    )


def copy(database: Database, target: Path) -> None:
    """SQLite's own online copy, checked, and in its place only when it is whole. Raises BadSettingsError."""
    source = database.engine.url.database
    if source is None or not Path(source).exists():
        raise BadSettingsError(f"There is no database at {source} yet. `tokenyard up` makes one.")
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f"{target.name}.partial")
    partial.unlink(missing_ok=True)
    pooled = database.engine.raw_connection()
    try:
        # With the driver of the pool: an older SQLite beside it may damage a WAL file that is in use.
        connection = pooled.driver_connection
        assert connection is not None  # noqa: S101 - a pooled connection has one
        with closing(type(connection)(str(partial))) as new:
            connection.backup(new)
            new.execute("PRAGMA journal_mode = DELETE")
            if new.execute("PRAGMA quick_check").fetchone() != ("ok",):
                raise BadSettingsError(f"The database {source} is damaged; its copy is left in {partial}.")
    finally:
        pooled.close()
    partial.replace(target)
