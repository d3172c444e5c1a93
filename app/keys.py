"""Idempotency keys: what a client's own name for a request stands for."""

from typing import NamedTuple

from sqlalchemy.orm import Session

from app.errors import IdempotencyConflictError
from app.models import Idempotency, Job


class Key(NamedTuple):
    """A client's Idempotency-Key, and what tells its request from others under the same key."""

    tenant: str
    key: str
    digest: str


def find(session: Session, key: Key | None) -> Job | None:
    """The job that a key stands for, if any. Raises IdempotencyConflictError."""
    row = session.get(Idempotency, (key.tenant, key.key)) if key is not None else None
    if key is None or row is None:
        return None
    if row.digest != key.digest:
        raise IdempotencyConflictError(key.key)
    return session.get(Job, row.job_id)


def keep(session: Session, key: Key | None, job: Job) -> None:
    """Within the transaction that accepts a job: from now on, the key stands for it."""
    if key is not None:
        session.flush()
        session.add(Idempotency(**key._asdict(), job_id=job.id, created_at=job.created_at))
