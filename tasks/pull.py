"""A pull: the child that downloads a model, for all who watch, and what its last word means for them."""

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import structlog

from app.errors import Failure, JobFailedError, UnavailableError
from app.jobs import State
from app.kernel import Kernel
from app.models import Job
from app.settings import Settings
from app.stock import Model
from tasks.child import Line, child, order_of
from tasks.choice import quantization
from tasks.claims import patiently
from tasks.standing import Standing
from tasks.watcher import END_SECONDS, Watcher

log = structlog.get_logger(__name__)

#: How often rows and followers are told where moving bytes stand, in seconds.
TELL_SECONDS = 2.0
#: How often the log is told, and rows where no bytes move, in seconds.
QUIET_SECONDS = 10.0
#: After these a further pull goes on from the partial files; after any other failure they would only lie about.
RESUMABLE = frozenset({"hub_unreachable", "download_failed"})

UNREGISTERED = (
    "The model is here, but could not be entered into the catalogue; the puller's log tells why. "
    "Pull again: nothing is fetched twice."
)


class Key(NamedTuple):
    """What makes two pulls one download."""

    model: str
    revision: str | None
    elsewhere: bool  #: whether it is another node's to carry out

    @classmethod
    def of(cls, job: Job, node: str) -> "Key":
        """A job's, on a node."""
        return cls(job.model, job.request.get("revision"), job.request.get("node", node) != node)


class Download:
    """A child that fetches a model, for all who watch."""

    def __init__(self, kernel: Kernel, key: Key, first: Watcher, closing: threading.Event) -> None:
        self.key = key
        self.watchers = [first]
        self._kernel = kernel
        self._commit = first.commit
        self._closing = closing
        self._standing = Standing()
        self._told_at = self._logged_at = float("-inf")

    def run(self, adopt: Callable[[], None]) -> Line | None:
        """Runs the child; its last word. None: nobody waits for it any more, or this process stops."""
        order = order_of(self._kernel.settings, self.key.model, revision=self.key.revision, commit=self._commit)
        log.info(
            "pull_begins", model=self.key.model, revision=self.key.revision, jobs=[w.job.id for w in self.watchers]
        )
        try:
            with child(order, self._kernel.settings) as lines:
                for line in lines:
                    self._heed()
                    if not self.watchers or self._closing.is_set():
                        return None
                    if line is not None and ("path" in line or "error" in line):
                        return line
                    self._hear(line, adopt)
        except OSError as error:
            log.warning("download_not_run", model=self.key.model, reason=str(error))
            return {
                "error": "download_failed",
                "message": f"The download's process could not be run: {error.strerror}.",
            }
        return {}

    def _heed(self) -> None:
        """Lets go whoever was cancelled, or is out of time."""
        for watcher in list(self.watchers):
            if (state := watcher.due()) is not None:
                self.watchers.remove(watcher)
                watcher.end(state)

    def _hear(self, line: Line | None, adopt: Callable[[], None]) -> None:
        now = time.monotonic()
        if line is not None:
            self._standing.hear(line)
        pause = TELL_SECONDS if line is not None else QUIET_SECONDS
        is_news = line is not None and ("total" in line or "phase" in line)
        if self._standing.total and (is_news or now - self._told_at >= pause):
            self._told_at = now
            adopt()
            for watcher in list(self.watchers):  # others may join meanwhile
                if not watcher.tell(self._standing):
                    self.watchers.remove(watcher)
            self._log(now)

    def _log(self, now: float) -> None:
        if now - self._logged_at >= QUIET_SECONDS:
            self._logged_at = now
            columns = self._standing.columns(0)
            names = ("progress", "downloaded_bytes", "total_bytes", "bytes_per_second", "eta_seconds")
            log.info("pulling", model=self.key.model, **{name: columns[name] for name in names})

    def settle(self, last: Line | None) -> None:
        """Ends every watcher's job by the child's last word. Raises JobFailedError after failures were kept."""
        if not self.watchers:
            sweep(self._kernel, self.key.model)
        elif last is None:
            for watcher in self.watchers:
                watcher.hand_back()
        elif "path" in last:
            self._succeed(last)
        else:
            self._fail(last)

    def _succeed(self, last: Line) -> None:
        size = int(last["size_bytes"])
        try:
            model = patiently(lambda: self._register(last), END_SECONDS)
        except Exception:
            log.exception("model_not_registered", model=self.key.model)
            return self._fail({"error": "download_failed", "message": UNREGISTERED})
        self._kernel.loads.arrived(self.key.model)
        quantized = _prefers_quantized(model, self._kernel.settings)
        for watcher in self.watchers:
            watcher.succeed(self._standing, last["path"], size, quantized=quantized)
        log.info("pulled", model=self.key.model, size_bytes=size, path=last["path"])
        if any(watcher.init for watcher in self.watchers):
            self._kernel.loads.place(self.key.model)

    def _register(self, last: Line) -> Model:
        self._kernel.catalog.add(
            self.key.model,
            Path(last["path"]),
            format=last["format"],
            size_bytes=int(last["size_bytes"]),
            source="pull",
            quantize=self.watchers[-1].quantize,
            facts=last["facts"],
            repo=self.key.model.partition(":")[0],
            revision=last["commit"],
        )
        return self._kernel.catalog.get(self.key.model)

    def _fail(self, last: Line) -> None:
        failure = _failure(last)
        log.warning("pull_failed", model=self.key.model, code=failure.code, reason=failure.message)
        if any("node" in watcher.job.request for watcher in self.watchers):
            with suppress(UnavailableError):  # then it is asked for again, and fails again
                self._kernel.loads.not_fetched(self.key.model, self._kernel.settings.node, failure)
        for watcher in self.watchers:
            watcher.end(State.FAILED, failure, last.get("traceback"))
        if failure.code not in RESUMABLE:
            sweep(self._kernel, self.key.model)
        raise JobFailedError(failure)


def _prefers_quantized(model: Model, settings: Settings) -> bool:
    """Whether it will run with fewer bits than it was trained in: it comes so, or is made so when it is loaded."""
    kind = model.facts.get("quantization")
    return quantization(model, settings) in ("q4", "q8") or (bool(kind) and kind not in ("F32", "F16", "BF16"))


def sweep(kernel: Kernel, model: str) -> None:
    """Removes what unfinished downloads of a repository left, unless another pull will go on from it."""
    with suppress(UnavailableError, OSError):
        if kernel.store.has_open_pull(model.partition(":")[0]):
            return
        with child(order_of(kernel.settings, model, sweep=True), kernel.settings) as lines:
            for _ in lines:
                continue


def _failure(last: Line) -> Failure:
    if "error" in last:
        return Failure(last["error"], last["message"])
    return Failure(
        "download_failed",
        "The download's process died without a word. Check free memory (the kernel may have ended it: see dmesg), the "
        "space in HF_HOME, and the puller's log; then pull again.",
    )
