"""GET /workers, what GET /models says of loaded models, and what operators ask of workers."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient

from app import loads
from app.errors import Failure
from app.kernel import Kernel
from app.registry import Card, Holding, Loading

from .conftest import submitted

CHAT = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What workers were asked."""
    asked: list[dict[str, Any]] = []

    def tell(_celery: object, verb: str, nodes: list[str], **arguments: object) -> None:
        asked.append({"verb": verb, "to": nodes, **arguments})

    monkeypatch.setattr(loads, "tell", tell)
    return asked


@pytest.fixture(autouse=True)
def model(kernel: Kernel, tmp_path: Path) -> None:
    kernel.catalog.add("m", tmp_path, format="safetensors", size_bytes=5, source="import")
    kernel.catalog.add("owner/n:tag", tmp_path, format="safetensors", size_bytes=5, source="import")


PLACES = [("gpu.0@h", "m"), ("gpu.1@h", "owner/n:tag")]
HOLDING = Holding(
    "m", "transformers", 1, 1, 7, 2048, "vLLM: no", "nf4", "bfloat16", 99, keep_alive=300.0, expires_at=1e9
)  # fmt: skip


@pytest.fixture
def cards(kernel: Kernel) -> Iterator[list[Card]]:
    shown = [
        Card("gpu.0@h", "gpu.0", "h", 11, "l0", (HOLDING,), memory_total=100, memory_free=40, cache_limit=2),
        Card("gpu.1@h", "gpu.1", "h", 12, "l1", (), (Loading("owner/n:tag", "vllm", 0.25, 1e9),), cache_limit=2),
    ]
    for card in shown:
        kernel.registry.announce(card)
    kernel.registry.forget()
    yield shown
    kernel.registry.forget()


def test_workers_show_what_they_are_hold_load_and_could_not_load(
    client: FlaskClient, kernel: Kernel, cards: list[Card]
) -> None:
    kernel.loads.failed("x", "gpu.1@h", Failure("out_of_memory", "too large"))
    first, second = client.get("/workers").get_json()["workers"]

    assert (first["node"], first["device"], first["host"], first["pid"]) == ("gpu.0@h", "gpu.0", "h", 11)
    assert (first["memory_total"], first["memory_free"], first["utilization"]) == (100, 40, None)
    assert first["models"] == [
        {
            "model": "m", "backend": "transformers", "why": "vLLM: no", "slots": 1, "running": 1, "context": 2048,
            "quantization": "nf4", "dtype": "bfloat16", "size_bytes": 99, "load_duration": 7, "keep_alive": 300.0,
            "expires_at": "2001-09-09T01:46:40Z", "leaving": False,
        }
    ]  # fmt: skip
    assert second["memory_total"] is None
    assert second["loading"] == [
        {"model": "owner/n:tag", "backend": "vllm", "progress": 0.25, "since": "2001-09-09T01:46:40Z"}
    ]
    failure = second["failures"][0]
    assert (failure["model"], failure["code"], failure["message"]) == ("x", "out_of_memory", "too large")
    assert 290 < failure["retry_after"] <= 300


def test_models_show_where_and_how_they_are_loaded(client: FlaskClient, cards: list[Card]) -> None:
    models = {model["model"]: model for model in client.get("/models").get_json()["models"]}

    held, loading = models["m"], models["owner/n:tag"]
    assert (held["loaded"], held["backend"], held["why"]) == (True, "transformers", "vLLM: no")
    assert (held["quantization"], held["dtype"], held["context"]) == ("nf4", "bfloat16", 2048)
    assert (held["workers"], held["keep_alive"]) == (["gpu.0@h"], 300.0)
    assert (loading["loaded"], loading["backend"], loading["workers"]) == (False, None, [])
    assert loading["loading"][0] | {"since": ""} == {
        "worker": "gpu.1@h", "model": "owner/n:tag", "backend": "vllm", "progress": 0.25, "since": "",
    }  # fmt: skip


