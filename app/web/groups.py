"""Groups: many jobs in one request, to be listed, followed and ended together."""

import time
from collections.abc import Generator, Iterator
from typing import Annotated, Any

from flask import Response, jsonify, request
from gevent.lock import Semaphore
from pydantic import BaseModel, Field, ValidationError

from app.apikeys import Identity
from app.errors import InvalidRequestError, NotFoundError, TokenyardError
from app.jobs import BATCH_PRIORITY, State, new_id
from app.keys import Key
from app.models import Job
from app.store import Detail
from app.web import sse
from app.web.access import identity
from app.web.answers import blueprint, stream_of
from app.web.bodies import NDJSON, decode_object, encode, whole
from app.web.client import Client, of_request
from app.web.current import Site, here
from app.web.errors import explain, request_id
from app.web.job_answers import GroupAnswer, GroupEvent, GroupsAnswer
from app.web.keys import key_of_request
from app.web.offload import offload
from app.web.schemas import ChatBody, Strict
from app.web.submit import generation, model_of
from app.web.views import iso, show

groups = blueprint("groups", "jobs", "Everything that was accepted.")

#: Held while the lines of one request become jobs: they are all in memory until they are committed.
_reading = Semaphore()
LINES: dict[str, Any] = {"content": {NDJSON: {"schema": {"type": "string"}}}}
MAX_LINES = 50_000
#: How often a group's followers are told how it stands, in seconds.
BEAT = 1.0

GroupName = Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,64}$")]
#: Names that batches have: a job among a batch's lines that is none of them could not be told in its outputs.
TAKEN = "batch_"


class GroupQuery(Strict):
    """The name under which many jobs are submitted; without one, one is made."""

    group: GroupName | None = None


class GroupPath(BaseModel):
    """A group's address."""

    group: GroupName


class WhoseQuery(Strict):
    """Names of groups are each tenant's own."""

    tenant: str | None = Field(None, description="For operators: whose group; without it, their own.")


class GroupNotFoundError(NotFoundError):
    """No job was submitted under this name, or it is somebody else's."""

    code = "group_not_found"

    def __init__(self, group: str) -> None:
        super().__init__(f"No jobs belong to a group '{group}'.", param="group")


def is_many() -> bool:
    """Whether the request at hand carries jobs, a line each."""
    return request.mimetype == NDJSON


def submit_many(query: GroupQuery) -> tuple[Response, int]:
    """POST /jobs with `application/x-ndjson`: all lines are accepted, or none."""
    site, group = here(), query.group or new_id()
    if group.startswith(TAKEN):
        raise InvalidRequestError(f"Names of groups that begin with '{TAKEN}' are the server's own.", param="group")
    # Read here, as a connection belongs to its event loop; looked at in the pool.
    key = key_of_request()
    jobs = site.kernel.batches.accepted(key) if key is not None else []
    if not jobs:
        body = whole(cache=key is not None)
        with _reading:
            jobs = _accept(site, offload(_read, site, body, group, identity()), key)
    for model in {job.model for job in jobs}:
        site.kernel.dispatcher.release(model)
        site.kernel.loads.place(model)
    return jsonify({"group": jobs[0].group_id, "count": len(jobs), "ids": [job.id for job in jobs]}), 202


def _accept(site: Site, jobs: list[Job], key: Key | None) -> list[Job]:
    site.kernel.limits.take("", identity().tenant, held=False, jobs=len(jobs))
    for job in jobs:
        job.request_id = request_id()  # they were read where no request is known
    return site.kernel.batches.add(jobs, key, identity().max_queued)


def _read(site: Site, body: bytes, group: str, who: Identity) -> list[Job]:
    known: dict[str, tuple[str, str]] = {}
    jobs: list[Job] = []
    for number, raw in enumerate(body.splitlines(), 1):
        if not raw.strip():
            continue
        if len(jobs) >= MAX_LINES:
            raise InvalidRequestError(f"One request holds {MAX_LINES} jobs at most; send another with the same group.")
        jobs.append(_job(site, raw, number, group, known, who))
    if not jobs:
        raise InvalidRequestError("The body has no lines; send one JSON object a line.")
    return jobs


