"""Two workers on one machine, as two devices would be: who loads what, who takes over, and what is given back."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from app.catalog import Catalog
from app.database import Database
from tests.stack import Stack, broker, eventually

pytestmark = pytest.mark.slow

#: All of them the starter model's file.
NAMES = ("a", "b", "c", "owner/d:tag")


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory, starter_gguf: Path) -> Iterator[Stack]:
    """A stack with workers on cpu.0 and cpu.1, with two places of two slots; a broken model and four whole ones."""
    folder = tmp_path_factory.mktemp("pair")
    with broker(folder) as url:
        stack = Stack(folder, url, STARTER_GGUF=str(starter_gguf), WORKER_SLOTS="2", MAX_CACHE_MODELS="2")
        stack.run("migrate")
        add_models(stack, starter_gguf)
        stack.env["PRELOAD_MODELS"] = "owner/d:tag"
        try:
            stack.start("web", "cpu.0", "cpu.1", "keeper", "beat")
            del stack.env["PRELOAD_MODELS"]  # what a test starts anew begins empty
            stack.ready()
            eventually(lambda: len(workers(stack)) == 2, what="both workers")
            yield stack
        finally:
            stack.close()


def add_models(stack: Stack, gguf: Path) -> None:
    broken = stack.folder / "broken.gguf"
    broken.write_bytes(gguf.read_bytes()[:5000])
    database = Database(f"sqlite:///{stack.folder / 'jobs.db'}")
    catalog = Catalog(database)
    for name in NAMES:
        catalog.add(name, gguf, format="gguf", size_bytes=gguf.stat().st_size, source="import")
    catalog.add("broken", broken, format="gguf", size_bytes=5000, source="import")
    database.close()


@pytest.fixture(autouse=True)
def empty(pair: Stack) -> Iterator[None]:
    """Both workers without a model, before and after."""
    yield
    for device in ("cpu.0", "cpu.1"):
        if device not in pair.processes:
            pair.start(device)
    eventually(lambda: len(workers(pair)) == 2, seconds=60, what="both workers")
    for job in pair.http.get("/jobs", params={"limit": 200}).json()["jobs"]:
        if job["status"] in ("queued", "running"):
            pair.http.delete(f"/jobs/{job['id']}")
    eventually(lambda: all(unloaded(pair, worker) for worker in workers(pair)), what="no model is held")


def unloaded(stack: Stack, worker: dict[str, Any]) -> bool:
    for model in worker["models"] + worker["loading"]:
        stack.http.post(f"/models/{model['model']}/unload", json={"force": True})
    return not worker["models"] + worker["loading"]


def workers(stack: Stack) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = stack.http.get("/workers").json()["workers"]
    return found


def holders(stack: Stack, model: str) -> list[str]:
    return [w["device"] for w in workers(stack) if any(held["model"] == model for held in w["models"])]


def running(stack: Stack) -> dict[str, int]:
    return {held["model"]: held["running"] for worker in workers(stack) for held in worker["models"]}


def ask(model: str, **fields: Any) -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": "one two"}], "temperature": 0, **fields}


def long(model: str = "scripted", tokens: int = 200) -> dict[str, Any]:
    return ask(model, max_tokens=tokens, ignore_eos=True, scripted_tokens_per_second=20)


def words(count: int) -> str:
    return " ".join(f"t{n}" for n in range(count))


def submit(stack: Stack, body: dict[str, Any]) -> str:
    response = stack.http.post("/jobs", json=body)
    assert response.status_code == 202, response.text
    return str(response.json()["id"])


def entry(stack: Stack, model: str) -> dict[str, Any]:
    found: dict[str, Any] = next(m for m in stack.http.get("/models").json()["models"] if m["model"] == model)
    return found


def memory_of(stack: Stack, device: str) -> int:
    """Bytes that a worker and all its descendants hold, shared pages counted once."""
    root = psutil.Process(stack.processes[device].pid)
    total = 0
    for process in [root, *root.children(recursive=True)]:
        try:
            total += process.memory_full_info().pss
        except psutil.NoSuchProcess:
            continue
    return total


def test_what_is_preloaded_is_on_one_worker_without_any_request(pair: Stack) -> None:
    eventually(lambda: entry(pair, "owner/d:tag")["loaded"], what="loaded")

    assert len(holders(pair, "owner/d:tag")) == 1
    assert pair.http.get("/jobs").json()["jobs"] == []


def test_three_models_take_turns_on_a_cache_of_two_and_memory_stays_flat(pair: Stack) -> None:
    for model in "abc":
        bound = pair.http.put(f"/models/{model}/devices", json={"devices": ["cpu.0"]})
        assert bound.json()["devices"] == ["cpu.0"]
    sizes = []
    for turn in range(30):
        model = "abc"[turn % 3]
        assert pair.http.post("/chat", json=ask(model, max_tokens=4)).status_code == 200
        # What made room has gone before the model came: the memory is back by now.
        sizes.append(memory_of(pair, "cpu.0"))
        assert holders(pair, model) == ["cpu.0"]
    held = next(worker["models"] for worker in workers(pair) if worker["device"] == "cpu.0")

    assert {model["model"] for model in held} == {"b", "c"}
    warm = sizes[3:]
    assert max(warm) < 1.05 * min(warm), sizes
    for model in "abc":
        pair.http.put(f"/models/{model}/devices", json={"devices": []})


def test_two_models_run_on_two_workers_at_once(pair: Stack) -> None:
    jobs = [submit(pair, long()), submit(pair, long("a", 2000))]
    eventually(lambda: all(pair.job(job)["status"] == "running" for job in jobs), what="both run")

    assert {pair.job(job)["worker"].split("@")[0] for job in jobs} == {"cpu.0", "cpu.1"}
    eventually(lambda: running(pair) == {"scripted": 1, "a": 1}, what="the cards follow")
    shown = {held["model"]: held for worker in workers(pair) for held in worker["models"]}
    assert (shown["a"]["backend"], shown["a"]["slots"]) == ("llamacpp", 2)
    assert all(worker["memory_total"] > worker["memory_free"] > 0 for worker in workers(pair))
    assert entry(pair, "a")["workers"][0].split("@")[0] in holders(pair, "a")


def test_a_burst_spreads_to_the_second_worker(pair: Stack) -> None:
    jobs = [submit(pair, long(tokens=60)) for _ in range(8)]
    eventually(lambda: len(holders(pair, "scripted")) == 2, what="a second holder")
    done = [pair.finished(job) for job in jobs]

    assert {job["worker"].split("@")[0] for job in done} == {"cpu.0", "cpu.1"}
    assert {job["text"] for job in done} == {words(60)}
    assert {job["losses"] for job in done} == {0}


def test_a_worker_s_death_moves_its_models(pair: Stack) -> None:
    running = submit(pair, long(tokens=100))
    eventually(lambda: pair.job(running)["status"] == "running")
    victim = pair.job(running)["worker"].split("@")[0]
    assert holders(pair, "scripted") == [victim]
    pair.kill(victim)
    waiting = submit(pair, long(tokens=5))

    assert pair.finished(waiting)["worker"].split("@")[0] != victim
    job = pair.finished(running)
    assert (job["losses"], job["worker"].split("@")[0] != victim) == (1, True)
    assert job["text"] == words(100)
    assert victim not in [worker["device"] for worker in workers(pair)]


def test_what_nobody_can_load_is_in_cooldown_until_somebody_clears_it(pair: Stack) -> None:
    eventually(lambda: len(workers(pair)) == 2, what="both workers")  # one that comes later has not failed yet
    first = pair.http.post("/chat", json=ask("broken"))
    second = pair.http.post("/chat", json=ask("broken"))

    assert (first.status_code, first.json()["error"]["code"]) == (500, "bad_model")
    assert (second.status_code, second.json()["error"]["code"]) == (429, "model_cooldown")
    assert 0 < int(second.headers["Retry-After"]) <= 300
    assert "not a whole GGUF file" in second.json()["detail"]
    assert {failure["worker"].split("@")[0] for failure in entry(pair, "broken")["failures"]} == {"cpu.0", "cpu.1"}
    assert pair.http.post("/debug/clear-cooldown").json()["models"] == ["broken"]
    assert pair.http.post("/chat", json=ask("broken")).status_code == 500
    assert pair.http.post("/debug/clear-cooldown", json={"model": "broken"}).status_code == 200


def test_keep_alive_says_how_long_a_model_stays(pair: Stack) -> None:
    name = "owner/d:tag"
    assert pair.http.post(f"/models/{name}/load", json={"keep_alive": "1h"}).status_code == 202
    shown = eventually(lambda: e if (e := entry(pair, name))["loaded"] else None, what="loaded")
    assert (shown["keep_alive"], shown["why"], shown["loading"]) == (3600, None, [])
    assert shown["expires_at"] is not None

    assert pair.http.post("/chat", json=ask(name, max_tokens=2, keep_alive=0)).status_code == 200
    eventually(lambda: not entry(pair, name)["loaded"], what="unloaded")


def test_a_reload_lets_running_jobs_finish(pair: Stack) -> None:
    job = submit(pair, long(tokens=60))
    eventually(lambda: pair.job(job)["status"] == "running")
    assert pair.http.post("/models/scripted/reload").json()["status"] == "reloading"
    done = pair.finished(job)

    assert (done["text"], done["losses"], done["attempt"]) == (words(60), 0, 1)
    eventually(lambda: entry(pair, "scripted")["loaded"], what="loaded anew")
    assert pair.http.post("/chat", json=long(tokens=3)).json()["message"]["content"] == "t0 t1 t2"


def test_unload_with_force_hands_running_jobs_back(pair: Stack) -> None:
    job = submit(pair, long(tokens=60))
    eventually(lambda: pair.job(job)["status"] == "running")
    pair.http.post("/models/scripted/unload", json={"force": True})
    done = pair.finished(job)

    assert (done["text"], done["losses"]) == (words(60), 0)
    assert done["attempt"] == 2
