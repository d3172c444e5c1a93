"""`tokenyard import`: a model that lies on this machine, without a running stack."""

from pathlib import Path

from app.catalog import Catalog
from app.database import Database
from app.imports import import_model
from app.settings import Settings


def run(settings: Settings, path: Path, name: str | None, *, copy: bool) -> str:
    """Imports; says what it did. Raises TokenyardError."""
    database = Database(settings.database_url)
    try:
        own = import_model(
            settings, Catalog(database, node=settings.store_node), path.expanduser().absolute(), name, copy=copy
        )
    finally:
        database.close()
    return f"The model {own} is ready."
