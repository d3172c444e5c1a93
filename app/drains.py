"""Drains: nodes that get no further work, so that they can be stopped. It stands in the database until it is undone."""

from collections import Counter
from typing import NamedTuple

import sqlalchemy as sa

from app.clock import Clock
from app.database import Database
from app.errors import InvalidRequestError
from app.jobs import State
from app.models import Drain, Job, Life
from app.place import node_of


class Node(NamedTuple):
    """A host with living workers or pullers. `since`: when its drain began, in seconds since the epoch."""

    name: str
    since: float | None
    running: int


class Drains:
    """Which nodes are being emptied, and how far that is."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._db = database
        self._clock = clock

    def begin(self, node: str) -> None:
        """From now on nothing is placed there. Raises InvalidRequestError for a node that nobody knows."""
        known = [found.name for found in self.nodes()]
        if node not in known:
            raise InvalidRequestError(
                f"No node is named '{node}'. There are: {', '.join(known) or 'none'}.", param="node"
            )
        with self._db.write() as session:
            if session.get(Drain, node, with_for_update=True) is None:
                session.add(Drain(node=node, since=self._clock.now()))

    def end(self, node: str) -> bool:
        """It is a node like the others again. False: it was one."""
        with self._db.write() as session:
            return bool(session.execute(sa.delete(Drain).where(Drain.node == node)).rowcount)  # type: ignore[attr-defined]

    def all(self) -> frozenset[str]:
        """The names of the nodes that get no work."""
        with self._db.read() as session:
            return frozenset(session.scalars(sa.select(Drain.node)))

    def nodes(self) -> list[Node]:
        """All nodes, by name, those that are drained and gone too."""
        running = sa.func.count(Job.id).filter(Job.status == State.RUNNING)
        living = (
            sa.select(Life.host, running)
            .outerjoin(Job, sa.and_(Job.owner == Life.id, Job.finished_at.is_(None)))
            .where(Life.ended_at.is_(None))
            .group_by(Life.host)
        )
        with self._db.read() as session:
            drained = {row.node: row.since for row in session.scalars(sa.select(Drain))}
            counts: Counter[str] = Counter()
            for place, count in session.execute(living):
                counts[node_of(place)] += count
        return [Node(name, drained.get(name), counts[name]) for name in sorted(counts.keys() | drained.keys())]
