"""The pump: carries an engine's steps to the bus, one round trip a step however many jobs it serves."""

import threading
from collections.abc import Callable

import structlog

from app.bus import Bus, Entry
from app.errors import UnavailableError
from app.events import ID_LENGTH
from inference.errors import EngineDiedError
from inference.protocol import Chunk, Engine, Message, Request, Sampling
from tasks.run import End, Run, Way

log = structlog.get_logger(__name__)


class Pump:
    """One loaded engine and the runs that it serves. Its own thread reads the steps."""

    def __init__(self, engine: Engine, bus: Bus, node: str) -> None:
        self.engine = engine
        self.lock = threading.Lock()
        self.runs: dict[str, Run] = {}
        self._bus = bus
        self._node = node

    def begin(self, on_death: Callable[[], None]) -> None:
        """Begins to read the engine's steps; `on_death` is called when there are no more, whatever ended them."""
        threading.Thread(target=self._pump, args=(on_death,), name="pump", daemon=True).start()

    def start(self, run: Run) -> None:
        """Hands a run to the engine. An engine that is gone ends it at once."""
        with self.lock:
            self.runs[run.job.id] = run
        try:
            for choice in run.unfinished:
                self.engine.submit(request_of(run, choice))
        except EngineDiedError:
            run.stop(End(Way.ENGINE_DIED))

    def release(self, run: Run) -> None:
        """Lets go of a run that ended; an engine that is still at it stops."""
        with self.lock:
            self.runs.pop(run.job.id, None)
        for choice in run.unfinished:
            self.engine.abort(_request_id(run, choice))

    def _pump(self, on_death: Callable[[], None]) -> None:
        try:
            for step in self.engine.steps():
                self._carry(step)
        except EngineDiedError as error:
            log.error("engine_died", reason=error.message)
        with self.lock:
            left = list(self.runs.values())
            for run in left:
                run.finish(End(Way.ENGINE_DIED))
        on_death()

    def _carry(self, step: list[Chunk]) -> None:
        with self.lock:
            touched: dict[str, Run] = {}
            for chunk in step:
                job_id = chunk.id[:ID_LENGTH]
                run = self.runs.get(job_id)
                if run is not None:
                    touched[job_id] = run
                    run.take(chunk, int(chunk.id[ID_LENGTH:] or 0))
            self._send(touched)

    def _send(self, runs: dict[str, Run]) -> None:
        """Appends what the runs have not sent. A broker that is gone gets it with a later step, or at the end."""
        entries = [entry for run in runs.values() for entry in run.unsent()]
        if not entries:
            return
        try:
            refused = {entry.job_id for entry in self._bus.append(self._node, entries)}
            for job_id, run in runs.items():
                if job_id in refused:
                    self._refused(run)
                run.sent = len(run.tokens)
        except UnavailableError:
            return

    def _refused(self, run: Run) -> None:
        """Either the job is somebody else's by now, or Redis lost its memory and the owner writes it again."""
        entries = [Entry(run.job.id, run.job.attempt, token) for token in run.tokens]
        if not self._bus.restore(self._node, run.job.id, run.job.attempt, run.job.timeout, entries):
            log.warning("fenced", job=run.job.id, attempt=run.job.attempt)
            run.finish(End(Way.FENCED))


def request_of(run: Run, choice: int) -> Request:
    """What the engine is asked: the row's own request, and what was emitted before."""
    stored = run.job.request
    options = {**stored["sampling"], "stop": tuple(stored["sampling"].get("stop") or ())}
    if options.get("seed") is not None:
        options["seed"] = (options["seed"] + choice) % (1 << 32)  # or every choice would be the same one
    return Request(
        id=_request_id(run, choice),
        messages=tuple(Message(**message) for message in stored["messages"]),
        sampling=Sampling(**options),
        emitted=run.emitted(choice),
        priority=run.job.priority,
        tokens_per_second=stored.get("scripted_tokens_per_second"),
        prompt=stored.get("prompt"),
    )


def _request_id(run: Run, choice: int) -> str:
    """The job's id, and the number of each choice but the first."""
    return f"{run.job.id}{choice or ''}"
