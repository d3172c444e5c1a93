"""OpenAI's batches: create, list, look at, cancel."""

import re
from pathlib import Path
from typing import Annotated, Any

from flask import Response, jsonify
from gevent.lock import Semaphore
from pydantic import Field

from app.apikeys import Identity
from app.batches import OVER, Stage
from app.errors import InvalidRequestError
from app.jobs import new_id
from app.keys import Key
from app.models import Batch
from app.web.access import identity
from app.web.current import Site, here
from app.web.dialect import Lenient
from app.web.groups import end_group
from app.web.keys import key_of_request
from app.web.offload import offload
from app.web.openai import lines
from app.web.openai.answers import blueprint
from app.web.openai.batch_answers import BatchAnswer, BatchesAnswer
from app.web.openai.files import ERRORS, OUTPUT, counted, listing
from app.web.schemas import IdPath

batches = blueprint("batches")

ENDPOINTS = ("/v1/chat/completions", "/v1/completions")
_UNITS = {"m": 60, "h": 3600, "d": 86_400}
#: Held while a file's lines become jobs: the threads of the database's calls are for others too.
_reading = Semaphore(2)
#: The longest window, in seconds.
MAX_WINDOW = 30 * 86_400


class BatchBody(Lenient):
    """POST /v1/batches."""

    input_file_id: str
    endpoint: str
    completion_window: str = Field("24h", description="A number and m, h or d; 30d at most.")
    metadata: Annotated[dict[str, str], Field(max_length=16)] | None = None

    def seconds(self) -> int:
        """The window. Raises InvalidRequestError."""
        found = re.fullmatch(r"(\d{1,4})([mhd])", self.completion_window)
        seconds = int(found[1]) * _UNITS[found[2]] if found else 0
        if not 0 < seconds <= MAX_WINDOW:
            raise InvalidRequestError(
                "completion_window must be such as '24h' (m, h and d are known; 30d at most).",
                param="completion_window",
            )
        return seconds


class BatchesQuery(Lenient):
    """Which batches to list, newest first."""

    after: str | None = None
    limit: Annotated[int, Field(ge=1, le=100)] = 20


@batches.post("/v1/batches", summary="Run a file of requests", responses={200: BatchAnswer})
def create_batch(body: BatchBody) -> Response:
    """Answers when every line is in the queue, or when the file was refused: then its status is `failed`."""
    site, key = here(), key_of_request()
    if (earlier := site.kernel.batches.group_of(key)) is not None:
        return jsonify(_current(site, earlier))
    if body.endpoint not in ENDPOINTS:
        raise InvalidRequestError(f"endpoint must be one of {', '.join(ENDPOINTS)}.", param="endpoint")
    who = identity()
    now, seconds = site.kernel.clock.now(), body.seconds()
    file = site.kernel.files.get(body.input_file_id, who.tenant)
    path = site.kernel.files.path(file)
    # Whoever has no room is told so before all of the file is read as JSON.
    count = offload(lines.count, path)
    site.kernel.limits.take("", who.tenant, held=False, jobs=count)
    batch = Batch(
        id=f"batch_{new_id()}",
        tenant=who.tenant,
        endpoint=body.endpoint,
        input_file_id=file.id,
        completion_window=body.completion_window,
        status=Stage.VALIDATING.value,
        total=0,
        metadata_=body.metadata,
        created_at=now,
        expires_at=now + seconds,
    )
    site.kernel.batches.create(batch, count, who.max_queued)
    with _reading:
        _fill(site, path, batch, who, key)
    for model in site.kernel.batches.models(batch.id):
        site.kernel.dispatcher.release(model)
        site.kernel.loads.place(model)
    return jsonify(_current(site, site.kernel.batches.group_of(key) or batch.id))


def _fill(site: Site, path: Path, batch: Batch, who: Identity, key: Key | None) -> None:
    """Reads the file twice: nothing is run of one that has a fault. What goes wrong leaves nothing behind."""
    try:
        if errors := offload(lines.check, path, batch.endpoint):
            site.kernel.batches.refuse(batch.id, errors)
            return
        site.kernel.batches.fill(batch.id, lines.jobs(site.kernel, path, batch, who), key, who.max_queued)
    except Exception:
        message = "The server could not queue all lines. Create the batch again."
        site.kernel.batches.refuse(batch.id, [lines.error(None, "interrupted", message, None)])
        if site.kernel.batches.group_of(key) is None:  # else the same request came twice at once: the other has them
            raise
    site.kernel.batches.open(batch.id)


@batches.get("/v1/batches", summary="List batches", responses={200: BatchesAnswer})
def list_batches(query: BatchesQuery) -> Response:
    """Newest first."""
    site = here()
    page = site.kernel.batches.page(identity().scope, after=query.after, limit=query.limit + 1)
    return jsonify(listing([_show(site, batch) for batch in page], query.limit))


@batches.get("/v1/batches/<id>", summary="Show a batch", responses={200: BatchAnswer})
def show_batch(path: IdPath) -> Response:
    """Where it stands."""
    return jsonify(_current(here(), path.id))


@batches.post("/v1/batches/<id>/cancel", summary="Cancel a batch", responses={200: BatchAnswer})
def cancel_batch(path: IdPath) -> Response:
    """Lines that have ended keep their results."""
    site = here()
    batch = site.kernel.batches.cancel(path.id, identity().scope)
    end_group(site, path.id, batch.tenant)  # where this process dies before, the sweep does it
    return jsonify(_current(site, path.id))


def _current(site: Site, batch_id: str) -> dict[str, Any]:
    return _show(site, site.kernel.batches.get(batch_id, identity().scope))


def _show(site: Site, batch: Batch) -> dict[str, Any]:
    counts = counted(batch.id, batch, lambda: site.kernel.batches.counts(batch.id, batch.tenant))
    times = ("in_progress", "expires", "finalizing", "completed", "failed", "expired", "cancelling", "cancelled")
    over = batch.status in OVER
    return {
        "id": batch.id,
        "object": "batch",
        "endpoint": batch.endpoint,
        "errors": {"object": "list", "data": batch.errors["errors"]} if batch.errors else None,
        "input_file_id": batch.input_file_id,
        "completion_window": batch.completion_window,
        "status": batch.status,
        "output_file_id": OUTPUT + batch.id if over and counts.completed else None,
        "error_file_id": ERRORS + batch.id if over and counts.failed else None,
        "created_at": int(batch.created_at),
        **{f"{name}_at": _whole(getattr(batch, f"{name}_at")) for name in times},
        "request_counts": {"total": counts.total, "completed": counts.completed, "failed": counts.failed},
        "metadata": batch.metadata_,
    }


def _whole(seconds: float | None) -> int | None:
    return None if seconds is None else int(seconds)
