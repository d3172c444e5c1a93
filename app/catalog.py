"""The models whose files are on this machine."""

import time
from pathlib import Path

import sqlalchemy as sa

from app.database import Database
from app.errors import ModelNotDownloadedError, ModelNotFoundError
from app.models import Model

#: The engine for tests and load; it has no files.
SCRIPTED = "scripted"


class Catalog:
    """Names to files."""

    def __init__(self, database: Database, *, scripted: bool = False) -> None:
        self._db = database
        self._scripted = scripted

    def add(self, name: str, path: Path, *, format: str, size_bytes: int, source: str, quantize: str = "auto") -> None:
        """Makes a model available, or replaces what stood under its name."""
        row = Model(
            name=name,
            path=str(path),
            format=format,
            size_bytes=size_bytes,
            quantize=quantize,
            source=source,
            created_at=time.time(),
        )
        with self._db.write() as session:
            session.merge(row)

    def get(self, name: str) -> Model:
        """Raises ModelNotDownloadedError."""
        if self._scripted and name == SCRIPTED:
            return _SCRIPTED_MODEL
        with self._db.read() as session:
            model = session.get(Model, name)
        if model is None:
            raise ModelNotDownloadedError(name)
        return model

    def models(self) -> list[Model]:
        """Every model, by name."""
        with self._db.read() as session:
            models = list(session.scalars(sa.select(Model).order_by(Model.name)))
        return [*models, _SCRIPTED_MODEL] if self._scripted else models

    def remove(self, name: str) -> Model:
        """Forgets a model and returns what it was; its files are the caller's to delete. Raises ModelNotFoundError."""
        with self._db.write() as session:
            model = session.get(Model, name)
            if model is None:
                raise ModelNotFoundError(name)
            session.delete(model)
        return model


_SCRIPTED_MODEL = Model(
    name=SCRIPTED,
    path="",
    format=SCRIPTED,
    size_bytes=0,
    quantize="no",
    source="built in",
    created_at=0.0,
    facts={},
    devices=[],
)
