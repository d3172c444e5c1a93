"""Which queued jobs of a model may go to the broker now: the one query behind `release()`.

The database is the queue; the broker holds a window of it, so that a late job of higher priority overtakes thousands
of earlier ones. Batches and fair share are conditions here and nowhere else.
"""

import heapq
from collections.abc import Iterator
from itertools import islice
from typing import NamedTuple

import sqlalchemy as sa
from sqlalchemy.orm import Session

from app.jobs import BATCH_PRIORITY, Kind, State
from app.models import Job

#: A worker's next job waits in the broker while its slots are busy, so that no slot is idle for a round trip.
WINDOW = 1.25
#: Batch lines leave a quarter of the slots free for interactive work.
BATCH_SHARE = 0.75


class Load(NamedTuple):
    """What a model has in the broker and in its engines."""

    released: int
    batch: int
    #: The most urgent priority among the released jobs that nobody claimed; 10 where there is none.
    top: int


def pick(session: Session, model: str, slots: int) -> list[str]:
    """Ids to release, most urgent first: by priority, then by the tenant's turn, then by age."""
    if slots <= 0:
        return []
    load = _load(session, model)
    room = max(0, int(slots * WINDOW) - load.released)
    batch_room = max(0, max(1, int(slots * BATCH_SHARE)) - load.batch)
    if room == 0:
        return [job_id for priority, job_id in _urgent(session, model) if priority < load.top]
    return list(islice(_fitting(_in_turn(session, model, room), batch_room), room))


def _load(session: Session, model: str) -> Load:
    waiting = sa.and_(Job.status == State.QUEUED, Job.released_at.is_not(None))
    batch = Job.priority >= BATCH_PRIORITY
    row = session.execute(
        sa.select(
            sa.func.count(),
            sa.func.count().filter(batch),
            sa.func.coalesce(sa.func.min(Job.priority).filter(Job.status == State.QUEUED), 10),
        ).where(Job.model == model, Job.kind != Kind.PULL, sa.or_(Job.status == State.RUNNING, waiting))
    ).one()
    return Load(*row)


def _unreleased(model: str) -> sa.ColumnElement[bool]:
    return sa.and_(Job.model == model, Job.status == State.QUEUED, Job.released_at.is_(None), Job.kind != Kind.PULL)


def _urgent(session: Session, model: str) -> Iterator[tuple[int, str]]:
    """The one most urgent job, which goes at once where it outranks all that were released."""
    query = sa.select(Job.priority, Job.id).where(_unreleased(model)).order_by(Job.priority, Job.id).limit(1)
    return ((priority, job_id) for priority, job_id in session.execute(query))


def _in_turn(session: Session, model: str, room: int) -> Iterator[tuple[int, int, str]]:
    """(priority, turn, id) in order: a tenant's first job comes before any tenant's second of that priority."""
    tenants = session.scalars(sa.select(Job.tenant).where(_unreleased(model)).distinct()).all()
    return heapq.merge(*(_of_tenant(session, model, tenant, room) for tenant in tenants))


def _of_tenant(session: Session, model: str, tenant: str, room: int) -> Iterator[tuple[int, int, str]]:
    query = (
        sa.select(Job.priority, Job.id)
        .where(_unreleased(model), Job.tenant == tenant)
        .order_by(Job.priority, Job.id)
        .limit(room)
    )
    turns: dict[int, int] = {}
    for priority, job_id in session.execute(query).all():
        turns[priority] = turns.get(priority, 0) + 1
        yield priority, turns[priority], job_id


def _fitting(rows: Iterator[tuple[int, int, str]], batch_room: int) -> Iterator[str]:
    for priority, _turn, job_id in rows:
        if priority >= BATCH_PRIORITY:
            if batch_room == 0:
                return  # every later row is a batch line too: the rows come by priority
            batch_room -= 1
        yield job_id
