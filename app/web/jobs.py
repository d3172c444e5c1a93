"""Jobs: submit without waiting, list, look at, follow, cancel."""

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Annotated, Literal

from flask import Response, jsonify, request
from pydantic import Field

from app.apikeys import Role
from app.errors import InvalidRequestError, NotAllowedError
from app.events import Progress
from app.jobs import Kind, State
from app.store import Detail
from app.web import groups, sse
from app.web.access import identity
from app.web.answers import blueprint, stream_of
from app.web.chat import frames
from app.web.client import of_request
from app.web.current import here
from app.web.errors import request_id, translating
from app.web.job_answers import AcceptedAnswer, JobAnswer, JobEvent, JobsAnswer, ShownAnswer
from app.web.offload import offload
from app.web.schemas import MAX_SEQ, ChatBody, IdPath, Seq, Strict
from app.web.stream import Events, follow
from app.web.submit import submit_generation
from app.web.views import listed, show, waiting

jobs = blueprint("jobs", "jobs", "Everything that was accepted.")


class JobsQuery(Strict):
    """Which jobs to list, newest first."""

    status: State | None = None
    kind: Kind | None = None
    model: str | None = None
    group: str | None = Field(None, description="What they were submitted together with: a group, or a batch.")
    since: datetime | None = Field(None, description="Created at or after this: ISO 8601, or seconds since the epoch.")
    before: str | None = Field(None, description="The `next` of the page before.")
    limit: Annotated[int, Field(ge=1, le=200)] = 50


class JobQuery(Strict):
    """How a job is shown."""

    traceback: bool = Field(False, description="Shows operators where a job failed.")
    format: Literal["json", "html"] = "json"


class StreamQuery(Strict):
    """Where to go on following."""

    after: Seq | None = Field(None, description="The last `seq` that was seen.")


@jobs.post("/jobs", summary="Submit a chat without waiting", responses={202: AcceptedAnswer})
def create_job(body: ChatBody) -> tuple[Response, int]:
    """Accepts the job; it waits in the queue up to `expires_in` seconds.

    With `Content-Type: application/x-ndjson` each line of the body is such a job; all are accepted, or none, under one
    `group` (a query parameter; else one is made). Their priority is 7 where a line says nothing else.
    """
    job = submit_generation(here().kernel, body, held=False)
    return jsonify(show(Detail(job, None, None), identity())), 202


@jobs.before_request
def _many() -> tuple[Response, int] | None:
    if request.endpoint != "jobs.create_job" or not groups.is_many():
        return None
    with translating():
        return groups.submit_many(groups.GroupQuery.model_validate(request.args.to_dict()))


@jobs.get("/jobs", summary="List jobs", responses={200: JobsAnswer})
def list_jobs(query: JobsQuery) -> Response:
    """Newest first, without what was asked and said; `next` is the `before` of the page behind, or null."""
    since = query.since
    if since is not None and since.tzinfo is None:
        since = since.replace(tzinfo=UTC)
    kernel = here().kernel
    page = kernel.store.page(
        status=query.status,
        kind=query.kind,
        model=None if query.model is None else kernel.catalog.resolve(query.model),
        group=query.group,
        scope=identity().scope,
        since=None if since is None else since.timestamp(),
        before=query.before,
        limit=query.limit + 1,
    )
    more = len(page) > query.limit
    page = page[: query.limit]
    return jsonify({"jobs": [listed(detail, identity()) for detail in page], "next": page[-1].job.id if more else None})


@jobs.get("/jobs/<id>", summary="Show a job", responses={200: ShownAnswer})
def show_job(path: IdPath, query: JobQuery) -> Response:
    """A generation with its text, or a pull with its progress. `format=html` gives the text alone, as safe HTML."""
    kernel = here().kernel
    detail = kernel.store.get(path.id, identity().scope)
    if query.traceback and identity().role is not Role.OPERATOR:
        raise NotAllowedError("forbidden", "Where a job failed in the code is shown to operators alone.")
    shown = show(detail, identity(), traceback=query.traceback)
    if query.format == "html":
        from app.web.markdown import render  # what many processes never need takes a few MB

        return jsonify({"id": path.id, "html": offload(render, str(shown.get("text", "")))})
    if detail.job.status == State.QUEUED:
        shown |= waiting(kernel.estimates.of(detail.job))
    return jsonify(shown)


@jobs.delete("/jobs/<id>", summary="Cancel a job", responses={200: JobAnswer})
def cancel_job(path: IdPath) -> Response:
    """Ends a queued job at once; a running one is asked to end. A job that is over stays as it is."""
    kernel = here().kernel
    kernel.store.get(path.id, identity().scope)
    kernel.dispatcher.end(path.id, State.CANCELLED)
    return jsonify(show(kernel.store.get(path.id), identity()))


@jobs.get("/jobs/<id>/stream", summary="Follow a job", responses={200: {"content": stream_of(JobEvent)}})
def stream_job(path: IdPath, query: StreamQuery) -> Response:
    """Server-sent events from `Last-Event-ID`, or `after`, on. Progress comes as events named `progress`."""
    site = here()
    detail = site.kernel.store.get(path.id, identity().scope)
    events = follow(site.kernel, site.hub, path.id, _after(query), client=of_request())
    return sse.closing(_frames(events, detail.job.timeout, request_id()), events)


def _after(query: StreamQuery) -> int:
    last = request.headers.get("Last-Event-ID", "").strip()
    if not last:
        return query.after or 0
    if not (last.isascii() and last.isdigit() and int(last[:20]) <= MAX_SEQ):
        raise InvalidRequestError("Last-Event-ID must be the id of an event: a whole number", param="Last-Event-ID")
    return int(last)


def _frames(events: Events, timeout: float, ident: str) -> Iterator[str]:
    for event in events:
        if isinstance(event, Progress):
            yield sse.frame({"status": event.state, **event.fields}, event="progress")
        else:
            yield from frames((event,), timeout, ident)
