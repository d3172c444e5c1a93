"""What a key may use: requests a minute, jobs in the queue, models, priorities; each refusal says so."""

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from flask import Flask

from app.apikeys import Role
from app.jobs import BATCH_PRIORITY
from app.kernel import Kernel
from app.stock import Model
from app.web import create_app

from .conftest import Broker, Worker, kernel_of, settings_of
from .test_chat import BODY
from .test_tenants import NDJSON, Tenant

CHAT = {key: BODY[key] for key in ("model", "messages")}
#: A request of each dialect that makes a job.
ASKS = [
    ("/jobs", BODY),
    ("/v1/responses", {"model": "scripted", "input": "Hi", "background": True}),
    ("/api/chat", CHAT),
]


@pytest.fixture
def api_key() -> str:
    return "sesame"


Make = Callable[..., Tenant]


@pytest.fixture
def make(app: Flask, kernel: Kernel) -> Make:
    def make(name: str = "alice", role: Role = Role.USER, **may: Any) -> Tenant:
        return Tenant(app.test_client(), kernel.api_keys.create(name, role, **may))

    return make


def test_requests_a_minute_are_counted_over_all_web_processes(make: Make, kernel: Kernel) -> None:
    alice, bob = make(requests_per_minute=3), make("bob", requests_per_minute=3)
    other = Tenant(create_app(kernel=kernel).test_client(), alice._key["Authorization"].split()[1])
    first, second, third = (who("POST", "/jobs", json=BODY) for who in (alice, other, alice))
    assert [r.status_code for r in (first, second, third)] == [202] * 3
    assert [r.headers["x-ratelimit-remaining-requests"] for r in (first, second, third)] == ["2", "1", "0"]
    for who, (path, body) in ((other, ASKS[0]), (alice, ASKS[1]), (other, ASKS[2])):
        refused = who("POST", path, json=body)
        assert refused.status_code == 429
        assert 0 < int(refused.headers["Retry-After"]) <= 60
        assert refused.headers["x-ratelimit-limit-requests"] == "3"
        assert refused.headers["x-ratelimit-remaining-requests"] == "0"
        assert refused.headers["x-ratelimit-reset-requests"] == f"{refused.headers['Retry-After']}s"
        assert "3 requests a minute" in refused.get_data(as_text=True)
    assert len(kernel.store.page()) == 3
    # Looking costs nothing, and nobody else pays.
    assert alice("GET", "/jobs").status_code == 200
    assert bob("POST", "/jobs", json=BODY).status_code == 202
    assert "x-ratelimit-limit-requests" not in make("carol")("POST", "/jobs", json=BODY).headers


def test_while_the_broker_is_away_nobody_counts_and_jobs_are_accepted(own_broker: Broker, tmp_path: Path) -> None:
    kernel = kernel_of(settings_of(tmp_path, own_broker.url, api_key="sesame"))
    alice = Tenant(
        create_app(kernel=kernel).test_client(), kernel.api_keys.create("alice", Role.USER, requests_per_minute=1)
    )
    own_broker.stop()
    assert [alice("POST", "/jobs", json=BODY).status_code for _ in range(2)] == [202, 202]
    kernel.close()


@pytest.mark.parametrize("count", [1, 2])
def test_jobs_in_the_queue_have_a_limit(make: Make, kernel: Kernel, count: int) -> None:
    alice, bob = make(max_queued=2), make("bob")
    lines = "\n".join([json.dumps(BODY)] * count)
    while alice("POST", "/jobs", data=lines, headers=NDJSON).status_code == 202:
        assert len(kernel.store.page()) <= 2
    for path, body in ASKS:
        refused = alice("POST", path, json=body)
        assert (refused.status_code, int(refused.headers["Retry-After"]) > 0) == (429, True)
        assert "2 jobs in the queue" in refused.get_data(as_text=True)
    assert len(kernel.store.page()) == 2
    assert bob("POST", "/jobs", json=BODY).status_code == 202


