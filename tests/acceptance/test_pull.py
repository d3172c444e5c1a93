"""Pulls on real processes, from a hub on loopback over a slow line, while their puller is killed."""

import json
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import websocket

from tests.command import tokenyard
from tests.conftest import running_stack
from tests.hub import FakeHub, safetensors
from tests.stack import Stack, eventually

CONFIG = b'{"model_type": "gpt2"}'
SHARDS = {f"model-0000{n}-of-00003.safetensors": safetensors(1_000_000 + n) for n in (1, 2, 3)}
REPOS = {
    "gpt2": {"config.json": CONFIG, "vocab.json": b"{}", **SHARDS},
    "owner/first": {"config.json": CONFIG, "model.safetensors": safetensors(2_000_000)},
    "owner/second": {"config.json": CONFIG, "model.safetensors": safetensors(2_000_001)},
}
TOTAL = sum(map(len, REPOS["gpt2"].values()))


@pytest.fixture(scope="module")
def hub(starter_gguf: Path) -> Iterator[FakeHub]:
    with FakeHub(REPOS | {"owner/smol-GGUF": {"smol.Q4_1.gguf": starter_gguf.read_bytes()}}) as hub:
        yield hub


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory, hub: FakeHub) -> Iterator[Stack]:
    """A stack that starts with no model at all."""
    folder = tmp_path_factory.mktemp("pulls")
    settings = {"HF_ENDPOINT": hub.url, "HF_HOME": str(folder / "hf"), "MAX_CONCURRENT_PULLS": "1", "NO_PROXY": "*"}
    yield from running_stack(folder, settings | {"HF_TOKEN": "", "HF_HUB_CACHE": ""}, verbs=["migrate"])


class Viewer:
    """Follows a job over WebSocket, and keeps its frames."""

    def __init__(self, stack: Stack, job_id: str) -> None:
        self.frames: list[dict[str, Any]] = []
        self._socket = websocket.create_connection(f"ws://127.0.0.1:{stack.port}/ws", timeout=90)
        self._socket.send(json.dumps({"type": "follow", "job_id": job_id}))
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def _read(self) -> None:
        while not self.frames or self.frames[-1]["type"] not in ("done", "error"):
            self.frames.append(json.loads(self._socket.recv()))

    def progress(self) -> list[dict[str, Any]]:
        return [frame for frame in self.frames if frame["type"] == "progress" and "downloaded_bytes" in frame]

    def end(self) -> dict[str, Any]:
        self._thread.join(90)
        self._socket.close()
        return self.frames[-1]


def pull(stack: Stack, model: str, **fields: Any) -> str:
    accepted = stack.http.post("/pull", json={"model": model, **fields})
    assert accepted.status_code == 202
    return str(accepted.json()["job_id"])


def test_a_puller_that_is_killed_at_half_costs_not_a_byte_of_a_finished_file(stack: Stack, hub: FakeHub) -> None:
    hub.throttle = 100_000
    job_id = pull(stack, "gpt2")
    viewer = Viewer(stack, job_id)
    eventually(lambda: viewer.progress() and viewer.progress()[-1]["progress"] > 0.5, seconds=60, what="half of it")
    children = psutil.Process(stack.processes["puller"].pid).children(recursive=True)
    stack.processes["puller"].send_signal(signal.SIGKILL)
    psutil.wait_procs(children, timeout=10)
    left = {path.name: path.stat().st_size for path in (stack.folder / "hf").rglob("*.tokenyard.incomplete")}
    before = len(hub.served)
    stack.kill("puller")
    hub.throttle = None
    stack.start("puller")
    job = stack.finished(job_id, seconds=90)

    assert viewer.end()["type"] == "done"
    assert (job["status"], job["losses"], job["progress"], job["downloaded_bytes"]) == ("succeeded", 1, 1.0, TOTAL)
    # What had come was not fetched again: whole files not at all, partial ones from their last byte.
    again = hub.served[before:]
    assert left
    assert sorted(served.start for served in again) == sorted(left.values())
    assert sum(served.sent for served in again) == TOTAL - job_bytes(hub, before, left)
    for name, content in SHARDS.items():
        assert (Path(job["local_path"]) / name).read_bytes() == content
    shares = [frame["progress"] for frame in viewer.progress()]
    assert shares == sorted(shares)
    assert shares.index(1.0) == len(shares) - 1
    assert [model["model"] for model in stack.http.get("/models").json()["models"] if model["model"] == "gpt2"]
    assert not list((stack.folder / "hf").rglob("*.incomplete"))


