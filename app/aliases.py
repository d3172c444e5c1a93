"""Aliases: further names for models, which people give them."""

import time
from typing import NamedTuple

import sqlalchemy as sa

from app.catalog import STEP
from app.database import Database
from app.errors import AliasNotFoundError, AliasTakenError, InvalidRequestError
from app.locks import alone
from app.names import check_name, resolve
from app.stock import Alias, Model, Standing
from app.suggested import suggestions


class Named(NamedTuple):
    """An alias, and whether the model that it stands for is on this machine."""

    name: str
    model: str
    here: bool


class Aliases:
    """One step from a name to a model's own: an alias of an alias is stored as what it ends at, so there are no cycles.

    A model may not be here yet: then its alias is a short name to pull it by.
    """

    def __init__(self, database: Database) -> None:
        self._db = database

    def all(self) -> list[Named]:
        """Every alias, by name."""
        query = (
            sa.select(Alias.name, Alias.target, Model.name.is_not(None))
            .outerjoin(Model, sa.and_(Model.name == Alias.target, Model.state != Standing.HIDDEN))
            .order_by(Alias.name)
        )
        with self._db.read() as session:
            return [Named(name, target, bool(here)) for name, target, here in session.execute(query)]

    def get(self, name: str) -> Named:
        """Raises AliasNotFoundError."""
        found = next((alias for alias in self.all() if alias.name == name), None)
        if found is None:
            raise AliasNotFoundError(name)
        return found

    def put(self, name: str, model: str) -> Named:
        """Makes a name stand for a model, from now on. Raises InvalidRequestError, AliasTakenError."""
        check_name(name)
        with self._db.write() as session:
            alone(session, STEP)
            if session.get(Model, name) is not None:
                raise AliasTakenError(name)
            meaning = resolve(session, model)
            if meaning.name == name:
                raise InvalidRequestError(f"'{name}' would stand for itself. Name another model.", param="model")
            session.merge(Alias(name=name, target=meaning.name, created_at=time.time(), source="user"))
            # Whatever stood for this name stands for what it stands for now: one step, whichever came first.
            session.execute(sa.update(Alias).where(Alias.target == name).values(target=meaning.name))
        return Named(name, meaning.name, meaning.known)

    def remove(self, name: str) -> None:
        """Forgets an alias; the model stays. Raises AliasNotFoundError."""
        with self._db.write() as session:
            if not session.execute(sa.delete(Alias).where(Alias.name == name)).rowcount:  # type: ignore[attr-defined]
                raise AliasNotFoundError(name)

    def of_models(self) -> dict[str, list[str]]:
        """Each model's further names, the shipped ones that lead to it too."""
        found: dict[str, list[str]] = {}
        aliases = self.all()
        for alias in aliases:
            found.setdefault(alias.model, []).append(alias.name)
        with self._db.read() as session:
            listed = set(session.scalars(sa.select(Model.name).where(Model.state != Standing.HIDDEN)))
        taken = {name.lower() for name in (*listed, *(alias.name for alias in aliases))}
        for entry in suggestions():
            target = next((target for target in entry.targets if target in listed), None)
            if target is not None:
                found.setdefault(target, []).extend(n for n in (entry.name, *entry.also) if n.lower() not in taken)
        return found
