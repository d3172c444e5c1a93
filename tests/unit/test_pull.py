"""Pulls: the job's row, its watchers and its model, over real children that download from a fake hub."""

import os
import threading
import time
import uuid
from collections.abc import Iterator
from itertools import chain, repeat
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import DEFAULT, Mock

import psutil
import pytest
import structlog

from app.bus import Entry
from app.catalog import Catalog
from app.database import Database
from app.disk import delete_files
from app.errors import JobFailedError, UnavailableError
from app.events import Event, Progress
from app.jobs import Kind, State, new_id
from app.models import Job, Life, Pull
from app.settings import Settings
from app.store import Detail, Store
from app.tables import Base
from inference.process import Process, spawn
from tasks import child, pull
from tasks.desk import Desk
from tasks.standing import ALMOST, Standing
from tests.hub import FakeHub, safetensors
from tests.stack import eventually

CONFIG = b'{"model_type": "gpt2"}'
SMALL = {"config.json": CONFIG, "model.safetensors": safetensors(1000)}
LARGE = {"config.json": CONFIG, "model.safetensors": safetensors(3_000_000)}
REPOS = {"owner/name": SMALL, "gpt2": LARGE, "owner/pickled": {"config.json": CONFIG, "pytorch_model.bin": b"x"}}
SIZE = sum(map(len, SMALL.values()))

#: What a developer's own environment may hold, and would lead a child away from the fake hub.
FOREIGN = ("HF_TOKEN", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HUB_OFFLINE", "HF_TOKEN_PATH", "HF_HOME")


class FakeBus:
    """Takes what a pull says; while `gone`, it is a broker that does not answer."""

    def __init__(self) -> None:
        self.gone = False
        self.published: list[tuple[str, Event]] = []
        self.ended: list[Entry] = []

    def _check(self) -> None:
        if self.gone:
            raise UnavailableError("broker_unavailable", "gone")

    def install(self, job_id: str, attempt: int, seconds: float) -> int:
        self._check()
        return 0

    def publish(self, node: str, job_id: str, event: Event) -> None:
        self._check()
        self.published.append((job_id, event))

    def finish(self, node: str, entry: Entry) -> None:
        self._check()
        self.ended.append(entry)


class FakeLoads:
    """Notes which models arrived, and which were asked to be loaded."""

    def __init__(self) -> None:
        self.arrivals: list[str] = []
        self.placed: list[str] = []

    def arrived(self, model: str) -> None:
        self.arrivals.append(model)

    def place(self, model: str) -> None:
        self.placed.append(model)


class Yard:
    """A puller with a database of its own, no broker, and no Celery: its tasks are calls."""

    def __init__(self, home: Path) -> None:
        database = Database(f"sqlite:///{home / 'jobs.db'}")
        Base.metadata.create_all(database.engine)
        self.bus = FakeBus()
        self.home = home
        self.database = database
        self.kernel: Any = SimpleNamespace(
            database=database,
            store=Store(database),
            catalog=Catalog(database),
            bus=self.bus,
            loads=FakeLoads(),
            dispatcher=SimpleNamespace(close_streams=lambda outcomes: None),
            drains=SimpleNamespace(all=frozenset),
            settings=Settings(data_dir=home, _env_file=None),
        )
        self.desk = self.new_desk()

    def new_desk(self) -> Desk:
        life = uuid.uuid4().hex
        with self.database.write() as session:
            session.add(Life(id=life, node="puller@here", host="here", pid=1, pid_started=0.0, started_at=0.0))
        return Desk(self.kernel, life, "puller@here")

    def submit(self, model: str, *, init: bool = False, timeout: float = 600.0) -> str:
        now = time.time()
        job = Job(
            id=new_id(), kind=Kind.PULL, model=model, priority=5, held=False, timeout=timeout,
            request={"model": model}, expires_at=now + 600, created_at=now,
        )  # fmt: skip
        self.kernel.store.submit(job, Pull(quantize="auto", init=init))
        return job.id

    def serve(self, hub: FakeHub, **settings: Any) -> None:
        own = {"_env_file": None, "data_dir": self.home, "hf_home": self.home / "hf", "hf_endpoint": hub.url}
        self.kernel.settings = Settings(**(own | settings))

    def run(self, hub: FakeHub, job_id: str) -> None:
        self.serve(hub)
        self.desk.take(job_id)

    def start(self, job_id: str) -> threading.Thread:
        thread = threading.Thread(target=self.desk.take, args=(job_id,))
        thread.start()
        return thread

    def get(self, job_id: str) -> Detail:
        return self.kernel.store.get(job_id)

    def row(self, job_id: str) -> Pull:
        row = self.get(job_id).pull
        assert row is not None
        return row

    def moves(self, job_id: str) -> bool:
        return self.row(job_id).downloaded_bytes > 100

    def partials(self) -> list[Path]:
        return list(self.home.rglob("*.incomplete"))


@pytest.fixture
def yard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Yard]:
    for name in FOREIGN:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(pull, "TELL_SECONDS", 0.2)
    yard = Yard(tmp_path)
    yield yard
    yard.database.close()


