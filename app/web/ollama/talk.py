"""POST /api/chat and /api/generate: answers as lines of JSON, or whole."""

import time
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
from flask import Response, jsonify

from app.apikeys import Role
from app.errors import NotAllowedError
from app.events import Ended, Token
from app.models import Job
from app.web.access import identity
from app.web.bodies import NDJSON, encode
from app.web.current import here
from app.web.errors import failure_of, translating
from app.web.fold import Fold, Parts
from app.web.held import events_of, gathered, opened
from app.web.ollama import memory, residence
from app.web.ollama.answers import OllamaChatAnswer, OllamaGenerateAnswer, blueprint
from app.web.ollama.names import resolved
from app.web.ollama.schemas import ChatRequest, GenerateRequest
from app.web.sse import closing
from app.web.stream import Events
from app.web.submit import submit_generation
from app.web.views import counts, iso, logprob

talk = blueprint("talk")

_NOTHING = Parts()
#: How the parts of an answer are put into it: as a message, or as a response.
Wrap = Callable[[Parts], dict[str, Any]]


@talk.post("/api/chat", summary="Answer a chat, as Ollama does", responses={200: OllamaChatAnswer})
def create_ollama_chat(body: ChatRequest) -> Response:
    """Streamed unless `stream` is false. The job's id is in `X-Job-Id`."""
    return _answer(body, _message)


@talk.post("/api/generate", summary="Answer a prompt, as Ollama does", responses={200: OllamaGenerateAnswer})
def create_ollama_answer(body: GenerateRequest) -> Response:
    """Streamed unless `stream` is false. The job's id is in `X-Job-Id`."""
    return _answer(body, _response)


def _answer(body: ChatRequest | GenerateRequest, wrap: Wrap) -> Response:
    site = here()
    site.kernel.bus.ping()
    said, body.model = body.model, resolved(site.kernel, body.model)
    if body.empty:
        identity().check_model(body.model)
        if identity().role is not Role.OPERATOR:
            if body.keep_alive == 0:
                raise NotAllowedError("forbidden", "This unloads the model, which needs a key of the role operator.")
            body.keep_alive = None  # as in submit.py
        reason = residence.settle(site.kernel, body.model, body.keep_alive)
        return jsonify({**_head(said), **wrap(Parts()), "done": True, "done_reason": reason})
    before = memory.recalled(site.kernel, body.context) if isinstance(body, GenerateRequest) and body.context else []
    with translating():
        request = body.translated(before)
    job = submit_generation(site.kernel, request, held=True)
    events = events_of(site, job)
    if body.stream:
        return closing(_lines(said, job, opened(events, job.timeout), wrap), events, mimetype=NDJSON)
    tokens, ended = gathered(events, job.timeout)
    parts = Fold(job).whole("".join(token.text for token in tokens))
    return jsonify({**_head(said), **wrap(parts), **_logprobs(tokens), **_end(job, ended, wrap)})


def _message(parts: Parts) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": parts.content}
    if parts.thought:
        message["thinking"] = parts.thought
    if parts.calls:
        message["tool_calls"] = [
            {"id": call.id, "function": {"name": call.name, "arguments": msgspec.json.decode(call.arguments)}}
            for call in parts.calls
        ]
    return {"message": message}


def _response(parts: Parts) -> dict[str, Any]:
    return {"response": parts.content} | ({"thinking": parts.thought} if parts.thought else {})


def _lines(model: str, job: Job, events: Events, wrap: Wrap) -> Iterator[str]:
    fold = Fold(job)
    for event in events:
        if isinstance(event, Token):
            parts = fold.feed(event.text)
            told = parts != _NOTHING or event.logprobs
            yield line({**_head(model), **wrap(parts), **_logprobs([event]), "done": False}) if told else ""
        elif isinstance(event, Ended):
            failure = failure_of(event, job.timeout)
            if failure:
                yield line({"error": failure.message})
                continue
            if (rest := fold.end()) != _NOTHING:
                yield line({**_head(model), **wrap(rest), "done": False})
            yield line({**_head(model), **wrap(_NOTHING), **_end(job, event, wrap)})


def line(body: dict[str, Any]) -> str:
    """One line of a stream."""
    return encode(body).decode() + "\n"


def _head(model: str) -> dict[str, Any]:
    return {"model": model, "created_at": iso(time.time())}


def _end(job: Job, ended: Ended, wrap: Wrap) -> dict[str, Any]:
    kept = {"context": memory.token(job)} if wrap is _response and "prompt" not in job.request else {}
    return {"done_reason": ended.done_reason, "done": True, **kept, **counts(ended.usage)}


def _logprobs(tokens: list[Token]) -> dict[str, Any]:
    told = [logprob(entry) for token in tokens for entry in token.logprobs]
    return {"logprobs": told} if told else {}