def test_a_load_goes_to_the_best_worker_or_tells_who_has_it(
    client: FlaskClient, cards: list[Card], told: list[dict[str, Any]], kernel: Kernel, tmp_path: Path
) -> None:
    kernel.catalog.add("new", tmp_path, format="safetensors", size_bytes=5, source="import")
    first = client.post("/models/new/load", json={"keep_alive": "5m"})
    again = client.post("/models/m/load")

    assert (first.status_code, first.get_json()["workers"]) == (202, ["gpu.1@h"])
    assert told[0] == {"verb": "load", "to": ["gpu.1@h"], "model": "new", "keep_alive": 300.0}
    assert again.get_json()["workers"] == ["gpu.0@h"]
    assert client.post("/models/new/load", json={"worker": "gpu.0"}).get_json()["workers"] == ["gpu.0@h"]


def test_what_cannot_be_asked_is_refused(client: FlaskClient, cards: list[Card], told: list[dict[str, Any]]) -> None:
    unknown = client.post("/models/m/load", json={"worker": "gpu.9"})
    nowhere = client.post("/models/nothing/load")
    misspelt = client.post("/models/m/unload", json={"forced": True})
    strange = client.post("/models/m/load", json={"keep_alive": "soon"})

    assert [r.status_code for r in (unknown, nowhere, misspelt, strange)] == [400] * 4
    assert "gpu.0@h, gpu.1@h" in unknown.get_json()["detail"]
    assert strange.get_json()["error"]["param"] == "keep_alive"
    assert told == []


def test_without_a_worker_a_load_says_so(client: FlaskClient, told: list[dict[str, Any]]) -> None:
    response = client.post("/models/m/load")

    assert (response.status_code, response.get_json()["error"]["code"]) == (503, "no_worker")


def test_unload_cancel_and_reload_go_to_those_concerned(
    client: FlaskClient, cards: list[Card], told: list[dict[str, Any]]
) -> None:
    assert client.post("/models/m/unload", json={"force": True}).status_code == 202
    assert client.delete("/models/owner/n:tag/load").status_code == 202
    assert client.post("/models/m/reload").status_code == 202
    assert client.delete("/models/m/load").get_json() == {"status": "nothing to do", "model": "m", "workers": []}

    assert told == [
        {"verb": "unload", "to": ["gpu.0@h"], "model": "m", "force": True},
        {"verb": "cancel_load", "to": ["gpu.1@h"], "model": "owner/n:tag"},
        {"verb": "reload", "to": ["gpu.0@h"], "model": "m"},
    ]


def test_a_bound_model_leaves_other_devices_and_goes_to_its_own(
    client: FlaskClient, cards: list[Card], told: list[dict[str, Any]], kernel: Kernel
) -> None:
    response = client.put("/models/m/devices", json={"devices": ["gpu.1"]})

    assert response.get_json() == {"model": "m", "devices": ["gpu.1"], "unloading": ["gpu.0@h"]}
    assert told == [{"verb": "unload", "to": ["gpu.0@h"], "model": "m"}]
    kernel.registry.announce(Card("gpu.0@h", "gpu.0", "h", 11, "l0", cache_limit=2))
    kernel.registry.forget()
    card = kernel.loads.choose("m")
    assert card is not None
    assert card.node == "gpu.1@h"


def test_keep_alive_is_kept_and_told(client: FlaskClient, cards: list[Card], told: list[dict[str, Any]]) -> None:
    for value, seconds, pinned in (("10m", 600.0, True), (-1, -1.0, True), (None, -1.0, False)):
        assert client.put("/models/m/keep_alive", json={"keep_alive": value}).status_code == 200
        assert told[-1] == {"verb": "keep", "to": ["gpu.0@h"], "model": "m", "seconds": seconds, "pinned": pinned}


