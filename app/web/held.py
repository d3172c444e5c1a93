"""A request that waits for its job: the deadline, and the first event, which decides the HTTP status."""

import time

from app.events import Ended, Event, Progress, Token
from app.jobs import State
from app.models import Job
from app.web.current import Site
from app.web.errors import raise_failure
from app.web.stream import Events, follow

#: Seconds that a job has to write its own end after it was asked to.
GRACE = 1.0
#: Seconds after which a stream begins with 200, whatever comes.
FIRST = 5.0


def events_of(site: Site, job: Job) -> Events:
    """What a client sees of its job. A held job ends with its timeout."""
    if not job.held:
        return follow(site.kernel, site.hub, job.id)
    return _until(site, job, time.monotonic() + job.timeout)


def _until(site: Site, job: Job, deadline: float) -> Events:
    seq = 0
    events = follow(site.kernel, site.hub, job.id, until=deadline)
    try:
        for event in events:
            if event is not None and not isinstance(event, Progress):
                seq = event.seq
            yield event
            if isinstance(event, Ended):
                return
            if time.monotonic() >= deadline:
                break
    finally:
        events.close()
    site.kernel.dispatcher.end(job.id, State.TIMED_OUT)
    yield _last_word(site, job, seq)


def _last_word(site: Site, job: Job, seq: int) -> Ended:
    """The end that the job's owner writes, or one of our own where it does not in time."""
    until = time.monotonic() + GRACE
    for event in follow(site.kernel, site.hub, job.id, seq, until=until):
        if isinstance(event, Ended):
            return event
        if event is not None and not isinstance(event, Progress):
            seq = event.seq
        if time.monotonic() >= until:
            break
    return Ended(seq + 1, State.TIMED_OUT.value)


def opened(events: Events, timeout: float) -> Events:
    """The same events, once the first one is known not to be a failure. Raises JobFailedError.

    After FIRST seconds without an event it goes on regardless: a later failure is an event then.
    """
    patience = time.monotonic() + FIRST
    for event in events:
        if isinstance(event, Ended):
            events.close()
            raise_failure(event, timeout)
        if (event is not None and not isinstance(event, Progress)) or time.monotonic() >= patience:
            return _with(event, events)
    return events


def gathered(events: Events, timeout: float) -> tuple[list[Token], Ended]:
    """Waits for the whole transcript. Raises JobFailedError where the job did not succeed."""
    tokens, ended = [], Ended(0, "")
    for event in events:
        if isinstance(event, Token):
            tokens.append(event)
        elif isinstance(event, Ended):
            ended = event
    raise_failure(ended, timeout)
    return tokens, ended


def _with(first: Event | None, rest: Events) -> Events:
    yield first
    yield from rest
