"""A batch's lines: from its file to jobs, and from ended jobs to the two outputs that OpenAI documents."""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

from app.apikeys import Identity
from app.errors import InvalidRequestError, ModelNotDownloadedError, NotAllowedError, TokenyardError
from app.events import Ended, Log
from app.jobs import BATCH_PRIORITY, State
from app.kernel import Kernel
from app.models import Batch, Job
from app.results import usage_of
from app.stock import Model
from app.store import Detail
from app.web.bodies import MAX_BODY, decode_object, encode
from app.web.errors import translating
from app.web.fold import opens_thought
from app.web.openai import chat, completions, shapes
from app.web.openai.schemas import ChatCompletionBody, CompletionBody
from app.web.schemas import GenerateBody
from app.web.submit import generation, model_of

MAX_LINES = 50_000
#: Errors of one file that are told; whoever made it sees the pattern by then.
MAX_ERRORS = 100
#: What a line's job keeps of it, beside the request itself.
LINE = "batch_line"

_Error = dict[str, Any]


def count(path: Path) -> int:
    """How many lines a file has, up to MAX_LINES, whatever stands in them."""
    with path.open("rb") as file:
        return sum(1 for _ in islice(_numbered(file), MAX_LINES))


def check(path: Path, endpoint: str) -> list[_Error]:
    """What is wrong with a file as a whole, by line; nothing of it is run then."""
    errors: list[_Error] = []
    lines = 0
    seen: dict[str, int] = {}
    with path.open("rb") as file:
        for number, raw in _numbered(file):
            lines += 1
            with _noting(errors, number):
                _check_line(raw, number, endpoint, seen)
            if len(errors) >= MAX_ERRORS or lines > MAX_LINES or len(raw) > MAX_BODY:
                break
    if lines > MAX_LINES:
        errors.append(error(None, "too_many_lines", f"A batch holds {MAX_LINES} lines at most.", None))
    if lines == 0:
        errors.append(error(None, "empty_file", "The file has no lines.", None))
    return errors


@contextmanager
def _noting(errors: list[_Error], line: int) -> Iterator[None]:
    """Keeps a line's fault in a list, and goes on."""
    try:
        yield
    except TokenyardError as fault:
        errors.append(error(line, fault.code, fault.message, fault.param))


def error(line: int | None, code: str, message: str, param: str | None) -> _Error:
    """A fault of a file, as OpenAI's clients parse it."""
    return {"code": code, "line": line, "message": message, "param": param}


def _numbered(file: Any) -> Iterator[tuple[int, bytes]]:
    """Each line that is not blank, by its number in the file, from 1. One that is too long comes in pieces."""
    pieces = iter(lambda: file.readline(MAX_BODY + 1), b"")
    return ((number, raw) for number, raw in enumerate(pieces, 1) if raw.strip())


def _check_line(raw: bytes, number: int, endpoint: str, seen: dict[str, int]) -> None:
    line = decode_object(raw, "The line")
    _check_fields(line, endpoint)
    first = seen.setdefault(line["custom_id"], number)
    if first != number:
        raise InvalidRequestError(
            f"The custom_id '{line['custom_id']}' is that of line {first} too.", param="custom_id"
        )


def _check_fields(line: dict[str, Any], endpoint: str) -> None:
    custom_id = line.get("custom_id")
    if not isinstance(custom_id, str) or not 0 < len(custom_id) <= 512:
        raise InvalidRequestError("custom_id must be a text of 1 to 512 characters.", param="custom_id")
    if line.get("method") != "POST":
        raise InvalidRequestError("method must be POST.", param="method")
    if line.get("url") != endpoint:
        raise InvalidRequestError(f"url must be the batch's endpoint, {endpoint}.", param="url")
    if not isinstance(line.get("body"), dict):
        raise InvalidRequestError("body must be an object.", param="body")


