"""The puller: one process that runs downloads. Built once, at the start of the process."""

import threading

from app.kernel import Kernel
from app.registry import PULLER
from tasks.desk import Desk
from tasks.devices import hold_name
from tasks.lease import Lease
from tasks.life import begin_life, end_life


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
        self.lease = Lease(kernel, self.life, progress=dict, ask_end=self._ask_end, announce=self._announce)

    def start(self) -> None:
        """Called when Celery listens."""
        self.lease.start()
        self.lease.wake()

    def stop(self) -> None:
        """Hands every pull back; the next life goes on from the bytes that are here."""
        self.desk.close()

    def close(self) -> None:
        """Gives back the life."""
        self.lease.stop()
        end_life(self.kernel, self.node, self.life, {})
        self._hold.close()

    def _ended(self, job_id: str) -> str | None:
        """The state that somebody asked a pull to end in."""
        with self._lock:
            return self._ends.get(job_id)

    def _ask_end(self, job_id: str, state: str) -> None:
        with self._lock:
            self._ends[job_id] = state

    def _announce(self) -> None:
        self.kernel.registry.mark(PULLER, self.kernel.settings.lease_seconds)
