"""Errors on the wire: each code's HTTP status, and the one shape of the native API."""

import errno
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import structlog
from flask import Flask, Response, current_app, g, jsonify, request
from gunicorn.http.errors import ChunkMissingTerminator, InvalidChunkExtension, InvalidChunkSize, NoMoreData
from pydantic import ValidationError
from werkzeug.exceptions import HTTPException

from app.errors import Failure, InvalidRequestError, JobFailedError, TokenyardError
from app.events import Ended
from app.jobs import State

log = structlog.get_logger(__name__)

#: What is not here is the server's fault: 500.
STATUSES = {
    "invalid_request": 400,
    "model_not_downloaded": 400,
    "context_overflow": 400,
    "damaged_model": 400,
    "not_a_model": 400,
    "unreadable": 400,
    "unauthorized": 401,
    "forbidden": 403,
    "bad_csrf": 403,
    "forbidden_model": 403,
    "forbidden_priority": 403,
    "forbidden_host": 403,
    "forbidden_origin": 403,
    "gated_model": 403,
    "bad_token": 403,
    "not_found": 404,
    "job_not_found": 404,
    "file_not_found": 404,
    "batch_not_found": 404,
    "group_not_found": 404,
    "response_not_found": 404,
    "model_not_found": 404,
    "revision_not_found": 404,
    "alias_not_found": 404,
    "session_not_found": 404,
    "method_not_allowed": 405,
    "timed_out": 408,
    "slow_consumer": 408,
    "slow_request": 408,
    "cancelled": 409,
    "idempotency_conflict": 409,
    "model_in_use": 409,
    "alias_taken": 409,
    "load_cancelled": 409,
    "model_exists": 409,
    "too_large": 413,
    "files_full": 413,
    "unsupported_media_type": 415,
    "queue_full": 429,
    "rate_limit_exceeded": 429,
    "model_cooldown": 429,
    "hub_unreachable": 502,
    "disk_full": 507,
    "no_worker": 503,
    "broker_unavailable": 503,
    "database_unavailable": 503,
}
RETRY_AFTER = 5
MAX_MESSAGE = 1000
#: OpenAI's clients send again what got 408 or 409. These would only run a second time what was ended, or fail again.
_FINAL = {"timed_out", "cancelled", "idempotency_conflict"}
#: Where an application keeps the shapes of its dialects' errors, by the beginning of their paths.
SHAPES = "tokenyard_error_shapes"

_HTTP_CODES = {400: "invalid_request", 404: "not_found", 405: "method_not_allowed", 413: "too_large"} | {
    415: "unsupported_media_type"
}
#: What to do about an error that Flask found before any handler of ours.
_REMEDIES = {
    404: "There is nothing at {method} {path}. /docs lists what there is.",
    405: "{path} does not take {method}; it takes {allowed}.",
    413: "The body is larger than this server takes.",
    415: "Send the body as JSON, not compressed, with the header 'Content-Type: application/json'.",
}


def request_id() -> str:
    """The id of the request at hand, as its client hears it."""
    if "request_id" not in g:
        g.request_id = uuid.uuid4().hex
    return str(g.request_id)


def payload(code: str, message: str, param: str | None = None, *, request: str | None = None) -> dict[str, Any]:
    """The inner object of an error."""
    return {"code": code, "message": message, "param": param, "request_id": request or request_id()}


class Fault(NamedTuple):
    """An error on its way to a client, before it has a dialect's shape."""

    code: str
    message: str
    param: str | None
    status: int


#: A dialect's words for an error: the body, and the status.
Shape = Callable[[Fault], tuple[dict[str, Any], int]]


def _native(fault: Fault) -> tuple[dict[str, Any], int]:
    body = {"error": payload(fault.code, fault.message, fault.param), "detail": fault.message}
    return body, fault.status


#: An exception in the words of the dialect that was spoken to.
Words = Callable[[Exception], dict[str, Any]]


def worded() -> Words:
    """For a response that has begun: how to tell of a failure to whoever asked."""
    shape, ident = _shape(), request_id()

    def words(error: Exception) -> dict[str, Any]:
        error = known(error, "stream_failed", request_id=ident)
        if shape is _native:
            return {"error": payload(error.code, error.message, error.param, request=ident), "done": True}
        return shape(Fault(error.code, error.message, error.param, STATUSES.get(error.code, 500)))[0]

    return words


def known(error: Exception, event: str, *, request_id: str, **about: str) -> TokenyardError:
    """What a client is told of an error: of a fault of the server's own, where operators find it in the log."""
    if isinstance(error, TokenyardError):
        return error
    log.error(event, request_id=request_id, error=type(error).__name__, exc_info=error, **about)
    return TokenyardError(f"Something went wrong here. The log has it under {request_id}.")


def _shape() -> Shape:
    shapes: dict[str, Shape] = current_app.extensions[SHAPES]
    return next((shape for prefix, shape in shapes.items() if request.path.startswith(prefix)), _native)


