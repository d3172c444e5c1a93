"""Batches: many jobs under one name, from their file to their end. The lines are jobs like all others.

A batch is accepted when all its lines are in the queue. What it gave is read out of its jobs, so there is no output to
write, to lose, or to write twice.
"""

from collections.abc import Iterable
from enum import StrEnum
from itertools import islice
from typing import Any

import sqlalchemy as sa

from app import keys, totals
from app.errors import InvalidRequestError, NotFoundError
from app.groups import Groups, insert_all
from app.jobs import State
from app.keys import Key
from app.models import Batch, Job
from app.quotas import check_queued

#: Lines that one transaction inserts: few enough to let other writers in between.
CHUNK = 500
#: Filling the largest batch takes seconds; one that has been filled for so long lost the process that did it.
STALLED = 900.0


class Stage(StrEnum):
    """Where a batch stands, in OpenAI's words."""

    VALIDATING = "validating"  #: its lines are being read
    FAILED = "failed"  #: its file could not be taken: nothing was run
    IN_PROGRESS = "in_progress"  #: its lines are in the queue
    FINALIZING = "finalizing"  #: they have all ended
    COMPLETED = "completed"  #: and can be read
    EXPIRED = "expired"  #: its window closed before all lines had run
    CANCELLING = "cancelling"  #: lines that run are being ended
    CANCELLED = "cancelled"  #: none runs any more


OPEN = (Stage.VALIDATING, Stage.IN_PROGRESS, Stage.FINALIZING, Stage.CANCELLING)
#: Its lines have all ended: what is counted of them changes no more.
OVER = (Stage.COMPLETED, Stage.EXPIRED, Stage.CANCELLED)


class BatchNotFoundError(NotFoundError):
    """No batch has this id, or it belongs to somebody else."""

    code = "batch_not_found"

    def __init__(self, batch_id: str) -> None:
        super().__init__(f"No batch has the id '{batch_id}'.", param="batch_id")