def jobs(kernel: Kernel, path: Path, batch: Batch, who: Identity) -> Iterator[Job]:
    """A job for each line. One whose body is refused has failed already, and is told with the others."""
    known: dict[str, tuple[Model, str]] = {}
    with path.open("rb") as file:
        for _, raw in _numbered(file):
            yield _job(kernel, decode_object(raw, "The line"), batch, known, who)


def _job(kernel: Kernel, line: dict[str, Any], batch: Batch, known: dict[str, tuple[Model, str]], who: Identity) -> Job:
    try:
        with translating():
            body = _translated(line["body"], batch.endpoint)
        if body.model not in known:
            known[body.model] = model_of(kernel, body.model, who)
        model, adapter = known[body.model]
        body.settle(model.name, adapter)
    except (InvalidRequestError, ModelNotDownloadedError, NotAllowedError) as error:
        job = generation(
            _refused(line["body"], known), Identity(), held=False, now=kernel.clock.now(), group_id=batch.id
        )
        job.status, job.finished_at = State.FAILED.value, job.created_at
        job.error_code, job.error_message = error.code, error.message
    else:
        job = generation(
            body, Identity(), held=False, now=kernel.clock.now(), group_id=batch.id, thinks=opens_thought(model)
        )
    job.priority, job.expires_at, job.tenant = max(BATCH_PRIORITY, who.top_priority), batch.expires_at, batch.tenant
    job.request = {**job.request, LINE: line["custom_id"]}
    return job


def _translated(body: dict[str, Any], endpoint: str) -> GenerateBody:
    """Raises ValidationError, ValueError."""
    body = {**body, "stream": False}
    body.pop("stream_options", None)
    if endpoint == "/v1/chat/completions":
        return ChatCompletionBody.model_validate(body).translated()
    asked = CompletionBody.model_validate(body)
    if asked.echo:
        raise ValueError("echo: a line's output is the answer alone; leave it out")
    requests = asked.translated()
    if len(requests) > 1:
        raise ValueError("prompt: a line has one prompt; write a line for each")
    return requests[0]


def _refused(body: dict[str, Any], known: dict[str, tuple[Model, str]]) -> GenerateBody:
    """What stands for a line that is no request: its model, if an earlier line found it. A name that is made up would
    stay for ever, as a series of /metrics."""
    name = body.get("model")
    found = known.get(name) if isinstance(name, str) else None
    return GenerateBody.model_construct(model=found[0].name if found else "")


def output(detail: Detail, endpoint: str) -> bytes:
    """The line of a job that succeeded."""
    job, result = detail.job, detail.result
    body: dict[str, Any] = {}
    if result is not None:
        ended = Ended(0, job.status, result.done_reason, usage_of(result))
        tokens = list(Log.decode(result.log).tokens(result.text))
        whole = chat.whole if endpoint == "/v1/chat/completions" else completions.whole_of_one
        body = whole(job, tokens, ended)
    return _line(job, {"status_code": 200, "request_id": job.id, "body": body}, None)


def problem(detail: Detail, _endpoint: str) -> bytes:
    """The line of a job that did not."""
    job = detail.job
    if job.status == State.CANCELLED:
        return _line(job, None, {"code": "batch_cancelled", "message": "The batch was cancelled before this request."})
    if job.status == State.TIMED_OUT and not _ran_out(job):
        message = "This request could not be executed before the completion window expired."
        return _line(job, None, {"code": "batch_expired", "message": message})
    ended = Ended(0, job.status, code=job.error_code or "", message=job.error_message or "")
    body, status = shapes.problem(ended, job.timeout) or ({}, 500)
    return _line(job, {"status_code": status, "request_id": job.id, "body": body}, None)


def _ran_out(job: Job) -> bool:
    """Whether its own timeout ended a line, and not the window, which covers waiting alone."""
    started, ended = job.started_at, job.finished_at or 0.0
    return started is not None and (ended < job.expires_at or ended - started >= job.timeout)


def _line(job: Job, response: dict[str, Any] | None, error: dict[str, Any] | None) -> bytes:
    shown = {"id": f"batch_req_{job.id}", "custom_id": job.request[LINE], "response": response, "error": error}
    return encode(shown) + b"\n"
