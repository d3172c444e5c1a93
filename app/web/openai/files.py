"""OpenAI's files: what a batch reads, and what it gave. The latter is read out of its jobs while it is sent."""

from collections.abc import Callable, Iterator
from typing import Annotated, Any, BinaryIO, Literal, TypeVar, cast

from flask import Response, jsonify, request
from flask_openapi3.models.request_body import RequestBody
from pydantic import Field
from werkzeug.datastructures import FileStorage
from werkzeug.exceptions import RequestEntityTooLarge

from app.batches import OVER, BatchNotFoundError
from app.errors import FilesFullError, InvalidRequestError
from app.files import FileNotFoundInStoreError
from app.models import Batch, File
from app.store import Detail
from app.web.access import identity, quota
from app.web.bodies import MAX_FILE
from app.web.current import Site, here
from app.web.dialect import Lenient
from app.web.offload import offload
from app.web.openai import lines
from app.web.openai.answers import blueprint
from app.web.openai.batch_answers import DeletedAnswer, FileAnswer, FilesAnswer
from app.web.schemas import IdPath

files = blueprint("files")

_FILE = {"type": "string", "format": "binary"}
BYTES = {"content": {"application/octet-stream": {"schema": _FILE}}}
#: What an upload is, in the API's description: it is read here, as flask-openapi3's reader falls over deep nesting.
FORM = {
    "type": "object",
    "required": ["file", "purpose"],
    "properties": {"file": _FILE, "purpose": {"type": "string", "enum": ["batch"]}},
}
UPLOAD = RequestBody.model_validate({"content": {"multipart/form-data": {"schema": FORM}}, "required": True})
#: A batch's outputs have its own id behind these words.
OUTPUT, ERRORS = "file-output-", "file-errors-"
#: So many numbers of batches that are over are kept: each takes a look at all lines.
COUNTED = 10_000

T = TypeVar("T")
_counted: dict[str, object] = {}


class FilesQuery(Lenient):
    """Which files to list."""

    purpose: str | None = None
    after: str | None = None
    limit: Annotated[int, Field(ge=1, le=10_000)] = 100
    order: Literal["asc", "desc"] = "desc"


@files.post("/v1/files", summary="Upload a file", responses={200: FileAnswer})
def upload_file() -> Response:
    """A multipart form with `file`, up to 200 MB, and `purpose`, which must be `batch`."""
    # The room is taken before the form is read: until then its bytes are nowhere.
    who, kept = identity(), here().kernel.files
    if (request.content_length or 0) > MAX_FILE:
        raise RequestEntityTooLarge
    file = kept.begin(who.tenant, request.content_length, most=MAX_FILE, quota=quota(who))
    try:
        purpose, upload = _form(file.size_bytes, quota(who))
        # save() copies in blocks; under gevent it runs in the pool with the rest.
        return jsonify(show(kept.keep(file, upload.filename or "file", purpose, upload.save)))
    except BaseException:
        kept.drop(file)
        raise


def _form(room: int, most: int) -> tuple[str, FileStorage]:
    """The purpose and the file. Raises InvalidRequestError, and where more comes than there is room for, the reason."""
    # werkzeug refuses, of a body that gunicorn bounds, the one that has just as many bytes: its reader asks for more.
    request.max_content_length = room + 1
    try:
        purpose, upload = request.form.get("purpose"), request.files.get("file")
    except RequestEntityTooLarge:
        if room == MAX_FILE or request.content_length is not None:  # it has too many parts, say
            raise
        raise FilesFullError(most - room, most) from None
    if purpose != "batch":
        raise InvalidRequestError("purpose must be 'batch'.", param="purpose")
    if upload is None:
        raise InvalidRequestError("Send the file as the part 'file' of a multipart form.", param="file")
    return purpose, upload


@files.get("/v1/files", summary="List files", responses={200: FilesAnswer})
def list_files(query: FilesQuery) -> Response:
    """What was uploaded."""
    tenant, newest = identity().tenant, query.order == "desc"
    page = here().kernel.files.page(
        tenant, purpose=query.purpose, after=query.after, limit=query.limit + 1, newest=newest
    )
    return jsonify(listing([show(file) for file in page], query.limit))