def test_engine_options_replace_those_before_and_have_the_model_loaded_anew(
    client: FlaskClient, kernel: Kernel, cards: list[Card], told: list[dict[str, Any]]
) -> None:
    def put(**options: Any) -> Any:
        return client.put("/models/m/engine_options", json={"engine_options": options})

    assert put(prefix_caching=False, slots=None).get_json() == {
        "model": "m",
        "engine_options": {"prefix_caching": False},
    }
    assert told == [{"verb": "renew", "to": ["gpu.0@h"], "model": "m"}]
    shown = next(model for model in client.get("/models").get_json()["models"] if model["model"] == "m")
    assert shown["engine_options"] == {"prefix_caching": False}

    refusals = [put(tensor_parallel=2), put(speculative_tokens=3, speculative_model="gone"), put(prefix=1)]
    assert [refused.status_code for refused in refusals] == [400, 400, 400]
    assert [refused.get_json()["error"]["param"] for refused in refusals[::2]] == ["tensor_parallel", "prefix"]
    assert kernel.catalog.get("m").engine_options == {"prefix_caching": False}


def test_a_name_may_ask_for_an_adapter(client: FlaskClient, kernel: Kernel, cards: list[Card], told: object) -> None:
    kernel.catalog.configure("m", engine_options={"lora_adapters": {"a": "/a"}})
    kernel.catalog.add("odd@name", Path("/"), format="safetensors", size_bytes=5, source="import")

    def asked(model: str) -> tuple[str, Any]:
        job = kernel.store.get(client.post("/jobs", json=CHAT | {"model": model}).get_json()["id"]).job
        return job.model, job.request.get("adapter")

    assert [asked("m"), asked("m@a"), asked("odd@name")] == [("m", None), ("m", "a"), ("odd@name", None)]
    lines = client.post("/jobs", data=json.dumps(CHAT | {"model": "m@a"}), content_type="application/x-ndjson")
    assert kernel.store.get(lines.get_json()["ids"][0]).job.request["adapter"] == "a"
    refused = client.post("/v1/chat/completions", json=CHAT | {"model": "m@b"})
    assert refused.status_code == 400
    listed = client.get("/v1/models").get_json()["data"]
    assert {row["id"] for row in listed if "@" in row["id"]} == {"odd@name", "m@a"}
    assert client.get("/v1/models/m@a").get_json()["id"] == "m@a"
    assert [client.get(f"/v1/models/{name}").status_code for name in ("m@b", "x@a")] == [400, 404]
    assert "no adapter 'b'; it has a" in refused.get_json()["error"]["message"]
    assert client.post("/jobs", json=CHAT | {"model": "none@a"}).get_json()["error"]["code"] == "model_not_downloaded"


def test_a_drained_node_gets_nothing_and_its_models_leave(
    client: FlaskClient, kernel: Kernel, cards: list[Card], told: list[dict[str, Any]]
) -> None:
    kernel.lives.begin("gpu.0@h", "h", pid=1, pid_started=0.0)
    kernel.registry.announce(Card("gpu.0@i", "gpu.0", "i", 13, "l2", cache_limit=1))

    assert client.post("/nodes/h/drain").get_json() == {"node": "h", "status": "draining"}

    unloads = [{"verb": "unload", "to": [node], "model": model, "force": False} for node, model in PLACES]
    assert told == unloads
    assert kernel.loads.choose("x").node == "gpu.0@i"  # type: ignore[union-attr]
    refused = client.post("/models/x/load", json={"worker": "gpu.1@h"})
    assert (refused.status_code, refused.get_json()["error"]["code"]) == (400, "model_not_downloaded")
    refused = client.post("/models/m/load", json={"worker": "gpu.1@h"})
    assert (refused.status_code, refused.get_json()["error"]["param"]) == (400, "worker")
    (shown,) = [node for node in client.get("/nodes").get_json()["nodes"] if node["node"] == "h"]
    assert (shown["workers"], shown["models"], shown["running"]) == (["gpu.0@h", "gpu.1@h"], 2, 0)
    assert client.delete("/nodes/h/drain").get_json()["status"] == "resumed"
    assert client.post("/nodes/nowhere/drain").get_json()["error"]["param"] == "node"
    kernel.registry.retire("gpu.0@i", "l2")


