"""POST /chat: an answer, whole or streamed."""

from collections.abc import Iterable, Iterator

from flask import Response, jsonify

from app.events import Ended, Event, Token
from app.web import sse
from app.web.answers import blueprint
from app.web.chat_answers import ChatAnswer
from app.web.current import here
from app.web.errors import failure_of, payload, request_id
from app.web.held import events_of, gathered, opened
from app.web.schemas import ChatBody
from app.web.submit import submit_generation
from app.web.views import answer, counts, delta

chat = blueprint("chat", "chat", "Answers.")


@chat.post("/chat", summary="Answer a chat", responses={200: ChatAnswer})
def create_answer(body: ChatBody) -> Response:
    """Waits for the answer, or streams it. The job's id is in `X-Job-Id` either way."""
    site = here()
    site.kernel.bus.ping()  # nobody is there to wait for an answer that cannot come back
    job = submit_generation(site.kernel, body, held=not body.detach)
    events = events_of(site, job)
    if body.stream:
        return sse.closing(frames(opened(events, body.timeout), body.timeout, request_id()), events)
    tokens, ended = gathered(events, body.timeout)
    return jsonify(answer(job, tokens, ended))


def frames(events: Iterable[Event | None], timeout: float, request: str) -> Iterator[str]:
    """A job's events as the deltas of a chat; an error is the last one."""
    for event in events:
        if isinstance(event, Token):
            yield sse.frame(delta(event), seq=event.seq)
        elif isinstance(event, Ended):
            yield _end(event, timeout, request)
        else:
            yield sse.HEARTBEAT


def _end(ended: Ended, timeout: float, request: str) -> str:
    failure = failure_of(ended, timeout)
    if failure is not None:
        error = payload(failure.code, failure.message, request=request)
        return sse.frame({"error": error, "done": True}, seq=ended.seq)
    last = {"delta": {}, "done": True, "done_reason": ended.done_reason, **counts(ended.usage)}
    return sse.frame(last, seq=ended.seq)