@files.get("/v1/files/<id>", summary="Show a file", responses={200: FileAnswer})
def show_file(path: IdPath) -> Response:
    """An upload, or an output of a batch."""
    site = here()
    batch = _batch_of(site, path.id)
    return jsonify(
        _show_output(path.id, batch) if batch is not None else show(site.kernel.files.get(path.id, identity().tenant))
    )


@files.get("/v1/files/<id>/content", summary="Download a file", responses={200: BYTES})
def download_file(path: IdPath) -> Response:
    """Its bytes."""
    site = here()
    batch = _batch_of(site, path.id)
    if batch is not None:
        return Response(_told(site, path.id, batch), mimetype="application/octet-stream")
    source = _opened(site, site.kernel.files.get(path.id, identity().tenant))
    response = Response(_bytes(source), mimetype="application/octet-stream")
    response.call_on_close(source.close)
    return response


@files.delete("/v1/files/<id>", summary="Delete a file", responses={200: DeletedAnswer})
def delete_file(path: IdPath) -> Response:
    """Forgets an upload."""
    site = here()
    if _batch_of(site, path.id) is not None:
        raise InvalidRequestError(
            "A batch's output goes when its batch does, RETENTION_DAYS after its end.", param="id"
        )
    site.kernel.files.remove(path.id, identity().tenant)
    return jsonify({"id": path.id, "object": "file", "deleted": True})


def show(file: File) -> dict[str, Any]:
    """As their clients parse it."""
    return _file(file.id, file.size_bytes, file.created_at, file.filename, file.purpose)


def listing(rows: list[dict[str, Any]], limit: int) -> dict[str, Any]:
    """A page; it was asked for one row more, which says whether there is another."""
    page = rows[:limit]
    return {
        "object": "list",
        "data": page,
        "first_id": page[0]["id"] if page else None,
        "last_id": page[-1]["id"] if page else None,
        "has_more": len(rows) > limit,
    }


def _file(file_id: str, size: int, created_at: float, filename: str, purpose: str) -> dict[str, Any]:
    return {
        "id": file_id,
        "object": "file",
        "bytes": size,
        "created_at": int(created_at),
        "filename": filename,
        "purpose": purpose,
        "status": "processed",
    }


def _batch_of(site: Site, file_id: str) -> Batch | None:
    """The batch whose output this is."""
    for word in (OUTPUT, ERRORS):
        if file_id.startswith(word):
            try:
                return site.kernel.batches.get(file_id.removeprefix(word), identity().scope)
            except BatchNotFoundError:
                raise FileNotFoundInStoreError(file_id) from None
    return None


def _show_output(file_id: str, batch: Batch) -> dict[str, Any]:
    size = counted(file_id, batch, lambda: sum(len(part) for part in _told(here(), file_id, batch)))
    kind = "output" if file_id.startswith(OUTPUT) else "error"
    return _file(file_id, size, batch.created_at, f"{batch.id}_{kind}.jsonl", "batch_output")


def counted(name: str, batch: Batch, count: Callable[[], T]) -> T:
    """What is counted of a batch's lines: once, where they have all ended."""
    if batch.status not in OVER:
        return count()
    if name not in _counted:
        if len(_counted) >= COUNTED:
            _counted.clear()
        _counted[name] = count()
    return cast(T, _counted[name])


def _told(site: Site, file_id: str, batch: Batch) -> Iterator[bytes]:
    well = file_id.startswith(OUTPUT)
    tell, last = (lines.output if well else lines.problem), ""
    while page := site.kernel.batches.lines(batch.id, batch.tenant, succeeded=well, after=last):
        yield offload(_joined, tell, page, batch.endpoint)
        last = page[-1].job.id


def _joined(tell: Callable[[Detail, str], bytes], page: list[Detail], endpoint: str) -> bytes:
    return b"".join(tell(detail, endpoint) for detail in page)


def _opened(site: Site, file: File) -> BinaryIO:
    """Before the status goes out: another request may delete the file at any moment."""
    try:
        return site.kernel.files.path(file).open("rb")
    except FileNotFoundError:
        raise FileNotFoundInStoreError(file.id) from None


def _bytes(source: BinaryIO) -> Iterator[bytes]:
    with source:
        while block := offload(source.read, 1 << 20):
            yield block
