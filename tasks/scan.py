"""The keeper's scans: one at a time, each on a thread of its own, so that no sweep waits for one."""

import threading
import time

import structlog

from app.kernel import Kernel
from app.logs import later
from app.scan import Report, Scan

log = structlog.get_logger(__name__)


class Scanner:
    """Runs scans for one keeper."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._lock = threading.Lock()
        self._running = False
        #: Asked for while one ran: what it has passed already may have changed.
        self._again: bool | None = None

    def start(self, *, unhide: bool = False) -> None:
        """Begins one; where one runs, a further one follows it."""
        with self._lock:
            if self._running:
                self._again = unhide or bool(self._again)
                return
            self._running = True
        threading.Thread(target=self._run, args=(unhide,), name="scan", daemon=True).start()

    def _run(self, unhide: bool) -> None:
        wanted: bool | None = unhide
        while wanted is not None:
            self._scan(wanted)
            with self._lock:
                wanted, self._again = self._again, None
                self._running = wanted is not None

    def _scan(self, unhide: bool) -> None:
        kernel, began = self._kernel, time.time()
        self._tell(Report("running", began))
        try:
            report = Scan(kernel.settings, kernel.catalog, kernel.store).run(unhide=unhide)
        except Exception as error:
            log.exception("scan_failed", reason=str(error))
            report = Report("failed", began, time.time())
        self._tell(report)

    def _tell(self, report: Report) -> None:
        with later("scan_not_told"):  # what it finds is in the database all the same
            self._kernel.scans.tell(report)
