"""What the keys of a tenant allow it to have in the queue and in the engines, by the rows themselves.

They are the same for every process, and no crash leaves a count behind that nobody takes back.
"""

from collections.abc import Collection

import sqlalchemy as sa
from sqlalchemy.orm import Session

from app.errors import QueueFullError
from app.jobs import Kind, State
from app.locks import alone, is_writing
from app.models import ApiKey, Job


def check_queued(session: Session, tenant: str, most: int | None, jobs: int) -> None:
    """Within the transaction that accepts jobs: raises QueueFullError where more would wait than the key allows."""
    if most is None:
        return
    alone(session, f"queued:{tenant}")
    waiting = session.scalar(_WAITING, {"tenant": tenant, "most": most}) or 0
    if waiting + jobs > most:
        raise QueueFullError(
            f"This key may have {most} jobs in the queue, and {waiting} wait already. Try again when some have begun."
        )


def free(session: Session, tenants: Collection[str], now: float) -> dict[str, int]:
    """How many more jobs of each may go out, where its keys say how many may run at once.

    To the end of a transaction that writes, nobody else counts: another model's jobs run on the same keys.
    """
    named = [tenant for tenant in tenants if tenant]
    most = {name: count for name, count in session.execute(_MOST, {"tenants": named, "now": now})} if named else {}
    if not most:
        return {}
    if is_writing(session):
        # One name for all tenants: two who hold some of them would wait for each other. A model's own comes before it.
        alone(session, "running")
    out = {tenant: count for tenant, count in session.execute(_OUT, {"tenants": list(most)})}
    return {tenant: max(0, count - out.get(tenant, 0)) for tenant, count in most.items()}


_OPEN = (Job.tenant == sa.bindparam("tenant"), Job.finished_at.is_(None), Job.status == State.QUEUED)
_SOME = sa.select(Job.id).where(*_OPEN).limit(sa.bindparam("most"))
#: As far as it matters.
_WAITING = sa.select(sa.func.count()).select_from(_SOME.subquery())
_AMONG: sa.BindParameter[list[str]] = sa.bindparam("tenants", expanding=True)
_MOST = (
    sa.select(ApiKey.name, sa.type_coerce(sa.func.min(ApiKey.max_running), sa.BigInteger))
    .where(ApiKey.name.in_(_AMONG), ApiKey.max_running.is_not(None), ApiKey.revoked_at.is_(None))
    .where(sa.or_(ApiKey.expires_at.is_(None), ApiKey.expires_at > sa.bindparam("now")))
    .group_by(ApiKey.name)
)
#: In the broker or in an engine.
_OUT = (
    sa.select(Job.tenant, sa.func.count())
    .where(Job.tenant.in_(_AMONG), Job.released_at.is_not(None), Job.finished_at.is_(None), Job.kind != Kind.PULL)
    .group_by(Job.tenant)
)
