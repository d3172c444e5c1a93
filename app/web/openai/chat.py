"""POST /v1/chat/completions."""

from collections.abc import Iterator
from typing import Any

from flask import Response, jsonify
from flask_openapi3.blueprint import APIBlueprint
from flask_openapi3.models.tag import Tag

from app.events import Ended, Event, Token
from app.models import Job
from app.web import sse
from app.web.current import here
from app.web.errors import translating
from app.web.held import events_of, gathered, opened
from app.web.openai import shapes, stream
from app.web.openai.schemas import ChatCompletionBody
from app.web.stream import Events
from app.web.submit import submit_generation

chat = APIBlueprint("openai_chat", __name__, abp_tags=[Tag(name="openai", description="OpenAI's dialect.")])


@chat.post("/v1/chat/completions", summary="Answer a chat, as OpenAI's API does")
def create_chat_completion(body: ChatCompletionBody) -> Response:
    """Whole or streamed. The job's id is in `X-Job-Id`."""
    site = here()
    site.kernel.bus.ping()
    with translating():
        request = body.translated()
    job = submit_generation(site.kernel, request, held=not request.detach)
    events = events_of(site, job)
    if body.stream:
        return sse.closing(_chunks(job, opened(events, job.timeout), body.include_usage), events)
    tokens, ended = gathered(events, job.timeout)
    return jsonify(whole(job, tokens, ended))


def _head(job: Job, kind: str) -> dict[str, Any]:
    return {
        "id": f"chatcmpl-{job.id}",
        "object": kind,
        "created": int(job.created_at),
        "model": job.model,
        "system_fingerprint": None,
    }


def whole(job: Job, tokens: list[Token], ended: Ended) -> dict[str, Any]:
    """A whole answer."""
    finishes = {token.choice: token.finish for token in tokens if token.finish}
    choices = []
    for index in range(job.request["n"]):
        own = [token for token in tokens if token.choice == index]
        content = "".join(token.text for token in own)
        choices.append(
            {
                "index": index,
                "message": {"role": "assistant", "content": content, "refusal": None},
                "logprobs": shapes.logprobs(own),
                "finish_reason": finishes.get(index, ended.done_reason),
            }
        )
    return {**_head(job, "chat.completion"), "choices": choices, "usage": shapes.usage(ended.usage)}


class _Chunks:
    """The chunks of one stream."""

    def __init__(self, job: Job, include_usage: bool) -> None:
        self._head = _head(job, "chat.completion.chunk") | ({"usage": None} if include_usage else {})
        self._frame = stream.Frame(self._head)
        self._timeout = job.timeout
        self._usage = include_usage
        self._choices = range(job.request["n"])
        self._finishes = stream.Finishes(len(self._choices))

    def begin(self) -> Iterator[str]:
        return (self._chunk(index, {"role": "assistant", "content": ""}) for index in self._choices)

    def token(self, event: Token) -> str:
        reason = self._finishes.of(event)
        delta = {"content": event.text} if event.text else {}
        return self._chunk(event.choice, delta, reason, shapes.logprobs([event]))

    def end(self, ended: Ended) -> Iterator[str]:
        problem = stream.problem(ended, self._timeout)
        if problem is not None:
            yield problem
        else:
            for index, reason in self._finishes.rest(ended):
                yield self._chunk(index, {}, reason)
            if self._usage:
                yield stream.data(self._head | {"choices": [], "usage": shapes.usage(ended.usage)})
        yield stream.DONE

    def _chunk(
        self, index: int, delta: dict[str, Any], reason: str | None = None, logprobs: dict[str, Any] | None = None
    ) -> str:
        choice = {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": reason}
        return self._frame.of(choice)


def _chunks(job: Job, events: Events, include_usage: bool) -> Iterator[str]:
    chunks = _Chunks(job, include_usage)
    begun = False
    for event in events:
        if isinstance(event, Token | Ended) and not begun:
            begun = True
            yield from chunks.begin()
        yield from _told(chunks, event)


def _told(chunks: _Chunks, event: Event | None) -> Iterator[str]:
    if isinstance(event, Token):
        yield chunks.token(event)
    elif isinstance(event, Ended):
        yield from chunks.end(event)
    else:
        yield sse.HEARTBEAT
