"""Copies: which nodes have a model's files, where each keeps models on a disk of its own (OWN_STORE).

A model without any copy lies where all nodes find it: on the one machine, or in a folder that they share.
"""

from collections.abc import Iterable
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from app.stock import Copy, Model


def keep(session: Session, model: Model, node: str) -> None:
    """Notes that a node has a model's files, within the transaction that adds the model."""
    if node:
        facts: dict[str, Any] = {key: model.facts[key] for key in ("files", "fetched") if key in model.facts}
        copy = Copy(model=model.name, node=node, path=model.path, format=model.format, revision=model.revision)
        copy.facts = facts
        session.merge(copy)


def localize(session: Session, models: Iterable[Model], node: str) -> list[Model]:
    """The models with their paths on a node, "" where it has to fetch their files; they are no rows any more."""
    models = list(models)
    if not node:
        return models
    query = sa.select(Copy).where(Copy.model == models[0].name) if len(models) == 1 else sa.select(Copy)
    copies = {(copy.model, copy.node): copy for copy in session.scalars(query)}
    kept = {model for model, _ in copies}
    for model in models:
        session.expunge(model)
        if model.name in kept:
            mine = copies.get((model.name, node))
            model.path = mine.path if mine is not None and mine.revision == model.revision else ""
    return models


def nodes(session: Session, model: Model) -> frozenset[str] | None:
    """The nodes that have a model's files; None: all do."""
    copies = session.scalars(sa.select(Copy).where(Copy.model == model.name)).all()
    return frozenset(copy.node for copy in copies if copy.revision == model.revision) if copies else None


def strays(session: Session, node: str) -> list[Model]:
    """Copies on a node whose model was removed, as models that can be deleted."""
    gone = sa.select(Copy).where(Copy.node == node, ~sa.exists().where(Model.name == Copy.model))
    return [
        Model(name=copy.model, path=copy.path, format=copy.format, facts=copy.facts) for copy in session.scalars(gone)
    ]


def forget(session: Session, model: str, node: str) -> None:
    """A node's files of a model are deleted."""
    session.execute(sa.delete(Copy).where(Copy.model == model, Copy.node == node))
