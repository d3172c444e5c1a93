"""Health, the front door, errors, and who may ask."""

import itertools
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import structlog
from flask import Flask
from flask.testing import FlaskClient

from app.errors import UnavailableError
from app.kernel import Kernel
from app.web import create_app, health, vitals

from .conftest import Broker, Worker, kernel_of, settings_of
from .test_chat import BODY

HEALTH = {
    "status", "uptime_seconds", "models_cached", "cache_limit", "downloads_active", "downloads_queued",
    "torch_version", "cuda_available", "gpu_status", "gpu_memory_allocated_mb", "gpu_memory_reserved_mb",
    "workers", "queues",
}  # fmt: skip


def test_health_is_degraded_without_a_worker(client: FlaskClient) -> None:
    response = client.get("/health")
    assert (response.status_code, response.get_json()["status"]) == (200, "degraded")
    assert client.get("/health/ready").status_code == 503


def test_health_has_its_fields(client: FlaskClient, worker: Worker) -> None:
    worker.announce()
    client.post("/pull", json={"model": "m"})
    client.post("/jobs", json=BODY)
    body = client.get("/health").get_json()
    assert set(body) >= HEALTH
    assert (body["status"], body["models_cached"], body["torch_version"]) == ("healthy", 1, "2.9")
    assert (body["downloads_active"], body["downloads_queued"]) == (0, 1)
    assert body["queues"] == {"scripted": {"queued": 1, "running": 0}}
    assert client.get("/health/ready").get_json()["status"] == "ready"
    assert client.get("/status").get_json()["workers"][0]["node"] == "cpu.0@test"


