"""POST /v1/chat/completions."""

from collections.abc import Iterator
from typing import Any

from flask import Response, jsonify

from app.events import Ended, Token
from app.models import Job
from app.web import sse
from app.web.current import here
from app.web.errors import translating
from app.web.fold import Fold, Parts
from app.web.held import events_of, gathered, opened
from app.web.openai import shapes, stream
from app.web.openai.answers import ChatCompletion, blueprint
from app.web.openai.schemas import ChatCompletionBody
from app.web.stream import Events
from app.web.submit import submit_generation
from app.web.views import split

chat = blueprint("chat")


@chat.post("/v1/chat/completions", summary="Answer a chat, as OpenAI's API does", responses={200: ChatCompletion})
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


def whole(job: Job, tokens: list[Token], ended: Ended) -> dict[str, Any]:
    """A whole answer."""
    told = [_choice(job, *choice) for choice in split(job, tokens, ended.done_reason)]
    return {**shapes.head(job, "chatcmpl", "chat.completion"), "choices": told, "usage": shapes.usage(ended.usage)}


def _choice(job: Job, index: int, tokens: list[Token], done_reason: str) -> dict[str, Any]:
    parts = Fold(job, index).whole("".join(token.text for token in tokens))
    return {
        "index": index,
        "message": {"role": "assistant", "refusal": None, "content": None, **_said(parts)},
        "logprobs": shapes.logprobs(tokens),
        "finish_reason": shapes.reason(done_reason, called=bool(parts.calls)),
    }


def _said(parts: Parts, first_call: int | None = None) -> dict[str, Any]:
    """The fields of a message, or with `first_call`, the number of its first call, those of a delta."""
    said: dict[str, Any] = {}
    if parts.content or (first_call is None and not parts.calls):
        said["content"] = parts.content
    if parts.thought:  # under its older name, and under vLLM's newer one
        said |= {"reasoning_content": parts.thought, "reasoning": parts.thought}
    if parts.calls:
        said["tool_calls"] = [
            ({} if first_call is None else {"index": first_call + number})
            | {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for number, call in enumerate(parts.calls)
        ]
    return said


class _Chunks:
    """The chunks of one stream."""

    def __init__(self, job: Job, include_usage: bool) -> None:
        self._head = shapes.head(job, "chatcmpl", "chat.completion.chunk")
        self._head |= {"usage": None} if include_usage else {}
        self._frame = stream.Frame(self._head)
        self._timeout = job.timeout
        self._usage = include_usage
        self._choices = range(job.request["n"])
        self._finishes = stream.Finishes(len(self._choices))
        self._folds = [Fold(job, index) for index in self._choices]

    def begin(self) -> Iterator[str]:
        return (self._chunk(index, {"role": "assistant", "content": ""}) for index in self._choices)

    def token(self, event: Token) -> str:
        reason = self._finishes.of(event)
        fold = self._folds[event.choice]
        parts = fold.feed(event.text)
        if reason is not None:
            parts += fold.end()
            reason = shapes.reason(reason, called=fold.calls > 0)
        return self._chunk(event.choice, self._delta(event.choice, parts), reason, shapes.logprobs([event]))

    def _delta(self, choice: int, parts: Parts) -> dict[str, Any]:
        return _said(parts, self._folds[choice].calls - len(parts.calls))

    def end(self, ended: Ended) -> Iterator[str]:
        problem = stream.problem(ended, self._timeout)
        if problem is not None:
            yield problem
        else:
            for index, reason in self._finishes.rest(ended):
                parts = self._folds[index].end()
                called = self._folds[index].calls > 0
                yield self._chunk(index, self._delta(index, parts), shapes.reason(reason, called=called))
            if self._usage:
                yield sse.frame(self._head | {"choices": [], "usage": shapes.usage(ended.usage)})
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
        if not isinstance(event, Token | Ended):
            yield sse.HEARTBEAT
            continue
        if not begun:
            begun = True
            yield from chunks.begin()
        yield from (chunks.token(event),) if isinstance(event, Token) else chunks.end(event)
