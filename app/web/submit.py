"""From a request's body to an accepted job."""

import time
from typing import Any

from flask import g, has_request_context

from app import abilities
from app.errors import InvalidRequestError, UnavailableError
from app.jobs import Kind, State, new_id
from app.kernel import Kernel
from app.models import Job, Model, Pull
from app.names import check_hub_name
from app.sessions import KEY
from app.web.schemas import ChatBody, GenerateBody, PullBody

#: Seconds that a pull may take in all: 70 GB over a slow line are days.
PULL_TIMEOUT = 7 * 86_400


def submit_generation(kernel: Kernel, body: GenerateBody, *, held: bool, extra: dict[str, Any] | None = None) -> Job:
    """Commits a generation; its row keeps what `extra` a dialect needs to show it again.

    Raises ModelNotDownloadedError, InvalidRequestError, ModelCooldownError, UnavailableError.
    """
    model = kernel.catalog.get(body.model)
    body.model = model.name
    _check_abilities(model, body)
    job = generation(body, held=held)
    job.request |= extra or {}
    if isinstance(body, ChatBody) and body.session_id is not None:
        job.request |= {KEY: kernel.sessions.note(body.session_id, body.max_history)}
    kernel.dispatcher.submit(job)
    _note(job)
    return job


def _check_abilities(model: Model, body: GenerateBody) -> None:
    """Refuses what the one engine of a format cannot do; where there are several, the worker does."""
    engine = abilities.ENGINE_OF.get(model.format)
    refusal = abilities.refuse(engine, body.sampling()) if engine else None
    if refusal is not None:
        raise InvalidRequestError(refusal.reason, param=refusal.param)


def generation(body: GenerateBody, *, held: bool, group_id: str | None = None) -> Job:
    """The row of a generation that nobody has accepted yet; its body has the model's own name."""
    now = time.time()
    return Job(
        id=new_id(),
        kind=Kind.GENERATE.value,
        model=body.model,
        status=State.QUEUED.value,
        priority=body.priority,
        tenant="",
        held=held,
        timeout=body.timeout,
        expires_at=now + (body.timeout if held else body.expires_in),
        created_at=now,
        attempt=0,
        losses=0,
        request=body.request(),
        group_id=group_id,
    )


def submit_pull(kernel: Kernel, body: PullBody) -> Job:
    """Commits a download. Raises InvalidRequestError, UnavailableError."""
    name = check_hub_name(kernel.catalog.download_name(body.model, gpu=_largest_gpu(kernel)))
    now = time.time()
    job = Job(
        id=new_id(),
        kind=Kind.PULL.value,
        model=name,
        status=State.QUEUED.value,
        priority=body.priority,
        tenant="",
        held=False,
        timeout=PULL_TIMEOUT,
        expires_at=now + PULL_TIMEOUT,
        created_at=now,
        attempt=0,
        losses=0,
        request={"model": name, "revision": body.revision, "quantize": body.quantize, "init": body.init},
    )
    pull = Pull(quantize=body.quantize, init=body.init, downloaded_bytes=0, progress=0.0, files_done=0)
    kernel.dispatcher.submit(job, pull)
    _note(job)
    return job


def _largest_gpu(kernel: Kernel) -> int:
    try:
        cards = kernel.registry.workers()
    except UnavailableError:
        return 0
    return max((card.memory_total for card in cards if card.cuda_available), default=0)


def _note(job: Job) -> None:
    """The answer names the job in a header, also when it is an error."""
    if has_request_context():
        g.job_id = job.id
