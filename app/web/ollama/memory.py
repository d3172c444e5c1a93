"""The `context` of /api/generate: opaque to its clients, the job that they go on from to us."""

import json
from typing import Any

from app.errors import InvalidRequestError, JobNotFoundError
from app.jobs import State
from app.kernel import Kernel
from app.models import Job
from app.web.access import identity
from app.web.fold import Fold


def token(job: Job) -> list[int]:
    """The job's id as numbers, a byte each."""
    return list(bytes.fromhex(job.id))


def recalled(kernel: Kernel, context: list[int]) -> list[dict[str, Any]]:
    """The messages of an earlier request, and its answer. Raises InvalidRequestError."""
    if len(context) != 16 or not all(0 <= number < 256 for number in context):
        raise InvalidRequestError("context: not one that this server gave; leave it out.", param="context")
    try:
        detail = kernel.store.get(bytes(context).hex(), identity().scope)
    except JobNotFoundError:
        raise _gone() from None
    job, result = detail.job, detail.result
    if result is None or job.status != State.SUCCEEDED or "messages" not in job.request:
        raise _gone()
    before = [_turn(message) for message in job.request["messages"]]
    return [*before, {"role": "assistant", "content": Fold(job).whole(result.text).content}]


def _turn(message: dict[str, Any]) -> dict[str, Any]:
    return {**message, "further": json.loads(message["further"])} if "further" in message else message


def _gone() -> InvalidRequestError:
    return InvalidRequestError("context: the answer that it goes on from is gone; leave it out.", param="context")