def test_a_model_in_cooldown_is_refused_with_the_reason_and_when_to_come_back(
    client: FlaskClient, kernel: Kernel, cards: list[Card], told: list[dict[str, Any]]
) -> None:
    kernel.registry.retire("gpu.0@h", "l0")
    kernel.loads.failed("m", "gpu.1@h", Failure("bad_model", "The file is broken."))
    for response in (client.post("/chat", json=CHAT), client.post("/jobs", json=CHAT), client.post("/models/m/load")):
        assert (response.status_code, response.get_json()["error"]["code"]) == (429, "model_cooldown")
        assert "The file is broken." in response.get_json()["detail"]
        assert 290 < int(response.headers["Retry-After"]) <= 300
    assert kernel.store.page() == []

    assert client.post("/debug/clear-cooldown", json={"model": "m"}).get_json()["models"] == ["m"]
    assert client.post("/jobs", json=CHAT).status_code == 202
    kernel.loads.failed("m", "gpu.1@h", Failure("bad_model", "The file is broken."))
    assert client.post("/debug/clear-cooldown").get_json()["models"] == ["m"]


def test_a_reload_ends_the_cooldown(
    client: FlaskClient, kernel: Kernel, cards: list[Card], told: list[dict[str, Any]]
) -> None:
    kernel.registry.retire("gpu.0@h", "l0")
    kernel.loads.failed("m", "gpu.1@h", Failure("bad_model", "broken"))

    assert client.post("/models/m/reload").status_code == 202
    assert told == [{"verb": "load", "to": ["gpu.1@h"], "model": "m", "keep_alive": None}]
    assert client.post("/jobs", json=CHAT).status_code == 202


def test_a_model_that_a_worker_holds_is_never_in_cooldown(
    client: FlaskClient, kernel: Kernel, cards: list[Card]
) -> None:
    kernel.loads.failed("m", "gpu.1@h", Failure("bad_model", "broken"))
    kernel.loads.failed("m", "gpu.0@h", Failure("bad_model", "broken"))

    assert client.post("/jobs", json=CHAT).status_code == 202


def test_the_sweep_fails_what_slipped_in_before_the_cooldown(
    client: FlaskClient, kernel: Kernel, cards: list[Card]
) -> None:
    kernel.registry.retire("gpu.0@h", "l0")
    job = submitted(kernel, model="m")
    kernel.loads.failed("m", "gpu.1@h", Failure("bad_model", "broken"))
    kernel.dispatcher.catch_up()

    assert client.get(f"/jobs/{job.id}").get_json()["error"] == {"code": "bad_model", "message": "broken"}


def test_what_was_just_placed_counts_before_its_worker_shows_it(
    kernel: Kernel, cards: list[Card], told: list[dict[str, Any]], tmp_path: Path
) -> None:
    kernel.registry.announce(Card("gpu.0@h", "gpu.0", "h", 11, "l0", cache_limit=2))
    kernel.registry.announce(Card("gpu.1@h", "gpu.1", "h", 12, "l1", cache_limit=2))
    kernel.registry.forget()
    kernel.loads.place("m")
    kernel.loads.place("owner/n:tag")

    assert [(ask["model"], ask["to"]) for ask in told] == [("m", ["gpu.0@h"]), ("owner/n:tag", ["gpu.1@h"])]


def test_a_burst_spreads_when_its_work_waits_beyond_the_window(
    kernel: Kernel, cards: list[Card], told: list[dict[str, Any]]
) -> None:
    kernel.registry.announce(Card("gpu.1@h", "gpu.1", "h", 12, "l1", cache_limit=2))
    kernel.registry.forget()
    for _ in range(3):
        submitted(kernel, model="m", created_at=1.0)
    kernel.dispatcher.catch_up()

    assert told == [{"verb": "load", "to": ["gpu.1@h"], "model": "m", "gentle": True}]


def test_work_within_the_window_does_not_spread(kernel: Kernel, cards: list[Card], told: list[dict[str, Any]]) -> None:
    kernel.registry.announce(Card("gpu.1@h", "gpu.1", "h", 12, "l1", cache_limit=2))
    kernel.registry.forget()
    submitted(kernel, model="m", created_at=1.0)
    kernel.dispatcher.catch_up()

    assert told == []
