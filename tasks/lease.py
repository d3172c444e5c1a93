"""The lease: a thread that bumps this life's counter, and ends the process when it could not for too long."""

import os
import threading
import time
from collections.abc import Callable

import redis
import structlog

from app.bus import ENDS
from app.errors import UnavailableError
from app.kernel import Kernel

log = structlog.get_logger(__name__)

#: The exit status of a worker that lost its lease; its supervisor starts it again, as a new life.
LOST = 75


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

    def start(self) -> None:
        """Begins to renew, and to listen for jobs that somebody asked to end."""
        threading.Thread(target=self._keep, name="lease", daemon=True).start()
        threading.Thread(target=self._listen, name="ends", daemon=True).start()

    def stop(self) -> None:
        """Renews no more."""
        self._stopped.set()

    def _keep(self) -> None:
        renewed = time.monotonic()
        settings = self._kernel.settings
        while not self._stopped.wait(settings.renew_seconds):
            began = time.monotonic()
            if self._renew():
                renewed = began
            elif time.monotonic() - renewed > settings.lease_seconds:
                log.error("lease_lost", life=self._life)
                # At once and without clean-up: the jobs are somebody else's by now, and the engines' guards end them.
                os._exit(LOST)

    def _renew(self) -> bool:
        try:
            self._announce()
            renewal = self._kernel.lives.renew(self._life, self._progress())
        except UnavailableError:
            return False
        if renewal is None:
            log.error("declared_dead", life=self._life)
            os._exit(LOST)
        for job_id, state in renewal.ends.items():
            self._ask_end(job_id, state)
        return True

    def _listen(self) -> None:
        while not self._stopped.is_set():
            try:
                for message in self._kernel.bus.listen(ENDS):
                    if message is not None:
                        job_id, _, state = message.decode().partition(" ")
                        self._ask_end(job_id, state)
            except (redis.RedisError, UnavailableError):
                self._stopped.wait(1.0)
