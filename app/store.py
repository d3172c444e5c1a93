"""Jobs in the database: submit, release, claim, finish. Each change of state is one conditional UPDATE.

Who ends a job without owning it takes a new attempt, so that an owner that is still at work can change nothing more.
"""

import time
from collections.abc import Iterable
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.orm import Session

from app.database import Database
from app.errors import Failure, JobNotFoundError
from app.jobs import MAX_LOSSES, TERMINAL, Kind, State
from app.models import Job, Life, Pull, Result
from app.release import pick
from app.sessions import remember


class Hint(NamedTuple):
    """What a message to the broker is made of: a job that may be claimed."""

    id: str
    kind: str
    model: str
    priority: int


class Outcome(NamedTuple):
    """A terminal state that a job entered, and the attempt under which its last event is written."""

    id: str
    attempt: int
    state: str
    failure: Failure | None = None


class Detail(NamedTuple):
    """A job with what only its kind has."""

    job: Job
    pull: Pull | None
    result: Result | None


class Store:
    """The one writer of jobs."""

    def __init__(self, database: Database) -> None:
        self._db = database

    def submit(self, job: Job, pull: Pull | None = None, *, slots: int = 0) -> list[Hint]:
        """Commits a job, which is its acceptance, and releases what may go to the broker in the same transaction.

        `slots` counts what the model's holders have; a pull needs none, its queue bounds itself.
        """
        with self._db.write() as session:
            session.add(job)
            if pull is not None:
                pull.job_id = job.id
                job.released_at = time.time()
                session.flush()
                session.add(pull)
                return [_hint(job)]
            session.flush()
            return self._release(session, job.model, slots)

    def release(self, model: str, slots: int) -> list[Hint]:
        """Marks as released what a model with so many slots may have in the broker; the caller sends the messages."""
        with self._db.write() as session:
            return self._release(session, model, slots)

    def _release(self, session: Session, model: str, slots: int) -> list[Hint]:
        ids = pick(session, model, slots)
        if not ids:
            return []
        session.execute(
            sa.update(Job).where(Job.id.in_(ids)).values(released_at=time.time()),
            execution_options={"synchronize_session": False},
        )
        rows = {row.id: Hint(*row) for row in session.execute(_HINTS.where(Job.id.in_(ids)))}
        return [rows[job_id] for job_id in ids]

    def claim(self, job_id: str, life: str, node: str) -> Job | None:
        """Makes a message true: `queued` to `running`, a new attempt. None: another delivery won, or it is over."""
        alive = sa.exists().where(Life.id == life, Life.ended_at.is_(None))
        now = time.time()
        with self._db.write() as session:
            return session.scalars(
                sa.update(Job)
                .where(Job.id == job_id, Job.status == State.QUEUED, Job.expires_at > now, alive)
                .values(
                    status=State.RUNNING,
                    attempt=Job.attempt + 1,
                    owner=life,
                    worker=node,
                    started_at=sa.func.coalesce(Job.started_at, now),
                )
                .returning(Job)
            ).one_or_none()

    def hand_back(self, job_id: str, attempt: int, last_seq: int) -> bool:
        """Puts a running job back into the queue without a loss (a deploy, a model that was moved)."""
        return self._change(
            job_id, attempt, {"status": State.QUEUED, "released_at": None, "owner": None, "last_seq": last_seq}
        )

    def finish(self, outcome: Outcome, result: Result | None = None, *, trace: str | None = None) -> bool:
        """The owner's end of a job, result and all. False: the job is no longer this attempt's, nothing was written."""
        values: dict[str, Any] = {"status": outcome.state, "finished_at": time.time(), "traceback": trace}
        values |= _error_columns(outcome.failure)
        with self._db.write() as session:
            done = _updated(session, _owned(outcome.id, outcome.attempt).values(values))
            if done and result is not None:
                session.add(result)
                remember(session, outcome.id, outcome.state, result.text)
            return done

    def _change(self, job_id: str, attempt: int, values: dict[str, Any]) -> bool:
        with self._db.write() as session:
            return _updated(session, _owned(job_id, attempt).values(values))

    def progress_pull(self, job_id: str, attempt: int, values: dict[str, Any]) -> bool:
        """Writes where a pull's bytes stand, under its attempt."""
        owned = sa.exists().where(Job.id == job_id, Job.attempt == attempt, Job.status == State.RUNNING)
        with self._db.write() as session:
            return _updated(session, sa.update(Pull).where(Pull.job_id == job_id, owned).values(values))

    def succeed_pull(self, job_id: str, attempt: int, values: dict[str, Any]) -> bool:
        """A pull's good end, with the last of what it tells. False: it is no longer this attempt's."""
        with self._db.write() as session:
            ended = _owned(job_id, attempt).values(status=State.SUCCEEDED, finished_at=time.time())
            return _updated(session, ended) and _updated(
                session, sa.update(Pull).where(Pull.job_id == job_id).values(values)
            )

    def queued_pulls(self, model: str) -> list[Job]:
        """The pulls of a model that wait."""
        query = sa.select(Job).where(Job.kind == Kind.PULL, Job.model == model, Job.status == State.QUEUED)
        with self._db.read() as session:
            return list(session.scalars(query.order_by(Job.id)))

    def has_open_pull(self, repo: str) -> bool:
        """Whether a pull of a repository waits or runs, of whichever of its files."""
        named = sa.or_(Job.model == repo, Job.model.startswith(f"{repo}:", autoescape=True))
        query = sa.select(Job.id).where(Job.kind == Kind.PULL, Job.status.in_((State.QUEUED, State.RUNNING)), named)
        with self._db.read() as session:
            return session.scalars(query.limit(1)).first() is not None

    def end(self, job_id: str, state: State, failure: Failure | None = None) -> Outcome | None:
        """Ends a job for somebody who does not own it: at once where it is queued, else by asking its owner.

        Returns the outcome where the job ended here; None where its owner will end it or it had ended.
        Raises JobNotFoundError.
        """
        with self._db.write() as session:
            outcomes = _end_queued(session, Job.id == job_id, state=state, failure=failure)
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
        """Fails every queued generation of a model that no engine can load."""
        with self._db.write() as session:
            return _end_queued(session, Job.model == model, Job.kind != Kind.PULL, state=State.FAILED, failure=failure)

    def expire(self) -> list[Outcome]:
        """Ends the queued jobs whose time to wait is over."""
        with self._db.write() as session:
            return _end_queued(session, Job.expires_at <= time.time(), state=State.TIMED_OUT)

    def requeue_lost(self, session: Session, life: str) -> list[Outcome]:
        """Within the transaction that ends a life: its jobs go back into the queue, or end where they must."""
        return _lose(session, Job.owner == life)

    def lose(self, job_id: str, attempt: int) -> list[Outcome]:
        """A job whose engine died under it, told by its own worker: as `requeue_lost`."""
        with self._db.write() as session:
            return _lose(session, Job.id == job_id, Job.attempt == attempt)

    def get(self, job_id: str) -> Detail:
        """A job whole. Raises JobNotFoundError."""
        query = (
            sa.select(Job, Pull, Result)
            .outerjoin(Pull, Pull.job_id == Job.id)
            .outerjoin(Result, Result.job_id == Job.id)
            .where(Job.id == job_id)
        )
        with self._db.read() as session:
            row = session.execute(query).one_or_none()
        if row is None:
            raise JobNotFoundError(job_id)
        return Detail(*row)

    def page(
        self,
        *,
        status: str | None = None,
        kind: str | None = None,
        model: str | None = None,
        group: str | None = None,
        since: float | None = None,
        before: str | None = None,
        limit: int = 50,
    ) -> list[Detail]:
        """A page of jobs, newest first. `before` is the last id of the page before; `since` a time of creation."""
        wanted = {Job.status: status, Job.kind: kind, Job.model: model, Job.group_id: group}
        query = (
            sa.select(Job, Pull, Result)
            .outerjoin(Pull, Pull.job_id == Job.id)
            .outerjoin(Result, Result.job_id == Job.id)
            .where(*(column == value for column, value in wanted.items() if value is not None))
            .order_by(Job.id.desc())
            .limit(limit)
        )
        if since is not None:
            query = query.where(Job.created_at >= since)
        if before is not None:
            query = query.where(Job.id < before)
        with self._db.read() as session:
            return [Detail(*row) for row in session.execute(query)]

    def remove(self, job_id: str) -> None:
        """Forgets a job that has ended, with all that it gave."""
        with self._db.write() as session:
            session.execute(sa.delete(Job).where(Job.id == job_id, Job.status.in_(TERMINAL)))

    def stale(self, seconds: float) -> list[Hint]:
        """Released jobs that nobody claimed in so many seconds; their messages may be lost."""
        query = _HINTS.where(Job.status == State.QUEUED, Job.released_at < time.time() - seconds)
        with self._db.read() as session:
            return [Hint(*row) for row in session.execute(query.order_by(Job.id).limit(1000))]

    def touch_released(self, ids: Iterable[str]) -> None:
        """Notes that these were sent again just now."""
        with self._db.write() as session:
            session.execute(
                sa.update(Job).where(Job.id.in_(list(ids)), Job.status == State.QUEUED).values(released_at=time.time())
            )

    def waiting_models(self) -> list[str]:
        """The models that have generations in the queue, longest waiting first."""
        query = (
            sa.select(Job.model)
            .where(Job.status == State.QUEUED, Job.kind != Kind.PULL)
            .group_by(Job.model)
            .order_by(sa.func.min(Job.id))
        )
        with self._db.read() as session:
            return list(session.scalars(query))

    def overflowing(self, seconds: float) -> list[str]:
        """The models with a generation that has waited so long outside the broker's window."""
        query = (
            sa.select(Job.model)
            .where(Job.status == State.QUEUED, Job.kind != Kind.PULL, Job.released_at.is_(None))
            .where(Job.created_at < time.time() - seconds)
            .distinct()
        )
        with self._db.read() as session:
            return list(session.scalars(query))

    def depths(self) -> list[tuple[str, str, str, int]]:
        """How many jobs are open, by (kind, model, status)."""
        query = (
            sa.select(Job.kind, Job.model, Job.status, sa.func.count())
            .where(Job.status.in_((State.QUEUED, State.RUNNING)))
            .group_by(Job.kind, Job.model, Job.status)
        )
        with self._db.read() as session:
            return [(kind, model, status, count) for kind, model, status, count in session.execute(query)]


