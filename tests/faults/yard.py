"""A stack that is made to be broken: its parts are started again as supervisord would, and its network can be cut."""

import contextlib
import os
import shutil
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import redis
import sqlalchemy as sa

from app.cli.procfile import PATIENCE
from app.database import Database
from tests.faults.proxy import Proxy
from tests.stack import BIN, Stack, broker_url, end, eventually, free_port, launch

#: Times of the product, in seconds, short enough for tests and long enough for a machine that is busy with others.
TIMES = {
    "RENEW_SECONDS": "1",
    "LEASE_SECONDS": "6",
    "SWEEP_SECONDS": "1",
    "RESEND_SECONDS": "3",
    "STREAM_TTL_SECONDS": "30",
}
#: Two workers hold the scripted model, so that either has a warm peer.
WORKERS = ("cpu.0", "cpu.1")
PARTS = ("web", *WORKERS, "puller", "keeper", "beat")
SLOTS = 8
#: Seconds before what died is started again.
RESTART = 0.3


class Vitals(NamedTuple):
    """What a part of the stack uses: open files, threads, bytes of memory, processes."""

    files: int
    threads: int
    memory: int
    processes: int


class Paced(NamedTuple):
    """Jobs of one model: `long` has time to break in its middle, `late` before its first token."""

    long: dict[str, Any]
    late: dict[str, Any]


# From the tenth token of a long one, and from the start of a late one, a busy machine has four seconds for the fault.
SCRIPTED = Paced(
    {"max_tokens": 90, "scripted_tokens_per_second": 20}, {"max_tokens": 1, "scripted_tokens_per_second": 0.25}
)
REAL = Paced(
    {"model": "smollm2", "max_tokens": 200, "ignore_eos": True},
    {"model": "smollm2", "max_tokens": 20, "ignore_eos": True, "text": "and so on " * 500},
)


class Broker:
    """The embedded broker, which a test may kill, freeze, and rob of its memory."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self._folder = folder
        self._env = os.environ | {
            "PATH": f"{BIN}:{os.environ['PATH']}",
            "DATA_DIR": str(folder),
            "BROKER_PORT": str(self.port),
        }
        self.start()

    def start(self) -> None:
        """As it was when it ended: its file is where it left it."""
        self.process = launch([str(BIN / "tokenyard"), "broker"], self._env, self._folder / "broker.log")
        try:
            eventually(self._answers, what="the broker")
        except AssertionError:
            self.stop()
            raise

    @property
    def url(self) -> str:
        """With its password, once it was started."""
        return broker_url(self._folder, self.port)

    def kill(self) -> None:
        """SIGKILL."""
        self.process.kill()
        self.process.wait()

    def forget(self) -> None:
        """Loses its file; only while it is dead."""
        shutil.rmtree(self._folder / "broker")

    def stop(self) -> None:
        """Ends it, at the end of the tests."""
        self.process.send_signal(signal.SIGCONT)
        end(self.process)

    def client(self) -> "redis.Redis":
        """A connection of the test's own."""
        return redis.Redis.from_url(self.url, socket_timeout=5)

    def _answers(self) -> bool:
        with contextlib.suppress(redis.RedisError, FileNotFoundError), self.client() as client:
            return bool(client.ping())
        return False


