"""A response and its named events: a pure fold over the job's event log from its start.

Events are numbered as they come out of the fold, so every reader, of any process and at any time, counts the same; and
a response that has ended is what the last event of its fold holds.
"""

from collections.abc import Iterator
from typing import Any

from app.errors import Failure
from app.events import Ended, Event, Token, Usage
from app.jobs import TERMINAL, State
from app.models import Job
from app.store import Detail
from app.web import fold
from app.web.errors import STATUSES, failure_of
from app.web.openai.response_schemas import Status
from app.web.stream import told_by_row

PREFIX = "resp_"
#: What a job's row keeps of a request that came as a response.
KEPT = "response"

_STATUSES: dict[str, Status] = {
    State.QUEUED: "queued",
    State.RUNNING: "in_progress",
    State.SUCCEEDED: "completed",
    State.FAILED: "failed",
    State.TIMED_OUT: "failed",
    State.CANCELLED: "cancelled",
}
#: Items that grow: what their ids begin with, the type of their one part, and what it has beside its text.
_GROWING: dict[str, tuple[str, str, dict[str, Any]]] = {
    "message": ("msg", "output_text", {"annotations": [], "logprobs": []}),
    "reasoning": ("rs", "reasoning_text", {}),
}

Told = Iterator[dict[str, Any]]


