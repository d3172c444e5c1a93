"""Jobs in the database: submit, release, claim, finish. Each change of state is one conditional UPDATE."""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.orm import Session

from app import keys, totals
from app.endings import NOT_SENT, Outcome, end, end_queued, overdue, requeue
from app.errors import Failure, JobNotFoundError
from app.jobs import MAX_LOSSES, TERMINAL, Kind, State
from app.keys import Key
from app.locks import alone, hold, insert
from app.models import Job, Life, Pull, Result
from app.quotas import check_queued
from app.reads import HINTS, Detail, Hint, Reads
from app.release import QUEUED, fits, pick
from app.sessions import KEY, join, remember

__all__ = ["Accepted", "Detail", "Hint", "Key", "Outcome", "Store"]

#: Rows that one transaction changes at most, where there may be very many.
BATCH = 500
#: Seconds after its deadline at which a running job that its owner forgot is ended for it.
OVERDUE = 30.0


class Accepted(NamedTuple):
    """The job that a request stands for, and what may go to the broker now. Not `fresh`: it was accepted before."""

    job: Job
    hints: list[Hint]
    fresh: bool = True


class Store(Reads):
    """The one writer of jobs."""

    def submit(
        self, job: Job, pull: Pull | None = None, *, slots: int = 0, key: Key | None = None, most: int | None = None
    ) -> Accepted:
        """As `submit_all`, one job."""
        return self.submit_all([(job, key)], pull, slots=slots, most=most)[0]

    def submit_all(
        self,
        jobs: Sequence[tuple[Job, Key | None]],
        pull: Pull | None = None,
        *,
        slots: int = 0,
        most: int | None = None,
    ) -> list[Accepted]:
        """Commits a model's jobs, which is their acceptance, all or none, each with its key.

        What may go to the broker is released in the same transaction. `slots` counts what the model's holders have; a
        pull needs none, its queue bounds itself. With a key that was used before, the earlier job is the answer. `most`
        jobs of their tenant may wait, these included. Raises IdempotencyConflictError, QueueFullError.
        """
        try:
            with self._db.write() as session:
                earlier = [keys.find(session, key) for _, key in jobs]
                if None in earlier:
                    check_queued(session, jobs[0][0].tenant, most, earlier.count(None))
                return [
                    self._add(session, job, pull, slots, key) if found is None else Accepted(found, [], fresh=False)
                    for (job, key), found in zip(jobs, earlier, strict=True)
                ]
        except sa.exc.IntegrityError:
            # PostgreSQL lets two transactions look for a key at once; SQLite's writers come one after the other.
            known = [job for job in (self.accepted(key) for _, key in jobs) if job is not None]
            if len(known) < len(jobs):
                raise
            return [Accepted(job, [], fresh=False) for job in known]

    def _add(self, session: Session, job: Job, pull: Pull | None, slots: int, key: Key | None) -> Accepted:
        if slots > 0:
            alone(session, job.model)
        join(session, job)
        at_once = pull is not None or fits(session, job, slots)
        if at_once:
            job.released_at = self._clock.now()
        session.add(job)
        session.flush()
        keys.keep(session, key, job)
        if pull is not None:
            pull.job_id = job.id
            session.add(pull)
        hint = Hint(job.id, job.kind, job.model, job.priority, job.request.get("node"))
        return Accepted(job, [hint] if at_once else self._release(session, job.model, slots))

    def accepted(self, key: Key | None) -> Job | None:
        """The job that a key stands for, if any. Raises IdempotencyConflictError."""
        with self._db.read() as session:
            return keys.find(session, key)

    def release(self, model: str, slots: int) -> list[Hint]:
        """Marks as released what a model with so many slots may have in the broker; the caller sends the messages."""
        with self._db.read() as session:
            if not pick(session, model, slots, self._clock.now()):
                return []  # the usual case needs no lock
        with self._db.write(synced=False) as session:
            return self._release(session, model, slots)

    def _release(self, session: Session, model: str, slots: int) -> list[Hint]:
        alone(session, model)
        ids = pick(session, model, slots, self._clock.now())
        if not ids:
            return []
        # On PostgreSQL one may be on its way to its end: who ends it has it locked.
        free = HINTS.where(Job.id.in_(ids), Job.status == State.QUEUED).with_for_update(skip_locked=True)
        rows = {row.id: Hint(*row) for row in session.execute(free)}
        self._mark_released(session, Job.id.in_(rows))
        return [rows[job_id] for job_id in ids if job_id in rows]

    def unrelease(self, ids: Iterable[str]) -> None:
        """Takes back what could not be sent, or could not run where it arrived."""
        with self._db.write(synced=False) as session:
            waiting = Job.id.in_(list(ids)), Job.status == State.QUEUED
            hold(session, *waiting)
            _updated(session, sa.update(Job).where(*waiting).values(released_at=NOT_SENT))

    def touch_released(self, ids: Iterable[str]) -> None:
        """Notes that these were sent again just now."""
        with self._db.write(synced=False) as session:
            self._mark_released(session, Job.id.in_(list(ids)), Job.status == State.QUEUED)

    def _mark_released(self, session: Session, *where: sa.ColumnElement[bool]) -> None:
        hold(session, *where)
        _updated(session, sa.update(Job).where(*where).values(released_at=self._clock.now()))

    def claim(self, job_id: str, life: str, node: str, *, suspects: bool = True) -> Job | None:
        """Makes a message true: `queued` to `running`, a new attempt. None: another delivery won, or it is over.

        Without `suspects`, a job that must run alone is left in the queue too. A power cut may undo it, as nobody was
        told of it: the next claim then has the same number, and finds in the stream what this one emitted.
        """
        given = {"job": job_id, "life": life, "node": node, "now": self._clock.now()}
        with self._db.write(synced=False) as session:
            if session.scalar(_ALIVE, given) is None:
                return None
            return session.scalars(_CLAIM if suspects else _CLAIM_NO_SUSPECT, given).one_or_none()

    def unclaim(self, job_id: str, life: str) -> list[Outcome]:
        """Undoes a claim whose commit was not answered, where it stands. Returns the job where it ended."""
        with self._db.write() as session:
            return requeue(session, self._clock.now(), Job.id == job_id, Job.owner == life, lost=False)

    def hand_back(self, job_id: str, attempt: int, last_seq: int) -> list[Outcome]:
        """Puts a running job back into the queue without a loss (its model was moved). Returns it where it ended."""
        with self._db.write() as session:
            if not _updated(session, _owned(job_id, attempt).values(last_seq=last_seq)):
                return []
            return requeue(session, self._clock.now(), Job.id == job_id, Job.attempt == attempt, lost=False)

    def finish(self, outcome: Outcome, result: Result | None = None, *, trace: str | None = None) -> Outcome | None:
        """The owner's end of a job, result and all. None: the job is no longer this attempt's, nothing was written.

        A generation that somebody asked to end before this commit ends as they asked: they were told so.
        """
        given = {"job": outcome.id, "of": outcome.attempt, "now": self._clock.now(), "trace": trace}
        given |= {"state": outcome.state, "code": None, "message": None}
        if outcome.failure is not None:
            given |= {"code": outcome.failure.code, "message": outcome.failure.message}
        with self._db.write() as session:
            row = session.execute(_FINISH if result is None else _FINISH_AS_ASKED, given).one_or_none()
            if row is None:
                return None
            ended, tenant, note = row
            if result is not None:
                session.add(result)
                if note is not None and ended == State.SUCCEEDED:
                    remember(session, tenant, note, result.text, self._clock.now())
        return outcome if ended == outcome.state else Outcome(outcome.id, outcome.attempt, ended)

    def keep(self, result: Result) -> None:
        """Keeps what was emitted of a job that ended without an owner, unless something of it is kept already."""
        columns = {name: getattr(result, name) for name in Result.__table__.columns.keys()}  # noqa: SIM118
        with self._db.write() as session:
            session.execute(insert(session, Result).values(columns).on_conflict_do_nothing())

    def progress_pull(self, job_id: str, attempt: int, values: dict[str, Any]) -> bool:
        """Writes where a pull's bytes stand, under its attempt."""
        owned = sa.exists().where(Job.id == job_id, Job.attempt == attempt, Job.status == State.RUNNING)
        with self._db.write() as session:
            return _updated(session, sa.update(Pull).where(Pull.job_id == job_id, owned).values(values))

    def succeed_pull(self, job_id: str, attempt: int, values: dict[str, Any]) -> bool:
        """A pull's good end, with the last of what it tells. False: it is no longer this attempt's."""
        with self._db.write() as session:
            ended = _owned(job_id, attempt).values(status=State.SUCCEEDED, finished_at=self._clock.now())
            return _updated(session, ended) and _updated(
                session, sa.update(Pull).where(Pull.job_id == job_id).values(values)
            )

    def end(self, job_id: str, state: State, failure: Failure | None = None) -> Outcome | None:
        """Ends a job for somebody who does not own it: at once where it is queued, else by asking its owner.

        Returns the outcome where the job ended here; None where its owner will end it or it had ended.
        Raises JobNotFoundError.
        """
        with self._db.write() as session:
            hold(session, Job.id == job_id)  # it must not go back to the queue between the two looks
            outcomes = end_queued(session, self._clock.now(), Job.id == job_id, state=state, failure=failure)
            if outcomes:
                return outcomes[0]
            asked = _updated(
                session,
                sa.update(Job)
                .where(Job.id == job_id, Job.status == State.RUNNING, Job.end_requested.is_(None))
                .values(end_requested=state),
            )
            if not asked and session.get(Job, job_id) is None:
                raise JobNotFoundError(job_id)
            return None

    def fail_waiting(self, model: str, failure: Failure) -> list[Outcome]:
        """Fails some of the queued generations of a model that no engine can load; none are left where it is empty."""
        some = sa.select(Job.id).where(Job.model == model, Job.kind != Kind.PULL, Job.status == State.QUEUED)
        with self._db.write() as session:
            ids = session.scalars(some.limit(BATCH)).all()
            return end_queued(session, self._clock.now(), Job.id.in_(ids), state=State.FAILED, failure=failure)

    def expire(self) -> list[Outcome]:
        """Ends some queued jobs whose time to wait is over, and some running ones that their owner forgot to end."""
        now = self._clock.now()
        expired = sa.select(Job.id).where(Job.expires_at <= now, Job.finished_at.is_(None), QUEUED)
        with self._db.read() as session:
            ids = session.scalars(expired.limit(BATCH)).all()
            forgotten = session.scalars(sa.select(Job.id).where(overdue(now, OVERDUE)).limit(BATCH)).all()
        if not ids and not forgotten:
            return []
        with self._db.write() as session:
            outcomes = end_queued(session, now, Job.id.in_(ids), Job.expires_at <= now, state=State.TIMED_OUT)
            return outcomes + end(session, now, Job.id.in_(forgotten), overdue(now, OVERDUE), state=State.TIMED_OUT)

    def remove(self, job_id: str) -> None:
        """Forgets a job that has ended, with all that it gave."""
        with self._db.write() as session:
            ended = Job.id == job_id, Job.status.in_(TERMINAL)
            totals.remember(session, *ended)
            session.execute(sa.delete(Job).where(*ended))

    def lose(self, job_id: str, attempt: int) -> list[Outcome]:
        """A job whose engine died under it, told by its own worker: back into the queue, or to its end."""
        with self._db.write() as session:
            return requeue(session, self._clock.now(), Job.id == job_id, Job.attempt == attempt, lost=True)


