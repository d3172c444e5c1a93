"""Pulls: what is fetched from a hub, what is told on the way, and what an end leaves behind."""

import json
import os
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from app.bus import Entry
from app.catalog import Catalog
from app.database import Database
from app.errors import JobFailedError, UnavailableError
from app.events import Event
from app.jobs import Kind, State, new_id
from app.models import Base, Job, Life, Pull
from app.settings import Settings
from app.store import Detail, Store
from inference.download import DownloadError, Order, choose
from inference.process import Process, spawn
from tasks import pull
from tests.hub import FakeHub

ROOT = Path(__file__).parents[2]
GPT2 = {
    "config.json": b'{"model_type": "gpt2"}',
    "tokenizer.json": b"{}" * 100,
    "merges.txt": b"a b\n",
    "model.safetensors": b"s" * 300_000,
    "pytorch_model.bin": b"pickle",
    "modeling_evil.py": b"import os",
    "onnx/config.json": b"{}",
}
GGUFS = {f"tiny-{quant}.gguf": quant.encode() * 1000 for quant in ("F16", "Q3_K_S", "Q4_0", "Q4_K_M", "Q8_0")}
REPOS = {
    "gpt2": GPT2,
    "owner/name": {"config.json": b"{}", "model.safetensors": b"w" * 1000},
    "owner/tiny-gguf": {"README.md": b"hi", **GGUFS},
    "owner/pickled": {"config.json": b"{}", "pytorch_model.bin": b"pickle"},
}

