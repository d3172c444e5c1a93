"""Limits: how many jobs may wait. Beyond them a request is refused at once: kinder than a queue without an end."""

import threading
import time
from collections import Counter, defaultdict

from app.errors import QueueFullError
from app.reads import Reads

#: How old a count may be, in seconds. Counting 200,000 jobs takes some 40 ms, so it is done once a second at most …
FRESH = 1.0
#: … and more often only while it would refuse.
FRESH_WHERE_FULL = 0.1
#: What a tenant may take of the room that the others left: however many it sends, theirs find room too.
SHARE = 0.75
#: Under this name all that nobody waits for is counted: it shares one limit, whatever its model.
_DETACHED = ""


class Limits:
    """Counts what waits: held requests by model, and everything else together; and whose it is.

    The first operator, whose tenant has no name, may take all the room: without keys there is nobody else.

    What this process accepted since the last count is added. Several web processes may exceed a limit by what the
    others accept within a second.
    """

    def __init__(self, reads: Reads, *, held: int, detached: int) -> None:
        self._reads = reads
        self._held = held
        self._detached = detached
        self._lock = threading.Lock()
        self._counted_at = -FRESH
        #: Jobs of each tenant, by name.
        self._waiting: dict[str, Counter[str]] = defaultdict(Counter)

    def take(self, model: str, tenant: str, *, held: bool, jobs: int = 1) -> None:
        """Makes room for a request's jobs. Raises QueueFullError, UnavailableError."""
        name, limit = (model, self._held) if held else (_DETACHED, self._detached)
        with self._lock:
            self._count(FRESH)
            if jobs > self._room(name, tenant, limit):
                self._count(FRESH_WHERE_FULL)
            if jobs > self._room(name, tenant, limit):
                raise QueueFullError(_explain(model, tenant, held, limit))
            self._waiting[name][tenant] += jobs

    def _room(self, name: str, tenant: str, limit: int) -> int:
        waiting = self._waiting[name]
        left = limit - waiting.total() + waiting[tenant]
        return (max(min(left, 1), int(left * SHARE)) if tenant else left) - waiting[tenant]

    def _count(self, fresh: float) -> None:
        if time.monotonic() - self._counted_at < fresh:
            return
        waiting: dict[str, Counter[str]] = defaultdict(Counter)
        for model, held, tenant, jobs in self._reads.waits():
            waiting[model if held else _DETACHED][tenant] += jobs
        self._waiting, self._counted_at = waiting, time.monotonic()


def _explain(model: str, tenant: str, held: bool, limit: int) -> str:
    many = "Too many" if tenant else limit  # the rest is kept for others
    if held:
        return f"{many} requests wait for '{model}' already. Try again in a few seconds, or submit to POST /jobs."
    return f"{many} jobs are in the queue already. Try again when some of them have ended, or raise MAX_QUEUED_JOBS."
