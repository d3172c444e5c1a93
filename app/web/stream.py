"""Following a job: the one generator behind SSE, WebSocket and whole answers.

It subscribes, replays the stored stream, goes live, drops what it gave already and fetches what is missing. Where the
stream is gone, the job's row tells the same.
"""

import time
from collections.abc import Generator, Iterator
from typing import Any

import structlog

from app.bus import PAGE, contiguous
from app.errors import UnavailableError
from app.events import Ended, Event, Log, Progress, Token, Usage
from app.jobs import TERMINAL, State
from app.kernel import Kernel
from app.models import Job
from app.results import usage_of
from app.store import Detail
from app.web.client import Client
from app.web.hub import Follower, Hub
from app.web.pace import paced
from app.web.views import standing, waiting

log = structlog.get_logger(__name__)

Events = Generator[Event | None, None, None]
#: What is at hand at one moment.
Batch = list[Event | None]

#: Seconds without an event until a heartbeat.
BEAT = 1.0
#: Seconds without an event until the stream and the row are read: the subscription may hear nothing any more.
SILENCE = 5.0


def follow(
    kernel: Kernel,
    hub: Hub,
    job_id: str,
    after: int = 0,
    *,
    until: float | None = None,
    client: Client | None = None,
    merge: bool = True,
) -> Events:
    """A job's events behind the number `after`, up to its `Ended`; None, or a Progress, each second without one.

    `until` (by time.monotonic()) is a moment at which the caller wants to be asked: a None comes no later. A `client`
    that is gone ends it early. `merge` lets a reader that is slow get several tokens as one, whose `seq` is the last.
    Raises JobNotFoundError, SlowConsumerError, KeyEndedError; UnavailableError where the database is gone at the start.
    """
    client = client or Client()
    with hub.following(job_id, cut=client.cut) as follower:
        reader = _Reader(kernel, job_id, after, until)
        checked = time.monotonic()
        for event in paced(reader.batches(follower), follower, client, merge=merge):
            if isinstance(event, Ended):
                client.was_told(event.usage)
            elif time.monotonic() - checked >= BEAT:
                checked = time.monotonic()
                if client.is_gone():
                    return
                client.check()
            yield event


class _Reader:
    """One follower's place in a job's events."""

    def __init__(self, kernel: Kernel, job_id: str, after: int, until: float | None) -> None:
        self._kernel = kernel
        self._id = job_id
        self._seq = after
        self._until = until
        self._queued: Job | None = None  # while it waits
        self._place: dict[str, Any] | None = None  # what is told of that, once somebody has waited for a beat
        self._over = False
        self._silent_since = time.monotonic()

    def batches(self, follower: Follower) -> Iterator[Batch]:
        yield from self._replayed()
        if not self._over:
            yield from self._from_row(self._kernel.store.get(self._id))
        while not self._over:
            events = follower.take(self._patience())
            if follower.recover():
                yield from self._replayed()
            if events:
                yield from self._live(events)
            elif not self._over:
                yield from self._silence()

    def _patience(self) -> float:
        return BEAT if self._until is None else min(BEAT, max(0.0, self._until - time.monotonic()))

    def _live(self, events: list[Event]) -> Iterator[Batch]:
        batch: Batch = []
        for event in events:
            if self._over:
                break
            if isinstance(event, Progress):
                self._heard()
                batch.append(event)
            elif event.seq == self._seq + 1:
                batch.append(self._took(event))
            elif event.seq > self._seq:
                yield batch
                batch = []
                yield from self._replayed()
                if isinstance(event, Ended) and not self._over:
                    yield from self._from_row(self._kernel.store.get(self._id))
        yield batch

    def _replayed(self) -> Iterator[Batch]:
        while not self._over:
            try:
                stored = self._kernel.bus.page(self._id, self._seq)
            except UnavailableError:
                return  # the row still tells the end
            batch: Batch = [self._took(event) for event in contiguous(stored, self._seq)]
            if batch:
                yield batch
            if len(batch) < PAGE:
                return

    def _took(self, event: Token | Ended) -> Event:
        self._seq = event.seq
        self._over = isinstance(event, Ended)
        self._heard()
        return event

    def _heard(self) -> None:
        self._queued = None
        self._silent_since = time.monotonic()

    def _silence(self) -> Iterator[Batch]:
        if time.monotonic() - self._silent_since >= SILENCE:
            self._silent_since = time.monotonic()
            yield from self._replayed()
            try:
                detail = None if self._over else self._kernel.store.get(self._id)
            except UnavailableError:
                log.warning("row_not_read", job=self._id)
            else:
                yield from () if detail is None else self._from_row(detail)
        if not self._over:
            yield [self._waiting()]

    def _waiting(self) -> Progress | None:
        if self._queued is None:
            return None
        self._place = self._place or self._find_place(self._queued)
        try:
            cards = self._kernel.registry.workers()
        except UnavailableError:
            return None
        loads = [loading for card in cards if (loading := card.awaited(self._queued.model)) is not None]
        fields = {**self._place, "loading": bool(loads)}
        if loads:
            fields["progress"] = max(loading.fraction for loading in loads)
        return Progress(State.QUEUED.value, fields)

    def _from_row(self, detail: Detail) -> Iterator[Batch]:
        """What a row tells: of a terminal one the rest of the tokens, and the end."""
        job = detail.job
        self._queued, self._place = (job if job.status == State.QUEUED else None), None
        if job.status not in TERMINAL:
            if detail.pull is not None and job.status == State.RUNNING:
                yield [Progress(job.status, standing(detail.pull))]
            return
        yield from self._replayed()
        if not self._over:
            yield [self._took(event) for event in told_by_row(detail, self._seq)]

    def _find_place(self, job: Job) -> dict[str, Any]:
        try:
            return {"model": job.model, **waiting(self._kernel.estimates.of(job))}
        except UnavailableError:
            return {"model": job.model}


def told_by_row(detail: Detail, after: int) -> Iterator[Token | Ended]:
    """The events behind a number, of a job that has ended."""
    job, result = detail.job, detail.result
    last, reason, usage = after, "", Usage()
    if result is not None:
        transcript = Log.decode(result.log)
        yield from transcript.tokens(result.text, after)
        last, reason = len(transcript.ends), result.done_reason
        if last < job.last_seq:  # events that followers may have were lost with the worker: no number comes again
            last = max(after, job.last_seq)
        usage = usage_of(result)
    yield Ended(last + 1, job.status, reason, usage, job.error_code or "", job.error_message or "")
