"""From a request's body to an accepted job."""

from collections.abc import Sequence
from typing import Any

from flask import g, has_request_context

from app import abilities
from app.apikeys import Identity, Role
from app.errors import InvalidRequestError, UnavailableError
from app.jobs import Kind, State, new_id
from app.kernel import Kernel
from app.models import Job
from app.names import check_hub_name
from app.pulls import pull_of
from app.sessions import KEY
from app.stock import Model
from app.web.access import identity
from app.web.errors import request_id
from app.web.fold import opens_thought
from app.web.keys import key_of_request
from app.web.schemas import ChatBody, GenerateBody, PullBody


def submit_generation(kernel: Kernel, body: GenerateBody, *, held: bool, extra: dict[str, Any] | None = None) -> Job:
    """As `submit_generations`, one."""
    return submit_generations(kernel, [body], held=held, extra=extra)[0]


def submit_generations(
    kernel: Kernel, bodies: Sequence[GenerateBody], *, held: bool, extra: dict[str, Any] | None = None
) -> list[Job]:
    """Commits a request's generations of one model, all or none; rows keep what `extra` a dialect needs to show them.

    A request that came before under the same Idempotency-Key has its jobs already: they are the answer then.
    Raises ModelNotDownloadedError, InvalidRequestError, ModelCooldownError, QueueFullError, UnavailableError, and
    IdempotencyConflictError.
    """
    keys = [key_of_request() for _ in bodies]
    earlier = [kernel.store.accepted(key) for key in keys if key is not None]
    known = [_noted(job) for job in earlier if job is not None]
    if len(known) == len(bodies):
        return known
    jobs = [_generation(kernel, body, held, extra or {}) for body in bodies]
    kernel.limits.take(jobs[0].model, jobs[0].tenant, held=held, jobs=len(jobs))
    accepted = kernel.dispatcher.submit_all(list(zip(jobs, keys, strict=True)), most=identity().max_queued)
    return [_noted(job) for job in accepted]


def _generation(kernel: Kernel, body: GenerateBody, held: bool, extra: dict[str, Any]) -> Job:
    who = identity()
    model, adapter = model_of(kernel, body.model, who)
    body.settle(model.name, adapter)
    _check_abilities(model, body)
    job = generation(body, who, held=held, now=kernel.clock.now(), thinks=opens_thought(model))
    job.request |= extra
    if isinstance(body, ChatBody) and body.session_id is not None:
        job.request |= {KEY: kernel.sessions.note(body.session_id, body.max_history)}
    return job


def model_of(kernel: Kernel, name: str, who: Identity) -> tuple[Model, str]:
    """The model of a name, and the LoRA adapter that a name as `model@adapter` asks for.

    Raises ModelNotDownloadedError, InvalidRequestError, NotAllowedError.
    """
    base, _, adapter = name.rpartition("@")
    whole = not base or kernel.catalog.resolve(name) != name or kernel.catalog.own(name) is not None
    model = kernel.catalog.get(name if whole else base)
    who.check_model(model.name)
    if whole:
        return model, ""
    there = adapters_of(model)
    if adapter not in there:
        raise InvalidRequestError(
            f"Model '{model.name}' has no adapter '{adapter}'; it has {', '.join(there) or 'none'}. "
            "PUT /models/{name}/engine_options names adapters.",
            param="model",
        )
    return model, adapter


def adapters_of(model: Model) -> list[str]:
    """The LoRA adapters that it may be asked for with."""
    return sorted((model.engine_options or {}).get("lora_adapters", {}))


def _check_abilities(model: Model, body: GenerateBody) -> None:
    """Refuses what the one engine of a format cannot do; where there are several, the worker does."""
    if body.KIND == Kind.EMBED and model.format != "gguf":
        raise InvalidRequestError(
            f"Embeddings are made by llama.cpp alone, and '{model.name}' is no GGUF model. Pull one that is.",
            param="model",
        )
    engine = abilities.ENGINE_OF.get(model.format)
    refusal = abilities.refuse(engine, body.sampling()) if engine else None
    if refusal is not None:
        raise InvalidRequestError(refusal.reason, param=refusal.param)


def generation(
    body: GenerateBody,
    who: Identity,
    *,
    held: bool,
    now: float,
    group_id: str | None = None,
    thinks: bool = False,
    priority: int | None = None,
) -> Job:
    """The row of a generation that nobody has accepted yet; its body has the model's own name.

    `thinks`: the model's template begins its thought. `priority`: what it has where its body names none.
    Raises NotAllowedError.
    """
    said = "priority" in body.model_fields_set
    if who.role is Role.USER:
        body.keep_alive = None  # how long a model stays is nothing for one of those who use it
    return Job(
        id=new_id(),
        kind=body.KIND.value,
        model=body.model,
        status=State.QUEUED.value,
        priority=who.priority(body.priority if said or priority is None else priority, said=said),
        tenant=who.tenant,
        held=held,
        timeout=body.timeout,
        expires_at=now + (body.timeout if held else body.expires_in),
        created_at=now,
        attempt=0,
        losses=0,
        request=body.request() | ({"thinks": True} if thinks else {}),
        request_id=_request_id(),
        group_id=group_id,
    )


def submit_pull(kernel: Kernel, body: PullBody) -> Job:
    """Commits a download, as `submit_generation` does. Raises InvalidRequestError too."""
    key = key_of_request()
    earlier = kernel.store.accepted(key) if key is not None else None
    if earlier is not None:
        return _noted(earlier)
    name = check_hub_name(kernel.catalog.download_name(body.model, gpu=_largest_gpu(kernel)))
    wanted = {"revision": body.revision, "quantize": body.quantize, "init": body.init}
    told = {"tenant": identity().tenant, "request_id": _request_id()}
    job, pull = pull_of(name, wanted, priority=body.priority, now=kernel.clock.now(), **told)
    kernel.limits.take(job.model, job.tenant, held=False)
    return _noted(kernel.dispatcher.submit(job, pull, key))


def _request_id() -> str | None:
    return request_id() if has_request_context() else None


def _largest_gpu(kernel: Kernel) -> int:
    try:
        cards = kernel.registry.workers()
    except UnavailableError:
        return 0
    return max((card.memory_total for card in cards if card.cuda_available), default=0)


def _noted(job: Job) -> Job:
    """The answer names the job in a header, also when it is an error."""
    if has_request_context():
        g.job_id, g.model = job.id, job.model
    return job
