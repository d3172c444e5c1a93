"""Limits: how many jobs may wait. Beyond them a request is refused at once: kinder than a queue without an end."""

import threading
import time
from collections import Counter

from app.errors import QueueFullError
from app.jobs import State
from app.reads import Reads

#: How old a count may be, in seconds. Counting 200,000 jobs takes some 40 ms, so it is done once a second at most …
FRESH = 1.0
#: … and more often only while it would refuse.
FRESH_WHERE_FULL = 0.1
#: Under this name all that nobody waits for is counted: it shares one limit, whatever its model.
_DETACHED = ""


class Limits:
    """Counts what waits: held requests by model, and everything else together.

    What this process accepted since the last count is added. Several web processes may exceed a limit by what the
    others accept within a second.
    """

    def __init__(self, reads: Reads, *, held: int, detached: int) -> None:
        self._reads = reads
        self._held = held
        self._detached = detached
        self._lock = threading.Lock()
        self._counted_at = -FRESH
        self._waiting: Counter[str] = Counter()

    def take(self, model: str, *, held: bool, jobs: int = 1) -> None:
        """Makes room for a request's jobs. Raises QueueFullError, UnavailableError."""
        name, limit = (model, self._held) if held else (_DETACHED, self._detached)
        with self._lock:
            self._count(FRESH)
            if self._waiting[name] + jobs > limit:
                self._count(FRESH_WHERE_FULL)
            if self._waiting[name] + jobs > limit:
                raise QueueFullError(_explain(model, held, limit))
            self._waiting[name] += jobs

    def _count(self, fresh: float) -> None:
        if time.monotonic() - self._counted_at < fresh:
            return
        waiting: Counter[str] = Counter()
        for depth in self._reads.depths():
            if depth.status == State.QUEUED:
                waiting[depth.model if depth.held else _DETACHED] += depth.jobs
        self._waiting, self._counted_at = waiting, time.monotonic()


def _explain(model: str, held: bool, limit: int) -> str:
    if held:
        return f"{limit} requests wait for '{model}' already. Try again in a few seconds, or submit to POST /jobs."
    return f"{limit} jobs are in the queue already. Try again when some of them have ended, or raise MAX_QUEUED_JOBS."
