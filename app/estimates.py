"""Estimates: a queued job's place, and when its turn may come. Neither is a promise."""

import threading
import time
from typing import NamedTuple

from app.errors import UnavailableError
from app.jobs import Kind
from app.models import Job
from app.reads import Reads
from app.registry import Registry

#: How long a model's mean is taken for true, in seconds.
FRESH = 5.0


class Estimate(NamedTuple):
    """A place in the queue from 1, and seconds until the turn; None where nothing tells."""

    position: int
    seconds: float | None


class Estimates:
    """What followers and `GET /jobs/{id}` hear of a job that waits."""

    def __init__(self, reads: Reads, registry: Registry) -> None:
        self._reads = reads
        self._registry = registry
        self._lock = threading.Lock()
        self._means: dict[str, tuple[float, float | None]] = {}

    def of(self, job: Job) -> Estimate | None:
        """A queued generation's; of other jobs there is none. Raises UnavailableError."""
        if job.kind == Kind.PULL:
            return None
        position = self._reads.position(job)
        return Estimate(position, self._seconds(job.model, position))

    def _seconds(self, model: str, position: int) -> float | None:
        try:
            held = [h for card in self._registry.workers() if (h := card.held(model)) is not None]
        except UnavailableError:
            return None
        slots, running = sum(h.slots for h in held), sum(h.running for h in held)
        mean = self._mean(model)
        if not slots or mean is None:
            return None
        rounds = max(0, position - max(0, slots - running)) / slots
        return round(rounds * mean, 1)

    def _mean(self, model: str) -> float | None:
        with self._lock:
            asked, mean = self._means.get(model, (-FRESH, None))
        if time.monotonic() - asked >= FRESH:
            mean = self._reads.mean_seconds(model)
            with self._lock:
                self._means[model] = (time.monotonic(), mean)
        return mean