def job_bytes(hub: FakeHub, before: int, left: dict[str, int]) -> int:
    """How many bytes of the model had come: those of files that were whole, and those of partial ones."""
    whole = {s.file for s in hub.served[:before]} - {s.file for s in hub.served[before:]}
    return sum(len(REPOS["gpt2"][name]) for name in whole) + sum(left.values())


def test_so_many_run_and_the_rest_wait_and_both_can_be_cancelled(stack: Stack, hub: FakeHub) -> None:
    hub.throttle = 200_000
    first, second = pull(stack, "owner/first"), pull(stack, "owner/second")
    eventually(lambda: stack.job(first)["downloaded_bytes"] > 100_000)
    waiting = stack.job(second)
    twin = pull(stack, "owner/first")
    eventually(lambda: stack.job(twin)["downloaded_bytes"] > 100_000, what="a second watcher")

    stack.http.delete(f"/jobs/{second}")
    stack.http.delete(f"/jobs/{first}")
    cancelled = stack.finished(first, seconds=5)
    still = stack.job(twin)
    stack.http.delete(f"/jobs/{twin}")
    stack.finished(twin, seconds=5)
    sent = len(hub.served)

    assert waiting["status"] == "queued"
    assert cancelled["status"] == "cancelled"
    assert still["status"] == "running"
    assert stack.job(second)["status"] == "cancelled"
    assert len([s for s in hub.served[:sent] if s.file == "model.safetensors"]) <= 1
    eventually(lambda: not list((stack.folder / "hf").rglob("*.incomplete")), what="an end of partial files")
    names = {model["model"] for model in stack.http.get("/models").json()["models"]}
    assert not names & {"owner/first", "owner/second"}


def test_a_puller_that_is_asked_to_stop_hands_back_without_a_loss(stack: Stack, hub: FakeHub) -> None:
    hub.throttle = 200_000
    job_id = pull(stack, "owner/second", priority=1)
    eventually(lambda: stack.job(job_id)["downloaded_bytes"] > 100_000)

    puller = stack.processes.pop("puller")
    puller.terminate()
    puller.wait(30)
    hub.throttle = None
    stack.start("puller")
    job = stack.finished(job_id)

    assert (job["status"], job["losses"], job["attempt"]) == ("succeeded", 0, 2)
    assert hub.bodies("model.safetensors")[-1].start > 0


def test_a_refusal_is_a_failed_job_with_its_code_and_a_traceback_for_operators(stack: Stack, hub: FakeHub) -> None:
    job_id = pull(stack, "owner/nothing")
    job = stack.finished(job_id)

    assert (job["status"], job["error_code"], job["traceback"]) == ("failed", "model_not_found", None)
    assert "spelling" in job["error"]
    assert "Traceback" in stack.http.get(f"/jobs/{job_id}?traceback=true").json()["traceback"]
    assert stack.events(job_id)[-1]["error"]["code"] == "model_not_found"


def test_a_model_that_is_pulled_to_be_loaded_is_loaded_and_answers(stack: Stack, hub: FakeHub) -> None:
    hub.throttle = None
    job = stack.finished(pull(stack, "owner/smol-GGUF", init=True))

    def entry() -> dict[str, Any]:
        models = stack.http.get("/models").json()["models"]
        found: dict[str, Any] = next(model for model in models if model["model"] == "owner/smol-GGUF")
        return found

    assert job["status"] == "succeeded", job
    assert job["preferred_quantized"]
    eventually(lambda: entry()["loaded"], what="the model in memory")
    body = {"model": "owner/smol-GGUF", "messages": [{"role": "user", "content": "Say hi."}], "max_tokens": 4}
    assert stack.http.post("/chat", json=body).json()["eval_count"] > 0
    # Its files are ours, and go with it.
    stack.http.delete("/models/owner/smol-GGUF?force=true").raise_for_status()
    eventually(lambda: not (stack.folder / "hf" / "hub" / "models--owner--smol-GGUF").exists())


def test_the_command_pulls_what_it_is_asked_to_run_and_removes_it(stack: Stack, hub: FakeHub) -> None:
    hub.throttle = None
    done = tokenyard(stack, "run", "owner/smol-GGUF", "Say hi.", "--max-tokens", "4", "--json")
    assert "owner/smol-GGUF is here (" in done.stderr
    assert json.loads(done.stdout)["eval_count"] > 0
    assert tokenyard(stack, "rm", "owner/smol-GGUF", "--force").stdout == "Removed owner/smol-GGUF.\n"
    refused = tokenyard(stack, "pull", "owner/nothing-there", code=1).stderr
    assert refused.startswith("tokenyard: ")
    assert refused.count("\n") == 1
