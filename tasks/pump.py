"""The pump: carries an engine's steps to the bus, one round trip a step however many jobs it serves."""

import threading
import time
from collections import Counter
from collections.abc import Callable

import structlog

from app.bus import Bus
from app.errors import UnavailableError
from app.events import ID_LENGTH
from inference.errors import EngineDiedError
from inference.protocol import Chunk, Engine, Message, Request, Sampling
from tasks import meters
from tasks.run import End, Run, Way

log = structlog.get_logger(__name__)

#: Between the seeds of one answer's parts; odd and large, so that no two parts of a few choices share one.
SEED_STEP = 0x9E3779B1


class Pump:
    """One loaded engine and the runs that it serves. Its own thread reads the steps."""

    def __init__(self, engine: Engine, bus: Bus, node: str, model: str = "") -> None:
        """`model` is the name under which it is measured."""
        self.engine = engine
        self.lock = threading.Lock()
        self.runs: dict[str, Run] = {}
        #: What the engine's library last told of itself, in Prometheus' form.
        self.report = ""
        self._bus = bus
        self._node = node
        self._model = model

    def tokens(self) -> int:
        """About how many tokens its runs have by now, prompts and answers.

        Without the lock: the lease asks, and must not wait for a step that waits for the broker.
        """
        return sum(run.prompt_tokens + len(run.tokens) for run in list(self.runs.values()))

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
        except Exception:
            # Whatever it was, nobody would read this engine any more, and its jobs would wait for ever.
            log.exception("pump_failed")
        with self.lock:
            left = list(self.runs.values())
            for run in left:
                run.finish(End(Way.ENGINE_DIED))
        on_death()

    def _carry(self, step: list[Chunk]) -> None:
        now, gaps = time.monotonic_ns(), Counter[float]()
        with self.lock:
            touched: dict[str, int] = {}
            for chunk in step:
                job_id = chunk.id[:ID_LENGTH]
                run = self.runs.get(job_id)
                if run is not None:
                    last = touched.setdefault(job_id, run.last)
                    if chunk.count and last:
                        gaps[(now - last) / chunk.count / 1e9] += chunk.count
                    run.take(chunk, int(chunk.id[ID_LENGTH:] or 0), now)
                elif not chunk.id:
                    self.report = chunk.text
            self._send({job_id: self.runs[job_id] for job_id in touched})
        if touched:
            meters.GAP.add(self._model, gaps)
            meters.BATCH.add(self._model, {len(step): 1})

    def _send(self, runs: dict[str, Run]) -> None:
        """Appends what the runs have not sent. A broker that is gone gets it with a later step, or at the end."""
        entries = [entry for run in runs.values() for entry in run.unsent()]
        if not entries:
            return
        try:
            refused = {entry.job_id for entry in self._bus.append(self._node, entries)}
        except UnavailableError:
            return
        for job_id, run in runs.items():
            if job_id not in refused or self._is_restored(run):
                run.was_sent()

    def _is_restored(self, run: Run) -> bool:
        """After a refusal: either the job is somebody else's by now, or Redis lost its memory and we write it again.

        The row decides. Without it, a worker that was frozen meanwhile would mistake a loss of memory for its turn.
        """
        try:
            seconds = run.job.lifetime(run.ties.now())
            if run.ties.owned() and self._bus.restore(self._node, run.job.id, run.job.attempt, seconds, run.entries()):
                log.warning("stream_restored", job=run.job.id, events=len(run.tokens))
                return True
        except UnavailableError:
            return False  # a later step tries again
        log.warning("fenced", job=run.job.id, attempt=run.job.attempt)
        run.finish(End(Way.FENCED))
        return False


def request_of(run: Run, choice: int) -> Request:
    """What the engine is asked: the row's own request, and what was emitted before."""
    stored = run.job.request
    options = {**stored["sampling"], "stop": tuple(stored["sampling"].get("stop") or ())}
    options["logit_bias"] = tuple((token, bias) for token, bias in options.get("logit_bias") or ())
    emitted = run.emitted(choice)
    if options.get("seed") is not None:
        # Or every choice would be the same one, and a continuation would draw the numbers of the beginning again.
        options["seed"] = (options["seed"] + choice + emitted.count * SEED_STEP) % (1 << 32)
    return Request(
        id=_request_id(run, choice),
        messages=tuple(Message(**message) for message in stored["messages"]),
        sampling=Sampling(**options),
        emitted=emitted,
        priority=run.job.priority,
        tokens_per_second=stored.get("scripted_tokens_per_second"),
        prompt=stored["inputs"][choice] if "inputs" in stored else stored.get("prompt"),
        tools=stored.get("tools", ""),
        think=stored.get("think"),
        context=stored.get("context"),
        adapter=stored.get("adapter", ""),
        salt=run.job.tenant,
        embed="inputs" in stored,
    )


def _request_id(run: Run, choice: int) -> str:
    """The job's id, and the number of each choice but the first."""
    return f"{run.job.id}{choice or ''}"
