"""What the rows tell: jobs whole, pages of them, and how many wait."""

from typing import NamedTuple

import sqlalchemy as sa
from sqlalchemy.orm import defer

from app import totals
from app.clock import Clock
from app.database import Database
from app.endings import BEGUN, Outcome
from app.errors import Failure, JobNotFoundError
from app.jobs import MAX_LOSSES, TERMINAL, Kind, State
from app.models import Job, Pull, Result
from app.release import QUEUED, ahead_of, overflowing, waiting
from app.totals import Totals

#: Beyond this many, a place in the queue is not counted.
MAX_POSITION = 10_000
#: How many of the latest answers of all models tell how long a model's next one will take.
SAMPLE = 256
#: How long after a job's end somebody looks whether its stream was closed, in seconds: the broker may be away so long.
LEFT_OPEN = 3600.0
#: How many of these are closed at once.
CLOSED = 500


class Hint(NamedTuple):
    """What a message to the broker is made of: a job that may be claimed."""

    id: str
    kind: str
    model: str
    priority: int
    node: str | None = None  #: where a pull must bring its files


class Detail(NamedTuple):
    """A job with what only its kind has."""

    job: Job
    pull: Pull | None
    result: Result | None


class Depth(NamedTuple):
    """How many open jobs are of one sort."""

    kind: str
    model: str
    status: str
    held: bool
    jobs: int


class Lane(NamedTuple):
    """The open generations of one model at one priority. `released`: those queued that the broker has."""

    model: str
    priority: int
    queued: int
    released: int
    running: int
    oldest: float | None  #: when the queued one was created that waits longest


#: Only a pull's request is looked into: others may be long.
_NODE = sa.case((Job.kind == Kind.PULL, Job.request["node"].as_string()))
HINTS = sa.select(Job.id, Job.kind, Job.model, Job.priority, _NODE)
_WHOLE = sa.select(Job, Pull, Result).outerjoin(Pull, Pull.job_id == Job.id).outerjoin(Result, Result.job_id == Job.id)
#: What may be long is left where it is: a page of jobs would else be as heavy as all their prompts and answers.
_LIGHT = _WHOLE.options(
    *(defer(long, raiseload=True) for long in (Job.request, Job.traceback, Result.text, Result.log))
)