def test_a_pull_succeeds_with_its_row_its_model_and_its_last_event(yard: Yard) -> None:
    job_id = yard.submit("owner/name", init=True)

    with FakeHub(REPOS) as hub:
        yard.run(hub, job_id)

    job, row, _ = yard.get(job_id)
    assert row is not None
    assert job.status == State.SUCCEEDED
    assert (row.downloaded_bytes, row.total_bytes, row.size_bytes, row.progress) == (SIZE, SIZE, SIZE, 1.0)
    assert (row.files_done, row.files_total, row.revision) == (2, 2, hub.commit("owner/name"))
    model = yard.kernel.catalog.get("owner/name")
    assert (model.path, model.format, model.source) == (row.local_path, "safetensors", "pull")
    assert (model.repo, model.revision, model.facts["family"]) == ("owner/name", row.revision, "gpt2")
    assert [(entry.attempt, entry.event.state) for entry in yard.bus.ended] == [(1, "succeeded")]
    assert (yard.kernel.loads.arrivals, yard.kernel.loads.placed) == (["owner/name"], ["owner/name"])
    # All of it was fetched by us, so all of it goes with the model.
    assert delete_files(model, [], yard.kernel.settings)
    assert not (yard.kernel.settings.hub_cache / "models--owner--name").exists()