#: What a developer's own environment may hold, and would lead a child away from the fake hub.
FOREIGN = ("HF_TOKEN", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HUB_OFFLINE", "HF_TOKEN_PATH")


class Child:
    """The real child, and the lines that it wrote."""

    def __init__(self, hub_url: str, home: Path, *, token: str | None = None, **order: Any) -> None:
        out, into = os.pipe()
        env = {**os.environ, "HF_HOME": str(home), "HF_ENDPOINT": hub_url, "PYTHONPATH": str(ROOT)}
        env = {name: value for name, value in env.items() if name not in FOREIGN} | {"NO_PROXY": "127.0.0.1"}
        if token is not None:
            env["HF_TOKEN"] = token
        argv = [sys.executable, "-m", "inference.download", json.dumps(order), str(into)]
        self.process: Process = spawn(argv, pass_fds=(into,), env=env)
        os.close(into)
        self._file = os.fdopen(out, "rb")

    def lines(self) -> Iterator[dict[str, Any]]:
        for line in self._file:
            yield json.loads(line)

    def close(self) -> None:
        self.process.kill()
        self._file.close()


@pytest.fixture
def pulled(tmp_path: Path) -> Iterator[Callable[..., list[dict[str, Any]]]]:
    """Runs the child to its end and gives its lines."""
    children = []

    def run(hub: FakeHub | str, **order: Any) -> list[dict[str, Any]]:
        child = Child(hub if isinstance(hub, str) else hub.url, tmp_path / "hf", **order)
        children.append(child)
        return list(child.lines())

    yield run
    for child in children:
        child.close()


def test_a_safetensors_model_comes_without_code_and_pickles(pulled: Any) -> None:
    with FakeHub(REPOS) as hub:
        lines = pulled(hub, repo="gpt2")

    wanted = ("config.json", "tokenizer.json", "merges.txt", "model.safetensors")
    size = sum(len(GPT2[name]) for name in wanted)
    assert lines[0] == {"total": size, "files": 4}
    assert lines[-2] == {"downloaded": size}
    assert lines[-1]["format"] == "safetensors"
    assert lines[-1]["size_bytes"] == size
    folder = Path(lines[-1]["path"])
    assert sorted(path.name for path in folder.rglob("*")) == sorted(wanted)
    assert (folder / "model.safetensors").read_bytes() == GPT2["model.safetensors"]


def test_an_owned_name_works_alike_and_bytes_only_rise(pulled: Any) -> None:
    with FakeHub({"owner/name": {"config.json": b"{}", "model.safetensors": b"w" * 900_000}}, throttle=400_000) as hub:
        lines = pulled(hub, repo="owner/name")

    counts = [line["downloaded"] for line in lines if "downloaded" in line]
    assert counts == sorted(set(counts))
    assert any(2 < count < 900_002 for count in counts)
    assert (Path(lines[-1]["path"]) / "config.json").is_file()


def test_what_is_there_already_is_not_fetched_again(pulled: Any) -> None:
    with FakeHub(REPOS) as hub:
        first = pulled(hub, repo="owner/name")
        hub.requests.clear()
        second = pulled(hub, repo="owner/name")

        assert second[-1] == first[-1]
        assert not hub.is_fetched("model.safetensors")


@pytest.mark.parametrize(("repo", "file"), [("owner/tiny-gguf", "Q4_K_M"), ("owner/tiny-gguf:q8_0", "Q8_0")])
def test_one_file_of_a_gguf_repository_is_fetched(pulled: Any, repo: str, file: str) -> None:
    with FakeHub(REPOS) as hub:
        last = pulled(hub, repo=repo)[-1]

    assert last["format"] == "gguf"
    assert Path(last["path"]).name == f"tiny-{file}.gguf"
    assert last["size_bytes"] == len(GGUFS[f"tiny-{file}.gguf"])


@pytest.mark.parametrize(
    ("repo", "extra", "code", "remedy"),
    [
        ("owner/nothing", {}, "model_not_found", "spelling"),
        ("no//name", {}, "model_not_found", "spelling"),
        ("gpt2", {"revision": "v9"}, "revision_not_found", "'v9'"),
        ("owner/pickled", {}, "no_weights", "pickle"),
        ("gpt2:Q4_0", {}, "no_weights", "pull it as 'gpt2'"),
        ("gpt2", {"file": "pytorch_model.bin"}, "no_weights", ".gguf"),
        ("owner/tiny-gguf:Q2_K", {}, "file_not_found", "tiny-Q8_0.gguf"),
        ("gpt2", {"token": "hf_wrong"}, "bad_token", "HF_TOKEN"),
    ],
)
def test_a_refusal_names_its_code_and_its_remedy(
    pulled: Any, repo: str, extra: dict[str, Any], code: str, remedy: str
) -> None:
    with FakeHub(REPOS, token="hf_right") as hub:
        last = pulled(hub, repo=repo, **extra)[-1]

    assert last["error"] == code
    assert remedy in last["message"]


def test_a_gated_model_says_how_to_get_in_and_opens_for_a_token(pulled: Any) -> None:
    with FakeHub(REPOS, gated={"gpt2"}, token="hf_right") as hub:
        refused = pulled(hub, repo="gpt2")[-1]
        let_in = pulled(hub, repo="gpt2", token="hf_right")[-1]

    assert refused["error"] == "gated_model"
    assert "HF_TOKEN" in refused["message"]
    assert let_in["format"] == "safetensors"


def test_a_hub_that_stumbles_is_asked_again(pulled: Any) -> None:
    with FakeHub(REPOS, stumbles=1) as hub:
        assert "path" in pulled(hub, repo="owner/name")[-1]


def test_a_connection_that_breaks_off_costs_no_byte(pulled: Any) -> None:
    with FakeHub(REPOS, cuts=2) as hub:
        lines = pulled(hub, repo="gpt2")

    assert (Path(lines[-1]["path"]) / "model.safetensors").read_bytes() == GPT2["model.safetensors"]
    counts = [line["downloaded"] for line in lines if "downloaded" in line]
    assert counts == sorted(set(counts))
    assert counts[-1] == lines[0]["total"]


def test_a_hub_that_is_not_there_is_named(pulled: Any) -> None:
    with FakeHub({}) as hub:
        gone = hub.url

    last = pulled(gone, repo="gpt2")[-1]

    assert last["error"] == "hub_unreachable"
    assert "HF_ENDPOINT" in last["message"]


def test_a_kill_ends_the_child_at_once(tmp_path: Path) -> None:
    with FakeHub({"gpt2": GPT2 | {"model.safetensors": b"s" * 3_000_000}}, throttle=100_000) as hub:
        child = Child(hub.url, tmp_path, repo="gpt2")
        next(child.lines())

        child.process.kill(timeout=5)

        assert not child.process.alive
        child.close()


def test_a_model_without_q4_gives_its_first_file_and_a_split_one_all_its_parts() -> None:
    assert choose(["b-Q8_0.gguf", "a-Q5_K.gguf", "mmproj-a.gguf"], Order("o/n")) == ["a-Q5_K.gguf"]
    assert choose(["a-Q4_0.gguf", "a-F16.gguf"], Order("o/n")) == ["a-Q4_0.gguf"]
    parts = [f"q/a-Q4_K_M-0000{n}-of-00002.gguf" for n in (1, 2)]
    assert choose([*reversed(parts), "a-F16.gguf"], Order("o/n")) == parts
    with pytest.raises(DownloadError, match=r"safetensors"):
        choose(["README.md", "unet/model.safetensors"], Order("o/n"))


class FakeBus:
    """Takes what a pull says; while `gone`, it is a broker that does not answer."""

    def __init__(self) -> None:
        self.gone = False
        self.published: list[Event] = []
        self.ended: list[Entry] = []

    def _check(self) -> None:
        if self.gone:
            raise UnavailableError("broker_unavailable", "gone")

    def install(self, job_id: str, attempt: int, seconds: float) -> bool:
        self._check()
        return True

    def publish(self, node: str, job_id: str, event: Event) -> None:
        self._check()
        self.published.append(event)

    def finish(self, node: str, entry: Entry) -> None:
        self._check()
        self.ended.append(entry)


class Yard:
    """A kernel with a database of its own and no broker."""

    life = uuid.uuid4().hex

    def __init__(self, home: Path) -> None:
        database = Database(f"sqlite:///{home / 'jobs.db'}")
        Base.metadata.create_all(database.engine)
        self.bus = FakeBus()
        self.home = home
        self.database = database
        self.kernel: Any = SimpleNamespace(
            database=database, store=Store(database), catalog=Catalog(database), bus=self.bus, settings=None
        )
        with database.write() as session:
            session.add(Life(id=self.life, node="puller@here", host="here", pid=1, pid_started=0.0, started_at=0.0))

    def submit(self, model: str) -> str:
        now = time.time()
        job = Job(
            id=new_id(), kind=Kind.PULL, model=model, priority=5, held=False, timeout=600.0, request={"model": model},
            expires_at=now + 600, created_at=now,
        )  # fmt: skip
        self.kernel.store.submit(job, Pull(quantize="auto", init=False))
        return job.id

    def run(self, hub: FakeHub, job_id: str, ended: Callable[[str], str | None] = lambda _: None) -> None:
        self.kernel.settings = Settings(_env_file=None, data_dir=self.home, hf_home=self.home, hf_endpoint=hub.url)
        pull.run_pull(self.kernel, self.life, "puller@here", job_id, ended)

    def get(self, job_id: str) -> Detail:
        return self.kernel.store.get(job_id)


@pytest.fixture
def yard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Yard]:
    for name in FOREIGN:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    yard = Yard(tmp_path)
    yield yard
    yard.database.close()