class Reads:
    """Questions to the database. None of them changes anything."""

    def __init__(self, database: Database, clock: Clock | None = None) -> None:
        self._db = database
        self._clock = clock or Clock()

    def get(self, job_id: str, scope: str | None = None) -> Detail:
        """A job whole; `scope` is the tenant whose it must be, None any. Raises JobNotFoundError."""
        with self._db.read() as session:
            row = session.execute(_WHOLE.where(Job.id == job_id)).one_or_none()
        if row is None or scope not in (None, row[0].tenant):
            raise JobNotFoundError(job_id)
        return Detail(*row)

    def page(
        self,
        *,
        status: str | None = None,
        kind: str | None = None,
        model: str | None = None,
        group: str | None = None,
        scope: str | None = None,
        since: float | None = None,
        before: str | None = None,
        limit: int = 50,
    ) -> list[Detail]:
        """A page of jobs, newest first, without their requests, texts and tracebacks.

        `before` is the last id of the page before; `since` a time of creation, `scope` a tenant.
        """
        wanted = {Job.status: status, Job.kind: kind, Job.model: model, Job.group_id: group, Job.tenant: scope}
        query = (
            _LIGHT.where(*(column == value for column, value in wanted.items() if value is not None))
            .order_by(Job.id.desc())
            .limit(limit)
        )
        if since is not None:
            query = query.where(Job.created_at >= since)
        if before is not None:
            query = query.where(Job.id < before)
        with self._db.read() as session:
            return [Detail(*row) for row in session.execute(query)]

    def unclaimed(self) -> list[tuple[Hint, float]]:
        """All jobs whose messages should be in the broker, oldest first, with the seconds since each was released."""
        query = HINTS.add_columns(self._clock.now() - Job.released_at).where(
            Job.model > "",  # always so; it leads the planner to the index of what is released
            Job.released_at.is_not(None),
            Job.finished_at.is_(None),
            QUEUED,
        )
        with self._db.read() as session:
            return sorted((Hint(*hint), seconds) for *hint, seconds in session.execute(query))

    def unclosed(self) -> list[Outcome]:
        """Some that ended lately without an owner and of which nothing is kept: an owner always leaves a result."""
        query = (
            sa.select(Job.id, Job.attempt, Job.status, Job.error_code, Job.error_message)
            .where(BEGUN, Job.finished_at > self._clock.now() - LEFT_OPEN, Job.status != State.SUCCEEDED)
            .where(~sa.exists().where(Result.job_id == Job.id))
            .limit(CLOSED)
        )
        with self._db.read() as session:
            return [
                Outcome(job_id, attempt, status, Failure(code or "", message or ""))
                for job_id, attempt, status, code, message in session.execute(query)
            ]

    def waiting_models(self) -> list[str]:
        """The models that have generations in the queue, the one with the most urgent first."""
        with self._db.read() as session:
            return waiting(session, self._clock.now())

    def overflowing(self, seconds: float) -> list[str]:
        """The models with a generation that has waited so long outside the broker's window."""
        with self._db.read() as session:
            return overflowing(session, self._clock.now() - seconds)

    def queued_pulls(self, model: str) -> list[Job]:
        """The pulls of a model that wait."""
        query = sa.select(Job).where(Job.kind == Kind.PULL, Job.model == model, Job.finished_at.is_(None), QUEUED)
        with self._db.read() as session:
            return list(session.scalars(query.order_by(Job.id)))

    def has_open_pull(self, repo: str) -> bool:
        """Whether a pull of a repository waits or runs, of whichever of its files."""
        named = sa.or_(Job.model == repo, Job.model.startswith(f"{repo}:", autoescape=True))
        query = sa.select(Job.id).where(Job.kind == Kind.PULL, Job.finished_at.is_(None), named)
        with self._db.read() as session:
            return session.scalars(query.limit(1)).first() is not None

    def is_fetched(self, model: str, node: str) -> bool:
        """Whether a pull of a model to a node waits or runs."""
        query = sa.select(Job.request).where(Job.kind == Kind.PULL, Job.model == model, Job.finished_at.is_(None))
        with self._db.read() as session:
            return any(request.get("node") == node for request in session.scalars(query))

    def depths(self, scope: str | None = None) -> list[Depth]:
        """How many jobs are open, by sort: all, or those of one tenant."""
        sort = (Job.kind, Job.model, Job.status, Job.held)
        query = sa.select(*sort, sa.func.count()).where(Job.finished_at.is_(None), _within(scope)).group_by(*sort)
        with self._db.read() as session:
            return [Depth(*row) for row in session.execute(query)]

    def waits(self) -> list[tuple[str, bool, str, int]]:
        """How many jobs wait, by model, whether they are held, and tenant."""
        index = (Job.kind, Job.model, Job.status, Job.held, Job.tenant)
        query = sa.select(Job.model, Job.held, Job.tenant, sa.func.count()).where(Job.finished_at.is_(None), QUEUED)
        with self._db.read() as session:
            return [(*row,) for row in session.execute(query.group_by(*index))]

    def lanes(self, scope: str | None = None) -> list[Lane]:
        """The open generations by model and priority, the most urgent of each model first: all, or one tenant's."""
        waits = Job.status == State.QUEUED
        query = (
            sa.select(
                Job.model,
                Job.priority,
                sa.func.count().filter(waits),
                sa.func.count().filter(waits, Job.released_at.is_not(None)),
                sa.func.count().filter(~waits),
                sa.func.min(Job.created_at).filter(waits),
            )
            .where(Job.finished_at.is_(None), Job.kind != Kind.PULL, _within(scope))
            .group_by(Job.model, Job.priority)
            .order_by(Job.model, Job.priority)
        )
        with self._db.read() as session:
            return [Lane(*row) for row in session.execute(query)]

    def downloads(self) -> tuple[int, int, float]:
        """Of the pulls that run: bytes that are here, bytes in all as far as known, bytes a second."""
        columns = (Pull.downloaded_bytes, Pull.total_bytes, Pull.bytes_per_second)
        query = sa.select(*(sa.func.sum(column) for column in columns))
        running = query.join(Job, Job.id == Pull.job_id).where(Job.status == State.RUNNING)
        with self._db.read() as session:
            done, total, rate = (value or 0 for value in session.execute(running).one())
            return int(done), int(total), float(rate)

    def ended(self, scope: str | None = None) -> int:
        """How many jobs have ended and are still kept: all, or one tenant's."""
        with self._db.read() as session:
            return session.scalar(sa.select(sa.func.count()).where(Job.status.in_(TERMINAL), _within(scope))) or 0

    def totals(self) -> Totals:
        """How all jobs ended that ever were."""
        with self._db.read() as session:
            return totals.read(session)

    def position(self, job: Job) -> int:
        """A queued job's place, from 1; MAX_POSITION stands for all beyond."""
        with self._db.read() as session:
            return min(MAX_POSITION, 1 + ahead_of(session, job, MAX_POSITION))

    def mean_seconds(self, model: str) -> float | None:
        """How long a model's generations among the latest answers ran on average; None where there is none."""
        columns = (Job.model, Job.kind, Job.finished_at, Job.claimed_at)
        latest = (
            sa.select(*columns).where(Job.status == State.SUCCEEDED).order_by(Job.id.desc()).limit(SAMPLE).subquery()
        )
        mean = sa.select(sa.func.avg(latest.c.finished_at - latest.c.claimed_at))
        with self._db.read() as session:
            return session.scalar(mean.where(latest.c.model == model, latest.c.kind != Kind.PULL))

    def probe(self) -> None:
        """Asks whether the database takes writes just now. Raises UnavailableError."""
        self._db.probe()

    def is_suspect(self, job_id: str) -> bool:
        """Whether a job is in the queue that lost its worker so often that it must run alone."""
        query = sa.select(Job.id).where(Job.id == job_id, Job.status == State.QUEUED, Job.losses >= MAX_LOSSES)
        with self._db.read() as session:
            return session.scalar(query) is not None

    def owns(self, job_id: str, attempt: int) -> bool:
        """Whether an attempt at a job is still the one that runs."""
        query = sa.select(Job.id).where(Job.id == job_id, Job.attempt == attempt, Job.status == State.RUNNING)
        with self._db.read() as session:
            return session.scalar(query) is not None


def _within(scope: str | None) -> sa.ColumnElement[bool]:
    return sa.true() if scope is None else Job.tenant == scope
