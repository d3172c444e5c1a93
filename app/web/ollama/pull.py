"""POST /api/pull: a download, followed as lines of JSON."""

from collections.abc import Iterator
from typing import Any

from flask import Response, jsonify

from app.events import Ended, Event, Progress
from app.pulls import PULL_TIMEOUT
from app.web.access import Access, needs
from app.web.bodies import NDJSON
from app.web.client import of_request
from app.web.current import here
from app.web.errors import failure_of, raise_failure
from app.web.ollama.answers import PullDone, blueprint
from app.web.ollama.names import LATEST
from app.web.ollama.schemas import Named
from app.web.ollama.talk import line
from app.web.schemas import PullBody
from app.web.sse import closing
from app.web.stream import Events, follow
from app.web.submit import submit_pull

pull = needs(Access.OPERATORS)(blueprint("pull"))


class PullRequest(Named):
    """A model to download."""

    stream: bool = True


@pull.post("/api/pull", summary="Download a model, as Ollama does", responses={200: PullDone})
def create_ollama_pull(body: PullRequest) -> Response:
    """The download goes on when the client hangs up. The job's id is in `X-Job-Id`."""
    site = here()
    job = submit_pull(site.kernel, PullBody.model_validate({"model": body.model.removesuffix(LATEST)}))
    events = follow(site.kernel, site.hub, job.id, client=of_request())
    if body.stream:
        return closing(_lines(events), events, mimetype=NDJSON)
    for event in events:
        if isinstance(event, Ended):
            raise_failure(event, PULL_TIMEOUT)
    return jsonify({"status": "success"})


def _lines(events: Events) -> Iterator[str]:
    yield line({"status": "pulling manifest"})
    for event in events:
        yield from (line(shown) for shown in _told(event))


def _told(event: Event | None) -> Iterator[dict[str, Any]]:
    if isinstance(event, Progress) and (file := event.fields.get("file")):
        digest = f"sha256:{file['digest']}" if file.get("digest") else file["name"]
        shown = {"digest": digest, "total": file["total"], "completed": file["completed"]}
        yield {"status": f"pulling {digest.removeprefix('sha256:')[:12]}", **shown}
    elif isinstance(event, Progress) and event.fields.get("total_bytes"):
        total, completed = event.fields["total_bytes"], event.fields.get("downloaded_bytes", 0)
        yield {"status": "pulling model", "digest": "model", "total": total, "completed": completed}
    elif isinstance(event, Ended):
        failure = failure_of(event, PULL_TIMEOUT)
        yield {"error": failure.message} if failure else {"status": "success"}