@pytest.mark.parametrize(("path", "body"), ASKS)
def test_a_key_uses_its_own_models_alone(make: Make, kernel: Kernel, path: str, body: dict[str, Any]) -> None:
    with kernel.database.write() as session:
        session.add(Model(name="m", path="", format="gguf", size_bytes=1, source="pulled", created_at=0.0))
    alice = make(models=["m"])
    refused = alice("POST", path, json=body)
    assert refused.status_code == 403
    assert "may not use 'scripted'" in refused.get_data(as_text=True)
    assert [row["model"] for row in alice("GET", "/models").get_json()["models"]] == ["m"]
    assert [row["id"] for row in alice("GET", "/v1/models").get_json()["data"]] == ["m"]
    assert [row["name"] for row in alice("GET", "/api/tags").get_json()["models"]] == ["m:latest"]
    lines = alice("POST", "/jobs", data=json.dumps(BODY), headers=NDJSON)
    assert (lines.status_code, lines.get_json()["error"]["code"]) == (403, "forbidden_model")
    assert kernel.store.page() == []


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/tokenize", {"model": "scripted", "prompt": "Hi"}),
        ("POST", "/detokenize", {"model": "scripted", "tokens": [1]}),
        ("GET", "/models/scripted", None),
        ("GET", "/v1/models/scripted", None),
        ("POST", "/api/show", {"model": "scripted"}),
    ],
)
def test_another_model_is_not_even_shown(make: Make, method: str, path: str, body: dict[str, Any] | None) -> None:
    refused = make(models=["m"])(method, path, json=body)
    assert refused.status_code == 403
    assert "may not use 'scripted'" in refused.get_data(as_text=True)
    assert make("bob", models=["scripted"])(method, path, json=body).status_code != 403


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/api/generate", {"model": "scripted"}),  # which loads it
        ("POST", "/api/chat", {"model": "scripted", "messages": []}),
        ("POST", "/api/generate", {"model": "scripted", "keep_alive": 0}),
        ("POST", "/jobs", BODY | {"model": "scripted@tone"}),  # whose refusal names the adapters
        ("GET", "/aliases/other", None),
    ],
)
def test_nor_is_it_loaded_or_told_of(make: Make, kernel: Kernel, method: str, path: str, body: Any) -> None:
    kernel.aliases.put("other", "scripted")
    refused = make(models=["m"])(method, path, json=body)
    assert refused.status_code == 403
    assert "may not use 'scripted'" in refused.get_data(as_text=True)


def test_suggestions_tell_of_a_key_s_own_models_alone(make: Make, kernel: Kernel) -> None:
    kernel.catalog.add("microsoft/phi-4", Path("/m"), format="safetensors", size_bytes=1, source="pull")
    told = [make(f"key{n}", models=[name])("GET", "/models/suggested") for n, name in enumerate(("phi4", "m"))]
    here = [{name for entry in answer.get_json()["models"] for name in entry["downloaded"]} for answer in told]
    assert here == [{"microsoft/phi-4"}, set()]


def test_logins_are_counted_as_each_is_kept_for_hours(app: Flask, kernel: Kernel) -> None:
    key = kernel.api_keys.create("alice", Role.USER, requests_per_minute=2)
    statuses = [app.test_client().post("/login", json={"key": key}).status_code for _ in range(3)]
    assert statuses == [200, 200, 429]
    assert len(kernel.bus.redis.keys("*login:*")) == 2


def test_a_key_s_models_are_meant_by_any_of_their_names(make: Make, kernel: Kernel) -> None:
    with kernel.database.write() as session:
        session.add(Model(name="o/n:q4", path="", format="gguf", size_bytes=1, source="pulled", created_at=0.0))
    for alias in ("swift", "Quick"):
        kernel.aliases.put(alias, "o/n:q4")
    kernel.aliases.put("other", "scripted")
    for number, name in enumerate(("swift", "SWIFT", "quick:latest", "o/n:q4")):
        alice = make(f"key{number}", models=[name])
        for asked in ("swift", "Quick", "o/n:q4", "O/N:q4", "swift:latest"):
            assert alice("POST", "/jobs", json=BODY | {"model": asked}).status_code == 202, (name, asked)
        assert alice("POST", "/jobs", json=BODY | {"model": "other"}).status_code == 403
        assert {entry["alias"] for entry in alice("GET", "/aliases").get_json()["aliases"]} == {"Quick", "swift"}
    alice = make("late", models=["swift"])
    kernel.aliases.put("swift", "scripted")  # from now on that is what the key may use
    assert alice("POST", "/jobs", json=BODY).status_code == 202
    assert alice("POST", "/jobs", json=BODY | {"model": "o/n:q4"}).status_code == 403


