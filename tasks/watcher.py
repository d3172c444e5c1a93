"""One pull that watches a download: its row, its followers, its end."""

import time
from contextlib import suppress
from typing import Any

import structlog

from app.bus import Entry
from app.errors import Failure, UnavailableError
from app.events import Progress
from app.jobs import State
from app.kernel import Kernel
from app.models import Job
from app.store import Outcome
from tasks.claims import patiently, surely
from tasks.standing import Standing

log = structlog.get_logger(__name__)

#: How long a database that does not answer may hold up a pull's beginning, or its model's, in seconds.
END_SECONDS = 60.0


class Watcher:
    """One attempt at one pull."""

    def __init__(self, kernel: Kernel, node: str, job: Job) -> None:
        self.job = job
        #: The state that somebody asked it to end in.
        self.asked = job.end_requested
        self._kernel = kernel
        self._node = node
        self._until = time.monotonic() + job.timeout - (job.ran or 0.0)
        row = patiently(lambda: kernel.store.get(job.id), END_SECONDS).pull
        self.commit = row.revision if row is not None else None
        self.quantize = row.quantize if row is not None else "auto"
        self.init = row.init if row is not None else False
        self._told = row.downloaded_bytes if row is not None else 0
        self._install()

    def due(self) -> State | None:
        """The state to end in: what somebody asked for, or a deadline that is over."""
        if self.asked:
            return State(self.asked)
        return State.TIMED_OUT if time.monotonic() > self._until else None

    def tell(self, standing: Standing) -> bool:
        """Tells the row, and then followers; neither's absence is worth a download. False: the row is not ours."""
        columns = standing.columns(self._told)
        with suppress(UnavailableError):
            if not self._kernel.store.progress_pull(self.job.id, self.job.attempt, columns):
                self._lost()
                return False
        self._told = columns["downloaded_bytes"]
        self._publish(columns | standing.details())
        return True

    def succeed(self, standing: Standing, path: str, size: int, *, quantized: bool) -> None:
        """The one moment at which a pull's progress is 1."""
        columns = standing.columns(size) | {
            "downloaded_bytes": size,
            "total_bytes": size,
            "progress": 1.0,
            "eta_seconds": 0.0,
            "local_path": path,
            "size_bytes": size,
            "preferred_quantized": quantized,
        }
        if not surely(lambda: self._kernel.store.succeed_pull(self.job.id, self.job.attempt, columns)):
            return self._lost()
        self._publish(columns | standing.details())
        self._publish_end(Outcome(self.job.id, self.job.attempt, State.SUCCEEDED.value))

    def end(self, state: State, failure: Failure | None = None, trace: str | None = None) -> None:
        """Commits an end without a model, then publishes it."""
        outcome = Outcome(self.job.id, self.job.attempt, state.value, failure)
        if not surely(lambda: self._kernel.store.finish(outcome, trace=trace)):
            return self._lost()
        self._publish_end(outcome)

    def hand_back(self) -> None:
        """Puts the pull back into the queue: this process stops, or the download had just been given up."""
        outcomes = surely(lambda: self._kernel.store.hand_back(self.job.id, self.job.attempt, 0))
        self._kernel.dispatcher.close_streams(outcomes)

    def _install(self) -> None:
        with suppress(UnavailableError):
            self._kernel.bus.install(self.job.id, self.job.attempt, self.job.timeout)

    def _publish(self, fields: dict[str, Any]) -> None:
        with suppress(UnavailableError):
            self._kernel.bus.publish(self._node, self.job.id, Progress(state=State.RUNNING, fields=fields))

    def _publish_end(self, outcome: Outcome) -> None:
        self._install()  # again: the broker may have been away at the start, or have lost its memory since
        with suppress(UnavailableError):
            self._kernel.bus.finish(self._node, Entry(outcome.id, outcome.attempt, outcome.event()))

    def _lost(self) -> None:
        log.info("pull_lost", job=self.job.id, attempt=self.job.attempt)
