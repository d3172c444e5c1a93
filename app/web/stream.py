"""Following a job: the one generator behind SSE, WebSocket and whole answers.

It subscribes, replays the stored stream, goes live, drops what it gave already and fetches what is missing. Where the
stream is gone, the job's row tells the same.
"""

import time
from collections.abc import Generator, Iterator
from typing import Any

import structlog

from app.bus import contiguous
from app.errors import UnavailableError
from app.events import Ended, Event, Log, Progress, Token, Usage
from app.jobs import TERMINAL, State
from app.kernel import Kernel
from app.models import Result
from app.store import Detail
from app.web.hub import Follower, Hub
from app.web.views import standing

log = structlog.get_logger(__name__)

Events = Generator[Event | None, None, None]

#: Seconds without an event until a heartbeat.
BEAT = 1.0
#: Seconds without an event until the row is read.
SILENCE = 5.0


def follow(kernel: Kernel, hub: Hub, job_id: str, after: int = 0, *, until: float | None = None) -> Events:
    """A job's events behind the number `after`, up to its `Ended`; None, or a Progress, each second without one.

    `until` (by time.monotonic()) is a moment at which the caller wants to be asked: a None comes no later.
    Raises JobNotFoundError, and UnavailableError where the database is gone at the start.
    """
    with hub.following(job_id) as follower:
        yield from _Reader(kernel, job_id, after, until).events(follower)


class _Reader:
    """One follower's place in a job's events."""

    def __init__(self, kernel: Kernel, job_id: str, after: int, until: float | None) -> None:
        self._kernel = kernel
        self._id = job_id
        self._seq = after
        self._until = until
        self._queued: str | None = None  # the model that it waits for, while it waits
        self._over = False
        self._silent_since = time.monotonic()

    def events(self, follower: Follower) -> Iterator[Event | None]:
        yield from self._replayed()
        if not self._over:
            yield from self._from_row(self._kernel.store.get(self._id))
        while not self._over:
            event = follower.take(self._patience())
            if follower.recover():
                yield from self._replayed()
            if event is not None and not self._over:
                yield from self._live(event)
            elif not self._over:
                yield from self._silence()

    def _patience(self) -> float:
        return BEAT if self._until is None else min(BEAT, max(0.0, self._until - time.monotonic()))

    def _live(self, event: Event) -> Iterator[Event]:
        if isinstance(event, Progress):
            self._heard()
            yield event
        elif event.seq == self._seq + 1:
            yield self._took(event)
        elif event.seq > self._seq:
            yield from self._replayed()
            if isinstance(event, Ended) and not self._over:
                yield from self._from_row(self._kernel.store.get(self._id))

    def _replayed(self) -> Iterator[Event]:
        try:
            stored = self._kernel.bus.replay(self._id, self._seq)
        except UnavailableError:
            return  # the row still tells the end
        for event in contiguous(stored, self._seq):
            yield self._took(event)

    def _took(self, event: Token | Ended) -> Event:
        self._seq = event.seq
        self._over = isinstance(event, Ended)
        self._heard()
        return event

    def _heard(self) -> None:
        self._queued = None
        self._silent_since = time.monotonic()

    def _silence(self) -> Iterator[Event | None]:
        if time.monotonic() - self._silent_since >= SILENCE:
            self._silent_since = time.monotonic()
            try:
                detail = self._kernel.store.get(self._id)
            except UnavailableError:
                log.warning("row_not_read", job=self._id)
            else:
                yield from self._from_row(detail)
        if not self._over:
            yield self._waiting()

    def _waiting(self) -> Progress | None:
        if self._queued is None:
            return None
        try:
            cards = self._kernel.registry.workers()
        except UnavailableError:
            return None
        loads = [loading for card in cards if (loading := card.awaited(self._queued)) is not None]
        fields: dict[str, Any] = {"model": self._queued, "loading": bool(loads)}
        if loads:
            fields["progress"] = max(loading.fraction for loading in loads)
        return Progress(State.QUEUED.value, fields)

    def _from_row(self, detail: Detail) -> Iterator[Event]:
        """What a row tells: of a terminal one the rest of the tokens, and the end."""
        job = detail.job
        self._queued = job.model if job.status == State.QUEUED else None
        if job.status not in TERMINAL:
            if detail.pull is not None and job.status == State.RUNNING:
                yield Progress(job.status, standing(detail.pull))
            return
        yield from self._replayed()
        if not self._over:
            for event in _rest(detail, self._seq):
                yield self._took(event)


def _rest(detail: Detail, after: int) -> Iterator[Token | Ended]:
    job, result = detail.job, detail.result
    last, reason, usage = after, "", Usage()
    if result is not None:
        transcript = Log.decode(result.log)
        yield from transcript.tokens(result.text, after)
        last, reason = len(transcript.ends), result.done_reason
        usage = usage_of(result)
    yield Ended(last + 1, job.status, reason, usage, job.error_code or "", job.error_message or "")


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
