"""Which pulls this process runs: a download for each model that is asked for, and a watcher for each job that asks."""

import threading
from contextlib import suppress

import structlog

from app.errors import JobFailedError, UnavailableError
from app.jobs import State
from app.kernel import Kernel
from tasks.claims import undone_unless
from tasks.pull import Download, Key, sweep
from tasks.watcher import Watcher

log = structlog.get_logger(__name__)


class Desk:
    """The downloads of this process. A model that is pulled twice at once is one of them, with two watchers."""

    def __init__(self, kernel: Kernel, life: str, node: str) -> None:
        self._kernel = kernel
        self._life = life
        self._node = node
        self._lock = threading.Lock()
        self._downloads: dict[Key, Download] = {}
        self._closing = threading.Event()

    def take(self, job_id: str) -> None:
        """Claims a pull, and runs it to its end or leaves it to the download that runs.

        Raises JobFailedError once the row has failed. Returns quietly where the job is another's, or was ended.
        """
        if self._closing.is_set():
            self._kernel.store.unrelease([job_id])  # the next sweep sends it, to whoever is there
            return
        if self._kernel.settings.node in self._kernel.drains.all():
            return  # it is sent again when it counts as lost
        watcher = self._claimed(job_id)
        if watcher is None:
            self._tidy_after(job_id)
            return
        key = Key.of(watcher.job, self._kernel.settings.node)
        with self._lock:
            download = self._downloads.get(key)
            if download is not None:
                download.watchers.append(watcher)
                return
            download = self._downloads[key] = Download(self._kernel, key, watcher, self._closing)
        self._run(download)

    def _run(self, download: Download) -> None:
        try:
            last = download.run(lambda: self._adopt(download))
        except Exception:  # the watchers' rows must not wait for ever for a fault of ours
            log.exception("download_broke", model=download.key.model)
            last = {}
        with self._lock:  # who comes later begins anew
            del self._downloads[download.key]
        try:
            download.settle(last)
        except JobFailedError:
            raise
        except Exception:
            log.exception("pull_not_settled", model=download.key.model)
            download.settle({})

    def _claimed(self, job_id: str) -> Watcher | None:
        with undone_unless(lambda: self.watches(job_id), self._kernel, job_id, self._life):
            job = self._kernel.store.claim(job_id, self._life, self._node)
            return None if job is None else Watcher(self._kernel, self._node, job)

    def watches(self, job_id: str) -> bool:
        """Whether a pull runs here."""
        return self._watcher(job_id) is not None

    def ask_end(self, job_id: str, state: str) -> None:
        """Ends a pull because somebody asked. Everybody hears of every job; one that is just being claimed is told of
        again at a renewal."""
        if (watcher := self._watcher(job_id)) is not None:
            watcher.asked = state

    def _watcher(self, job_id: str) -> Watcher | None:
        with self._lock:
            watchers = (watcher for one in self._downloads.values() for watcher in one.watchers)
            return next((watcher for watcher in watchers if watcher.job.id == job_id), None)

    def _adopt(self, download: Download) -> None:
        """Lets queued pulls of the same model watch too, rather than wait for a turn to fetch nothing."""
        with suppress(UnavailableError):
            for job in self._kernel.store.queued_pulls(download.key.model):
                watcher = self._claimed(job.id) if Key.of(job, self._kernel.settings.node) == download.key else None
                if watcher is not None:
                    with self._lock:
                        download.watchers.append(watcher)

    def _tidy_after(self, job_id: str) -> None:
        """A pull that was cancelled while it waited to go on may have left partial files."""
        with suppress(UnavailableError):
            job = self._kernel.store.get(job_id).job
            if job.status in (State.CANCELLED, State.TIMED_OUT) and job.attempt > 1:
                sweep(self._kernel, job.model)

    def close(self) -> None:
        """Hands every pull back, because this process stops: its bytes stop at once, and the next life goes on."""
        self._closing.set()