def test_a_pull_succeeds_with_its_row_its_model_and_its_last_event(yard: Yard) -> None:
    job_id = yard.submit("owner/name")

    with FakeHub(REPOS) as hub:
        yard.run(hub, job_id)

    job, row, _ = yard.get(job_id)
    assert row is not None
    assert job.status == State.SUCCEEDED
    assert (row.downloaded_bytes, row.total_bytes, row.size_bytes, row.progress) == (1002, 1002, 1002, 1.0)
    model = yard.kernel.catalog.get("owner/name")
    assert (model.path, model.format, model.source) == (row.local_path, "safetensors", "pull")
    assert yard.bus.published
    assert [(entry.attempt, entry.event.state) for entry in yard.bus.ended] == [(1, "succeeded")]


def test_a_pull_outlives_the_broker(yard: Yard) -> None:
    yard.bus.gone = True
    job_id = yard.submit("gpt2")

    with FakeHub(REPOS) as hub:
        yard.run(hub, job_id)

    assert yard.get(job_id).job.status == State.SUCCEEDED


def test_a_failed_pull_keeps_its_reason_and_raises_it(yard: Yard) -> None:
    job_id = yard.submit("owner/pickled")

    with FakeHub(REPOS) as hub, pytest.raises(JobFailedError, match="pickle"):
        yard.run(hub, job_id)

    job = yard.get(job_id).job
    assert (job.status, job.error_code) == (State.FAILED, "no_weights")
    assert yard.bus.ended[0].event.code == "no_weights"


def test_a_child_that_dies_without_a_word_fails_the_pull(yard: Yard, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pull, "spawn", lambda argv, **kwargs: spawn(["/bin/false"], **kwargs))
    job_id = yard.submit("gpt2")

    with FakeHub(REPOS) as hub, pytest.raises(JobFailedError):
        yard.run(hub, job_id)

    assert yard.get(job_id).job.error_code == "download_failed"


def test_a_cancelled_pull_ends_within_a_second_and_leaves_no_process(
    yard: Yard, monkeypatch: pytest.MonkeyPatch
) -> None:
    children: list[Process] = []
    monkeypatch.setattr(pull, "spawn", lambda *a, **k: children.append(spawn(*a, **k)) or children[-1])
    job_id = yard.submit("gpt2")
    asked_at: list[float] = []
    deadline = time.monotonic() + 30

    def ended(_: str) -> str | None:
        row = yard.get(job_id).pull
        if asked_at or (row is not None and row.downloaded_bytes > 0) or time.monotonic() > deadline:
            asked_at.append(time.monotonic())
            return "cancelled"
        return None

    with FakeHub({"gpt2": GPT2 | {"model.safetensors": b"s" * 30_000_000}}, throttle=500_000) as hub:
        yard.run(hub, job_id, ended)
        took = time.monotonic() - asked_at[0]

    assert took < 1
    assert not children[0].alive
    job, row, _ = yard.get(job_id)
    assert job.status == State.CANCELLED
    assert row is not None
    assert 0 < row.progress < 1
    assert [entry.event.state for entry in yard.bus.ended] == ["cancelled"]


def test_a_pull_that_was_lost_stops_quietly(yard: Yard) -> None:
    job_id = yard.submit("gpt2")

    def ended(_: str) -> None:
        with yard.database.write() as session:
            session.merge(Job(id=job_id, attempt=2))

    with FakeHub(REPOS) as hub:
        yard.run(hub, job_id, ended)

    assert yard.get(job_id).job.status == State.RUNNING
    assert not yard.bus.ended


def test_a_pull_that_another_delivery_claimed_is_left_alone(yard: Yard) -> None:
    job_id = yard.submit("gpt2")
    assert yard.kernel.store.claim(job_id, yard.life, "puller@here") is not None

    with FakeHub(REPOS) as hub:
        yard.run(hub, job_id)

        assert not hub.requests
