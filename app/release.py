"""Which queued jobs of a model may go to the broker now: the one query behind `release()`.

The database is the queue; the broker holds a window of it, so that a late job of higher priority overtakes thousands
of earlier ones. Batches and fair share are conditions here and nowhere else.

Every query here touches as many rows as it returns, however long the queue is: tenants and models are found by
skipping from one to the next in an index (SQLite and PostgreSQL would read all rows for a DISTINCT).
"""

import heapq
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import InstrumentedAttribute, Session

from app.jobs import BATCH_PRIORITY, Kind, State
from app.models import Job
from app.quotas import free

#: A worker's next job waits in the broker while its slots are busy, so that no slot is idle for a round trip.
WINDOW = 1.25
#: Batch lines leave a quarter of the slots free for interactive work.
BATCH_SHARE = 0.75
#: Less urgent than every job.
NONE = 10


#: Priority, turn, id.
Row = tuple[int, int, str]
#: How many jobs of each tenant's groups are out; None stands for those without a group.
Had = dict[str, dict[str | None, int]]


def pick(session: Session, model: str, slots: int, now: float) -> list[str]:
    """Ids to release, most urgent first: by priority, then by the tenant's turn, its group's, then by age."""
    if slots <= 0:
        return []
    tenants = session.scalars(_TENANTS, {"model": model}).all()
    if not tenants:
        return []  # the usual case needs no further look
    room, batch_room, top = _room(session, model, slots)
    rows = _in_turn(session, model, tenants, max(1, room), now)
    if room == 0:
        # One that outranks all that were released goes at once.
        rows = (row for row in islice(rows, 1) if row[0] < top)
    return list(islice(_fitting(rows, batch_room), max(1, room)))


def fits(session: Session, job: Job, slots: int) -> bool:
    """Whether a new job may go to the broker as it comes: there is room, and nobody waits who could come first."""
    if slots <= 0 or session.scalar(_ANY_UNRELEASED, {"model": job.model}) is not None:
        return False
    if free(session, (job.tenant,), job.created_at).get(job.tenant) == 0:
        return False  # as many as may run of its tenant's are out
    room, batch_room, top = _room(session, job.model, slots)
    return (room > 0 or job.priority < top) and (batch_room > 0 or job.priority < BATCH_PRIORITY)


def waiting(session: Session, now: float) -> list[str]:
    """The models that have generations in the queue, the one with the most urgent first."""
    heads = {}
    for model in session.scalars(_MODELS).all():
        tenants = session.scalars(_TENANTS, {"model": model}).all()
        heads[model] = next(_in_turn(session, model, tenants, 1, now), (NONE, 0, ""))
    for model, priority in session.execute(_RELEASED_MODELS):
        heads[model] = min(heads.get(model, (NONE, 0, "")), (priority, 0, ""))
    return sorted(heads, key=lambda model: heads[model])


def overflowing(session: Session, before: float) -> list[str]:
    """The models of which a generation from before that time waits outside the window."""
    late = sa.select(Job.id).where(*_UNRELEASED, Job.created_at < before).limit(1)
    models = list(session.scalars(_MODELS))
    return [model for model in models if session.scalar(late.where(Job.model == model)) is not None]


def ahead_of(session: Session, job: Job, limit: int) -> int:
    """How many generations of the same model will leave the queue before this one; counts to `limit` at most."""
    earlier = sa.or_(Job.priority < job.priority, sa.and_(Job.priority == job.priority, Job.id < job.id))
    released = sa.select(Job.id).where(*_RELEASED, Job.model == job.model, QUEUED, Job.id != job.id)
    unreleased = sa.select(Job.id).where(*_UNRELEASED, Job.model == job.model, earlier)
    if job.released_at is not None:
        released, unreleased = released.where(earlier), unreleased.where(sa.false())
    return sum(
        session.scalar(sa.select(sa.func.count()).select_from(query.limit(limit).subquery())) or 0
        for query in (released, unreleased)
    )


def _room(session: Session, model: str, slots: int) -> tuple[int, int, int]:
    """How many more jobs may be released, how many of them batch lines, and what outranks all that were."""
    released, batch, top = session.execute(_LOAD, {"model": model}).one()
    room = max(0, int(slots * WINDOW) - released)
    return room, max(0, max(1, int(slots * BATCH_SHARE)) - batch), top


def _in_turn(session: Session, model: str, tenants: Sequence[str], room: int, now: float) -> Iterator[Row]:
    """(priority, turn, id) in order: a tenant's first job comes before any tenant's second of that priority.

    What each has in the broker and in the engines counts as turns it had: one slot at a time is shared too. A tenant
    whose keys say how many of its jobs may run at once has no turn beyond that.
    """
    had: Had = {}
    for tenant, group, count in session.execute(_HAD, {"model": model}):
        had.setdefault(tenant, {})[group] = count
    limited = free(session, tenants, now)
    return heapq.merge(
        *(
            islice(_of_tenant(session, model, tenant, room, had.get(tenant, {})), limited.get(tenant))
            for tenant in tenants
        )
    )