class Yard(Stack):
    """A stack of two workers, each part of which has a way of its own to the broker."""

    parts: tuple[str, ...] = PARTS

    def __init__(self, folder: Path, **settings: str) -> None:
        self.broker = Broker(folder)
        self.roads = {name: Proxy(self.broker.port) for name in self.parts}
        extra = {"WORKER_SLOTS": str(SLOTS), **TIMES, **settings}
        super().__init__(folder, self.broker.url, **extra)
        self.settings: dict[str, dict[str, str]] = {}
        self.held: set[str] = set()
        self.usual: dict[str, Vitals] = {}  # what each part uses once every pool has grown
        self.usual_keys: set[str] = set()  # the broker's keys that stay for ever
        self._closing = threading.Event()
        for verb in ("migrate", "starter"):
            self.run(verb)
        self.database = Database(settings.get("DATABASE_URL") or f"sqlite:///{folder / 'jobs.db'}")
        self._watch_states()
        try:
            self.start(*self.parts)
            threading.Thread(target=self._supervise, name="supervise", daemon=True).start()
            self.ready()
        except BaseException:
            self.close()
            raise

    def env_of(self, name: str) -> dict[str, str]:
        """Each has its own road to the broker, and settings of its own where a test gave it some."""
        road = {"REDIS_URL": broker_url(self.folder, self.roads[name].port)}
        return super().env_of(name) | road | self.settings.get(name, {})

    def ready(self, seconds: float = 60.0) -> None:
        """Every worker shows itself, with the scripted model in its memory."""
        super().ready(seconds)
        eventually(self.is_whole, seconds=seconds, what="both workers, warm")

    def is_whole(self) -> bool:
        """Whether all parts run and both workers are warm. A cold one is asked to load; a dead one has but its card."""
        if not all((process := self.processes.get(name)) and process.poll() is None for name in self.parts):
            return False
        workers = self._cards()
        cold = [w for w in workers if not any(held["model"] == "scripted" for held in w["models"])]
        for worker in cold:
            if not worker["loading"]:
                self.http.post("/models/scripted/load", json={"worker": worker["node"]})
        ready = self.http.get("/health/ready").status_code == 200
        return ready and not cold and {worker["device"] for worker in workers} == set(WORKERS)

    @contextmanager
    def holding_model(self, name: str) -> Iterator[None]:
        """A model in the memory of both workers within the block, and of none at its end."""
        try:
            for worker in self._cards():
                self.http.post(f"/models/{name}/load", json={"worker": worker["node"]}).raise_for_status()
            # Two vLLM engines at once, off a disk that has not been read yet.
            eventually(lambda: self._holders(name) == len(WORKERS), seconds=240, what=f"{name} in both workers")
            yield
        finally:
            self.http.post(f"/models/{name}/unload", json={"force": True}).raise_for_status()
            eventually(lambda: self._holders(name) == 0, seconds=60, what=f"no {name} in memory")

    def _holders(self, name: str) -> int:
        return sum(any(held["model"] == name for held in card["models"]) for card in self._cards())

    def _cards(self) -> list[dict[str, Any]]:
        """What the workers say of themselves; a dead one has only its card, which goes a little later."""
        pids = {process.pid for process in self.processes.copy().values()}
        return [worker for worker in self.http.get("/health").json()["workers"] if worker["pid"] in pids]

    def _supervise(self) -> None:
        while not self._closing.wait(0.05):
            for name in self.parts:
                process = self.processes.get(name)
                if name in self.held or (process is not None and process.poll() is None):
                    continue
                self._closing.wait(RESTART)
                if not self._closing.is_set() and name not in self.held:
                    self.start(name)

    @contextmanager
    def holding(self, *names: str) -> Iterator[None]:
        """Parts that die within the block stay dead until its end."""
        self.held |= set(names)
        try:
            yield
        finally:
            self.held -= set(names)

    def signal(self, name: str, number: int) -> None:
        """A signal to a part, and to nobody else."""
        self.processes[name].send_signal(number)

    def end(self, name: str, times: int) -> None:
        """SIGTERM, once or more, as a deploy sends it; returns when the process is gone."""
        process = self.processes[name]
        for _ in range(times):
            process.terminate()
        process.wait(2 * PATIENCE)  # twice what it has on a machine of its own

    @staticmethod
    def skewed_clock() -> Path:
        """A folder that makes the clock of a process wrong which has it on its PYTHONPATH."""
        return Path(__file__).parent / "skew"

    @contextmanager
    def frozen(self, name: str) -> Iterator[None]:
        """SIGSTOP: a process, gunicorn's children included, that is there and does nothing."""
        family = self.family(name) if name == "web" else [psutil.Process(self.processes[name].pid)]
        for process in family:
            process.suspend()
        try:
            yield
        finally:
            for process in family:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.resume()

    def alive(self, name: str) -> list[psutil.Process]:
        """A part's processes; none while it is dead."""
        try:
            return self.family(name)
        except (KeyError, psutil.NoSuchProcess):
            return []

    def engines(self, name: str) -> list[psutil.Process]:
        """The engine children of a worker, without their guards."""
        return [p for p in self.family(name)[1:] if "inference.host" in p.cmdline()[:4]]

    def owner(self, job_id: str) -> str:
        """The worker that runs a job, once one does."""
        job = eventually(
            lambda: found if (found := self.job(job_id))["status"] == "running" else None, what=f"{job_id} to run"
        )
        return str(job["worker"]).partition("@")[0]

    @contextmanager
    def database_locked(self) -> Iterator[None]:
        """Somebody writes, and does not come to an end."""
        with self.database.engine.execution_options(begin="IMMEDIATE").connect() as connection:
            transaction = connection.begin()
            try:
                yield
            finally:
                transaction.rollback()

    def rows(self, statement: str, **values: Any) -> list[Any]:
        """What the database says itself."""
        with self.database.read() as session:
            return list(session.execute(sa.text(statement), values))

    def _watch_states(self) -> None:
        """G2, kept by the database: whatever changes a terminal state is noted for ever."""
        terminal = "('succeeded', 'failed', 'cancelled', 'timed_out')"
        with self.database.write() as session:
            session.execute(sa.text("CREATE TABLE IF NOT EXISTS fault_changes (job TEXT, was TEXT, became TEXT)"))
            session.execute(
                sa.text(
                    "CREATE TRIGGER IF NOT EXISTS fault_watch AFTER UPDATE ON jobs "
                    f"WHEN OLD.status IN {terminal} "
                    "AND (NEW.status IS NOT OLD.status OR NEW.attempt IS NOT OLD.attempt) "
                    "BEGIN INSERT INTO fault_changes VALUES (OLD.id, OLD.status, NEW.status); END"
                )
            )

    def close(self) -> None:
        """Ends everything."""
        self._closing.set()
        super().close()
        for road in self.roads.values():
            road.close()
        self.broker.stop()
        self.database.close()
