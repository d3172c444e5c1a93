"""A request that waits for its job: the deadline, and the first event, which decides the HTTP status.

A client that hangs up takes its job with it, a moment later and unless somebody else follows the job.
"""

import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager

import structlog

from app.errors import KeyEndedError, NotFoundError, SlowConsumerError, UnavailableError
from app.events import Ended, Event, Progress, Token
from app.jobs import TERMINAL, State
from app.models import Job
from app.web.client import of_request
from app.web.current import Site
from app.web.errors import raise_failure
from app.web.stream import Events, follow

log = structlog.get_logger(__name__)

#: Seconds that a job has to write its own end after it was asked to.
GRACE = 1.0
#: Seconds after which a stream begins with 200, whatever comes.
FIRST = 5.0
#: Seconds that a job outlives the connection of its client: who lost it comes back within.
LINGER = 5.0
#: Seconds that other processes get to say that they follow a job.
ANSWER = 1.0


def events_of(site: Site, job: Job, *, merge: bool = True) -> Events:
    """What a client sees of its job. A held job ends with its timeout, or a while after its client hung up.

    To be called while the request is at hand. `merge` is follow's.
    """
    client = of_request()
    if not job.held or job.status in TERMINAL:
        return follow(site.kernel, site.hub, job.id, client=client, merge=merge)
    deadline = time.monotonic() + job.expires_at - site.kernel.clock.now()
    events = follow(site.kernel, site.hub, job.id, until=deadline, client=client, merge=merge)
    return _until(site, job, events, deadline)


def _until(site: Site, job: Job, events: Events, deadline: float) -> Events:
    seq = 0
    with _held(site, job) as over, closing(events):
        for event in events:
            if event is not None and not isinstance(event, Progress):
                seq = event.seq
            if isinstance(event, Ended):
                over.set()
            yield event
            if over.is_set() or time.monotonic() >= deadline:
                break
        if over.is_set() or time.monotonic() < deadline:
            return
        over.set()
        site.kernel.dispatcher.end(job.id, State.TIMED_OUT)
        yield _last_word(site, job, seq)


@contextmanager
def _held(site: Site, job: Job) -> Iterator[threading.Event]:
    """Whoever leaves the block before the job's end has hung up."""
    over = threading.Event()
    try:
        yield over
    except (SlowConsumerError, KeyEndedError):
        over.set()  # it was told to come back; and a key's jobs are its tenant's, whatever becomes of it
        raise
    finally:
        if not over.is_set():
            abandon(site, job.id)


def abandon(site: Site, job_id: str) -> None:
    """Cancels a job that its client hung up on, unless somebody follows it after a moment."""
    timer = threading.Timer(LINGER - ANSWER, _cancel_unless_followed, (site, job_id))
    timer.daemon = True
    timer.start()


def _cancel_unless_followed(site: Site, job_id: str) -> None:
    kernel = site.kernel
    try:
        kernel.bus.ask_followed(job_id)
        time.sleep(ANSWER)
        if site.hub.is_followed(job_id) or kernel.bus.is_followed(job_id):
            return
        log.info("abandoned", job=job_id)
        kernel.dispatcher.end(job_id, State.CANCELLED)
    except (NotFoundError, UnavailableError) as error:
        log.warning("not_abandoned", job=job_id, reason=error.message)  # its deadline ends it


def _last_word(site: Site, job: Job, seq: int) -> Ended:
    """The end that the job's owner writes, or one of our own where it does not in time: the one it was asked for."""
    until = time.monotonic() + GRACE
    for event in follow(site.kernel, site.hub, job.id, seq, until=until):
        if isinstance(event, Ended):
            return event
        if event is not None and not isinstance(event, Progress):
            seq = event.seq
        if time.monotonic() >= until:
            break
    asked = site.kernel.store.get(job.id).job.end_requested
    return Ended(seq + 1, asked or State.TIMED_OUT.value)


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
