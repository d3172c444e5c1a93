"""A response and its named events: a pure fold over the job's event log from its start.

Event 0 to 3 open the response, its message and its text; the job's event `seq` is number seq + 3; the ends follow. So
every reader, of any process and at any time, counts the same.
"""

from collections.abc import Iterator
from typing import Any

from app.events import Ended, Token, Usage
from app.jobs import State
from app.models import Job
from app.results import usage_of
from app.store import Detail
from app.web import fold
from app.web.errors import failure_of
from app.web.openai.response_schemas import Status

#: What stands before the first token.
HEAD = 3
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


class Fold:
    """Numbers and words of one response's events."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._texts: list[str] = []
        self._parts = fold.Fold(job)

    def begin(self) -> Iterator[dict[str, Any]]:
        """What stands before the first token."""
        status: Status = "queued" if self._job.request[KEPT]["background"] else "in_progress"
        yield self._event(0, "response.created", response=shape(self._job, status))
        yield self._event(1, "response.in_progress", response=shape(self._job, "in_progress"))
        yield self._event(2, "response.output_item.added", output_index=0, item=self._item("in_progress", []))
        yield self._event(3, "response.content_part.added", **self._place(), part=_part(""))

    def token(self, event: Token) -> dict[str, Any]:
        """A piece of text; an empty one of a thought."""
        return self._delta(HEAD + event.seq, self._parts.feed(event.text).content)

    def _delta(self, number: int, text: str) -> dict[str, Any]:
        self._texts.append(text)
        return self._event(number, "response.output_text.delta", **self._place(), delta=text, logprobs=[])

    def end(self, ended: Ended) -> Iterator[dict[str, Any]]:
        """What closes the text, the message and the response."""
        number = HEAD + ended.seq
        if rest := self._parts.end().content:
            yield self._delta(number, rest)
            number += 1
        text = "".join(self._texts)
        status = _status(ended.state, ended.done_reason)
        if status in ("completed", "incomplete"):
            item = self._item(status, [_part(text)])
            yield self._event(number, "response.output_text.done", **self._place(), text=text, logprobs=[])
            yield self._event(number + 1, "response.content_part.done", **self._place(), part=_part(text))
            yield self._event(number + 2, "response.output_item.done", output_index=0, item=item)
            number += 3
        # There is no event of its own for a cancelled response.
        kind = "response.failed" if status == "cancelled" else f"response.{status}"
        failure = failure_of(ended, self._job.timeout)
        whole = shape(self._job, status, text, ended.usage, failure.message if failure else None)
        yield self._event(number, kind, response=whole)

    def _event(self, number: int, kind: str, **fields: Any) -> dict[str, Any]:
        return {"type": kind, "sequence_number": number, **fields}

    def _place(self) -> dict[str, Any]:
        return {"item_id": f"msg_{self._job.id}", "output_index": 0, "content_index": 0}

    def _item(self, status: str, content: list[dict[str, Any]]) -> dict[str, Any]:
        return _message(self._job, status, content)


def of_row(detail: Detail) -> dict[str, Any]:
    """A response as its row has it."""
    job, result = detail.job, detail.result
    status = _status(job.status, result.done_reason if result else "")
    text = fold.Fold(job).whole(result.text).content if result else ""
    return shape(job, status, text, usage_of(result) if result else None, job.error_message)


def shape(
    job: Job, status: Status, text: str = "", usage: Usage | None = None, failure: str | None = None
) -> dict[str, Any]:
    """As their clients parse it."""
    over = status in ("completed", "incomplete") or (text and status in ("failed", "cancelled"))
    kept = job.request[KEPT]
    return {
        "id": PREFIX + job.id,
        "object": "response",
        "created_at": int(job.created_at),
        "status": status,
        "error": {"code": "server_error", "message": failure or ""} if status == "failed" else None,
        "incomplete_details": {"reason": "max_output_tokens"} if status == "incomplete" else None,
        "model": job.model,
        "output": [_message(job, "completed" if status == "completed" else "incomplete", [_part(text)])]
        if over
        else [],
        "parallel_tool_calls": True,
        "previous_response_id": None,
        "reasoning": {"effort": None, "summary": None},
        "text": {"format": kept.get("format") or {"type": "text"}},
        "tool_choice": "auto",
        "tools": [],
        "truncation": "disabled",
        "usage": _usage(usage) if usage is not None and over else None,
        "user": None,
        **{name: value for name, value in kept.items() if name != "format"},
    }


def _status(state: str, done_reason: str) -> Status:
    status = _STATUSES[state]
    return "incomplete" if status == "completed" and done_reason == "length" else status


def _message(job: Job, status: str, content: list[dict[str, Any]]) -> dict[str, Any]:
    return {"id": f"msg_{job.id}", "type": "message", "role": "assistant", "status": status, "content": content}


def _part(text: str) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def _usage(usage: Usage) -> dict[str, Any]:
    return {
        "input_tokens": usage.prompt_tokens,
        "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
    }
