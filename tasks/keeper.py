"""The keeper: the sweep that makes up for whatever crashed, wherever it crashed."""

import time

import psutil
import structlog

from app.jobs import SWEEP_TASK
from app.kernel import Kernel
from app.models import Life
from tasks import app
from tasks.startup import process

log = structlog.get_logger(__name__)


class Watch:
    """Tells dead lives from living ones, by this process's own monotonic clock."""

    def __init__(self) -> None:
        self._seen: dict[str, tuple[int, float]] = {}

    def dead(self, lives: list[Life], *, host: str, lease: float) -> list[Life]:
        """The lives whose process is gone from this host, or whose counter stood still for a lease."""
        now = time.monotonic()
        self._seen = {life.id: self._moved(life, now) for life in lives}
        return [life for life in lives if _is_gone(life, host) or now - self._seen[life.id][1] > lease]

    def _moved(self, life: Life, now: float) -> tuple[int, float]:
        seen = self._seen.get(life.id)
        return seen if seen is not None and seen[0] == life.counter else (life.counter, now)


def _is_gone(life: Life, host: str) -> bool:
    if life.host != host:
        return False
    try:
        return bool(abs(psutil.Process(life.pid).create_time() - life.pid_started) > 1.0)
    except psutil.NoSuchProcess:
        return True


_watch = Watch()


@app.task(name=SWEEP_TASK)
def sweep_task() -> None:
    """One sweep; the beat sends one every few seconds."""
    sweep(process.kernel, _watch)


def sweep(kernel: Kernel, watch: Watch) -> None:
    """Requeues the jobs of dead lives, ends what expired, sends again what was lost, and places what waits."""
    settings = kernel.settings
    outcomes = kernel.store.expire()
    for life in watch.dead(kernel.lives.open(), host=settings.node, lease=settings.lease_seconds):
        log.warning("life_ended", node=life.node, life=life.id)
        outcomes += kernel.lives.bury(life.id)
        kernel.loads.bury(life.node, life.id)
    kernel.dispatcher.close_streams(outcomes)
    kernel.dispatcher.resend(settings.resend_seconds)
    kernel.dispatcher.catch_up()
    kernel.batches.advance()
    kernel.files.sweep()
    kernel.sessions.prune()