def test_progress_is_told_and_is_1_only_at_the_end(yard: Yard) -> None:
    job_id = yard.submit("gpt2")

    with FakeHub(REPOS, throttle=1_500_000) as hub, structlog.testing.capture_logs() as logs:
        yard.run(hub, job_id)

    assert [entry["event"] for entry in logs] == ["pull_begins", "pulling", "pulled"]
    told = [event.fields for _, event in yard.bus.published if isinstance(event, Progress)]
    shares = [fields["progress"] for fields in told]
    assert len(told) > 2
    assert shares == sorted(shares)
    assert shares.count(1.0) == 1
    assert told[-1]["downloaded_bytes"] == told[-1]["total_bytes"]
    middle = told[len(told) // 2]
    assert middle["bytes_per_second"] > 0
    assert middle["eta_seconds"] is not None
    assert middle["file"]["name"] == "model.safetensors"


def test_a_pull_outlives_the_broker(yard: Yard) -> None:
    yard.bus.gone = True
    job_id = yard.submit("gpt2")

    with FakeHub(REPOS) as hub:
        yard.run(hub, job_id)

    assert yard.get(job_id).job.status == State.SUCCEEDED


def test_a_failed_pull_keeps_its_reason_and_its_traceback_and_raises_it(yard: Yard) -> None:
    job_id = yard.submit("owner/pickled")

    with FakeHub(REPOS) as hub, pytest.raises(JobFailedError, match="pickle"):
        yard.run(hub, job_id)

    job = yard.get(job_id).job
    assert (job.status, job.error_code) == (State.FAILED, "pickle_weights")
    assert job.traceback is not None
    assert "choice.py" in job.traceback
    assert yard.bus.ended[0].event.code == "pickle_weights"


def test_the_token_is_in_no_error_and_on_no_command_line(yard: Yard, monkeypatch: pytest.MonkeyPatch) -> None:
    argvs: list[str] = []
    monkeypatch.setattr(child, "spawn", lambda argv, **how: argvs.append(" ".join(argv)) or spawn(argv, **how))
    job_id = yard.submit("gpt2")

    with FakeHub(REPOS, token="hf_right") as hub:
        yard.serve(hub, hf_token="hf_wrong_secret")
        with pytest.raises(JobFailedError, match="HF_TOKEN"):
            yard.desk.take(job_id)

    job = yard.get(job_id).job
    assert job.error_code == "bad_token"
    assert hub.credentials[0] == "Bearer hf_wrong_secret"
    assert "secret" not in f"{argvs} {job.traceback} {job.error_message}"


def test_a_child_that_dies_without_a_word_fails_the_pull(yard: Yard, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(child, "spawn", lambda argv, **kwargs: spawn(["/bin/false"], **kwargs))
    job_id = yard.submit("gpt2")

    with FakeHub(REPOS) as hub, pytest.raises(JobFailedError):
        yard.run(hub, job_id)

    assert yard.get(job_id).job.error_code == "download_failed"


def test_a_fault_of_ours_fails_the_pull_too(yard: Yard, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(yard.kernel.catalog, "add", lambda *_, **__: 1 / 0)
    job_id = yard.submit("owner/name")

    with FakeHub(REPOS) as hub, pytest.raises(JobFailedError):
        yard.run(hub, job_id)

    assert yard.get(job_id).job.status == State.FAILED


def test_a_fault_behind_the_last_word_fails_the_pull_too(yard: Yard, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(yard.kernel.loads, "arrived", lambda _: 1 / 0)
    job_id = yard.submit("owner/name")

    with FakeHub(REPOS) as hub, pytest.raises(JobFailedError):
        yard.run(hub, job_id)

    assert yard.get(job_id).job.status == State.FAILED


def test_a_pull_ends_well_though_the_database_and_its_child_s_end_take_long(
    yard: Yard, monkeypatch: pytest.MonkeyPatch
) -> None:
    away = UnavailableError("database_unavailable", "gone")
    for target, name in ((yard.kernel.catalog, "get"), (yard.kernel.store, "succeed_pull")):
        monkeypatch.setattr(
            target, name, Mock(side_effect=chain((away,), repeat(DEFAULT)), wraps=getattr(target, name))
        )
    kill = Process.kill

    def hangs(process: Process) -> None:
        kill(process)
        raise TimeoutError("it hangs in a driver")

    monkeypatch.setattr(Process, "kill", hangs)
    job_id = yard.submit("owner/name")

    with FakeHub(REPOS) as hub:
        yard.run(hub, job_id)

    assert yard.get(job_id).job.status == State.SUCCEEDED


def test_a_pull_goes_back_into_the_queue_once_the_database_is_there(
    yard: Yard, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = yard.submit("owner/name")
    watcher = yard.desk._claimed(job_id)
    assert watcher is not None
    gone = chain((UnavailableError("database_unavailable", "gone"),), repeat(DEFAULT))
    monkeypatch.setattr(yard.kernel.store, "hand_back", Mock(side_effect=gone, wraps=yard.kernel.store.hand_back))

    watcher.hand_back()

    assert yard.get(job_id).job.status == State.QUEUED


def test_a_cancelled_pull_stops_its_bytes_and_leaves_nothing(yard: Yard, monkeypatch: pytest.MonkeyPatch) -> None:
    children: list[Process] = []
    monkeypatch.setattr(child, "spawn", lambda *a, **k: children.append(spawn(*a, **k)) or children[-1])
    job_id = yard.submit("gpt2")

    with FakeHub(REPOS, throttle=300_000) as hub:
        yard.serve(hub)
        thread = yard.start(job_id)
        eventually(lambda: yard.moves(job_id) and yard.partials())
        assert yard.desk.watches(job_id)
        yard.desk.ask_end("another's", "failed")  # everybody hears of every job
        yard.desk.ask_end(job_id, "cancelled")
        thread.join(30)
        assert not yard.desk.watches(job_id)

        assert not thread.is_alive()
        assert all(process.wait(0) for process in children)
    job, row, _ = yard.get(job_id)
    assert job.status == State.CANCELLED
    assert row is not None
    assert 0 < row.progress < 1
    assert [entry.event.state for entry in yard.bus.ended] == ["cancelled"]
    assert yard.partials() == []


def test_a_pull_whose_claim_was_committed_unheard_goes_back(yard: Yard, monkeypatch: pytest.MonkeyPatch) -> None:
    claim = yard.kernel.store.claim

    def unheard(*args: str) -> None:
        claim(*args)
        raise UnavailableError("database_unavailable", "gone")

    job_id = yard.submit("owner/name")
    monkeypatch.setattr(yard.kernel.store, "claim", unheard)
    with pytest.raises(UnavailableError):
        yard.desk.take(job_id)
    monkeypatch.undo()
    job = yard.get(job_id).job
    assert (job.status, job.attempt, job.losses, job.released_at) == (State.QUEUED, 1, 0, 0.0)


def test_a_second_message_for_a_pull_whose_claim_fails_takes_nothing_away(
    yard: Yard, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: str) -> None:
        raise UnavailableError("database_unavailable", "gone")

    job_id = yard.submit("gpt2")
    with FakeHub(REPOS, throttle=1_000_000) as hub:
        yard.serve(hub)
        thread = yard.start(job_id)
        eventually(lambda: yard.moves(job_id))
        monkeypatch.setattr(yard.kernel.store, "claim", away)
        with pytest.raises(UnavailableError):
            yard.desk.take(job_id)
        hub.throttle = None
        thread.join(30)
    assert (yard.get(job_id).job.status, yard.get(job_id).job.attempt) == (State.SUCCEEDED, 1)


def test_a_pull_has_a_deadline(yard: Yard) -> None:
    job_id = yard.submit("gpt2", timeout=1.0)

    with FakeHub(REPOS, throttle=300_000) as hub:
        yard.run(hub, job_id)

    assert yard.get(job_id).job.status == State.TIMED_OUT


def test_a_puller_that_stops_hands_back_and_the_next_one_goes_on(yard: Yard) -> None:
    job_id = yard.submit("gpt2")

    with FakeHub(REPOS, throttle=1_000_000) as hub:
        yard.serve(hub)
        thread = yard.start(job_id)
        eventually(lambda: yard.row(job_id).downloaded_bytes > 500_000)
        yard.desk.close()
        thread.join(30)
        handed_back, before = yard.get(job_id), yard.partials()[0].stat().st_size
        yard.desk = yard.new_desk()
        hub.throttle = None
        yard.desk.take(job_id)

    assert (handed_back.job.status, handed_back.job.losses) == (State.QUEUED, 0)
    first, second = hub.bodies("model.safetensors")
    assert (first.start, second.start) == (0, before)
    assert len(hub.bodies("config.json")) == 1
    assert yard.get(job_id).job.status == State.SUCCEEDED
    shares = [event.fields["progress"] for _, event in yard.bus.published if isinstance(event, Progress)]
    assert shares == sorted(shares)


def test_a_message_that_comes_to_a_puller_on_its_way_out_is_sent_by_the_next_sweep(yard: Yard) -> None:
    job_id = yard.submit("gpt2")
    [(_, before)] = yard.kernel.store.unclaimed()
    yard.desk.close()
    yard.desk.take(job_id)
    [(_, after)] = yard.kernel.store.unclaimed()

    assert before < Settings(_env_file=None).resend_seconds < after
    assert yard.get(job_id).job.status == State.QUEUED


def test_the_same_model_twice_is_one_download_with_two_watchers(yard: Yard) -> None:
    first, second, third = (yard.submit("gpt2") for _ in range(3))

    with FakeHub(REPOS, throttle=1_000_000) as hub:
        yard.serve(hub)
        thread = yard.start(first)
        eventually(lambda: yard.moves(first))
        yard.desk.take(second)  # its message came; the third's waits in the broker
        eventually(lambda: yard.moves(second) and yard.moves(third))
        yard.desk.ask_end(first, "cancelled")
        thread.join(30)
        yard.desk.take(third)

    states = [yard.get(job_id).job.status for job_id in (first, second, third)]
    assert states == [State.CANCELLED, State.SUCCEEDED, State.SUCCEEDED]
    assert [yard.get(job_id).job.attempt for job_id in (first, second, third)] == [1, 1, 1]
    assert len(hub.bodies("model.safetensors")) == 1
    assert {entry.job_id for entry in yard.bus.ended} == {first, second, third}


def test_a_pull_that_was_cancelled_while_it_waited_to_go_on_leaves_nothing(yard: Yard) -> None:
    job_id = yard.submit("gpt2")
    with FakeHub(REPOS, throttle=500_000) as hub:
        yard.serve(hub)
        thread = yard.start(job_id)
        eventually(lambda: yard.moves(job_id) and yard.partials())
        yard.desk.close()
        thread.join(30)
        other = yard.submit("gpt2")
        yard.kernel.store.end(job_id, State.CANCELLED)
        yard.desk = yard.new_desk()
        yard.desk.take(job_id)
        still = yard.partials()
        yard.kernel.store.end(other, State.CANCELLED)
        yard.desk.take(job_id)

    assert len(still) == 1  # another pull would have gone on from it
    assert yard.partials() == []


def test_a_pull_that_was_lost_stops_quietly(yard: Yard) -> None:
    job_id = yard.submit("gpt2")

    with FakeHub(REPOS, throttle=500_000) as hub:
        yard.serve(hub)
        thread = yard.start(job_id)
        eventually(lambda: yard.moves(job_id))
        with yard.database.write() as session:
            session.merge(Job(id=job_id, attempt=2))
        thread.join(30)

        assert not thread.is_alive()
    assert yard.get(job_id).job.status == State.RUNNING
    assert not yard.bus.ended


def test_a_pull_that_another_delivery_claimed_is_left_alone(yard: Yard) -> None:
    job_id = yard.submit("gpt2")
    yard.desk.close()

    with FakeHub(REPOS) as hub:
        yard.run(hub, job_id)
        claimed = yard.new_desk()
        assert claimed._claimed(job_id) is not None
        yard.new_desk().take(job_id)

        assert not hub.requests


def test_a_download_without_a_command_to_run_says_so(yard: Yard, monkeypatch: pytest.MonkeyPatch) -> None:
    def unable(*_: Any, **__: Any) -> Any:
        raise OSError(11, os.strerror(11))

    monkeypatch.setattr(child, "spawn", unable)
    job_id = yard.submit("gpt2")

    with FakeHub(REPOS) as hub, pytest.raises(JobFailedError, match="could not be run"):
        yard.run(hub, job_id)


def test_what_stands_is_never_whole_before_the_end_nor_behind_what_was_told() -> None:
    standing = Standing()
    standing.hear({"total": 100_000, "files": 1, "commit": "c", "downloaded": 100_000})

    assert standing.columns(0)["progress"] == ALMOST < 1
    standing = Standing()
    standing.hear({"total": 100_000, "files": 1, "commit": "c", "downloaded": 10})
    assert standing.columns(70_000)["downloaded_bytes"] == 70_000


def test_the_password_of_a_hub_is_used_and_stands_in_no_list_of_processes(yard: Yard) -> None:
    with FakeHub(REPOS, login="me:p@ss word", throttle=300_000) as hub:
        yard.serve(hub, hf_endpoint=hub.url.replace("//", "//me:p%40ss%20word@") + "/")
        job_id = yard.submit("gpt2")
        thread = yard.start(job_id)
        eventually(lambda: yard.moves(job_id), what="bytes")
        listed = [" ".join(child.cmdline()) for child in psutil.Process().children(recursive=True)]
        assert any("inference.download" in line and hub.url in line for line in listed)
        assert not any(word in line for line in listed for word in ("me:", "p@ss", "p%40ss"))
        hub.throttle = None
        thread.join()
        assert yard.get(job_id).job.status == State.SUCCEEDED
        hub.login = "changed"
        refused = yard.submit("owner/name")
        with pytest.raises(JobFailedError, match="HF_ENDPOINT"):
            yard.desk.take(refused)
    told = yard.get(refused).job
    assert told.error_code == "bad_token"
    assert not any(word in f"{told.error_message} {told.traceback}" for word in ("me:", "p@ss", "p%40ss"))
    assert "p%40ss" not in repr(yard.kernel.settings)
