"""The puller: one process that runs downloads. Built once, at the start of the process."""

import threading

import structlog

from app.errors import UnavailableError
from app.kernel import Kernel
from tasks.devices import hold_name
from tasks.lease import Lease
from tasks.pull import Desk
from tasks.worker import begin_life

log = structlog.get_logger(__name__)


class Office:
    """A life and a lease, a desk for the downloads, and no engine."""

    def __init__(self, kernel: Kernel, node: str) -> None:
        self.kernel = kernel
        self.node = node
        self._hold = hold_name(node.partition("@")[0], kernel.settings)
        self.life = begin_life(kernel, node)
        self._ends: dict[str, str] = {}
        self._lock = threading.Lock()
        self.desk = Desk(kernel, self.life, node, self._ended)
        self.lease = Lease(kernel, self.life, progress=dict, ask_end=self._ask_end, announce=self._ping)

    def start(self) -> None:
        """Called when Celery listens."""
        self.lease.start()

    def stop(self) -> None:
        """Hands every pull back; the next life goes on from the bytes that are here."""
        self.desk.close()

    def close(self) -> None:
        """Gives back the life."""
        self.lease.stop()
        try:
            self.kernel.dispatcher.close_streams(self.kernel.lives.bury(self.life))
        except UnavailableError:
            log.warning("not_retired")
        self._hold.close()

    def _ended(self, job_id: str) -> str | None:
        """The state that somebody asked a pull to end in."""
        with self._lock:
            return self._ends.get(job_id)

    def _ask_end(self, job_id: str, state: str) -> None:
        with self._lock:
            self._ends[job_id] = state

    def _ping(self) -> None:
        self.kernel.bus.ping()
