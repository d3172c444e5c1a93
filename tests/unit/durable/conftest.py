"""A worker in this process: the scripted engine behind a real pump, runner, database and broker."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest

from app.errors import JobFailedError
from app.events import Ended, Token
from app.jobs import State, new_id
from app.kernel import Kernel
from app.models import Job, Life
from app.registry import Card, Holding
from app.store import Detail
from inference.errors import EngineDiedError
from inference.protocol import Spec
from inference.scripted import ScriptedEngine
from tasks.bay import Bay
from tasks.pump import Pump
from tasks.run import Run
from tasks.runner import Runner
from tests.unit.web.conftest import api_key, broker, kernel, own_broker, shared_broker

__all__ = ["api_key", "broker", "kernel", "own_broker", "shared_broker"]

MODEL = "scripted"
OVER = {State.SUCCEEDED, State.FAILED, State.CANCELLED, State.TIMED_OUT}


def eventually(ask: Callable[[], Any], seconds: float = 30.0) -> Any:
    """The first true answer."""
    deadline = time.monotonic() + seconds
    while not (found := ask()):
        assert time.monotonic() < deadline, "it did not come true in time"
        time.sleep(0.01)
    return found


class Engine(ScriptedEngine):
    """The scripted engine, which a test may kill."""

    def __init__(self, name: str) -> None:
        super().__init__(Spec(name, None, slots=8), lambda _: None)
        self.dead = False

    def die(self) -> None:
        self.dead = True
        self.close()

    def steps(self) -> Iterator[list[Any]]:
        yield from super().steps()
        if self.dead:
            raise EngineDiedError("killed by the test")


class Garage:
    """One model, loaded again when its engine died."""

    def __init__(self, kernel: Kernel, node: str, name: str) -> None:
        self._kernel, self._node, self._name = kernel, node, name
        self.load()

    def load(self) -> None:
        self.engine = Engine(self._name)
        pump = Pump(self.engine, self._kernel.bus, self._node)
        pump.begin(on_death=lambda: None)
        self._bay = Bay(MODEL, pump, 0, time.time())

    def enter(self, model: str, keep_alive: float | None = None) -> Bay | None:
        return self.find(model)

    def leave(self, bay: Bay) -> None:
        pass

    def find(self, model: str) -> Bay | None:
        return self._bay if model == MODEL else None

    def bays(self) -> list[Bay]:
        return [self._bay]


class Worker:
    """A life with a runner, whose messages come from the test."""

    def __init__(self, kernel: Kernel, node: str, engine: str = "scripted") -> None:
        self.kernel, self.node, self.life = kernel, node, new_id()
        with kernel.database.write() as session:
            session.add(Life(id=self.life, node=node, host="test", pid=1, pid_started=0.0, started_at=time.time()))
        self.garage = Garage(kernel, node, engine)
        self.runner = Runner(kernel, self.garage, self.life, node)  # type: ignore[arg-type]
        self.runner.on_change = self.announce
        self.threads: list[threading.Thread] = []
        self.announce()

    def announce(self) -> None:
        slots = 0 if self.runner.gate.closed else 8
        card = Card(self.node, "cpu.0", "test", 1, self.life, (Holding(model=MODEL, backend="scripted", slots=slots),))
        self.kernel.registry.announce(card)
        self.kernel.registry.forget()

    def take(self, job_id: str) -> threading.Thread:
        """A message arrives."""
        thread = threading.Thread(target=self._take, args=(job_id,), daemon=True)
        self.threads.append(thread)
        thread.start()
        return thread

    def _take(self, job_id: str) -> None:
        with suppress(JobFailedError):
            self.runner.run(job_id)

    def run(self, job_id: str) -> Run:
        """The attempt at a job that emits."""
        return eventually(lambda: run if (run := self.runner._runs.get(job_id)) and run.sent else None)

    def die(self) -> None:
        """As the keeper sees it; what the process still does is up to the test."""
        self.kernel.dispatcher.close_streams(self.kernel.lives.bury(self.life))

    def close(self) -> None:
        self.runner.hand_back_all()
        for thread in self.threads:
            thread.join(30)
            assert not thread.is_alive()
        self.garage.engine.close()


@pytest.fixture
def make_worker(kernel: Kernel) -> Iterator[Callable[..., Worker]]:
    made: list[Worker] = []

    def make(node: str = "cpu.0@test", engine: str = "scripted") -> Worker:
        made.append(Worker(kernel, node, engine))
        return made[-1]

    yield make
    for worker in made:
        worker.close()


@pytest.fixture
def worker(make_worker: Callable[..., Worker]) -> Worker:
    return make_worker()


class Desk:
    """Submits, and looks."""

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel

    def submit(self, tokens: int = 4, pace: float | None = None, *, n: int = 1, **values: Any) -> str:
        now = time.time()
        sampling = {"max_tokens": tokens, **values.pop("sampling", {})}
        request = {
            "messages": [{"role": "user", "content": "one two"}],
            "sampling": sampling,
            "n": n,
            "scripted_tokens_per_second": pace,
        }
        defaults: dict[str, Any] = {
            "id": new_id(),
            "kind": "generate",
            "model": MODEL,
            "priority": 5,
            "held": False,
            "timeout": 60.0,
            "expires_at": now + 60,
            "created_at": now,
            "request": request,
        }
        job = Job(**(defaults | values))
        self.kernel.store.submit(job)
        return job.id

    def job(self, job_id: str) -> Job:
        return self.kernel.store.get(job_id).job

    def ended(self, job_id: str) -> Detail:
        def over() -> Detail | None:
            detail = self.kernel.store.get(job_id)
            return detail if detail.job.status in OVER else None

        return eventually(over)

    def stream(self, job_id: str) -> list[Token | Ended]:
        return self.kernel.bus.replay(job_id)

    def whole_stream(self, job_id: str) -> list[Token | Ended]:
        """Once it has its terminal event."""
        return eventually(lambda: found if (found := self.stream(job_id)) and isinstance(found[-1], Ended) else None)


@pytest.fixture
def desk(kernel: Kernel) -> Desk:
    return Desk(kernel)


def words(count: int) -> str:
    return " ".join(f"t{n}" for n in range(count))


def said(events: list[Token | Ended], choice: int = 0) -> str:
    return "".join(e.text for e in events if isinstance(e, Token) and e.choice == choice)
