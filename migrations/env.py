"""Runs migrations. Each is a transaction of its own, so that a crash leaves a whole version behind."""

from alembic import context

from app import models, settings, stock  # noqa: F401 - their tables are in the metadata
from app.database import Database
from app.tables import Base


def run() -> None:
    """Applies what is missing to the database that the settings (or the caller) name."""
    url = context.config.attributes.get("url") or settings.load().database_url
    database = Database(url)
    with database.engine.connect() as connection:
        context.configure(
            connection=connection,
            target_metadata=Base.metadata,
            # SQLite cannot alter most of a table in place; batch mode copies it, which needs named constraints.
            render_as_batch=True,
            transaction_per_migration=True,
            compare_type=True,
        )
        with context.begin_transaction():
            context.run_migrations()
    database.close()


run()
