"""A pull: the claim, the child that downloads, and the row that follows it."""

import os
import selectors
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import structlog
import tenacity

import inference
from app.bus import Entry
from app.errors import Failure, JobFailedError, UnavailableError
from app.events import Ended, Progress
from app.jobs import State
from app.kernel import Kernel
from app.models import Job
from app.settings import Settings
from app.store import Outcome
from inference.process import Process, spawn

log = structlog.get_logger(__name__)

#: How often a pull's row and its followers are told where the bytes stand, in seconds.
TELL_SECONDS = 2.0
#: How often we ask whether somebody ended the job, in seconds.
POLL_SECONDS = 0.25
#: How long the bus keeps a pull's fence: no download takes longer.
FENCE_SECONDS = 86400
#: How long a database that does not answer may hold up a pull's end, in seconds.
END_SECONDS = 60.0
#: What a download does not need to know.
SECRETS = ("API_KEY", "REDIS_URL", "DATABASE_URL")

_T = TypeVar("_T")
Ask = Callable[[str], str | None]


def run_pull(kernel: Kernel, life: str, node: str, job_id: str, ended: Ask) -> None:
    """Claim a pull and run it to its end. `ended(job_id)` tells the state that somebody asked it to end in.

    Raises JobFailedError once the row has failed. Returns quietly where the job is another's, or was ended.
    """
    job = kernel.store.claim(job_id, life, node)
    if job is not None:
        _Run(kernel, node, job).run(ended)


class _LostError(Exception):
    """The row is no longer this attempt's."""


class _Run:
    """One attempt at one pull."""

    def __init__(self, kernel: Kernel, node: str, job: Job) -> None:
        self._kernel = kernel
        self._node = node
        self._job = job
        self._total = 0
        self._told_at = float("-inf")

    def run(self, ended: Ask) -> None:
        with suppress(UnavailableError):
            self._kernel.bus.install(self._job.id, self._job.attempt, FENCE_SECONDS)
        try:
            last = self._download(ended)
        except _LostError:
            log.info("pull_lost", job=self._job.id, attempt=self._job.attempt)
            return
        if isinstance(last, State):
            self._end(last)
        elif "path" in last:
            self._succeed(last)
        else:
            self._end(State.FAILED, _failure(last))

    def _download(self, ended: Ask) -> dict[str, Any] | State:
        """Run the child; its last word, or the state to end in. Raises _LostError."""
        try:
            with _child(self._order(), _environment(self._kernel.settings)) as lines:
                for line in lines:
                    asked = ended(self._job.id)
                    if asked is not None:
                        return State(asked)
                    if line is None:
                        continue
                    if "path" in line or "error" in line:
                        return line
                    self._tell(line)
        except OSError as error:
            log.warning("download_not_run", job=self._job.id, reason=str(error))
            return {"error": "download_failed", "message": f"The download's process could not be run: {error}."}
        return {}

    def _order(self) -> dict[str, Any]:
        request = self._job.request
        return {"repo": self._job.model, "revision": request.get("revision"), "file": request.get("file")}

    def _tell(self, line: dict[str, Any]) -> None:
        self._total = line.get("total", self._total)
        if time.monotonic() - self._told_at < TELL_SECONDS and "total" not in line:
            return
        self._told_at = time.monotonic()
        self._write(_progress(line.get("downloaded", 0), self._total))

    def _write(self, fields: dict[str, Any]) -> None:
        """Tell the row, and then followers. Neither's absence is worth a download. Raises _LostError."""
        with suppress(UnavailableError):
            if not self._kernel.store.progress_pull(self._job.id, self._job.attempt, fields):
                raise _LostError
        with suppress(UnavailableError):
            self._kernel.bus.publish(self._node, self._job.id, Progress(state=State.RUNNING, fields=fields))

    def _succeed(self, done: dict[str, Any]) -> None:
        size = int(done["size_bytes"])
        row = _progress(size, size) | {
            "progress": 1.0,
            "local_path": done["path"],
            "size_bytes": size,
            "preferred_quantized": False,
        }
        _patiently(lambda: self._register(Path(done["path"]), done["format"], size))
        if _patiently(lambda: self._kernel.store.progress_pull(self._job.id, self._job.attempt, row)):
            self._end(State.SUCCEEDED)

    def _register(self, path: Path, form: str, size: int) -> None:
        pull = self._kernel.store.get(self._job.id).pull
        quantize = pull.quantize if pull is not None else "auto"
        self._kernel.catalog.add(self._job.model, path, format=form, size_bytes=size, source="pull", quantize=quantize)

    def _end(self, state: State, failure: Failure | None = None) -> None:
        """Commit the end, then publish it. Raises JobFailedError after a failure was kept."""
        outcome = Outcome(self._job.id, self._job.attempt, state.value, failure)
        if not _patiently(lambda: self._kernel.store.finish(outcome)):
            log.info("pull_lost", job=self._job.id, attempt=self._job.attempt)
            return
        self._publish_end(state, failure)
        if failure is not None:
            raise JobFailedError(failure)

    def _publish_end(self, state: State, failure: Failure | None) -> None:
        code, message = (failure.code, failure.message) if failure is not None else ("", "")
        event = Ended(seq=1, state=state.value, code=code, message=message)
        with suppress(UnavailableError):
            # Again: the broker may have been away at the start, or have lost its memory since.
            self._kernel.bus.install(self._job.id, self._job.attempt, FENCE_SECONDS)
            self._kernel.bus.finish(self._node, Entry(self._job.id, self._job.attempt, event))


