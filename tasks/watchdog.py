"""The watchdog: a worker that is idle beside its own work does not hear any more, whatever the reason."""

import os
import time

import structlog

from app.bus import Bus
from app.errors import UnavailableError
from app.jobs import model_queue
from tasks.garage import Garage
from tasks.runner import Runner

log = structlog.get_logger(__name__)

#: Seconds after which a worker that claims nothing of what waits for it is deaf.
DEAF = 60.0
#: Its exit status; its supervisor starts it again.
STATUS = 76


class Watchdog:
    """Looks at each renewal of the lease. A new process listens with connections of its own."""

    def __init__(self, bus: Bus, garage: Garage, runner: Runner) -> None:
        self._bus = bus
        self._garage = garage
        self._runner = runner
        self._claims = -1
        self._well = time.monotonic()

    def look(self) -> None:
        """Ends this process when it was deaf for too long."""
        if self.is_deaf():
            log.error("deaf", seconds=DEAF)
            os._exit(STATUS)

    def is_deaf(self) -> bool:
        """Whether nothing was taken up for DEAF seconds in which something waited and nothing ran."""
        claims, self._claims = self._claims, self._runner.claims
        if claims != self._claims or not self._is_idle() or not self._has_work():
            self._well = time.monotonic()
        return time.monotonic() - self._well > DEAF

    def _is_idle(self) -> bool:
        return not self._runner.gate.closed and not self._runner.progress()

    def _has_work(self) -> bool:
        try:
            return any(self._bus.queue_length(model_queue(bay.model)) for bay in self._garage.bays())
        except UnavailableError:
            return False