_HINTS = sa.select(Job.id, Job.kind, Job.model, Job.priority)


def is_over(job: Job) -> bool:
    """Whether the job is in a terminal state."""
    return job.status in TERMINAL


def _hint(job: Job) -> Hint:
    return Hint(job.id, job.kind, job.model, job.priority)


def _owned(job_id: str, attempt: int) -> sa.Update:
    return sa.update(Job).where(Job.id == job_id, Job.attempt == attempt, Job.status == State.RUNNING)


def _updated(session: Session, statement: sa.Update) -> bool:
    result = session.execute(statement, execution_options={"synchronize_session": False})
    return bool(result.rowcount)  # type: ignore[attr-defined]  # a CursorResult, as every UPDATE gives


def _error_columns(failure: Failure | None) -> dict[str, str]:
    return {} if failure is None else {"error_code": failure.code, "error_message": failure.message}


def _end_queued(
    session: Session, *where: sa.ColumnElement[bool], state: State, failure: Failure | None = None
) -> list[Outcome]:
    values = {"status": state, "finished_at": time.time(), "attempt": Job.attempt + 1} | _error_columns(failure)
    rows = session.execute(
        sa.update(Job).where(Job.status == State.QUEUED, *where).values(values).returning(Job.id, Job.attempt),
        execution_options={"synchronize_session": False},
    )
    return [Outcome(job_id, attempt, state.value, failure) for job_id, attempt in rows]


def _lose(session: Session, *where: sa.ColumnElement[bool]) -> list[Outcome]:
    lost = session.scalars(
        sa.update(Job)
        .where(Job.status == State.RUNNING, *where)
        .values(status=State.QUEUED, released_at=None, losses=Job.losses + 1)
        .returning(Job.id),
        execution_options={"synchronize_session": False},
    ).all()
    theirs = Job.id.in_(lost)
    poisoned = Failure("poisoned", f"The job was running each time that its worker died, {MAX_LOSSES + 1} times.")
    outcomes = _end_queued(session, theirs, Job.losses > MAX_LOSSES, state=State.FAILED, failure=poisoned)
    for state in (State.CANCELLED, State.TIMED_OUT):
        outcomes += _end_queued(session, theirs, Job.end_requested == state, state=state)
    return outcomes
