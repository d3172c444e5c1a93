"""The lease: threads that bump this life's counter, and end the process when that failed for too long."""

import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress

import redis
import structlog

from app.bus import ENDS
from app.errors import UnavailableError
from app.jobs import TERMINAL
from app.kernel import Kernel

log = structlog.get_logger(__name__)

#: The exit status of a worker that lost its lease; its supervisor starts it again, as a new life.
LOST = 75
#: The shortest time between two renewals, however many jobs begin, in seconds.
SOON = 0.2
#: The shortest time between two cards that go with a renewal, in seconds: what changed is announced at once anyway.
SHOWN = 1.0
#: How often the guard looks at the time, in seconds.
GUARD = 0.5


class Lease:
    """Keeps one life. A worker that cannot reach the database and the broker must not go on with its jobs."""

    def __init__(
        self,
        kernel: Kernel,
        life: str,
        *,
        progress: Callable[[], dict[str, int]],
        ask_end: Callable[[str, str], None],
        announce: Callable[[], None],
    ) -> None:
        self._kernel = kernel
        self._life = life
        self._progress = progress
        self._ask_end = ask_end
        self._announce = announce
        self._stopped = threading.Event()
        self._soon = threading.Event()
        self._shown = -SHOWN
        self._renewed = time.monotonic()

    def start(self) -> None:
        """Begins to renew, and to listen for jobs that somebody asked to end."""
        self._renewed = time.monotonic()
        for target in (self._keep, self._guard, self._listen):
            threading.Thread(target=target, name=f"lease-{target.__name__}", daemon=True).start()

    def stop(self) -> None:
        """Renews no more."""
        self._stopped.set()
        self._soon.set()

    def wake(self) -> None:
        """Renews at once: what the row tells of this life's jobs is not true any more."""
        self._soon.set()

    def _keep(self) -> None:
        while not self._stopped.is_set():
            self._soon.wait(self._kernel.settings.renew_seconds)
            self._soon.clear()
            began = time.monotonic()
            if not self._stopped.is_set():
                if self._renew():
                    self._renewed = began
                else:
                    self._soon.set()  # it may have taken most of the lease to fail: the next try has the rest of it
            self._stopped.wait(SOON)

    def _guard(self) -> None:
        """On a thread of its own: a renewal may hang, and a process that was frozen must not do anything else first."""
        while not self._stopped.wait(GUARD):
            if time.monotonic() - self._renewed > self._kernel.settings.lease_seconds:
                log.error("lease_lost", life=self._life)
                # At once and without clean-up: the jobs are somebody else's by now, and the engines' guards end them.
                os._exit(LOST)

    def _renew(self) -> bool:
        try:
            self._kernel.bus.ping()
        except UnavailableError as error:
            if not error.answered:
                return False
        if time.monotonic() - self._shown > SHOWN:
            self._shown = time.monotonic()
            with suppress(UnavailableError):  # a broker that is full still shows that we are not cut off
                self._announce()
        try:
            renewal = self._kernel.lives.renew(self._life, self._progress())
        except UnavailableError:
            return False
        if renewal is None:
            if self._stopped.is_set():
                return False
            log.error("declared_dead", life=self._life)
            os._exit(LOST)
        for job_id, state in renewal.items():
            self._ask_end(job_id, state)
        return True

    def _listen(self) -> None:
        while not self._stopped.is_set():
            try:
                self.wake()  # what was asked while nobody listened stands in the rows
                for message in self._kernel.bus.listen(ENDS):
                    if self._stopped.is_set():
                        return
                    if message is not None:
                        self._heard(message.data)
            except (redis.RedisError, UnavailableError):
                self._stopped.wait(1.0)

    def _heard(self, data: bytes) -> None:
        """Junk on the channel is nobody's wish, and must not end this thread."""
        job_id, _, state = data.decode("ascii", "replace").partition(" ")
        if state in TERMINAL:
            self._ask_end(job_id, state)