def _job(site: Site, raw: bytes, number: int, group: str, known: dict[str, tuple[str, str]], who: Identity) -> Job:
    try:
        body = ChatBody.model_validate(decode_object(raw, "The line"))
        if body.session_id is not None:
            raise InvalidRequestError(
                "the lines of a group run in any order, so none has a session", param="session_id"
            )
        if body.model not in known:
            model, adapter = model_of(site.kernel, body.model, who)
            known[body.model] = (model.name, adapter)
        body.settle(*known[body.model])
        return generation(body, who, held=False, now=site.kernel.clock.now(), group_id=group, priority=BATCH_PRIORITY)
    except ValidationError as error:
        fault = explain(error)
        raise InvalidRequestError(f"Line {number}: {fault.message}", param=fault.param) from error
    except TokenyardError as error:
        error.message = f"Line {number}: {error.message}"
        raise


@groups.get("/groups", summary="List groups", responses={200: GroupsAnswer})
def list_groups() -> Response:
    """The fifty that jobs came to last, batches among them, and how their jobs stand."""
    found = here().kernel.batches.groups(scope=identity().scope)
    entries = [
        one.counts._asdict() | {"group": one.name, "tenant": one.tenant, "created_at": iso(one.at)} for one in found
    ]
    return jsonify({"groups": entries})


@groups.get("/groups/<group>", summary="Show a group", responses={200: GroupAnswer})
def show_group(path: GroupPath, query: WhoseQuery) -> Response:
    """How many of its jobs there are, and how they stand. `GET /jobs?group=` lists them."""
    return jsonify(_standing(here(), path.group, _whose(path, query)))


@groups.get("/groups/<group>/results", summary="Download what a group gave", responses={200: LINES})
def show_results(path: GroupPath, query: WhoseQuery) -> Response:
    """Its ended jobs whole, a line of JSON each: those that succeeded in the order of their lines, then the others."""
    site, tenant = here(), _whose(path, query)
    _standing(site, path.group, tenant)
    response = Response(_results(site, path.group, tenant, identity()), mimetype=NDJSON)
    response.headers["Content-Disposition"] = f'attachment; filename="{path.group}.jsonl"'
    return response


def _results(site: Site, group: str, tenant: str, who: Identity) -> Iterator[bytes]:
    for succeeded in (True, False):
        last = ""
        while page := site.kernel.batches.lines(group, tenant, succeeded=succeeded, after=last):
            yield offload(_as_lines, page, who)
            last = page[-1].job.id


def _as_lines(page: list[Detail], who: Identity) -> bytes:
    return b"".join(encode(show(detail, who)) + b"\n" for detail in page)


@groups.delete("/groups/<group>", summary="Cancel a group", responses={200: GroupAnswer})
def cancel_group(path: GroupPath, query: WhoseQuery) -> Response:
    """Ends what waits, and asks what runs to end."""
    site, tenant = here(), _whose(path, query)
    _standing(site, path.group, tenant)
    end_group(site, path.group, tenant)
    return jsonify(_standing(site, path.group, tenant))


def end_group(site: Site, group: str, tenant: str) -> None:
    """Ends what waits, and asks what runs to end."""
    ended, running = site.kernel.batches.end_jobs(group, tenant)
    site.kernel.dispatcher.ask_end(running, State.CANCELLED)
    site.kernel.dispatcher.close_streams(ended)


@groups.get("/groups/<group>/stream", summary="Follow a group", responses={200: {"content": stream_of(GroupEvent)}})
def stream_group(path: GroupPath, query: WhoseQuery) -> Response:
    """Server-sent events: how it stands, when that changed; the last one has `done`."""
    site, tenant = here(), _whose(path, query)
    _standing(site, path.group, tenant)
    events = _events(site, path.group, tenant, of_request())
    return sse.closing(events, events)


def _whose(path: GroupPath, query: WhoseQuery) -> str:
    who = identity()
    if query.tenant is None or query.tenant == who.tenant:
        return who.tenant
    if who.scope is not None:
        raise GroupNotFoundError(path.group)
    return query.tenant


def _standing(site: Site, group: str, tenant: str) -> dict[str, Any]:
    counts = site.kernel.batches.counts(group, tenant)
    if not counts.total:
        raise GroupNotFoundError(group)
    return {"group": group, **counts._asdict()}


def _events(site: Site, group: str, tenant: str, client: Client) -> Generator[str, None, None]:
    told: dict[str, Any] = {}
    while True:
        now = _standing(site, group, tenant)
        if now != told:
            yield sse.frame(now | {"done": not now["open"]})
            told = now
        else:
            yield sse.HEARTBEAT
        if not now["open"]:
            return
        time.sleep(BEAT)
        client.check()