class Batches(Groups):
    """Groups of jobs, and the batches that have a row of their own."""

    def create(self, batch: Batch, lines: int = 0, most: int | None = None) -> None:
        """Commits a batch that has no lines yet. `most` jobs of its tenant may wait. Raises QueueFullError."""
        with self._db.write() as session:
            check_queued(session, batch.tenant, most, lines)
            session.add(batch)

    def fill(self, batch_id: str, jobs: Iterable[Job], key: Key | None = None, most: int | None = None) -> int:
        """Commits lines, some hundred at a time; returns how many. Nothing of them is in the broker yet.

        `most` jobs of the tenant may wait: other requests may have come since `create`. Raises QueueFullError.

        A key stands for the first line, and so for the batch: a second batch under the same key cannot be filled.

        Stops where the batch was cancelled or given up meanwhile. Its row is changed first: on PostgreSQL that is the
        lock which whoever moves it on waits for, so that no line comes behind their back.
        """
        count, rest = 0, iter(jobs)
        mine = sa.update(Batch).where(Batch.id == batch_id, Batch.status == Stage.VALIDATING)
        while chunk := list(islice(rest, CHUNK)):
            with self._db.write() as session:
                if not session.execute(mine.values(total=count + len(chunk))).rowcount:  # type: ignore[attr-defined]
                    break
                check_queued(session, chunk[0].tenant, most, sum(job.finished_at is None for job in chunk))
                insert_all(session, chunk)
                if count == 0:
                    keys.keep(session, key, chunk[0])
            count += len(chunk)
        return count

    def open(self, batch_id: str) -> None:
        """All its lines are here: the batch is accepted."""
        self._move(batch_id, (Stage.VALIDATING,), Stage.IN_PROGRESS, in_progress_at=self._clock.now())

    def refuse(self, batch_id: str, errors: list[dict[str, Any]]) -> None:
        """Its file cannot be taken: what was inserted of it goes away, and the batch keeps why."""
        failed = {"status": Stage.FAILED, "failed_at": self._clock.now(), "errors": {"errors": errors}, "total": 0}
        open_yet = sa.update(Batch).where(Batch.id == batch_id, Batch.status == Stage.VALIDATING)
        with self._db.write() as session:
            if session.execute(open_yet.values(failed)).rowcount:  # type: ignore[attr-defined]  # a CursorResult
                totals.remember(session, Job.group_id == batch_id)
                session.execute(sa.delete(Job).where(Job.group_id == batch_id))

    def get(self, batch_id: str, scope: str | None = None) -> Batch:
        """Its row; `scope` is the tenant whose it must be, None any. Raises BatchNotFoundError."""
        with self._db.read() as session:
            batch = session.get(Batch, batch_id)
        if batch is None or scope not in (None, batch.tenant):
            raise BatchNotFoundError(batch_id)
        return batch

    def page(self, scope: str | None = None, *, after: str | None = None, limit: int = 20) -> list[Batch]:
        """A tenant's, or all, newest first; `after` is the last id of the page before."""
        query = sa.select(Batch).order_by(Batch.id.desc()).limit(limit)
        if scope is not None:
            query = query.where(Batch.tenant == scope)
        if after is not None:
            query = query.where(Batch.id < after)
        with self._db.read() as session:
            return list(session.scalars(query))

    def cancel(self, batch_id: str, scope: str | None = None) -> Batch:
        """From now on its jobs are to end, which `end_jobs` does. Raises BatchNotFoundError, InvalidRequestError."""
        batch = self.get(batch_id, scope)
        if batch.status not in OPEN:
            raise InvalidRequestError(f"Cannot cancel a batch with status '{batch.status}'.")
        open_stages = (Stage.VALIDATING, Stage.IN_PROGRESS, Stage.FINALIZING)
        self._move(batch_id, open_stages, Stage.CANCELLING, cancelling_at=self._clock.now())
        return self.get(batch_id)

    def advance(self) -> None:
        """Moves every open batch on as far as its jobs are. Run in each sweep; safe to run twice at once."""
        with self._db.read() as session:
            batches = list(session.scalars(sa.select(Batch).where(Batch.status.in_(OPEN))))
        for batch in batches:
            self._advance(batch, self._clock.now())

    def _advance(self, batch: Batch, now: float) -> None:
        if batch.status == Stage.VALIDATING:
            if now - batch.created_at > STALLED:
                message = "The server stopped while it read the file. Create the batch again."
                self.refuse(batch.id, [{"code": "interrupted", "line": None, "message": message, "param": None}])
            return
        if self.counts(batch.id, batch.tenant).open:
            if batch.status == Stage.CANCELLING:
                # Lines that were handed back to the queue meanwhile. Their streams are closed with those left open.
                self.end_jobs(batch.id, batch.tenant)
            return
        if batch.status == Stage.CANCELLING:
            self._move(batch.id, (Stage.CANCELLING,), Stage.CANCELLED, cancelled_at=now)
        elif now >= batch.expires_at and self._some_expired(batch.id):
            self._move(batch.id, OPEN, Stage.EXPIRED, finalizing_at=now, expired_at=now)
        else:
            self._move(batch.id, OPEN, Stage.COMPLETED, finalizing_at=now, completed_at=now)

    def _some_expired(self, group_id: str) -> bool:
        late = (Job.status == State.TIMED_OUT, Job.finished_at >= Job.expires_at)
        query = sa.select(Job.id).where(Job.group_id == group_id, *late).limit(1)
        with self._db.read() as session:
            return session.scalar(query) is not None

    def _move(self, batch_id: str, before: Iterable[Stage], to: Stage, **values: Any) -> None:
        moved = sa.update(Batch).where(Batch.id == batch_id, Batch.status.in_(list(before)))
        with self._db.write() as session:
            session.execute(moved.values(status=to, **values))