def _of_tenant(session: Session, model: str, tenant: str, room: int, had: dict[str | None, int]) -> Iterator[Row]:
    """Within a tenant, batches and other groups take turns in the same way; jobs without a group are one."""
    given = {"model": model, "tenant": tenant}
    # As many groups as could have a turn now, the most urgent first.
    named = session.scalars(_GROUPS, given | {"room": room + len(had)})
    rows = heapq.merge(
        *(
            _turns(session.execute(_HEADS if group else _LONE, given | {"group": group, "room": room}).all(), turns)
            for group in (None, *named)
            for turns in (had.get(group, 0),)
        )
    )
    return _turns(((priority, job_id) for priority, _, job_id in rows), sum(had.values()))


def _turns(rows: Iterable[Any], had: int) -> Iterator[Row]:
    turns: dict[int, int] = {}
    for priority, job_id in rows:
        turns[priority] = turns.get(priority, had) + 1
        yield priority, turns[priority], job_id


def _fitting(rows: Iterator[Row], batch_room: int) -> Iterator[str]:
    for priority, _turn, job_id in rows:
        if priority >= BATCH_PRIORITY:
            if batch_room == 0:
                return  # every later row is a batch line too: the rows come by priority
            batch_room -= 1
        yield job_id


def distinct(column: InstrumentedAttribute[Any], *where: sa.ColumnElement[bool]) -> sa.Select[Any]:
    """The different values of a column."""
    steps = _steps(column, *where)
    return sa.select(steps.c.value).where(steps.c.value.is_not(None))


def _most_urgent(column: InstrumentedAttribute[Any], *where: sa.ColumnElement[bool]) -> sa.Select[Any]:
    """Some of them, those with the most urgent job first."""
    steps = _steps(column, *where)
    least = sa.select(sa.func.min(Job.priority)).where(*where, column == steps.c.value).scalar_subquery()
    values = sa.select(steps.c.value).where(steps.c.value.is_not(None))
    return values.order_by(least, steps.c.value).limit(sa.bindparam("room"))


def _steps(column: InstrumentedAttribute[Any], *where: sa.ColumnElement[bool]) -> Any:
    """The different values of a column, each found by one step in an index that begins with it, and a NULL."""
    least: sa.Select[Any] = sa.select(sa.func.min(column).label("value")).where(*where)
    steps: Any = least.cte("steps", recursive=True)
    following = sa.select(sa.func.min(column)).where(*where, column > steps.c.value).scalar_subquery()
    return steps.union_all(sa.select(following).where(steps.c.value.is_not(None)))


#: Of open jobs. Said like this, the planner does not take the index over the status, in which all the queue stands.
QUEUED = Job.status != State.RUNNING
#: Pulls are released as they come, so there is none among these.
_UNRELEASED = (Job.released_at.is_(None), Job.finished_at.is_(None))
#: Waiting in the broker, or running.
_RELEASED = (Job.released_at.is_not(None), Job.finished_at.is_(None), Job.kind != Kind.PULL)

# Built once: putting a statement together takes SQLAlchemy longer than SQLite needs to carry it out.
_OF_MODEL = Job.model == sa.bindparam("model")
_LEAST = sa.func.min(Job.priority)
#: What a model has in the broker and in its engines: all, batch lines, and the most urgent priority among those that
#: nobody claimed; where all were claimed, among those that run.
_LOAD = sa.select(
    sa.func.count(),
    sa.func.count().filter(Job.priority >= BATCH_PRIORITY),
    sa.func.coalesce(_LEAST.filter(Job.status == State.QUEUED), _LEAST, NONE),
).where(*_RELEASED, _OF_MODEL)
_ANY_UNRELEASED = sa.select(Job.id).where(*_UNRELEASED, _OF_MODEL).limit(1)
_OF_TENANT = (*_UNRELEASED, _OF_MODEL, Job.tenant == sa.bindparam("tenant"))
# The group is in the order for PostgreSQL, which else sorts what the index has in order.
_FIRST = sa.select(Job.priority, Job.id).where(*_OF_TENANT).order_by(Job.group_id, Job.priority, Job.id)
_FIRST = _FIRST.limit(sa.bindparam("room"))
_HEADS, _LONE = _FIRST.where(Job.group_id == sa.bindparam("group")), _FIRST.where(Job.group_id.is_(None))
_GROUPS = _most_urgent(Job.group_id, *_OF_TENANT)
#: As many rows as the window is wide, at most.
_HAD = (
    sa.select(Job.tenant, Job.group_id, sa.func.count()).where(*_RELEASED, _OF_MODEL).group_by(Job.tenant, Job.group_id)
)
_TENANTS = distinct(Job.tenant, *_UNRELEASED, _OF_MODEL)
_MODELS = distinct(Job.model, *_UNRELEASED)
_RELEASED_MODELS = sa.select(Job.model, _LEAST).where(*_RELEASED, QUEUED).group_by(Job.model)
