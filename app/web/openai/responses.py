"""/v1/responses: answers that outlive their connection, their server and their worker, as all jobs here do."""

from collections.abc import Iterator

from flask import Response, jsonify

from app.errors import InvalidRequestError, JobNotFoundError, NotFoundError
from app.jobs import TERMINAL, State
from app.models import Job
from app.store import Detail
from app.web import sse
from app.web.access import identity
from app.web.client import of_request
from app.web.current import Site, here
from app.web.errors import translating
from app.web.held import events_of, gathered, opened
from app.web.openai.answers import blueprint
from app.web.openai.batch_answers import DeletedAnswer
from app.web.openai.response_answers import ResponseAnswer, StreamedResponse
from app.web.openai.response_events import KEPT, PREFIX, numbered, of_row, shape
from app.web.openai.response_schemas import ResponseBody, ResponseQuery
from app.web.schemas import IdPath
from app.web.stream import Events, follow
from app.web.submit import submit_generation

responses = blueprint("responses")


class ResponseNotFoundError(NotFoundError):
    """No response has this id, or it belongs to somebody else."""

    code = "response_not_found"

    def __init__(self, response_id: str) -> None:
        super().__init__(f"Response with id '{response_id}' not found.", param="response_id")


@responses.post("/v1/responses", summary="Answer, as OpenAI's responses do", responses={200: StreamedResponse})
def create_response(body: ResponseBody) -> Response:
    """Whole, streamed, or in the background: then it is read later, or followed by `GET` with `stream=true`."""
    site = here()
    if not body.background:
        site.kernel.bus.ping()
    with translating():
        request = body.translated()
    job = submit_generation(site.kernel, request, held=not body.background, extra={KEPT: body.kept()})
    if body.stream:
        events = events_of(site, job, merge=False)  # its events are numbered by a fold over the log
        first = events if body.background else opened(events, job.timeout)
        return sse.closing(_frames(job, first), events)
    if body.background:
        return jsonify(shape(job, "queued") if job.status == State.QUEUED else of_row(site.kernel.store.get(job.id)))
    gathered(events_of(site, job), job.timeout)
    return jsonify(of_row(site.kernel.store.get(job.id)))


@responses.get("/v1/responses/<id>", summary="Read a response", responses={200: StreamedResponse})
def show_response(path: IdPath, query: ResponseQuery) -> Response:
    """As it stands, or with `stream=true` its events behind number `starting_after`, to its end."""
    site = here()
    detail = _get(site, path.id)
    if not query.stream:
        return jsonify(of_row(detail))
    events = follow(site.kernel, site.hub, detail.job.id, client=of_request(), merge=False)
    return sse.closing(_frames(detail.job, events, query.starting_after), events)


@responses.post("/v1/responses/<id>/cancel", summary="Cancel a response", responses={200: ResponseAnswer})
def cancel_response(path: IdPath) -> Response:
    """Only what runs in the background can be cancelled so; a held one ends with its connection."""
    site = here()
    job = _get(site, path.id).job
    if not job.request[KEPT]["background"]:
        raise InvalidRequestError("Only responses with background=true can be cancelled.")
    site.kernel.dispatcher.end(job.id, State.CANCELLED)
    return jsonify(of_row(site.kernel.store.get(job.id)))


@responses.delete("/v1/responses/<id>", summary="Delete a response", responses={200: DeletedAnswer})
def delete_response(path: IdPath) -> Response:
    """Forgets it, text and all, once it has ended."""
    site = here()
    job = _get(site, path.id).job
    if job.status not in TERMINAL:
        raise InvalidRequestError("The response is still being made. Cancel it, then delete it.")
    site.kernel.store.remove(job.id)
    return jsonify({"id": path.id, "object": "response.deleted", "deleted": True})


@responses.get("/v1/responses/<id>/input_items", summary="Not kept here")
def list_input_items(path: IdPath) -> Response:
    """The request is in `GET /jobs/{id}`."""
    job = _get(here(), path.id).job
    raise InvalidRequestError(f"Input items are not listed here. GET /jobs/{job.id} shows the request.")


def _get(site: Site, response_id: str) -> Detail:
    try:
        detail = site.kernel.store.get(response_id.removeprefix(PREFIX), identity().scope)
    except JobNotFoundError:
        raise ResponseNotFoundError(response_id) from None
    kept = detail.job.request.get(KEPT)
    if not response_id.startswith(PREFIX) or kept is None or not kept["store"]:
        raise ResponseNotFoundError(response_id)
    return detail


def _frames(job: Job, events: Events, after: int | None = None) -> Iterator[str]:
    """The events behind a number. The fold begins at the start, whatever the reader has seen."""
    seen = -1 if after is None else after
    for event in numbered(job, events):
        if event is None:
            yield sse.HEARTBEAT
        else:
            yield sse.frame(event, event=event["type"]) if event["sequence_number"] > seen else ""
