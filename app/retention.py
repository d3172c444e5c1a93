"""Retention: what has ended is kept for a while, and then forgotten, a little at a time."""

import time
from collections.abc import Callable

import sqlalchemy as sa
import structlog
from sqlalchemy.orm import Session

from app import totals
from app.clock import Clock
from app.database import Database
from app.jobs import TERMINAL
from app.models import Batch, Idempotency, Job, Life

log = structlog.get_logger(__name__)

#: Rows that one transaction deletes: others write in between.
STEP = 500
#: Seconds between two transactions.
PAUSE = 0.02
#: Seconds that one run may take; the next goes on.
BUDGET = 2.0
#: How long a key stands for its job, and a life that ended is remembered, in seconds.
DAY = 86_400.0


class Retention:
    """Deletes finished jobs by age and number, and with them results and keys; old batches; old keys; ended lives."""

    def __init__(self, database: Database, clock: Clock, *, days: float, jobs: int) -> None:
        self._db = database
        self._clock = clock
        self._days = days
        self._jobs = jobs

    def prune(self) -> int:
        """Forgets what is over its time, for BUDGET seconds at most; returns how many rows. Raises UnavailableError."""
        until = time.monotonic() + BUDGET
        now = self._clock.now()
        steps = (
            lambda session: _batches(session, now - self._days * DAY),
            lambda session: self._old_jobs(session, now - self._days * DAY),
            self._surplus_jobs,
            lambda session: _keys(session, now - DAY),
            lambda session: _lives(session, now - DAY),
        )
        deleted = sum(self._repeat(step, until) for step in steps)
        if deleted:
            log.info("pruned", rows=deleted)
        return deleted

    def _repeat(self, step: Callable[[Session], sa.Delete | None], until: float) -> int:
        total = 0
        while time.monotonic() < until:
            with self._db.read() as session:
                statement = step(session)
            if statement is None:
                break
            with self._db.write() as session:
                if str(statement.table) == Job.__tablename__ and statement.whereclause is not None:
                    totals.remember(session, statement.whereclause)
                total += session.execute(statement).rowcount  # type: ignore[attr-defined]  # a CursorResult
            time.sleep(PAUSE)
        return total

    def _old_jobs(self, session: Session, before: float) -> sa.Delete | None:
        # A job's id tells when it was made, and nothing finishes before that: the index ends the search.
        made_before = f"{int(before * 1000):012x}"
        return _jobs(session, Job.id < made_before, Job.finished_at < before)

    def _surplus_jobs(self, session: Session) -> sa.Delete | None:
        """Of those tenants alone that have more than their share, the one with the most first."""
        kept = {tenant: count for tenant, count in session.execute(_ENDED)}
        share = _share(sorted(kept.values()), self._jobs)
        for tenant in sorted(kept, key=lambda tenant: -kept[tenant]):
            if kept[tenant] <= share:
                break
            newest = sa.select(Job.id).where(Job.tenant == tenant, Job.finished_at.is_not(None)).order_by(Job.id.desc())
            boundary = session.scalar(newest.offset(share).limit(1))
            surplus = None if boundary is None else _jobs(session, Job.tenant == tenant, Job.id <= boundary)
            if surplus is not None:
                return surplus
        return None


_ENDED = sa.select(Job.tenant, sa.func.count()).where(Job.finished_at.is_not(None)).group_by(Job.tenant)


def _share(counts: list[int], limit: int) -> int:
    """How many each may keep: who has fewer leaves the rest to the others. `counts` ascend."""
    for tenants, count in zip(range(len(counts), 0, -1), counts, strict=True):
        if count * tenants > limit:
            return limit // tenants
        limit -= count
    return max(counts, default=0)


def _batches(session: Session, before: float) -> sa.Delete | None:
    ends = (Batch.completed_at, Batch.failed_at, Batch.expired_at, Batch.cancelled_at)
    ids = session.scalars(sa.select(Batch.id).where(sa.or_(*(end < before for end in ends))).limit(STEP)).all()
    return sa.delete(Batch).where(Batch.id.in_(ids)) if ids else None


def _jobs(session: Session, *where: sa.ColumnElement[bool]) -> sa.Delete | None:
    """Some that are over. A batch's lines go after it: what it gave is read out of their rows."""
    where = (*where, ~sa.exists().where(Batch.id == Job.group_id))
    for state in sorted(TERMINAL):
        ids = session.scalars(sa.select(Job.id).where(Job.status == state, *where).order_by(Job.id).limit(STEP)).all()
        if ids:
            return sa.delete(Job).where(Job.id.in_(ids))
    return None


def _keys(session: Session, before: float) -> sa.Delete | None:
    old = sa.select(Idempotency.tenant, Idempotency.key).where(Idempotency.created_at < before).limit(STEP)
    keys = [tuple(row) for row in session.execute(old)]
    return sa.delete(Idempotency).where(sa.tuple_(Idempotency.tenant, Idempotency.key).in_(keys)) if keys else None


def _lives(session: Session, before: float) -> sa.Delete | None:
    ids = session.scalars(sa.select(Life.id).where(Life.ended_at < before).limit(STEP)).all()
    return sa.delete(Life).where(Life.id.in_(ids)) if ids else None