def test_a_key_has_a_best_priority(make: Make, kernel: Kernel) -> None:
    alice = make(top_priority=8)
    refused = alice("POST", "/jobs", json=BODY | {"priority": 7})
    assert (refused.status_code, refused.get_json()["error"]["code"]) == (403, "forbidden_priority")
    asked = [alice("POST", "/jobs", json=BODY | given) for given in ({}, {"priority": 9})]
    asked.append(alice("POST", "/jobs", data=json.dumps(CHAT), headers=NDJSON))
    detached = CHAT | {"detach": True}
    assert alice("POST", "/v1/chat/completions", json=detached | {"priority": 1}).status_code == 403
    assert [r.status_code for r in asked] == [202] * 3
    assert sorted(detail.job.priority for detail in kernel.store.page()) == [8, 8, 9]
    assert BATCH_PRIORITY < 8


def test_how_long_a_model_stays_is_the_operators_to_say(make: Make, kernel: Kernel, worker: Worker) -> None:
    for who, kept in ((make(), None), (make("ops", Role.OPERATOR), 0.0)):
        job = who("POST", "/jobs", json=BODY | {"keep_alive": 0}).get_json()["id"]
        assert kernel.store.get(job).job.request["keep_alive"] == kept
    worker.announce()
    assert make("bob")("POST", "/api/generate", json={"model": "scripted", "keep_alive": 0}).status_code == 403


GUNICORN = {"wsgi.input_terminated": True}


def form_of(size: int) -> dict[str, Any]:
    """An upload whose body has so many bytes."""
    head = b'--x\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n'
    head += b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
    tail = b"\r\n--x--\r\n"
    given: dict[str, Any] = {"content_type": "multipart/form-data; boundary=x", "environ_overrides": GUNICORN}
    return given | {"data": head + bytes(size - len(head) - len(tail)) + tail}


CHUNKED: dict[str, Any] = {"headers": {"Transfer-Encoding": "chunked"}, "environ_overrides": GUNICORN}
#: werkzeug leaves the file of a form that breaks off to Python to close.
LEFT = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


def without_length(size: int) -> dict[str, Any]:
    """The same in chunks, as gunicorn hands them on."""
    whole = form_of(size)
    return {"input_stream": io.BytesIO(whole["data"]), "content_type": whole["content_type"]} | CHUNKED


@LEFT
@pytest.mark.parametrize("upload", [form_of, without_length])
def test_the_files_of_a_tenant_have_a_quota(make: Make, upload: Callable[[int], dict[str, Any]]) -> None:
    alice, bob = make(files_quota=10_000), make("bob")
    first = alice("POST", "/v1/files", **upload(8000))
    assert (first.status_code, first.get_json()["purpose"]) == (200, "batch")
    refused = alice("POST", "/v1/files", **upload(4000))
    error = refused.get_json()["error"]
    assert (refused.status_code, error["code"], error["type"]) == (413, "files_full", "invalid_request_error")
    assert "10,000 bytes together" in error["message"]
    parts = [(name, (io.BytesIO(b"x"), "a")) for name in "abcdefghijklmnopqrst"]
    assert bob("POST", "/v1/files", data=dict(parts)).get_json()["error"]["code"] == "too_large"
    for _ in range(3):  # what is refused for another reason takes no room
        assert alice("POST", "/v1/files", data={"purpose": "none", "x": "y" * 1000}).status_code == 400
    assert alice("POST", "/v1/files", **upload(1900)).status_code == 200
    assert len(alice("GET", "/v1/files").get_json()["data"]) == 2
    assert bob("POST", "/v1/files", **upload(100_000)).status_code == 200
    assert alice("DELETE", f"/v1/files/{first.get_json()['id']}").status_code == 200
    assert alice("POST", "/v1/files", **upload(4000)).status_code == 200
    assert make("carol", files_quota=5000)("POST", "/v1/files", **upload(5000)).status_code == 200
    assert alice("GET", "/me").get_json()["limits"]["files_quota"] == 10_000


@LEFT
def test_what_has_no_room_is_not_read(make: Make, kernel: Kernel) -> None:
    alice, body = make(files_quota=100_000), form_of(2_000_000)
    told, untold = io.BytesIO(body["data"]), io.BytesIO(body["data"])
    given = {"content_type": body["content_type"]}
    length = {"CONTENT_LENGTH": str(len(body["data"]))}
    assert alice("POST", "/v1/files", input_stream=told, environ_overrides=length, **given).status_code == 413
    assert alice("POST", "/v1/files", input_stream=untold, **CHUNKED, **given).status_code == 413
    assert told.tell() == 0
    assert 0 < untold.tell() <= 100_001
    assert list((kernel.settings.data_dir / "files").glob("*")) == []
    assert alice("POST", "/v1/files", **form_of(100_000)).status_code == 200
