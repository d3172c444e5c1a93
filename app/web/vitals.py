"""How the site is: asked at most once a second, however often a balancer asks."""

import shutil
import threading
import time
from collections import defaultdict
from typing import Any

from app.cooldown import Cooldown
from app.errors import UnavailableError
from app.jobs import Kind, State
from app.reads import Depth
from app.registry import PULLER, SWEEPER, Card
from app.web.current import Site
from app.web.residence import worker

#: How old an answer may be, in seconds.
FRESH = 1.0
#: How old it may be while somebody asks anew: a broker that hangs must not look healthy for as long as asking takes.
STALE = 3.0


#: Below this the database cannot grow any more, in bytes.
LEAST_FREE = 32 * 1024 * 1024
_ABSENT = {
    SWEEPER: "Nobody sweeps, so what crashes now is not made up for: is the keeper alive, and the beat?",
    PULLER: "No puller is alive, so downloads wait. `make status` shows the processes.",
}


class Vitals:
    """The facts behind /health and /status."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._lock = threading.Lock()
        self._asked_at = -STALE
        self._facts: dict[str, Any] = {}

    def facts(self) -> dict[str, Any]:
        """All fields of /health. Whoever finds them too old asks; the others get the last ones, or wait for the new."""
        age = time.monotonic() - self._asked_at
        if age < FRESH:
            return self._facts
        if self._lock.acquire(blocking=age >= STALE):
            try:
                if time.monotonic() - self._asked_at >= FRESH:
                    self._facts = self._ask()
                    self._asked_at = time.monotonic()
            finally:
                self._lock.release()
        return self._facts

    def _ask(self) -> dict[str, Any]:
        kernel, missing = self._site.kernel, []
        cards: tuple[Card, ...] = ()
        failures: list[Cooldown] = []
        depths: list[Depth] = []
        absent: list[str] = []
        try:
            kernel.bus.ping()
            cards, failures = kernel.registry.workers(), kernel.loads.failures()
            absent = [role for role in _ABSENT if not kernel.registry.is_filled(role)]
        except UnavailableError as error:
            missing.append(error)
        try:
            depths = kernel.store.depths()
            kernel.store.probe()
        except UnavailableError as error:
            missing.append(error)
        unready = [error.message for error in missing]
        if not missing and not cards:
            unready.append("No worker is alive, so jobs wait. `make status` shows the processes.")
        if SWEEPER in absent:
            unready.append(_ABSENT[SWEEPER])
        if shutil.disk_usage(kernel.settings.data_dir).free < LEAST_FREE:
            unready.append("The disk of DATA_DIR is full: nothing more can be kept. Make room on it.")
        reasons = [*unready, *([_ABSENT[PULLER]] if PULLER in absent else [])]
        return {
            "status": "degraded" if reasons else "healthy",
            "reasons": reasons,
            "unready": unready,
            "unavailable": [error.code for error in missing],
            "uptime_seconds": round(time.monotonic() - self._site.started, 3),
            **_of_workers(cards, failures, kernel.settings.max_cache_models),
            **_of_queues(depths),
        }


def _of_workers(cards: tuple[Card, ...], failures: list[Cooldown], limit: int) -> dict[str, Any]:
    cuda = any(card.cuda_available for card in cards)
    return {
        "models_cached": sum(len(card.holdings) for card in cards),
        "cache_limit": sum(card.cache_limit for card in cards) or limit,
        "torch_version": next((card.torch_version for card in cards if card.torch_version), ""),
        "cuda_available": cuda,
        "gpu_status": "available" if cuda else "none",
        "gpu_memory_allocated_mb": sum(card.gpu_memory_allocated_mb for card in cards),
        "gpu_memory_reserved_mb": sum(card.gpu_memory_reserved_mb for card in cards),
        "workers": [worker(card, failures) for card in cards],
    }


def _of_queues(depths: list[Depth]) -> dict[str, Any]:
    pulls = {State.QUEUED.value: 0, State.RUNNING.value: 0}
    queues: dict[str, dict[str, int]] = defaultdict(lambda: {"queued": 0, "running": 0})
    for depth in depths:
        if depth.kind == Kind.PULL:
            pulls[depth.status] += depth.jobs
        else:
            queues[depth.model][depth.status] += depth.jobs
    return {
        "downloads_active": pulls[State.RUNNING],
        "downloads_queued": pulls[State.QUEUED],
        "queues": dict(queues),
    }
