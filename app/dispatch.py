"""Dispatch: from rows to messages. Sends released jobs by task name, has models placed, and closes streams."""

from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import suppress

import structlog
from celery import Celery

from app.bus import PAGE, Bus, Entry
from app.clock import Clock
from app.errors import Failure, UnavailableError
from app.events import Token, Usage
from app.jobs import DEFAULT_PRIORITY, State, queue_of, task_of
from app.loads import Loads
from app.logs import later
from app.models import Job, Pull
from app.pulls import pull_of
from app.registry import Registry
from app.results import result_of
from app.sending import producer
from app.stock import Model
from app.store import Hint, Key, Outcome, Store

log = structlog.get_logger(__name__)

#: The name under which a process that owns no jobs publishes.
NODE = "dispatch"
#: A job that waits so long although its model's slots are all taken is a reason for a further holder, in seconds.
SPREAD_AFTER = 1.0
#: Messages that are sent again at once; there are never many, but for a broker that came back empty.
MAX_RESENT = 1000


class Dispatcher:
    """What a job needs from outside its row. A step that fails here is made up for by the next sweep."""

    def __init__(self, store: Store, bus: Bus, registry: Registry, loads: Loads, celery: Celery, clock: Clock) -> None:
        self._store = store
        self._bus = bus
        self._registry = registry
        self._loads = loads
        self._celery = celery
        self._clock = clock

    def submit(self, job: Job, pull: Pull | None = None, key: Key | None = None) -> Job:
        """As `submit_all`, one job."""
        return self.submit_all([(job, key)], pull)[0]

    def submit_all(
        self, jobs: Sequence[tuple[Job, Key | None]], pull: Pull | None = None, most: int | None = None
    ) -> list[Job]:
        """Accepts a model's jobs, all or none. Once their rows are committed this succeeds, also without a broker.

        Returns them, or those that were accepted under the same keys before. `most`: as the store has it.
        Raises ModelCooldownError, QueueFullError and IdempotencyConflictError before that.
        """
        model = jobs[0][0].model
        if pull is None:
            with suppress(UnavailableError):  # the job waits, and the sweep looks again
                self._loads.check(model)
        accepted = self._store.submit_all(jobs, pull, slots=self._slots(model), most=most)
        self._send([hint for one in accepted for hint in one.hints])
        if pull is None and any(one.fresh for one in accepted):
            self._loads.place(model)
        return [one.job for one in accepted]

    def fetch(self, model: Model, node: str) -> None:
        """Has a node's puller bring a model's files there; then the model is placed there. Raises UnavailableError."""
        if self._store.is_fetched(model.name, node):
            return
        log.info("fetching", model=model.name, node=node)
        wanted = {"revision": model.revision, "quantize": model.quantize, "init": True, "node": node}
        self.submit(*pull_of(model.name, wanted, priority=DEFAULT_PRIORITY, now=self._clock.now()))

    def release(self, model: str) -> None:
        """Sends what a model's holders may have by now. Where it cannot, the next sweep does."""
        slots = self._slots(model)
        if slots:
            with later("not_released", model=model):
                self._send(self._store.release(model, slots))

    def settle(self, model: str) -> None:
        """For a model that has work: asks a worker to load it, or fails the work where no worker can."""
        try:
            cooldown = self._loads.cooldown(model)
        except UnavailableError as error:
            log.warning("not_settled", model=model, reason=error.message)
            return
        if cooldown is None:
            self._loads.place(model)
        else:
            self.fail_waiting(model, cooldown.failure)

    def fail_waiting(self, model: str, failure: Failure) -> None:
        """Fails what waits for a model, so that nobody waits for nothing. Raises UnavailableError."""
        while some := self._store.fail_waiting(model, failure):
            self.close_streams(some)

    def catch_up(self) -> None:
        """For every model with queued work: release, place it where nobody holds it, spread it where too few do."""
        self._registry.forget()
        waiting = self._store.waiting_models()
        for model in waiting:
            self.release(model)
            self.settle(model)
        for model in self._store.overflowing(SPREAD_AFTER):
            self._loads.spread(model, waiting)

    def resend(self, seconds: float) -> None:
        """Sends again what was released so long ago and never claimed, where the broker has fewer messages than rows.

        A message is popped before it is recorded anywhere, so a worker's death can lose it. All rows count: under load,
        the messages of later ones stand in the queue, and would else hide for ever that an earlier one's is gone.
        """
        released = [(hint, age, queue_of(hint.kind, hint.model, hint.node)) for hint, age in self._store.unclaimed()]
        rows = Counter(queue for _, _, queue in released)
        late = {queue for _, age, queue in released if age > seconds}
        lost = {queue for queue in late if self._bus.queue_length(queue) < rows[queue]}
        again = [hint for hint, age, queue in released if age > seconds and queue in lost][:MAX_RESENT]
        if again:
            log.info("sent_again", jobs=len(again))
            self._store.touch_released(hint.id for hint in again)
            self._send(again)

    def end(self, job_id: str, state: State, failure: Failure | None = None) -> None:
        """Cancels or times out a job, wherever it stands. Raises JobNotFoundError."""
        outcome = self._store.end(job_id, state, failure)
        if outcome is not None:
            self.close_streams([outcome])
        else:
            self.ask_end([job_id], state)

    def ask_end(self, job_ids: Iterable[str], state: State) -> None:
        """Wakes the owners of jobs whose rows say that they are to end. Else they read it at their next renewal."""
        with later("end_not_signalled", jobs=job_ids):
            for job_id in job_ids:
                self._bus.ask_end(job_id, state)

    def close_streams(self, outcomes: Iterable[Outcome]) -> None:
        """Writes the terminal events of jobs that ended without an owner."""
        outcomes = list(outcomes)
        # Of those that had not begun nothing was emitted, and thousands of them may end at once.
        fresh = [outcome for outcome in outcomes if not outcome.begun]
        with later("streams_not_closed", jobs=len(outcomes)):  # followers read the rows, and the sweep closes them
            for start in range(0, len(fresh), PAGE):
                some = fresh[start : start + PAGE]
                self._bus.open_and_close(NODE, [Entry(one.id, one.attempt, one.event()) for one in some])
            for outcome in outcomes:
                if outcome.begun:
                    self._close(outcome)

    def _close(self, outcome: Outcome) -> None:
        """Shuts every earlier attempt out of the stream, keeps what they emitted, and tells the end.

        A result is kept in any case: it is what says that the stream was seen to.
        """
        self._bus.install(outcome.id, outcome.attempt, 0)
        tokens = [event for event in self._bus.replay(outcome.id) if isinstance(event, Token)]
        usage = Usage(completion_tokens=sum(token.count for token in tokens))
        self._store.keep(result_of(outcome.id, tokens, "", usage))
        self._bus.finish(NODE, Entry(outcome.id, outcome.attempt, outcome.event(len(tokens) + 1, usage)))

    def _slots(self, model: str) -> int:
        try:
            return self._registry.slots(model)
        except UnavailableError:
            return 0

    def _send(self, hints: list[Hint]) -> None:
        for sent, hint in enumerate(hints):
            try:
                self._publish(hint)
            except UnavailableError as error:
                log.warning("not_sent", jobs=len(hints) - sent, reason=str(error.__cause__))
                # What could not be sent is released anew by the next sweep, rather than when it counts as lost.
                with later("not_taken_back", jobs=len(hints) - sent):  # then it is sent again as lost
                    self._store.unrelease(left.id for left in hints[sent:])
                return

    def _publish(self, hint: Hint) -> None:
        """One message, as Celery makes and sends it; `send_task` looks for routes, signals, declarations and a result's
        backend besides, of which there are none, and takes more than twice the time."""
        queue = queue_of(hint.kind, hint.model, hint.node)
        message = self._celery.amqp.as_task_v2(
            hint.id, task_of(hint.kind), args=(hint.id,), kwargs={}, argsrepr=f"({hint.id!r},)", kwargsrepr="{}"
        )
        with producer(self._celery) as sender:
            sender.publish(  # type: ignore[no-untyped-call]
                message.body,
                exchange="",  # the anonymous one: its routing key is the queue
                routing_key=queue,
                priority=hint.priority,
                serializer="json",
                headers=message.headers,
                **message.properties,
            )
