"""Jobs and events as the native API shows them."""

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from app.apikeys import Identity
from app.estimates import Estimate
from app.events import Ended, Likely, Log, Logprob, Token, Usage
from app.jobs import Kind
from app.models import Job, Pull
from app.results import usage_of
from app.store import Detail


def iso(seconds: float | None) -> str | None:
    """A time as ISO 8601 in UTC."""
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "Z")


def counts(usage: Usage) -> dict[str, int]:
    """Tokens, and durations in nanoseconds."""
    return {
        "total_duration": usage.total_ns,
        "load_duration": usage.load_ns,
        "prompt_eval_count": usage.prompt_tokens,
        "prompt_eval_duration": usage.prompt_ns,
        "eval_count": usage.completion_tokens,
        "eval_duration": usage.completion_ns,
    }


def delta(token: Token) -> dict[str, Any]:
    """A streamed piece."""
    return {"delta": {"content": token.text}, "done": False, **unusual(token)}


def unusual(token: Token) -> dict[str, Any]:
    """What few tokens have: a further choice, the end of one of several, probabilities."""
    shown: dict[str, Any] = {}
    if token.choice:
        shown["index"] = token.choice
    if token.finish:
        shown["done_reason"] = token.finish
    if token.logprobs:
        shown["logprobs"] = [logprob(entry) for entry in token.logprobs]
    return shown


def logprob(entry: Logprob) -> dict[str, Any]:
    """A token and the likeliest ones of its place."""
    return _likely(entry) | {"top_logprobs": [_likely(other) for other in entry.top]}


def _likely(token: Likely) -> dict[str, Any]:
    return {"id": token.id, "token": token.text, "logprob": token.logprob}


def answer(job: Job, tokens: list[Token], ended: Ended) -> dict[str, Any]:
    """A whole answer to a chat."""
    choices = choices_of(job, tokens, ended.done_reason)
    first = choices[0]
    shown = {
        "model": job.model,
        "created_at": iso(job.created_at),
        "message": first["message"],
        "done": True,
        "done_reason": ended.done_reason,
        **counts(ended.usage),
        "job_id": job.id,
    }
    if "logprobs" in first:
        shown["logprobs"] = first["logprobs"]
    return shown if len(choices) == 1 else shown | {"choices": choices}


def split(job: Job, tokens: list[Token], done_reason: str) -> Iterator[tuple[int, list[Token], str]]:
    """Each choice's number, its tokens, and why it ended, out of a transcript in which they may be mixed."""
    finishes = {token.choice: token.finish for token in tokens if token.finish}
    for index in range(job.request.get("n", 1)):
        own = [token for token in tokens if token.choice == index]
        yield index, own, finishes.get(index, done_reason)


def choices_of(job: Job, tokens: list[Token], done_reason: str) -> list[dict[str, Any]]:
    """Each choice whole."""
    return [_choice(*choice) for choice in split(job, tokens, done_reason)]


def _choice(index: int, tokens: list[Token], done_reason: str) -> dict[str, Any]:
    shown: dict[str, Any] = {
        "index": index,
        "message": {"role": "assistant", "content": "".join(token.text for token in tokens)},
        "done_reason": done_reason,
    }
    logprobs = [logprob(entry) for token in tokens for entry in token.logprobs]
    return shown | {"logprobs": logprobs} if logprobs else shown


def show(detail: Detail, who: Identity, *, traceback: bool = False) -> dict[str, Any]:
    """A job of either kind, to whoever asks."""
    if detail.job.kind == Kind.PULL and detail.pull is not None:
        return _pull(detail.job, detail.pull, who, traceback)
    shown = _generation(detail, who) | _said(detail)
    return shown | {"traceback": detail.job.traceback} if traceback else shown


def listed(detail: Detail, who: Identity) -> dict[str, Any]:
    """A job as one of many: without what was asked and said, which may be long."""
    return show(detail, who) if detail.pull is not None else _generation(detail, who)


def _pull(job: Job, pull: Pull, who: Identity, traceback: bool) -> dict[str, Any]:
    return {
        "id": job.id,
        "model": job.model,
        "quantize": pull.quantize,
        "init": pull.init,
        "status": job.status,
        "created_at": iso(job.created_at),
        "started_at": iso(job.started_at),
        "finished_at": iso(job.finished_at),
        "error": job.error_message,
        "traceback": job.traceback if traceback else None,
        "local_path": who.told(pull.local_path),
        "size_bytes": pull.size_bytes,
        "preferred_quantized": pull.preferred_quantized,
        "error_code": job.error_code,
        "tenant": job.tenant,
        "priority": job.priority,
        "attempt": job.attempt,
        "losses": job.losses,
        **standing(pull),
    }


def waiting(estimate: Estimate | None) -> dict[str, Any]:
    """Where a queued job stands."""
    if estimate is None:
        return {}
    return {"position": estimate.position, "estimated_wait_seconds": estimate.seconds}


def standing(pull: Pull) -> dict[str, Any]:
    """Where a pull's bytes stand, as its followers hear it too."""
    return {
        "downloaded_bytes": pull.downloaded_bytes,
        "total_bytes": pull.total_bytes,
        "progress": pull.progress,
        "files_done": pull.files_done,
        "files_total": pull.files_total,
        "bytes_per_second": pull.bytes_per_second,
        "eta_seconds": pull.eta_seconds,
        "revision": pull.revision,
    }


def _generation(detail: Detail, who: Identity) -> dict[str, Any]:
    job, result = detail.job, detail.result
    usage = usage_of(result) if result is not None else Usage()
    return {
        "id": job.id,
        "kind": job.kind,
        "model": job.model,
        "status": job.status,
        "tenant": job.tenant,
        "priority": job.priority,
        "created_at": iso(job.created_at),
        "started_at": iso(job.started_at),
        "finished_at": iso(job.finished_at),
        "done_reason": result.done_reason if result is not None else "",
        **counts(usage),
        "attempt": job.attempt,
        "losses": job.losses,
        "worker": who.told(job.worker),
        "error": {"code": job.error_code, "message": job.error_message} if job.error_code else None,
    }


def _said(detail: Detail) -> dict[str, Any]:
    job, result = detail.job, detail.result
    if result is None or job.request.get("n", 1) == 1:
        return {"request": job.request, "text": "" if result is None else result.text}
    choices = choices_of(job, list(Log.decode(result.log).tokens(result.text)), result.done_reason)
    return {"request": job.request, "text": choices[0]["message"]["content"], "choices": choices}