# Built once, as in release.py.
_THIS, _NOW = Job.id == sa.bindparam("job"), sa.bindparam("now", type_=sa.Float)
#: Locked: who buries a life meanwhile waits, and then finds what it claimed.
_ALIVE = sa.select(Life.id).where(Life.id == sa.bindparam("life"), Life.ended_at.is_(None)).with_for_update(read=True)
_CLAIM = (
    sa.update(Job)
    .where(_THIS, Job.status == State.QUEUED, Job.expires_at > _NOW)
    .values(
        status=State.RUNNING,
        attempt=Job.attempt + 1,
        owner=sa.bindparam("life"),
        worker=sa.bindparam("node"),
        released_at=sa.func.coalesce(Job.released_at, _NOW),
        started_at=sa.func.coalesce(Job.started_at, _NOW),
        claimed_at=_NOW,
    )
    .returning(Job)
)
_CLAIM_NO_SUSPECT = _CLAIM.where(Job.losses < MAX_LOSSES)
_END = (
    sa.update(Job)
    .where(_THIS, Job.attempt == sa.bindparam("of"), Job.status == State.RUNNING)
    .values(
        finished_at=_NOW,
        traceback=sa.bindparam("trace"),
        error_code=sa.bindparam("code"),
        error_message=sa.bindparam("message"),
    )
    .returning(Job.status, Job.tenant, Job.request[KEY])
)
_FINISH = _END.values(status=sa.bindparam("state"))
_FINISH_AS_ASKED = _END.values(status=sa.func.coalesce(Job.end_requested, sa.bindparam("state", type_=sa.String)))


def _owned(job_id: str, attempt: int) -> sa.Update:
    return sa.update(Job).where(Job.id == job_id, Job.attempt == attempt, Job.status == State.RUNNING)


def _updated(session: Session, statement: sa.Update) -> bool:
    return bool(session.execute(statement).rowcount)  # type: ignore[attr-defined]  # a CursorResult, as every UPDATE gives
