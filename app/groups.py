"""Groups: jobs that were submitted together, under a name of their tenant's own. A batch's lines are one too."""

from typing import NamedTuple

import sqlalchemy as sa
from sqlalchemy.orm import Session

from app import keys
from app.clock import Clock
from app.database import Database
from app.endings import Outcome, end_queued
from app.jobs import TERMINAL, State
from app.keys import Key
from app.locks import hold
from app.models import Job, Result
from app.quotas import check_queued
from app.release import distinct
from app.store import Detail

#: Rows that are read at once when a batch's lines are told.
PAGE = 200


class Counts(NamedTuple):
    """How a group's jobs stand."""

    total: int
    completed: int
    failed: int
    open: int


class Group(NamedTuple):
    """A group in a list; `at` is when its first job came, in seconds since the epoch."""

    tenant: str
    name: str
    at: float
    counts: Counts


#: What somebody asked for before stays.
_ASKED = sa.func.coalesce(Job.end_requested, State.CANCELLED.value)
_GROUPED = Job.group_id.is_not(None)
_OF_TENANT = (_GROUPED, Job.tenant == sa.bindparam("tenant"))
_TENANTS = distinct(Job.tenant, _GROUPED)
_NAMES = distinct(Job.group_id, *_OF_TENANT).subquery()
_LAST = sa.select(sa.func.max(Job.id)).where(*_OF_TENANT, Job.group_id == _NAMES.c.value).scalar_subquery()
#: A tenant's groups with the ids of their newest jobs: a step in the index for each, however many jobs it has.
_NEWEST = (
    sa.select(_LAST.label("last"), sa.bindparam("tenant"), _NAMES.c.value)
    .order_by(sa.desc("last"))
    .limit(sa.bindparam("limit"))
)


class Groups:
    """Many jobs under one name."""

    def __init__(self, database: Database, clock: Clock | None = None) -> None:
        self._db = database
        self._clock = clock or Clock()

    def add(self, jobs: list[Job], key: Key | None = None, most: int | None = None) -> list[Job]:
        """Commits a group's jobs, all or none. Returns them, or those that were accepted under the same key before.

        `most` jobs of their tenant may wait. Raises IdempotencyConflictError, QueueFullError.
        """
        try:
            with self._db.write() as session:
                earlier = _earlier(session, key)
                if not earlier:
                    check_queued(session, jobs[0].tenant, most, len(jobs))
                    insert_all(session, jobs)
                    keys.keep(session, key, jobs[0])
        except sa.exc.IntegrityError:
            # As in the store: PostgreSQL lets two transactions look for a key at once.
            earlier = self.accepted(key)
            if not earlier:
                raise
        return earlier or jobs

    def accepted(self, key: Key | None) -> list[Job]:
        """The jobs that a key stands for, if any. Raises IdempotencyConflictError."""
        with self._db.read() as session:
            return _earlier(session, key)

    def group_of(self, key: Key | None) -> str | None:
        """The group of the jobs that a key stands for, if any. Raises IdempotencyConflictError."""
        with self._db.read() as session:
            first = keys.find(session, key)
        return None if first is None else first.group_id

    def counts(self, group_id: str, tenant: str) -> Counts:
        """One look at the index. Names of groups are each tenant's own."""
        with self._db.read() as session:
            return _counts(session, group_id, tenant)

    def groups(self, *, scope: str | None = None, limit: int = 50) -> list[Group]:
        """The groups whose jobs came last, of one tenant or (None) of all. Reads no row of any other."""
        with self._db.read() as session:
            tenants = [scope] if scope is not None else session.scalars(_TENANTS).all()
            newest = [row for tenant in tenants for row in session.execute(_NEWEST, {"tenant": tenant, "limit": limit})]
            newest.sort(reverse=True)
            told = [_told(session, tenant, name) for _, tenant, name in newest[:limit]]
        return [group for group in told if group is not None]

    def models(self, group_id: str) -> list[str]:
        """The models that its queued jobs want."""
        query = sa.select(Job.model).where(Job.group_id == group_id, Job.status == State.QUEUED).distinct()
        with self._db.read() as session:
            return list(session.scalars(query))

    def lines(self, group_id: str, tenant: str, *, succeeded: bool, after: str = "") -> list[Detail]:
        """A page of its ended jobs, well or badly, in the order of their lines; empty behind the last one."""
        ended = Job.status == State.SUCCEEDED if succeeded else Job.status.in_(TERMINAL - {State.SUCCEEDED})
        query = (
            sa.select(Job, Result)
            .outerjoin(Result, Result.job_id == Job.id)
            .where(*_group(group_id, tenant), ended, Job.id > after)
            .order_by(Job.id)
            .limit(PAGE)
        )
        with self._db.read() as session:
            return [Detail(job, None, result) for job, result in session.execute(query)]

    def end_jobs(self, group_id: str, tenant: str) -> tuple[list[Outcome], list[str]]:
        """Cancels what waits of a group; returns what of it had begun once, and what runs and is to end.

        Followers of the others learn it from the rows: there may be very many.
        """
        ours = sa.and_(*_group(group_id, tenant))
        asked = sa.update(Job).where(ours, Job.status == State.RUNNING).values(end_requested=_ASKED)
        with self._db.write() as session:
            hold(session, ours, Job.finished_at.is_(None))
            ended = end_queued(session, self._clock.now(), ours, state=State.CANCELLED)
            running = session.scalars(asked.returning(Job.id)).all()
        return [outcome for outcome in ended if outcome.begun], list(running)


def insert_all(session: Session, jobs: list[Job]) -> None:
    """Inserts many new jobs, in half the time that the session's own way holds the lock for."""
    session.execute(sa.insert(Job), [{k: v for k, v in vars(job).items() if not k.startswith("_")} for job in jobs])


def _told(session: Session, tenant: str, name: str) -> Group | None:
    """None: on PostgreSQL its last job may have been forgotten since it was found."""
    first = sa.select(Job.created_at).where(*_group(name, tenant)).order_by(Job.id).limit(1)
    at = session.scalars(first).one_or_none()
    return None if at is None else Group(tenant, name, at, _counts(session, name, tenant))


def _counts(session: Session, group_id: str, tenant: str) -> Counts:
    query = sa.select(Job.status, sa.func.count()).where(*_group(group_id, tenant)).group_by(Job.status)
    by_state = {state: count for state, count in session.execute(query)}
    total, completed = sum(by_state.values()), by_state.get(State.SUCCEEDED, 0)
    ended = sum(count for state, count in by_state.items() if state in TERMINAL)
    return Counts(total, completed, ended - completed, total - ended)


def _group(group_id: str, tenant: str) -> tuple[sa.ColumnElement[bool], ...]:
    return Job.group_id == group_id, Job.tenant == tenant


def _earlier(session: Session, key: Key | None) -> list[Job]:
    """All jobs of the request that came first under a key: others may have put theirs into the same group."""
    first = keys.find(session, key)
    if first is None:
        return []
    group = _group(str(first.group_id), first.tenant)
    same = sa.select(Job).where(*group, Job.request_id.is_not_distinct_from(first.request_id))
    return list(session.scalars(same.order_by(Job.id)))
