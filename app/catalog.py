"""The models whose files are on this machine, and the names that lead to them."""

import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from app import copies
from app.database import Database
from app.errors import InvalidRequestError, ModelInUseError, ModelNotDownloadedError, ModelNotFoundError
from app.jobs import State
from app.locks import alone
from app.models import Job
from app.names import download_name, resolve
from app.stock import Alias, Model, Standing

#: The engine for tests and load; it has no files.
SCRIPTED = "scripted"
#: Whoever looks at a name and then changes what it stands for does so alone.
STEP = "catalog"


class Catalog:
    """Names to files."""

    def __init__(self, database: Database, *, scripted: bool = False, node: str = "") -> None:
        """`node`: this one's name, where nodes keep models of their own; a path is then the one on this node."""
        self._db = database
        self._scripted = scripted
        self._node = node

    def add(self, name: str, path: Path, **about: Any) -> None:
        """Makes a model available, or replaces what stood under its name; what operators bound it to stays.

        `about`: further columns, of which `format`, `size_bytes` and `source` are needed.
        """
        fresh = Model(name=name, path=str(path), created_at=time.time(), state=Standing.READY, **_PLAIN | about)
        with self._db.write() as session:
            alone(session, STEP)
            model = session.get(Model, name)
            if model is None:
                session.add(fresh)
            else:
                _copy(fresh, model, ("path", "state", "format", "size_bytes", "source", *_PLAIN))
            copies.keep(session, model or fresh, self._node)

    def resolve(self, name: str) -> str:
        """The model's own name that a name stands for; one that nobody knows stands for itself."""
        with self._db.read() as session:
            return resolve(session, name).name

    def download_name(self, name: str, *, gpu: int = 0) -> str:
        """What a pull of a name fetches, on a machine whose largest GPU has so many bytes."""
        with self._db.read() as session:
            return download_name(session, name, gpu)

    def get(self, name: str) -> Model:
        """A model that can be loaded, by any of its names. Raises ModelNotDownloadedError."""
        model = self._look(name)
        if model is None or model.state == Standing.REMOVING:
            raise ModelNotDownloadedError(name)
        if model.state == Standing.MISSING:
            raise ModelNotDownloadedError(name, gone=True)
        return model

    def find(self, name: str) -> Model:
        """A model in any state, by any of its names. Raises ModelNotFoundError."""
        model = self._look(name)
        if model is None:
            raise ModelNotFoundError(name)
        return model

    def own(self, name: str) -> Model | None:
        """The model of exactly this name, in any state, hidden too."""
        with self._db.read() as session:
            return session.get(Model, name)

    def _look(self, name: str) -> Model | None:
        if self._scripted and name == SCRIPTED:
            return _SCRIPTED_MODEL
        with self._db.read() as session:
            found = resolve(session, name)
            if self._scripted and found.name == SCRIPTED:
                return _SCRIPTED_MODEL
            model = session.get(Model, found.name) if found.known else None
            return copies.localize(session, [model], self._node)[0] if model is not None else None

    def models(self) -> list[Model]:
        """Every model that is listed, by name."""
        models = [model for model in self.rows() if model.state != Standing.HIDDEN]
        return [*models, _SCRIPTED_MODEL] if self._scripted else models

    def configure(self, name: str, **values: list[str] | dict[str, Any] | float | None) -> Model:
        """Sets what operators say of a model: `devices`, `keep_alive`, `engine_options`.

        Raises ModelNotDownloadedError, InvalidRequestError.
        """
        name = self.get(name).name
        if name == SCRIPTED:
            raise InvalidRequestError("The scripted model is built in; it has no settings.", param="name")
        with self._db.write() as session:
            alone(session, STEP)
            model = session.get(Model, name)
            if model is None:
                raise ModelNotDownloadedError(name)
            for column, value in values.items():
                setattr(model, column, value)
        return model

    def rows(self) -> list[Model]:
        """Every model that has files, hidden ones too, by name."""
        with self._db.read() as session:
            return copies.localize(session, session.scalars(sa.select(Model).order_by(Model.name)), self._node)

    def nodes(self, model: Model) -> frozenset[str] | None:
        """The nodes that have a model's files; None: all do."""
        if not self._node:
            return None
        with self._db.read() as session:
            return copies.nodes(session, model)

    def strays(self) -> list[Model]:
        """Files on this node of models that were removed elsewhere."""
        with self._db.read() as session:
            return copies.strays(session, self._node) if self._node else []

    def forget_copy(self, name: str) -> None:
        """They are deleted."""
        with self._db.write() as session:
            copies.forget(session, name, self._node)

    def add_found(self, model: Model, also: Iterable[str] = ()) -> bool:
        """Lists what a scan found; False where another model has its name by now.

        `also` become aliases, as far as nothing has these names.
        """
        with self._db.write() as session:
            alone(session, STEP)
            there = session.get(Model, model.name)
            if there is None:
                session.add(model)
            elif there.path == model.path or there.source == model.source == "hf-cache":  # a newer snapshot
                _copy(model, there, ("path", "format", "size_bytes", "facts", "revision"))
            else:
                return False
            copies.keep(session, there or model, self._node)
            for name in also:
                if session.get(Model, name) is None and session.get(Alias, name) is None:
                    session.add(Alias(name=name, target=model.name, created_at=time.time(), source="scan"))
        return True

    def describe(self, name: str, facts: dict[str, Any]) -> None:
        """Adds to what is known of a model."""
        with self._db.write() as session:
            alone(session, STEP)
            model = session.get(Model, name)
            if model is not None:
                model.facts = {**facts, **model.facts}

    def unhide(self) -> None:
        """Lists again what was removed from the list alone."""
        shown = sa.update(Model).where(Model.state == Standing.HIDDEN).values(state=Standing.READY)
        with self._db.write() as session:
            session.execute(shown)

    def mark(self, name: str, state: Standing, *, was: Standing) -> bool:
        """Moves a model from one state to another, unless it left the first meanwhile."""
        change = sa.update(Model).where(Model.name == name, Model.state == was).values(state=state)
        with self._db.write() as session:
            return bool(session.execute(change).rowcount)  # type: ignore[attr-defined]  # a CursorResult

    def begin_removal(self, name: str, *, force: bool = False) -> Model:
        """Takes a model out of use, in one step with the look for open jobs; its files are the caller's to delete.

        Raises ModelNotFoundError; ModelInUseError where a job needs it and `force` does not say that this is nothing.
        """
        in_use = sa.select(sa.func.count()).where(Job.model == name, Job.status.in_((State.QUEUED, State.RUNNING)))
        with self._db.write() as session:
            alone(session, STEP)
            model = session.get(Model, name)
            if model is None or model.state == Standing.HIDDEN:
                raise ModelNotFoundError(name)
            jobs = session.scalar(in_use) or 0
            if jobs and not force:
                raise ModelInUseError(name, jobs)
            model.state = Standing.REMOVING
        return model

    def forget(self, name: str) -> None:
        """Takes a model out of the catalogue whose files are another tool's, and are gone."""
        self._drop(name, Model.state != Standing.REMOVING)

    def end_removal(self, name: str, *, hide: bool) -> None:
        """Forgets a model whose files are deleted, and the aliases that a scan gave it.

        `hide`: its files are still there, as another tool's; a later scan must not list them again.
        """
        if hide:
            self.mark(name, Standing.HIDDEN, was=Standing.REMOVING)
        else:
            self._drop(name, Model.state == Standing.REMOVING)

    def _drop(self, name: str, condition: sa.ColumnElement[bool]) -> None:
        with self._db.write() as session:
            gone = session.execute(sa.delete(Model).where(Model.name == name, condition))
            if gone.rowcount:  # type: ignore[attr-defined]  # a CursorResult
                session.execute(sa.delete(Alias).where(Alias.target == name, Alias.source == "scan"))


def _copy(source: Model, target: Model, columns: Iterable[str]) -> None:
    for column in columns:
        setattr(target, column, getattr(source, column))


#: What a model has of which nothing is said.
_PLAIN: dict[str, Any] = {"quantize": "auto", "facts": {}, "repo": None, "revision": None}
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
    engine_options={},
    state=Standing.READY,
)
