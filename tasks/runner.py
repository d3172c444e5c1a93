"""The runner: takes a job from its claim to its end. One thread a job, which sleeps while the pump works."""

import threading
import time

import structlog

from app.errors import Failure, JobFailedError, UnavailableError
from app.events import Token
from app.jobs import State
from app.kernel import Kernel
from app.models import Job
from app.store import Outcome
from tasks.bay import Bay
from tasks.garage import Garage
from tasks.run import End, Run, Way

log = structlog.get_logger(__name__)


class Runner:
    """Runs generations for one life of this worker."""

    def __init__(self, kernel: Kernel, garage: Garage, life: str, node: str) -> None:
        self._kernel = kernel
        self._garage = garage
        self._life = life
        self._node = node
        self._runs: dict[str, Run] = {}
        self._lock = threading.Lock()
        self._closing = threading.Event()

    def run(self, job_id: str) -> None:
        """Claims a job and runs it to the end of this attempt.

        Raises JobFailedError after a failure was recorded, so that Celery shows one too.
        """
        job = self._kernel.store.claim(job_id, self._life, self._node)
        if job is None:
            return
        bay = None if self._closing.is_set() else self._garage.enter(job.model, job.request.get("keep_alive"))
        if bay is None:
            self._kernel.store.hand_back(job.id, job.attempt, job.last_seq)
            return
        try:
            self._run(job, bay)
        finally:
            self._garage.leave(bay)

    def _run(self, job: Job, bay: Bay) -> None:
        run = self._begin(job, bay)
        if run is None:
            return
        try:
            end = run.wait(self._seconds(job))
        finally:
            bay.pump.release(run)
            with self._lock:
                self._runs.pop(job.id, None)
        self._settle(run, end, bay)

    def _begin(self, job: Job, bay: Bay) -> Run | None:
        """Raises the fence, reads what earlier attempts emitted, and hands the job to the engine."""
        bus = self._kernel.bus
        try:
            if not bus.install(job.id, job.attempt, job.timeout):
                # The broker knows a later attempt than the database does: only a further attempt can go past it.
                self._kernel.dispatcher.close_streams(self._kernel.store.lose(job.id, job.attempt))
                return None
            earlier = [e for e in bus.replay(job.id) if isinstance(e, Token)] if job.attempt > 1 else []
        except UnavailableError:
            self._kernel.store.hand_back(job.id, job.attempt, job.last_seq)
            return None
        run = Run(job, earlier, bay.pump.lock)
        if job.end_requested:
            run.stop(End(Way.ASKED, State(job.end_requested)))
        elif len(earlier) < job.last_seq:
            text = "The worker was lost together with the answer's stream. Send the request again."
            run.stop(End(Way.DONE, State.FAILED, failure=Failure("worker_lost", text)))
        else:
            with self._lock:
                self._runs[job.id] = run
            bay.pump.start(run)
        return run

    @staticmethod
    def _seconds(job: Job) -> float:
        return job.expires_at - time.time() if job.held else job.timeout

    def _settle(self, run: Run, end: End, bay: Bay) -> None:
        job, store = run.job, self._kernel.store
        if end.way is Way.HANDED_BACK:
            store.hand_back(job.id, job.attempt, len(run.tokens))
        elif end.way is Way.ENGINE_DIED:
            self._kernel.dispatcher.close_streams(store.lose(job.id, job.attempt))
        elif end.way in (Way.DONE, Way.ASKED):
            self._finish(run, end, bay)
        if not self._closing.is_set():
            self._kernel.dispatcher.release(job.model)
        if end.failure is not None:
            raise JobFailedError(end.failure)

    def _finish(self, run: Run, end: End, bay: Bay) -> None:
        """Commits the result, then tells the followers: who reads the row after the event finds it ended."""
        usage = run.usage(load_ns=bay.waited_ns(run.job.created_at))
        outcome = Outcome(run.job.id, run.job.attempt, end.state, end.failure)
        if not self._kernel.store.finish(outcome, run.result(end.reason, usage)):
            log.warning("fenced", job=run.job.id, attempt=run.job.attempt)
            return
        log.info("ended", job=run.job.id, state=end.state, tokens=usage.completion_tokens)
        try:
            entries = run.unsent()
            if entries:
                self._kernel.bus.append(self._node, entries)
            self._kernel.bus.finish(self._node, run.last_entry(end, usage))
        except UnavailableError:
            log.warning("end_not_published", job=run.job.id)  # followers read the row

    def ask_end(self, job_id: str, state: str) -> None:
        """Ends a job of ours because somebody asked."""
        with self._lock:
            run = self._runs.get(job_id)
        if run is not None:
            run.stop(End(Way.ASKED, State(state)))

    def progress(self) -> dict[str, int]:
        """How far each running job has emitted."""
        with self._lock:
            return {job_id: len(run.tokens) for job_id, run in self._runs.items()}

    def hand_back(self, model: str) -> None:
        """Gives a model's running jobs back to the queue, because it has to go now."""
        with self._lock:
            runs = [run for run in self._runs.values() if run.job.model == model]
        for run in runs:
            run.stop(End(Way.HANDED_BACK))

    def hand_back_all(self) -> None:
        """Gives every running job back to the queue, because this worker stops."""
        self._closing.set()
        with self._lock:
            runs = list(self._runs.values())
        for run in runs:
            run.stop(End(Way.HANDED_BACK))
