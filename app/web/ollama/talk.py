"""POST /api/chat and /api/generate: answers as lines of JSON, or whole."""

import time
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
from flask import Response, jsonify
from flask_openapi3.blueprint import APIBlueprint
from flask_openapi3.models.tag import Tag

from app.events import Ended, Token
from app.models import Job
from app.web.current import here
from app.web.errors import failure_of, translating
from app.web.held import events_of, gathered, opened
from app.web.ollama.names import resolved
from app.web.ollama.schemas import ChatRequest, GenerateRequest
from app.web.security import NDJSON
from app.web.sse import closing
from app.web.stream import Events
from app.web.submit import submit_generation
from app.web.views import counts, iso, logprob

talk = APIBlueprint("ollama", __name__, abp_tags=[Tag(name="ollama", description="Ollama's dialect.")])

_encode = msgspec.json.Encoder().encode
#: How a text is put into an answer: as a message, or as a response.
Wrap = Callable[[str], dict[str, Any]]


@talk.post("/api/chat", summary="Answer a chat, as Ollama does")
def create_ollama_chat(body: ChatRequest) -> Response:
    """Streamed unless `stream` is false. The job's id is in `X-Job-Id`."""
    return _answer(body, lambda text: {"message": {"role": "assistant", "content": text}})


@talk.post("/api/generate", summary="Answer a prompt, as Ollama does")
def create_ollama_answer(body: GenerateRequest) -> Response:
    """Streamed unless `stream` is false. The job's id is in `X-Job-Id`."""
    return _answer(body, lambda text: {"response": text})


def _answer(body: ChatRequest | GenerateRequest, wrap: Wrap) -> Response:
    site = here()
    site.kernel.bus.ping()
    said, body.model = body.model, resolved(site.kernel, body.model)
    with translating():
        request = body.translated()
    job = submit_generation(site.kernel, request, held=True)
    events = events_of(site, job)
    if body.stream:
        return closing(_lines(said, job, opened(events, job.timeout), wrap), events, mimetype=NDJSON)
    tokens, ended = gathered(events, job.timeout)
    text = "".join(token.text for token in tokens)
    return jsonify({**_head(said), **wrap(text), **_logprobs(tokens), **_end(ended)})


def _lines(model: str, job: Job, events: Events, wrap: Wrap) -> Iterator[str]:
    for event in events:
        if isinstance(event, Token):
            yield line({**_head(model), **wrap(event.text), **_logprobs([event]), "done": False})
        elif isinstance(event, Ended):
            failure = failure_of(event, job.timeout)
            shown = {"error": failure.message} if failure else {**_head(model), **wrap(""), **_end(event)}
            yield line(shown)


def line(body: dict[str, Any]) -> str:
    """One line of a stream."""
    return _encode(body).decode() + "\n"


def _head(model: str) -> dict[str, Any]:
    return {"model": model, "created_at": iso(time.time())}


def _end(ended: Ended) -> dict[str, Any]:
    return {"done_reason": ended.done_reason, "done": True, **counts(ended.usage)}


def _logprobs(tokens: list[Token]) -> dict[str, Any]:
    told = [logprob(entry) for token in tokens for entry in token.logprobs]
    return {"logprobs": told} if told else {}
