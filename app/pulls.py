"""Pulls: the rows of a download that nobody has accepted yet."""

from typing import Any

from app.jobs import Kind, State, new_id
from app.models import Job, Pull

#: Seconds that a pull may take in all: 70 GB over a slow line are days.
PULL_TIMEOUT = 7 * 86_400


def pull_of(name: str, wanted: dict[str, Any], *, priority: int, now: float, **fields: Any) -> tuple[Job, Pull]:
    """`wanted`: `revision`, `quantize`, `init`, and `node` where only one will do."""
    job = Job(
        id=new_id(),
        kind=Kind.PULL.value,
        model=name,
        status=State.QUEUED.value,
        priority=priority,
        held=False,
        timeout=PULL_TIMEOUT,
        expires_at=now + PULL_TIMEOUT,
        created_at=now,
        attempt=0,
        losses=0,
        request={"model": name, **wanted},
        **{"tenant": ""} | fields,
    )
    pull = Pull(quantize=wanted["quantize"], init=wanted["init"], downloaded_bytes=0, progress=0.0, files_done=0)
    return job, pull
