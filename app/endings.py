"""How jobs leave a worker without its own word: back into the queue, or to an end. Steps within a transaction.

Who ends a job without owning it takes a new attempt, so that an owner that is still at work can change nothing more.
"""

from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.orm import Session

from app.errors import Failure
from app.events import Ended, Usage
from app.jobs import MAX_LOSSES, Kind, State
from app.locks import hold
from app.models import Job

#: When a job was sent that is in the queue again. Nothing releases pulls but their submission: for the sweep, their
#: messages were lost long ago.
NOT_SENT = sa.case((Job.kind == Kind.PULL, 0.0), else_=None)
#: Of these something may have been emitted.
BEGUN = sa.and_(Job.kind.in_((Kind.GENERATE, Kind.EMBED)), Job.started_at.is_not(None))


class Outcome(NamedTuple):
    """A terminal state that a job entered, and the attempt under which its last event is written."""

    id: str
    attempt: int
    state: str
    failure: Failure | None = None
    begun: bool = True

    def event(self, seq: int = 1, usage: Usage | None = None, reason: str = "") -> Ended:
        """The terminal event that tells it."""
        code, message = (self.failure.code, self.failure.message) if self.failure is not None else ("", "")
        return Ended(seq, self.state, reason, usage or Usage(), code, message)


def end(
    session: Session, now: float, *where: sa.ColumnElement[bool], state: State, failure: Failure | None = None
) -> list[Outcome]:
    """Ends the jobs that match, whoever has them. The caller names the states that they may be in."""
    values = {"status": state, "finished_at": now, "attempt": Job.attempt + 1} | error_columns(failure)
    hold(session, *where)
    ended = sa.update(Job).where(*where).values(values).returning(Job.id, Job.attempt, BEGUN)
    rows = session.execute(ended)
    return [Outcome(job_id, attempt, state.value, failure, bool(begun)) for job_id, attempt, begun in rows]


def end_queued(
    session: Session, now: float, *where: sa.ColumnElement[bool], state: State, failure: Failure | None = None
) -> list[Outcome]:
    """Ends the queued jobs that match."""
    return end(session, now, Job.status == State.QUEUED, *where, state=state, failure=failure)


def requeue(session: Session, now: float, *where: sa.ColumnElement[bool], lost: bool) -> list[Outcome]:
    """Puts running jobs back into the queue, or ends them where they must. `lost`: their worker died under them."""
    hold(session, Job.status == State.RUNNING, *where)
    ids = session.scalars(
        sa.update(Job)
        .where(Job.status == State.RUNNING, *where)
        .values(_back_in_queue(now) | ({"losses": Job.losses + 1} if lost else {}))
        .returning(Job.id)
    ).all()
    if not ids:
        return []
    theirs = Job.id.in_(ids)
    outcomes: list[Outcome] = []
    for state in (State.CANCELLED, State.TIMED_OUT):
        outcomes += end_queued(session, now, theirs, Job.end_requested == state, state=state)
    poisoned = Failure(
        "poisoned",
        f"The job was running each time that its worker died, {MAX_LOSSES + 1} times, at last as the only one there. "
        "The worker's log has the reason; send the request again when it is mended.",
    )
    return outcomes + end_queued(session, now, theirs, Job.losses > MAX_LOSSES, state=State.FAILED, failure=poisoned)


def _back_in_queue(now: float) -> dict[str, Any]:
    ran = Job.ran + (now - sa.func.coalesce(Job.claimed_at, now))
    # A detached job has begun by now: it may wait as long again as it may run, else a worker's death would end it.
    patience = now + Job.timeout
    longer = sa.case((sa.or_(Job.held, Job.expires_at > patience), Job.expires_at), else_=patience)
    return {
        "status": State.QUEUED,
        "released_at": NOT_SENT,
        "ran": ran,
        "expires_at": longer,
    }


def overdue(now: float, grace: float) -> sa.ColumnElement[bool]:
    """Running jobs that should have ended so many seconds ago: their owner forgot them."""
    deadline = sa.case((Job.held, Job.expires_at), else_=Job.claimed_at + Job.timeout - Job.ran)
    return sa.and_(Job.status == State.RUNNING, Job.finished_at.is_(None), deadline < now - grace)


def error_columns(failure: Failure | None) -> dict[str, str]:
    """How a row keeps why it failed."""
    return {} if failure is None else {"error_code": failure.code, "error_message": failure.message}