class Fold:
    """Numbers and words of one response's events."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._parts = fold.Fold(job)
        self._number = 0
        self._items: list[dict[str, Any]] = []  # those that are whole
        self._growing = ""  # the kind of the one that is not
        self._text = ""

    def begin(self) -> Told:
        """What stands before the first token."""
        status: Status = "queued" if self._job.request[KEPT]["background"] else "in_progress"
        yield self._event("response.created", response=shape(self._job, status))
        yield self._event("response.in_progress", response=shape(self._job, "in_progress"))

    def token(self, event: Token) -> Told:
        """What a piece of text turns out to be; often nothing yet."""
        return self._told(self._parts.feed(event.text))

    def end(self, ended: Ended) -> Told:
        """What closes the last item and the response."""
        yield from self._told(self._parts.end())
        status = _status(ended.state, ended.done_reason)
        if status in ("completed", "incomplete"):
            if not self._growing and not self._items:
                yield from self._open("message")  # an empty answer
            yield from self._close(status)
        elif self._growing:
            self._items.append(self._item(self._growing, "incomplete"))
        # There is no event of its own for a cancelled response.
        kind = "response.failed" if status == "cancelled" else f"response.{status}"
        whole = shape(self._job, status, self._items, ended.usage, failure_of(ended, self._job.timeout))
        yield self._event(kind, response=whole)

    def _told(self, parts: fold.Parts) -> Told:
        yield from self._grow("reasoning", parts.thought)
        yield from self._grow("message", parts.content)
        for call in parts.calls:
            yield from self._close("completed")
            yield from self._call(call)

    def _grow(self, kind: str, text: str) -> Told:
        if not text:
            return
        if self._growing != kind:
            yield from self._close("completed")
            yield from self._open(kind)
        self._text += text
        yield self._of_text("delta", delta=text)

    def _open(self, kind: str) -> Told:
        self._growing, self._text = kind, ""
        item = self._item(kind, "in_progress") | {"content": []}
        yield self._event("response.output_item.added", output_index=len(self._items), item=item)
        yield self._event("response.content_part.added", **self._place(), part=_part(kind, ""))

    def _close(self, status: Status) -> Told:
        if kind := self._growing:
            yield self._of_text("done", text=self._text)
            yield self._event("response.content_part.done", **self._place(), part=_part(kind, self._text))
            yield self._done(self._item(kind, status))
            self._growing = ""

    def _call(self, call: fold.Call) -> Told:
        place = {"item_id": self._id("fc"), "output_index": len(self._items)}
        item = {"id": place["item_id"], "type": "function_call", "status": "in_progress", "call_id": call.id}
        item |= {"name": call.name, "arguments": ""}
        said = {"arguments": call.arguments}
        yield self._event("response.output_item.added", output_index=len(self._items), item=item)
        yield self._event("response.function_call_arguments.delta", **place, delta=call.arguments)
        yield self._event("response.function_call_arguments.done", **place, name=call.name, **said)
        yield self._done(item | said | {"status": "completed"})

    def _done(self, item: dict[str, Any]) -> dict[str, Any]:
        index = len(self._items)
        self._items.append(item)
        return self._event("response.output_item.done", output_index=index, item=item)

    def _event(self, kind: str, **fields: Any) -> dict[str, Any]:
        number, self._number = self._number, self._number + 1
        return {"type": kind, "sequence_number": number, **fields}

    def _of_text(self, what: str, **fields: str) -> dict[str, Any]:
        logprobs: dict[str, Any] = {"logprobs": []} if self._growing == "message" else {}
        return self._event(f"response.{_GROWING[self._growing][1]}.{what}", **self._place(), **fields, **logprobs)

    def _place(self) -> dict[str, Any]:
        return {
            "item_id": self._id(_GROWING[self._growing][0]),
            "output_index": len(self._items),
            "content_index": 0,
        }

    def _id(self, prefix: str) -> str:
        return f"{prefix}_{self._job.id}" + (f"_{len(self._items)}" if self._items else "")

    def _item(self, kind: str, status: Status) -> dict[str, Any]:
        further: dict[str, Any] = {"role": "assistant"} if kind == "message" else {"summary": []}
        ident, content = self._id(_GROWING[kind][0]), [_part(kind, self._text)]
        return {"id": ident, "type": kind, "status": status, "content": content, **further}


def numbered(job: Job, events: Iterator[Event | None]) -> Iterator[dict[str, Any] | None]:
    """A response's events, made of its job's from the first one on; None where there was only a heartbeat."""
    told = Fold(job)
    yield from told.begin()
    for event in events:
        if isinstance(event, Token):
            yield from told.token(event)
        elif isinstance(event, Ended):
            yield from told.end(event)
        else:
            yield None


def of_row(detail: Detail) -> dict[str, Any]:
    """A response as its row has it."""
    job = detail.job
    if job.status not in TERMINAL:
        return shape(job, _STATUSES[job.status])
    *_, last = numbered(job, told_by_row(detail, 0))
    whole: dict[str, Any] = last["response"] if last else {}
    return whole


def shape(
    job: Job,
    status: Status,
    items: list[dict[str, Any]] | None = None,
    usage: Usage | None = None,
    failure: Failure | None = None,
) -> dict[str, Any]:
    """As their clients parse it."""
    kept = job.request[KEPT]
    return {
        "id": PREFIX + job.id,
        "object": "response",
        "created_at": int(job.created_at),
        "status": status,
        "error": _error(failure) if failure is not None and status == "failed" else None,
        "incomplete_details": {"reason": "max_output_tokens"} if status == "incomplete" else None,
        "model": job.model,
        "output": items or [],
        "previous_response_id": None,
        "text": {"format": kept.get("format") or {"type": "text"}},
        "truncation": "disabled",
        "usage": _usage(usage) if usage is not None and items else None,
        "user": None,
        **{name: value for name, value in kept.items() if name != "format"},
    }


def _error(failure: Failure) -> dict[str, str]:
    """Their own codes tell little: whether the request is to blame, or the server."""
    theirs = STATUSES.get(failure.code, 500) == 400
    return {"code": "invalid_prompt" if theirs else "server_error", "message": failure.message}


def _status(state: str, done_reason: str) -> Status:
    status = _STATUSES[state]
    return "incomplete" if status == "completed" and done_reason == "length" else status


def _part(kind: str, text: str) -> dict[str, Any]:
    _, part, further = _GROWING[kind]
    return {"type": part, "text": text, **further}


def _usage(usage: Usage) -> dict[str, Any]:
    return {
        "input_tokens": usage.prompt_tokens,
        "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
    }
