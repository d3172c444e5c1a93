"""The sweep: makes up for whatever crashed, wherever it crashed. And the watch, which sees a death at once."""

import threading
import time
from collections.abc import Callable
from contextlib import suppress

import psutil
import structlog

from app.errors import UnavailableError
from app.kernel import Kernel
from app.logs import later
from app.models import Life
from app.place import place_of
from app.registry import SWEEPER
from app.store import BATCH, Outcome
from tasks.scan import Scanner

log = structlog.get_logger(__name__)

#: How often the watch looks at the lives, in seconds: a warm peer on the host goes on within two of a death.
LOOK = 0.5
#: How long a sweep vouches for the keeper, in seconds.
SWEPT = 30.0


class Watch:
    """Tells dead lives from living ones, by this process's own monotonic clock."""

    def __init__(self) -> None:
        self._seen: dict[str, tuple[int, float]] = {}
        self._processes: dict[str, psutil.Process | None] = {}

    def dead(self, lives: list[Life], *, host: str, lease: float) -> list[Life]:
        """The lives whose process is gone from this host, or whose counter stood still for a lease."""
        now = time.monotonic()
        self._seen = {life.id: self._moved(life, now) for life in lives}
        ours = [life for life in lives if life.host == host]
        self._processes = {life.id: self._processes.get(life.id) or _process_of(life) for life in ours}
        gone = {life.id for life in ours if self._is_gone(life)}
        return [life for life in lives if life.id in gone or now - self._seen[life.id][1] > lease]

    def _moved(self, life: Life, now: float) -> tuple[int, float]:
        seen = self._seen.get(life.id)
        return seen if seen is not None and seen[0] == life.counter else (life.counter, now)

    def _is_gone(self, life: Life) -> bool:
        process = self._processes[life.id]
        if process is None:
            return not psutil.pid_exists(life.pid)
        try:
            return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return True


def _process_of(life: Life) -> psutil.Process | None:
    """The process with a life's number, where it also began when the life says. Else the counter has to tell.

    When a process began is a time of the wall clock, which somebody may have set since; from then on the kernel's own
    count tells whether it is still the same.
    """
    try:
        process = psutil.Process(life.pid)
        return process if abs(process.create_time() - life.pid_started) < 1.0 else None
    except psutil.NoSuchProcess:
        return None


class Keeper:
    """Watches lives on a thread of its own, between the sweeps that the beat sends; and looks for models."""

    def __init__(self, kernel: Kernel) -> None:
        self.scanner = Scanner(kernel)
        self._kernel = kernel
        self._watch = Watch()
        self._stopped = threading.Event()

    def start(self) -> None:
        """Begins to watch; the first sweep and the first scan need not wait for anybody."""
        self.scanner.start()
        threading.Thread(target=self._keep, name="watch", daemon=True).start()

    def stop(self) -> None:
        """Watches no more."""
        self._stopped.set()

    def _keep(self) -> None:
        self._try(lambda: sweep(self._kernel))
        while not self._stopped.wait(LOOK):
            self._try(lambda: bury_dead(self._kernel, self._watch))

    @staticmethod
    def _try(step: Callable[[], None]) -> None:
        try:
            step()
        except UnavailableError as error:
            log.warning("not_watched", reason=error.message)
        except Exception:
            log.exception("watch_failed")  # the next look may do better; nobody else would look


def bury_dead(kernel: Kernel, watch: Watch) -> None:
    """Ends the lives of workers that died, and sends their jobs to those that live."""
    settings = kernel.settings
    for life in watch.dead(kernel.lives.open(), host=place_of(settings.node), lease=settings.lease_seconds):
        log.warning("life_ended", node=life.node, life=life.id)
        outcomes = kernel.lives.bury(life.id)
        with later("not_retired", node=life.node):  # its card is gone after a lease by itself
            kernel.registry.retire(life.node, life.id)
        kernel.dispatcher.close_streams(outcomes)
        kernel.dispatcher.catch_up()


def sweep(kernel: Kernel) -> None:
    """Ends what expired, sends again what was lost, releases and places what waits."""
    with suppress(UnavailableError):
        kernel.bus.ping()  # sets the clock
    kernel.dispatcher.close_streams(_expired(kernel))
    kernel.dispatcher.resend(kernel.settings.resend_seconds)
    with suppress(UnavailableError):
        kernel.orders.empty()
    kernel.dispatcher.catch_up()
    kernel.batches.advance()
    # What nobody could close: the broker was away, or whoever ended the jobs died.
    kernel.dispatcher.close_streams(kernel.store.unclosed())
    kernel.files.sweep()
    kernel.sessions.prune()
    kernel.registry.mark(SWEEPER, SWEPT)


def _expired(kernel: Kernel) -> list[Outcome]:
    """In small steps: thousands may expire at once, and others write meanwhile."""
    outcomes: list[Outcome] = []
    while some := kernel.store.expire():
        outcomes += some
        if len(some) < BATCH:
            break
    return outcomes
