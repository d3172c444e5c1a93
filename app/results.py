"""The row that keeps an answer: its text, its counts, and the compact log of its events; from it, and to it."""

import msgspec

from app.events import Log, Token, Usage
from app.models import Result


def result_of(job_id: str, tokens: list[Token], reason: str, usage: Usage) -> Result:
    """What a transcript leaves behind: exactly the text that followers saw."""
    text, log = "".join(token.text for token in tokens), Log.of(tokens).encode()
    return Result(job_id=job_id, done_reason=reason, text=text, log=log, **msgspec.structs.asdict(usage))


def usage_of(result: Result) -> Usage:
    """What a row tells of counts and times; its columns have the fields' names."""
    return msgspec.convert(result, Usage, from_attributes=True)
