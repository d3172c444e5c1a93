"""The puller: one process that runs downloads. Built once, at the start of the process."""

import threading

import structlog

from app.disk import delete_files
from app.errors import UnavailableError
from app.kernel import Kernel
from app.registry import PULLER
from tasks.desk import Desk
from tasks.devices import hold_name
from tasks.lease import Lease
from tasks.life import begin_life, end_life

log = structlog.get_logger(__name__)

#: How often a node looks for files of models that were removed elsewhere, in seconds.
TIDY = 5.0


class Office:
    """A life and a lease, a desk for the downloads, and no engine."""

    def __init__(self, kernel: Kernel, node: str) -> None:
        self.kernel = kernel
        self.node = node
        self._hold = hold_name(node.partition("@")[0], kernel.settings)
        self.life = begin_life(kernel, node)
        self._stopping = threading.Event()
        self.desk = Desk(kernel, self.life, node)
        self.lease = Lease(kernel, self.life, progress=dict, ask_end=self.desk.ask_end, announce=self._announce)

    def start(self) -> None:
        """Called when Celery listens."""
        self.lease.start()
        self.lease.wake()
        if self.kernel.settings.own_store:
            threading.Thread(target=self._tidy, name="tidy", daemon=True).start()

    def stop(self) -> None:
        """Hands every pull back; the next life goes on from the bytes that are here."""
        self._stopping.set()
        self.desk.close()

    def close(self) -> None:
        """Gives back the life."""
        self.lease.stop()
        end_life(self.kernel, self.node, self.life, {})
        self._hold.close()

    def _tidy(self) -> None:
        """Deletes this node's files of models that were removed, wherever that was asked for."""
        catalog = self.kernel.catalog
        while not self._stopping.wait(TIDY):
            try:
                for stray in catalog.strays():
                    delete_files(stray, catalog.rows(), self.kernel.settings)
                    catalog.forget_copy(stray.name)
                    log.info("copy_deleted", model=stray.name)
            except (UnavailableError, OSError) as error:
                log.warning("not_tidied", reason=str(error))  # the next look does it

    def _announce(self) -> None:
        self.kernel.registry.mark(PULLER, self.kernel.settings.lease_seconds)