def test_health_asks_the_others_once_a_second_however_often_it_is_asked(
    client: FlaskClient, kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[float] = []
    depths = kernel.store.depths
    monkeypatch.setattr(kernel.store, "depths", lambda: asked.append(time.monotonic()) or depths())
    for _ in range(200):
        assert client.get("/health").status_code == 200
    assert len(asked) >= 1
    assert all(later - earlier >= vitals.FRESH for earlier, later in itertools.pairwise(asked))


def test_a_broker_that_hangs_is_not_told_healthy_from_memory(
    app: Flask, worker: Worker, kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker.announce()
    assert app.test_client().get("/health/ready").status_code == 200
    hanging = threading.Event()

    def hang() -> None:
        hanging.wait(20)
        raise UnavailableError("broker_unavailable", "gone")

    monkeypatch.setattr(kernel.bus, "ping", hang)
    app.extensions[health.KEY]._asked_at -= vitals.STALE
    with ThreadPoolExecutor(2) as pool:
        answers = [pool.submit(lambda: app.test_client().get("/health/ready").status_code) for _ in range(2)]
        hanging.set()
        assert [answer.result(20) for answer in answers] == [503, 503]


def test_without_the_broker_the_site_says_so_and_comes_back(own_broker: Broker, tmp_path: Path) -> None:
    kernel = kernel_of(settings_of(tmp_path, own_broker.url))
    client = create_app(kernel=kernel).test_client()
    own_broker.stop()
    for response in (client.get("/health"), client.get("/health/ready"), client.post("/chat", json=BODY)):
        assert response.status_code == 503
        assert response.headers["Retry-After"] == "5"
    assert client.get("/health/live").status_code == 200
    assert client.post("/jobs", json=BODY).status_code == 202
    own_broker.start()
    kernel.close()


def test_diag_holds_no_secret(tmp_path: Path, broker: Broker) -> None:
    url = broker.url.replace("//", "//:pass@")
    places = {
        "hf_endpoint": "https://me:pass@hub.example/of/models",
        "flower_url": "http://me:pass@127.0.0.1:5555",
        "tokenyard_url": "http://me:p/?ass@127.0.0.1:8005",
    }
    kernel = kernel_of(settings_of(tmp_path, url, api_key="sesame", hf_token="hush", **places))
    client = create_app(kernel=kernel).test_client()
    for path, where in {"/diag": "https://hub.example/of/models", "/queues": "http://127.0.0.1:5555"}.items():
        body = client.get(path, headers={"Authorization": "Bearer sesame"})
        assert body.status_code == 200
        assert where in body.get_data(as_text=True)
        assert not any(word in body.get_data(as_text=True) for word in ("sesame", "hush", "pass@", "ass@", "me:"))
    kernel.close()


def test_the_front_door_knows_browsers_from_clients(client: FlaskClient) -> None:
    assert client.get("/").get_data(as_text=True) == "Ollama is running"
    assert client.get("/", headers={"Accept": "*/*"}).get_data(as_text=True) == "Ollama is running"
    with client.get("/", headers={"Accept": "text/html,*/*;q=0.8"}) as page:
        assert "<title>Tokenyard</title>" in page.get_data(as_text=True)
        assert "script-src 'self'" in page.headers["Content-Security-Policy"]


def test_the_documentation_needs_no_network(client: FlaskClient) -> None:
    page = client.get("/docs", follow_redirects=True)
    assert page.status_code == 200
    assert "http" not in page.get_data(as_text=True).split("<script nonce")[0]
    with client.get("/docs/swagger/js/swagger-ui-bundle.js") as script:
        assert script.status_code == 200
        assert script.get_data()
    document = client.get("/openapi.json").get_json()
    assert {"/chat", "/jobs", "/jobs/{id}", "/jobs/{id}/stream", "/pull", "/models", "/health"} <= set(
        document["paths"]
    )
    assert "ChatBody" in document["components"]["schemas"]


def test_every_native_operation_describes_its_answers(client: FlaskClient) -> None:
    document = client.get("/openapi.json").get_json()
    described = {
        f"{method} {path}": set(operation["responses"])
        for path, operations in document["paths"].items()
        for method, operation in operations.items()
        if not path.startswith(("/v1/", "/api/"))  # other dialects' shapes are described where they come from
    }
    assert [name for name, statuses in described.items() if not statuses & {"200", "201", "202"}] == []
    assert [name for name, statuses in described.items() if not {"400", "4XX", "5XX"} <= statuses] == []


@pytest.mark.parametrize(
    ("method", "path", "arguments", "status", "code"),
    [
        ("GET", "/nothing", {}, 404, "not_found"),
        ("GET", "/chat", {}, 405, "method_not_allowed"),
        ("POST", "/chat", {"data": "{", "content_type": "application/json"}, 400, "invalid_request"),
        ("POST", "/chat", {"data": "[]", "content_type": "application/json"}, 400, "invalid_request"),
        ("POST", "/chat", {"data": "[" * 90_000, "content_type": "application/json"}, 400, "invalid_request"),
        ("POST", "/nothing", {"data": "x"}, 404, "not_found"),
        ("PUT", "/jobs", {"data": "x"}, 405, "method_not_allowed"),
        ("POST", "/chat", {"data": "x", "content_type": "text/plain"}, 415, "unsupported_media_type"),
        ("POST", "/chat", {"data": b"x" * 3_000_000, "content_type": "application/json"}, 413, "too_large"),
        ("GET", "/", {"headers": {"Host": "evil.example"}}, 403, "forbidden_host"),
        ("POST", "/pull", {"json": {}, "headers": {"Origin": "https://evil.example"}}, 403, "forbidden_origin"),
        ("POST", "/pull", {"json": {}, "headers": {"Origin": "null"}}, 403, "forbidden_origin"),
        ("POST", "/pull", {"json": {}, "headers": {"Origin": "http://localhost:3000"}}, 400, "invalid_request"),
        ("GET", "/ws", {"headers": {"Origin": "https://evil.example"}}, 403, "forbidden_origin"),
    ],
)  # fmt: skip
def test_errors_have_one_shape(
    client: FlaskClient, method: str, path: str, arguments: dict[str, object], status: int, code: str
) -> None:
    if path == "/ws":
        arguments = {"headers": {**arguments["headers"], "Upgrade": "websocket", "Connection": "Upgrade"}}
    response = client.open(path, method=method, **arguments)
    assert response.status_code == status
    body = response.get_json()
    assert set(body["error"]) == {"code", "message", "param", "request_id"}
    assert body["error"]["code"] == code
    assert body["detail"] == body["error"]["message"]


def test_half_a_surrogate_pair_is_refused_before_it_is_a_job(client: FlaskClient, kernel: Kernel) -> None:
    body = r'{"model": "scripted", "messages": [{"role": "user", "content": "\ud800 hi"}]}'
    response = client.post("/jobs", data=body, content_type="application/json")
    assert response.status_code == 400
    assert "surrogate" in response.get_json()["detail"]
    assert kernel.store.page() == []


def test_an_unknown_fault_tells_nothing_of_itself(app: Flask, monkeypatch: pytest.MonkeyPatch) -> None:
    def burst(*args: object, **kwargs: object) -> None:
        raise RuntimeError("a secret path")

    monkeypatch.setattr("app.web.jobs.show", burst)
    response = app.test_client().post("/jobs", json=BODY)
    assert response.status_code == 500
    assert "secret path" not in response.get_data(as_text=True)


def test_a_request_keeps_the_id_that_it_came_with(client: FlaskClient) -> None:
    assert client.get("/", headers={"X-Request-Id": "abc-1"}).headers["X-Request-Id"] == "abc-1"
    assert client.get("/", headers={"X-Request-Id": "a b"}).headers["X-Request-Id"] != "a b"


@pytest.mark.parametrize(
    ("path", "given", "status"),
    [
        ("/models", None, 401),
        ("/models", "Bearer wrong", 401),
        ("/models", "Basic key", 401),
        ("/models", "Bearer ké", 401),
        ("/models", "Bearer key", 200),
        ("/health", None, 401),
        ("/health/live", None, 200),
        ("/health/ready", None, 401),
        ("/health/ready", "Bearer key", 503),
        ("/", None, 200),
        ("/openapi.json", None, 401),
        ("/openapi.json", "Bearer key", 200),
        ("/docs/swagger/js/swagger-ui-bundle.js", "Bearer key", 200),
    ],
)
def test_a_key_opens_the_site(tmp_path: Path, broker: Broker, path: str, given: str | None, status: int) -> None:
    kernel = kernel_of(settings_of(tmp_path, broker.url, api_key="key", host="0.0.0.0"))
    headers = {"Authorization": given} if given else {}
    client = create_app(kernel=kernel).test_client()
    with client.get(path, headers=headers) as response:
        assert response.status_code == status
    assert client.get("/", headers={"Host": "192.0.2.7:8005"}).status_code == 200
    assert client.get("/", headers={"Host": "evil.example"}).status_code == 403
    kernel.close()


def test_listed_origins_and_hosts_may_ask(tmp_path: Path, broker: Broker) -> None:
    allowed = {"cors_origins": "https://ui.example", "allowed_hosts": "gpu.example"}
    kernel = kernel_of(settings_of(tmp_path, broker.url, api_key="key", **allowed))
    client = create_app(kernel=kernel).test_client()
    headers = {"Origin": "https://ui.example", "Host": "gpu.example", "Authorization": "Bearer key"}
    response = client.post("/jobs", json=BODY, headers=headers)
    assert response.status_code == 202
    assert response.headers["Access-Control-Allow-Origin"] == "https://ui.example"
    assert client.options("/jobs", headers=headers).status_code == 200
    kernel.close()


def test_ready_tells_what_is_broken_and_that_it_is_well_again(
    client: FlaskClient, app: Flask, kernel: Kernel, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vitals, "FRESH", 0.0)
    worker.announce()

    def reasons() -> str:
        response = client.get("/health/ready")
        assert response.status_code == (503 if response.get_json()["reasons"] else 200)
        return " ".join(response.get_json()["reasons"])

    assert reasons() == ""
    kernel.bus.redis.delete("tokenyard:role:sweeper")
    assert "Nobody sweeps" in reasons()
    worker.announce()
    kernel.bus.redis.config_set("maxmemory", 1)
    try:
        assert "memory is full" in reasons()
        assert client.post("/chat", json=BODY).status_code == 503
        assert client.post("/jobs", json=BODY).status_code == 202
    finally:
        kernel.bus.redis.config_set("maxmemory", 0)
    monkeypatch.setattr(vitals, "LEAST_FREE", 1 << 60)
    assert "disk" in reasons()
    monkeypatch.setattr(vitals, "LEAST_FREE", 0)
    kernel.bus.redis.delete("tokenyard:role:puller")
    assert reasons() == ""
    assert client.get("/health").get_json()["status"] == "degraded"
    worker.announce()
    assert client.get("/health").get_json()["status"] == "healthy"


def test_no_escape_of_a_terminal_reaches_the_log(client: FlaskClient) -> None:
    options = {"\x1b[2J": 1, "temperature": 9, **{f"x{number}" + "y" * 100: 1 for number in range(9000)}}
    with structlog.testing.capture_logs() as logs:
        client.get("/jobs/%1b]0;pwn%07%0a%c2%9b?x=1").close()
        client.post("/api/chat", json=BODY | {"options": options}).close()
    told = {(entry["event"], entry.get("path")): entry for entry in logs}
    path, dropped = told["request", "/jobs/%1B%5D0%3Bpwn%07%0A%C2%9B"], told["options_dropped", None]
    assert (dropped["count"], len(dropped["first"])) == (9001, 5)
    for entry in (path, dropped):
        line = structlog.dev.ConsoleRenderer(colors=False)(None, "", dict(entry))
        assert line.isprintable()
        assert len(line) < 500