@contextmanager
def _child(order: dict[str, Any], env: dict[str, str]) -> Iterator[Iterator[dict[str, Any] | None]]:
    """The lines of a download, with None where a poll found none. At the end of the block nothing of it is left."""
    out, into = os.pipe()
    try:
        try:
            argv = [sys.executable, "-m", "inference.download", msgspec.json.encode(order).decode(), str(into)]
            process: Process = spawn(argv, pass_fds=(into,), env=env)
        finally:
            os.close(into)
        try:
            yield _lines(out)
        finally:
            process.kill()
    finally:
        os.close(out)


def _lines(fd: int) -> Iterator[dict[str, Any] | None]:
    rest = b""
    with selectors.DefaultSelector() as selector:
        selector.register(fd, selectors.EVENT_READ)
        while True:
            if not selector.select(POLL_SECONDS):
                yield None
                continue
            data = os.read(fd, 65536)
            if not data:
                return
            *whole, rest = (rest + data).split(b"\n")
            for line in whole:
                yield msgspec.json.decode(line)


def _environment(settings: Settings) -> dict[str, str]:
    """Ours without what a download need not know, and the hub's settings, which may come from `.env`."""
    env = {name: value for name, value in os.environ.items() if name not in SECRETS}
    roots = [str(Path(inference.__file__ or "").resolve().parent.parent), env.get("PYTHONPATH", "")]
    env |= {"PYTHONPATH": os.pathsep.join(filter(None, roots)), "HF_ENDPOINT": settings.hf_endpoint}
    if settings.hf_home is not None:
        env["HF_HOME"] = str(settings.hf_home.expanduser().absolute())
    if settings.hf_token is not None:
        env["HF_TOKEN"] = settings.hf_token.get_secret_value()
    return env


def _progress(downloaded: int, total: int) -> dict[str, Any]:
    share = min(downloaded / total, 1.0) if total else 0.0
    return {"downloaded_bytes": downloaded, "total_bytes": total, "progress": round(share, 4)}


def _failure(last: dict[str, Any]) -> Failure:
    if "error" in last:
        return Failure(last["error"], last["message"])
    return Failure(
        "download_failed",
        "The download's process died without a word. Check free memory (the kernel may have ended it: see dmesg), the "
        "space in HF_HOME, and the puller's log; then pull again.",
    )


def _patiently(call: Callable[[], _T]) -> _T:
    """What ends a pull outlasts a database that is away for a moment: else the row would say `running` for ever."""
    retrying = tenacity.Retrying(
        retry=tenacity.retry_if_exception_type(UnavailableError),
        stop=tenacity.stop_after_delay(END_SECONDS),
        wait=tenacity.wait_fixed(1),
        reraise=True,
    )
    return retrying(call)
