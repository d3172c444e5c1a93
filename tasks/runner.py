"""The runner: takes a job from its claim to its end. One thread a job, which sleeps while the pump works."""

import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import structlog
from structlog.contextvars import bound_contextvars

from app import abilities
from app.errors import Failure, JobFailedError, JobNotFoundError, UnavailableError
from app.events import Token
from app.jobs import Kind, State
from app.kernel import Kernel
from app.logs import later
from app.models import Job
from app.store import Outcome
from tasks import meters
from tasks.bay import Bay
from tasks.claims import surely, undone_unless
from tasks.garage import Garage
from tasks.gate import Gate
from tasks.run import End, Run, Ties, Way

log = structlog.get_logger(__name__)

#: How long the jobs beside one that must run alone may take to end by themselves, in seconds.
DRAIN = 5.0
#: How long those of them may take that were handed back, and how long until it tries again where one was in its way.
LEAVE, AGAIN = 10.0, 30.0
WORKER_LOST = Failure(
    "worker_lost",
    "The worker was lost, and so was what it takes to go on with the answer that it had begun. Send the request again.",
)


class Runner:
    """Runs generations for one life of this worker."""

    def __init__(self, kernel: Kernel, garage: Garage, life: str, node: str) -> None:
        self._kernel = kernel
        self._garage = garage
        self._life = life
        self._node = node
        self.gate = Gate()
        #: Jobs from before their claim until after their end; None: not with an engine yet.
        self._runs: dict[str, Run | None] = {}
        self._asked: dict[str, State] = {}
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._crowded_until = 0.0
        #: How many messages were taken up; the watchdog sees it stand still.
        self.claims = 0
        #: Called when a job's first event was sent, and when a job begins or ceases to be alone here.
        self.on_first: Callable[[], None] = lambda: None
        self.on_change: Callable[[], None] = lambda: None

    def run(self, job_id: str) -> None:
        """Claims a job and runs it to the end of this attempt.

        Raises JobFailedError after a failure was recorded, so that Celery shows one too.
        """
        self.claims += 1
        try:
            self._run(job_id)
        except UnavailableError as error:
            # Nothing was claimed: the message is lost with this, and the sweep sends another.
            log.warning("not_claimed", job=job_id, reason=error.message)

    def _run(self, job_id: str) -> None:
        if not self.gate.enter():
            self._pass_on(job_id)
            return
        try:
            if self._attempt(job_id):
                return
        finally:
            self.gate.leave()
        if self._closing.is_set():  # a life that has ended claims nothing, and the message is gone from the queue
            self._pass_on(job_id)
        elif self._kernel.store.is_suspect(job_id):
            self._run_alone(job_id)

    def _run_alone(self, job_id: str) -> None:
        """A job under which workers died twice runs where its death hits no other."""
        if time.monotonic() < self._crowded_until:
            # For the sweep, or another holder: sent at once, it came back at once.
            self._kernel.store.unrelease([job_id])
            return
        if not self.gate.close():
            self._pass_on(job_id)
            return
        try:
            log.warning("alone", job=job_id)
            self.on_change()
            if alone := self._make_way():
                self._attempt(job_id, alone=True)
        finally:
            self.gate.open()
            self.on_change()
            for bay in self._garage.bays():
                self._kernel.dispatcher.release(bay.model)
        if not alone:
            log.warning("not_alone", job=job_id)
            self._crowded_until = time.monotonic() + AGAIN
            self._kernel.store.unrelease([job_id])

    def _make_way(self) -> bool:
        """Lets the others end; those that take long go back into the queue. False: one of them cannot be moved."""
        if self.gate.wait_empty(DRAIN):
            return True
        running = self._running()
        if not all(map(self._is_movable, running)):
            return False
        for run in running:
            with run.lock:
                if self._is_movable(run):  # still: its first token may have come meanwhile
                    run.finish(End(Way.HANDED_BACK))
        return self.gate.wait_empty(LEAVE)

    def _is_movable(self, run: Run) -> bool:
        """Whether another attempt can go on with it, or begin anew where nobody saw anything."""
        bay = self._garage.find(run.job.model)
        return not run.tokens or bay is None or bay.can_continue(run.job)

    def _pass_on(self, job_id: str) -> None:
        """Leaves a job to the other holders of its model, or to a later moment."""
        self._kernel.store.unrelease([job_id])
        with suppress(JobNotFoundError):  # junk in the queue, or a job that was forgotten
            self._kernel.dispatcher.release(self._kernel.store.get(job_id).job.model)

    def _attempt(self, job_id: str, *, alone: bool = False) -> bool:
        """False: there was nothing to claim."""
        with self._listed(job_id) as first:
            with undone_unless(lambda: not first, self._kernel, job_id, self._life):
                job = self._kernel.store.claim(job_id, self._life, self._node, suspects=alone)
            if job is None:
                return False
            if job.attempt == 1:
                waited = max(0.0, self._kernel.clock.now() - job.created_at)
                meters.WAIT.labels(job.model, str(job.priority)).observe(waited)
            try:
                with bound_contextvars(request_id=job.request_id):
                    self._carry_out(job)
            except JobFailedError:
                raise
            except Exception as error:
                log.exception("attempt_failed", job=job.id)
                failure = Failure("internal", "The worker could not run this job; its log says why.")
                outcome, trace = Outcome(job.id, job.attempt, State.FAILED, failure), traceback.format_exc()
                if surely(lambda: self._kernel.store.finish(outcome, trace=trace)):
                    self._kernel.dispatcher.close_streams([outcome])
                raise JobFailedError(failure) from error
        return True

    @contextmanager
    def _listed(self, job_id: str) -> Iterator[bool]:
        """Lets `ask_end` find a job from before its claim. False: the entry is that of an earlier message for it."""
        with self._lock:
            first = job_id not in self._runs
            self._runs.setdefault(job_id, None)
        try:
            yield first
        finally:
            with self._lock:
                if first and self._runs.get(job_id) is None:
                    self._runs.pop(job_id, None)
                    self._asked.pop(job_id, None)

    def _carry_out(self, job: Job) -> None:
        bay = None if self._closing.is_set() else self._garage.enter(job.model, job.request.get("keep_alive"))
        if bay is None:
            self._hand_back(job, job.last_seq)
            return
        try:
            self._run_in(bay, job)
        finally:
            self._garage.leave(bay)

    def _run_in(self, bay: Bay, job: Job) -> None:
        run = self._begin(job, bay)
        if run is None:
            self._hand_back(job, job.last_seq)
            return
        try:
            if run.end is None:
                bay.pump.start(run)
            end = run.wait(job.expires_at - self._kernel.clock.now() if job.held else job.timeout - job.ran)
        finally:
            bay.pump.release(run)
            with self._lock:
                if self._runs.get(job.id) is run:
                    self._runs[job.id] = None
        self._settle(run, end, bay)

    def _begin(self, job: Job, bay: Bay) -> Run | None:
        """Raises the fence and reads what earlier attempts emitted. None: this attempt cannot go on."""
        bus, clock = self._kernel.bus, self._kernel.clock
        try:
            # A fence that is ahead of the database can be passed by a further attempt only.
            events = bus.install(job.id, job.attempt, job.lifetime(clock.now()))
            if events is None:
                return None
            # A first attempt has some where a power cut undid its first claim.
            earlier = [e for e in bus.replay(job.id) if isinstance(e, Token)] if events else []
        except UnavailableError:
            return None
        ties = Ties(lambda: self._kernel.store.owns(job.id, job.attempt), lambda: self._began(job), clock.now)
        run = Run(job, earlier, bay.pump.lock, ties)
        if len(earlier) < job.last_seq or (earlier and not bay.can_continue(job)):
            run.stop(End(Way.DONE, State.FAILED, failure=WORKER_LOST))
        refusal = abilities.refuse(bay.pump.engine.info.engine, job.request.get("sampling") or {})
        if refusal is not None:
            run.stop(End(Way.DONE, State.FAILED, failure=Failure("invalid_request", refusal.reason)))
        with self._lock:
            self._runs[job.id] = run
            asked = self._asked.get(job.id) or job.end_requested
        if asked:
            run.stop(End(Way.ASKED, State(asked)))
        if self._closing.is_set():
            run.stop(End(Way.HANDED_BACK))
        return run

    def _began(self, job: Job) -> None:
        if job.kind == Kind.GENERATE:
            meters.FIRST.labels(job.model).observe(max(0.0, self._kernel.clock.now() - job.created_at))
        self.on_first()

    def _settle(self, run: Run, end: End, bay: Bay) -> None:
        job = run.job
        if end.way is Way.HANDED_BACK:
            if not self._closing.is_set():
                self._hand_back(job, run.sent)
            return
        if end.way is Way.ENGINE_DIED:
            self._kernel.dispatcher.close_streams(surely(lambda: self._kernel.store.lose(job.id, job.attempt)))
        elif end.way in (Way.DONE, Way.ASKED):
            self._finish(run, end, bay)
        self._release(job.model)
        if end.failure is not None:
            raise JobFailedError(end.failure)

    def _hand_back(self, job: Job, last_seq: int) -> None:
        outcomes = surely(lambda: self._kernel.store.hand_back(job.id, job.attempt, last_seq))
        self._kernel.dispatcher.close_streams(outcomes)
        self._release(job.model)

    def _release(self, model: str) -> None:
        if not self._closing.is_set():
            self._kernel.dispatcher.release(model)

    def _finish(self, run: Run, end: End, bay: Bay) -> None:
        """Commits the result, then tells the followers: who reads the row after the event finds it ended."""
        usage = run.usage(load_ns=bay.waited_ns(run.job.created_at))
        outcome = Outcome(run.job.id, run.job.attempt, end.state, end.failure)
        ended = surely(lambda: self._kernel.store.finish(outcome, run.result(end.reason, usage)))
        if ended is None:
            log.warning("fenced", job=run.job.id, attempt=run.job.attempt)
            return
        told: dict[str, object] = {"model": run.job.model, "key": run.job.tenant, "state": ended.state}
        if self._kernel.settings.audit_prompts:
            told["prompt"] = run.job.request.get("prompt") or run.job.request.get("messages")
        log.info("ended", job=run.job.id, **told, tokens_in=usage.prompt_tokens, tokens_out=usage.completion_tokens)
        last = run.last_entry(ended, end.reason, usage)
        with later("end_not_published", job=run.job.id):  # followers read the row
            if self._kernel.bus.finish(self._node, *run.unsent(), last):
                self._kernel.bus.restore(self._node, run.job.id, run.job.attempt, 0, [*run.entries(), last])

    def ask_end(self, job_id: str, state: str) -> None:
        """Ends a job of ours because somebody asked."""
        with self._lock:
            run = self._runs.get(job_id)
            if run is None and job_id in self._runs:
                self._asked[job_id] = State(state)
        if run is not None:
            run.stop(End(Way.ASKED, State(state)))

    def progress(self) -> dict[str, int]:
        """How much of each running job was sent."""
        return {run.job.id: run.sent for run in self._running()}

    def hand_back(self, model: str) -> None:
        """Gives a model's running jobs back to the queue, because it has to go now."""
        for run in self._running():
            if run.job.model == model:
                run.stop(End(Way.HANDED_BACK))

    def hand_back_all(self) -> dict[str, int]:
        """Ends every attempt, because this worker stops. Returns how much of each was sent; the rows are the life's."""
        self._closing.set()
        runs = self._running()
        for run in runs:
            run.stop(End(Way.HANDED_BACK))
        return {run.job.id: run.sent for run in runs}

    def _running(self) -> list[Run]:
        with self._lock:
            return [run for run in self._runs.values() if run is not None]