def respond(
    code: str, message: str, param: str | None = None, *, status: int | None = None, retry_after: int | None = None
) -> Response:
    """An error as a whole response, in the words of the dialect that was spoken to."""
    body, status = _shape()(Fault(code, shortened(message), param, status or STATUSES.get(code, 500)))
    response = jsonify(body)
    response.status_code = status
    if retry_after is not None or response.status_code == 503:
        response.headers["Retry-After"] = str(RETRY_AFTER if retry_after is None else retry_after)
    if code in _FINAL:
        response.headers["X-Should-Retry"] = "false"
    if response.status_code == 401:
        response.headers["WWW-Authenticate"] = "Bearer"
    return response


def shortened(message: str) -> str:
    """A message that may repeat what was sent, but no page of it."""
    return message if len(message) <= MAX_MESSAGE else f"{message[:MAX_MESSAGE]}…"


def failure_of(ended: Ended, timeout: float) -> Failure | None:
    """Why a job did not succeed; None where it did."""
    if ended.state == State.SUCCEEDED:
        return None
    if ended.state == State.TIMED_OUT:
        return Failure("timed_out", f"Request timed out after {timeout:g} seconds")
    if ended.state == State.CANCELLED:
        return Failure("cancelled", "The job was cancelled.")
    return Failure(ended.code or "internal", ended.message or "The job failed; GET /jobs/{id} tells more.")


def raise_failure(ended: Ended, timeout: float) -> None:
    """Raises JobFailedError where a job did not succeed."""
    failure = failure_of(ended, timeout)
    if failure is not None:
        raise JobFailedError(failure)


def explain(error: ValidationError) -> InvalidRequestError:
    """The first fault of a request, as a sentence that names its field."""
    faults = error.errors(include_url=False)
    for fault in faults:
        _let_go(fault.get("ctx", {}).get("error"))
    fault = faults[0]
    # Members of a union add words of pydantic's own to the path, such as "list[…]" or "str".
    loc = [str(part) for part in fault["loc"] if not ("[" in str(part) or str(part) in ("str", "float", "int"))]
    param = ".".join(loc) or None
    if not loc and fault["type"].startswith("model"):
        return InvalidRequestError("The body must be a JSON object.")
    own = fault["msg"].removeprefix("Value error, ")
    if fault["type"] == "value_error":
        return InvalidRequestError(own, param=param)
    if fault["type"] == "extra_forbidden":
        return InvalidRequestError(f"{param}: no such field", param=param)
    return InvalidRequestError(f"{param}: {own}" if param else own, param=param)


def _let_go(inner: object) -> None:
    """Of what a validator of ours raised only its words are kept.

    Its traceback holds the frames that it passed, and so the request with its body, and those hold pydantic's error,
    which holds it where Python's collector of garbage cannot look: none of them would ever go.
    """
    if isinstance(inner, ValueError | AssertionError):  # of pydantic's own it is a text
        inner.__traceback__ = inner.__context__ = inner.__cause__ = None


@contextmanager
def translating() -> Iterator[None]:
    """A dialect's request on its way to the one request type: what does not fit there is the client's to mend."""
    try:
        yield
    except ValidationError as error:
        raise explain(error) from error
    except ValueError as error:
        raise InvalidRequestError(str(error)) from error


def on_invalid(error: ValidationError) -> Response:
    """What flask-openapi3 answers to a request that its model refuses."""
    found = explain(error)
    return respond(found.code, found.message, found.param)


def speak(app: Flask, prefix: str, shape: Shape) -> None:
    """Gives the errors under a path the shape of its dialect."""
    app.extensions[SHAPES][prefix] = shape


def register(app: Flask) -> None:
    """Every exception becomes one shape; an unknown one tells nothing of itself."""
    app.extensions[SHAPES] = {}

    @app.errorhandler(TokenyardError)
    def _known(error: TokenyardError) -> Response:
        return respond(error.code, error.message, error.param, retry_after=error.retry_after)

    @app.errorhandler(HTTPException)
    def _http(error: HTTPException) -> Response | HTTPException:
        if error.response is not None or (error.code or 500) < 400:
            return error
        status = error.code or 500
        allowed = ", ".join(sorted(getattr(error, "valid_methods", None) or ()))
        remedy = _REMEDIES.get(status)
        message = (
            error.description or error.name
            if remedy is None
            else remedy.format(method=request.method, path=request.path, allowed=allowed)
        )
        response = respond(_HTTP_CODES.get(status, "http_error"), message, status=status)
        if allowed:
            response.headers["Allow"] = allowed
        return response

    def _broken(_: Exception) -> Response:
        return respond("invalid_request", "The body breaks off, or its chunks are none.")

    for broken in (InvalidChunkSize, InvalidChunkExtension, ChunkMissingTerminator, NoMoreData):
        app.register_error_handler(broken, _broken)

    @app.errorhandler(OSError)
    def _unwritten(error: OSError) -> Response:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            return _unknown(error)
        log.error("disk_full", request_id=request_id())
        return respond("disk_full", "The server's disk is full. Delete files or models, or give it more room.")

    @app.errorhandler(Exception)
    def _unknown(error: Exception) -> Response:
        return _known(known(error, "request_failed", request_id=request_id()))
