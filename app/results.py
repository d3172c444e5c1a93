"""The row that keeps an answer: its text, its counts, and the compact log of its events; from it, and to it."""

from app.events import Log, Token, Usage
from app.models import Result


def result_of(job_id: str, tokens: list[Token], reason: str, usage: Usage) -> Result:
    """What a transcript leaves behind: exactly the text that followers saw."""
    return Result(
        job_id=job_id,
        done_reason=reason,
        prompt_tokens=usage.prompt_tokens,
        completion_tokens=usage.completion_tokens,
        total_ns=usage.total_ns,
        load_ns=usage.load_ns,
        prompt_ns=usage.prompt_ns,
        completion_ns=usage.completion_ns,
        text="".join(token.text for token in tokens),
        log=Log.of(tokens).encode(),
    )


def usage_of(result: Result) -> Usage:
    """What a row tells of counts and times."""
    return Usage(
        result.prompt_tokens,
        result.completion_tokens,
        result.total_ns,
        result.load_ns,
        result.prompt_ns,
        result.completion_ns,
    )
