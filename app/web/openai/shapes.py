"""What OpenAI's clients parse: errors, usage, probabilities. Shapes: https://platform.openai.com/docs/api-reference."""

from typing import Any

from app.events import Ended, Likely, Logprob, Token, Usage
from app.models import Job
from app.web.errors import STATUSES, Fault, failure_of

#: Their names for kinds of errors, by HTTP status. What is not here is `server_error`.
_TYPES = {401: "authentication_error", 403: "permission_error", 408: "timeout_error", 429: "rate_limit_error"}
_UNKNOWN_MODEL = {"model_not_downloaded", "model_not_found"}
#: Codes that programs look for under OpenAI's names.
_CODES = dict.fromkeys(_UNKNOWN_MODEL, "model_not_found") | {
    "context_overflow": "context_length_exceeded",
    "unauthorized": "invalid_api_key",
    "queue_full": "rate_limit_exceeded",
}


def refusal(fault: Fault) -> tuple[dict[str, Any], int]:
    """An error as their clients raise it. A model that is not here is a 404 to them."""
    status = 404 if fault.code in _UNKNOWN_MODEL else fault.status
    kind = _TYPES.get(status, "invalid_request_error" if status < 500 else "server_error")
    code = _CODES.get(fault.code, fault.code)
    return {"error": {"message": fault.message, "type": kind, "param": fault.param, "code": code}}, status


def problem(ended: Ended, timeout: float) -> tuple[dict[str, Any], int] | None:
    """The same for a job that failed; None for one that did not."""
    failure = failure_of(ended, timeout)
    if failure is None:
        return None
    return refusal(Fault(failure.code, failure.message, None, STATUSES.get(failure.code, 500)))


def head(job: Job, prefix: str, kind: str) -> dict[str, Any]:
    """What every completion and chunk begins with."""
    ident = {"id": f"{prefix}-{job.id}", "object": kind, "created": int(job.created_at)}
    return {**ident, "model": job.model, "system_fingerprint": None}


def reason(done_reason: str, *, called: bool) -> str:
    """Why an answer ended."""
    return "tool_calls" if called and done_reason == "stop" else done_reason


def usage(counted: Usage) -> dict[str, Any]:
    """Counts of tokens."""
    return {
        "prompt_tokens": counted.prompt_tokens,
        "completion_tokens": counted.completion_tokens,
        "total_tokens": counted.prompt_tokens + counted.completion_tokens,
    }


def logprobs(tokens: list[Token]) -> dict[str, Any] | None:
    """A chat's probabilities; None where nobody asked."""
    told = [_logprob(entry) for token in tokens for entry in token.logprobs]
    return {"content": told, "refusal": None} if told else None


def _logprob(entry: Logprob) -> dict[str, Any]:
    return _likely(entry) | {"top_logprobs": [_likely(other) for other in entry.top]}


def _likely(token: Likely) -> dict[str, Any]:
    return {"token": token.text, "logprob": token.logprob, "bytes": list(token.text.encode())}


def plain_logprobs(tokens: list[Token], offset: int = 0) -> dict[str, Any] | None:
    """A completion's probabilities in the older form; `offset` is where these tokens' text begins in the whole."""
    told = [entry for token in tokens for entry in token.logprobs]
    if not told:
        return None
    offsets = []
    for entry in told:
        offsets.append(offset)
        offset += len(entry.text)
    return {
        "tokens": [entry.text for entry in told],
        "token_logprobs": [entry.logprob for entry in told],
        # The drawn one is always among them.
        "top_logprobs": [{other.text: other.logprob for other in (*entry.top, entry)} for entry in told],
        "text_offset": offsets,
    }
