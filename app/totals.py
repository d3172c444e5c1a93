"""How all jobs ended that ever were: what is kept is counted, and what is forgotten was added up before.

So the totals only grow, as counters must, whoever ended a job, and they agree with the rows to the job.
"""

from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.orm import Session

from app.locks import hold, insert
from app.models import Job, Pull, Result, Tally


class Ending(NamedTuple):
    """How many jobs of one sort ended in one way, with how many attempts, and deaths of workers, in all."""

    kind: str
    model: str
    status: str
    code: str
    jobs: int
    attempts: int
    losses: int


class Totals(NamedTuple):
    """Since the database was made."""

    endings: list[Ending]
    prompt_tokens: int
    completion_tokens: int
    pulled_bytes: int


_SORT = (Job.kind, Job.model, Job.status, sa.func.coalesce(Job.error_code, ""))
_SUMS = (sa.func.count(), sa.func.sum(Job.attempt), sa.func.sum(Job.losses))
KEPT = sa.select(*_SORT, *_SUMS).where(Job.finished_at.is_not(None)).group_by(*_SORT)
_TOKENS = (sa.func.sum(Result.prompt_tokens), sa.func.sum(Result.completion_tokens))
_BYTES = sa.func.sum(Pull.downloaded_bytes)
_KEY = ("kind", "model", "status", "code")
_COUNTED = ("jobs", "attempts", "losses", "prompt_tokens", "completion_tokens", "pulled_bytes")


def read(session: Session) -> Totals:
    """Both parts, of one moment."""
    gone = sa.select(*(getattr(Tally, name) for name in (*_KEY, *_COUNTED[:3])))
    sums: dict[tuple[Any, ...], tuple[int, ...]] = {}
    for *key, jobs, attempts, losses in [*session.execute(KEPT), *session.execute(gone)]:
        before = sums.get(tuple(key), (0, 0, 0))
        # PostgreSQL's sums of integers are decimals.
        sums[tuple(key)] = (before[0] + jobs, before[1] + int(attempts), before[2] + int(losses))
    pulled = sa.select(_BYTES).join(Job, Job.id == Pull.job_id).where(Job.finished_at.is_not(None))
    kept = [*session.execute(sa.select(*_TOKENS)).one(), session.scalar(pulled)]
    spent = session.execute(sa.select(*(sa.func.sum(getattr(Tally, name)) for name in _COUNTED[3:]))).one()
    sizes = [int((here or 0) + (before or 0)) for here, before in zip(kept, spent, strict=True)]
    return Totals([Ending(*key, *counted) for key, counted in sorted(sums.items())], *sizes)


def remember(session: Session, *where: sa.ColumnElement[bool]) -> None:
    """Adds up finished jobs that this transaction is about to delete."""
    hold(session, *where)
    query = sa.select(*_SORT, *_SUMS, *_TOKENS, _BYTES).outerjoin(Result, Result.job_id == Job.id)
    query = query.outerjoin(Pull, Pull.job_id == Job.id)
    rows = session.execute(query.where(Job.finished_at.is_not(None), *where).group_by(*_SORT)).all()
    for row in sorted(rows, key=lambda row: row[: len(_KEY)]):
        values = dict(zip((*_KEY, *_COUNTED), (0 if value is None else value for value in row), strict=True))
        added = insert(session, Tally).values(values)
        grown = {name: getattr(Tally, name) + getattr(added.excluded, name) for name in _COUNTED}
        session.execute(added.on_conflict_do_update(index_elements=_KEY, set_=grown))
