"""Who may ask what: keys, roles, the console's login."""

import json
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from flask import Flask
from flask.testing import FlaskClient

from app import keyring
from app.apikeys import Role
from app.events import Token
from app.kernel import Kernel
from app.models import ApiKey
from app.web import create_app, groups, held, stream
from app.web.openai import completions

from .conftest import Broker, Worker, kernel_of, settings_of, until
from .test_chat import BODY, meanwhile

#: All that is answered without a key. What is not here must be closed.
OPEN = {
    ("GET", "/"), ("GET", "/health/live"), ("GET", "/login"), ("GET", "/login/login.css"), ("POST", "/login"),
}  # fmt: skip


@pytest.fixture
def api_key() -> str:
    return "sesame"


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys are read again at each request."""
    monkeypatch.setattr(keyring, "FRESH", 0.0)


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


@pytest.fixture
def keys(kernel: Kernel) -> dict[str, dict[str, str]]:
    """A header for each role."""
    return {role: bearer(kernel.api_keys.create(f"some-{role}", role)) for role in Role}


def test_every_route_is_closed_but_those_that_are_named(app: Flask, client: FlaskClient) -> None:
    walked = 0
    for rule in app.url_map.iter_rules():
        path = rule.build({name: "x" for name in rule.arguments}, append_unknown=False)[1]
        for method in sorted(rule.methods - {"HEAD", "OPTIONS"}):
            with client.open(path, method=method) as response:
                closed = response.status_code == 401
            assert closed != ((method, rule.rule) in OPEN), f"{method} {rule.rule}: {response.status_code}"
            walked += 1
    assert walked > 80


@pytest.mark.parametrize("path", ["/", "/nothing", "/docs/../models", "/console/app.js", "/v1/../jobs"])
def test_no_spelling_of_a_path_opens_it(client: FlaskClient, path: str) -> None:
    response = client.get(path)
    assert response.status_code in (401, 308) or response.data == b"Ollama is running"


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "DELETE", "TRACE", "PROPFIND", "get"])
@pytest.mark.parametrize(
    "path", ["/jobs", "/jobs/", "/v1//models", "/JOBS", "/%6aobs", "/jobs;x", "/login/../jobs", "/jobs%00", "/ws"]
)
def test_no_method_and_no_header_opens_a_path(client: FlaskClient, method: str, path: str) -> None:
    headers = {
        "X-HTTP-Method-Override": "OPTIONS", "X-Original-URL": "/login", "X-Rewrite-URL": "/login",
        "X-Forwarded-For": "127.0.0.1", "X-Forwarded-Host": "localhost", "X-Forwarded-Prefix": "/login",
        "X-Real-IP": "127.0.0.1", "Forwarded": "for=127.0.0.1",
    }  # fmt: skip
    response = client.open(path, method=method, headers=headers)
    assert response.status_code in (308, 401), response.get_data(as_text=True)


@pytest.mark.parametrize(
    ("role", "method", "path", "status"),
    [
        ("user", "GET", "/models", 200),
        ("user", "GET", "/jobs", 200),
        ("user", "GET", "/v1/models", 200),
        ("user", "GET", "/api/tags", 200),
        ("user", "GET", "/health", 200),
        ("user", "GET", "/queues", 200),
        ("user", "GET", "/workers", 403),
        ("user", "GET", "/status", 403),
        ("user", "GET", "/diag", 403),
        ("user", "GET", "/metrics", 403),
        ("user", "POST", "/pull", 403),
        ("user", "POST", "/api/pull", 403),
        ("user", "DELETE", "/api/delete", 403),
        ("user", "POST", "/api/copy", 403),
        ("user", "DELETE", "/models/m", 403),
        ("user", "POST", "/models/m/load", 403),
        ("user", "POST", "/models/m/unload", 403),
        ("user", "PUT", "/models/m/devices", 403),
        ("user", "POST", "/models/scan", 403),
        ("user", "POST", "/models/import", 403),
        ("user", "PUT", "/aliases/a", 403),
        ("user", "DELETE", "/aliases/a", 403),
        ("user", "POST", "/debug/clear-cooldown", 403),
        ("operator", "GET", "/diag", 200),
        ("operator", "GET", "/workers", 200),
        ("operator", "GET", "/metrics", 200),
        ("operator", "DELETE", "/models/m", 404),
        ("monitor", "GET", "/metrics", 200),
        ("monitor", "GET", "/me", 200),
        ("monitor", "GET", "/models", 403),
        ("monitor", "GET", "/jobs", 403),
        ("monitor", "POST", "/chat", 403),
        ("monitor", "POST", "/v1/chat/completions", 403),
        ("monitor", "GET", "/status", 403),
    ],
)
def test_a_role_may_do_what_it_is_for(
    client: FlaskClient, keys: dict[str, dict[str, str]], role: str, method: str, path: str, status: int
) -> None:
    response = client.open(path, method=method, headers=keys[role])
    assert response.status_code == status, response.get_data(as_text=True)


@pytest.mark.parametrize("given", [None, "Bearer wrong", "Basic sesame", "Bearer", "Bearer ké", "sesame"])
def test_a_refusal_has_the_dialect_s_shape(client: FlaskClient, given: str | None) -> None:
    headers = {} if given is None else {"Authorization": given}
    native, openai, ollama = (client.get(path, headers=headers) for path in ("/models", "/v1/models", "/api/tags"))
    assert [r.status_code for r in (native, openai, ollama)] == [401] * 3
    assert native.get_json()["error"]["code"] == "unauthorized"
    assert openai.get_json()["error"]["type"] == "authentication_error"
    assert isinstance(ollama.get_json()["error"], str)
    assert native.headers["WWW-Authenticate"] == "Bearer"
    assert client.get("/models", headers=bearer("sesame")).status_code == 200


def test_a_revoked_key_is_refused_at_the_next_request(client: FlaskClient, kernel: Kernel) -> None:
    key = bearer(kernel.api_keys.create("alice", Role.USER))
    assert client.get("/models", headers=key).status_code == 200
    kernel.api_keys.revoke("alice")
    assert client.get("/models", headers=key).status_code == 401


def test_a_browser_without_a_session_is_led_to_the_login(client: FlaskClient) -> None:
    html = {"Accept": "text/html"}
    assert client.get("/", headers=html).headers["Location"] == "/login"
    with client.get("/login") as page, client.get("/login/login.css") as style:
        assert 'name="key"' in page.get_data(as_text=True)
        assert "form-action 'self'" in page.headers["Content-Security-Policy"]
        assert style.status_code == 200
    with client.post("/login", data={"key": "wrong"}) as wrong:
        assert (wrong.status_code, "not known" in wrong.get_data(as_text=True)) == (401, True)
    answer = client.post("/login", data={"key": "sesame"})
    assert (answer.status_code, answer.headers["Location"]) == (303, "/")
    with client.get("/", headers=html) as page:
        assert "/console/app.js" in page.get_data(as_text=True)
    with client.get("/console/app.js") as script:
        assert script.status_code == 200


def test_a_session_does_what_its_key_may_and_needs_its_csrf_token(client: FlaskClient, kernel: Kernel) -> None:
    key = kernel.api_keys.create("alice", Role.USER)
    answer = client.post("/login", json={"key": key})
    cookie = answer.headers["Set-Cookie"]
    assert {"HttpOnly", "SameSite=Strict", "Path=/"} <= {part.strip() for part in cookie.split(";")}
    assert key not in cookie
    assert key.split("-", 2)[2] not in str(kernel.bus.redis.keys("*"))
    me = client.get("/me").get_json()
    assert (me["name"], me["role"], me["csrf"]) == ("alice", "user", answer.get_json()["csrf"])

    assert client.get("/jobs").status_code == 200
    assert client.get("/diag").status_code == 403
    for wrong in ({}, {"X-CSRF-Token": ""}, {"X-CSRF-Token": "ü"}, {"X-CSRF-Token": "0" * 64}):
        refused = client.post("/jobs", json=BODY, headers=wrong)
        assert (refused.status_code, refused.get_json()["error"]["code"]) == (403, "bad_csrf")
        assert client.delete("/jobs/x", headers=wrong).status_code == 403
    assert client.post("/jobs", json=BODY, headers={"X-CSRF-Token": me["csrf"]}).status_code == 202
    for origin, status in (("http://localhost", 202), ("http://localhost:3000", 401), ("https://evil.example", 403)):
        from_page = {"X-CSRF-Token": me["csrf"], "Origin": origin}
        assert client.post("/jobs", json=BODY, headers=from_page).status_code == status, origin
    assert client.post("/jobs", json=BODY, headers=bearer(key)).status_code == 202


def test_a_session_ends_with_its_logout_and_with_its_key(client: FlaskClient, app: Flask, kernel: Kernel) -> None:
    kernel.api_keys.create("ops", Role.OPERATOR)
    key = kernel.api_keys.create("alice", Role.USER)
    token = {"X-CSRF-Token": client.post("/login", json={"key": key}).get_json()["csrf"]}
    stolen = app.test_client()
    stolen.set_cookie("tokenyard_session", client.get_cookie("tokenyard_session").value)
    assert stolen.get("/me").status_code == 200
    assert stolen.post("/logout").status_code == 403
    assert client.post("/logout", headers=token).status_code == 200
    assert stolen.get("/me").status_code == 401
    client.post("/login", json={"key": key})
    assert client.get("/me").status_code == 200
    kernel.api_keys.revoke("alice")
    assert client.get("/me").status_code == 401


@pytest.mark.parametrize("body", [{}, {"key": ""}, {"key": 3}, {"key": "x" * 2000}, {"key": None}, []])
def test_a_login_that_is_none_is_told(client: FlaskClient, body: object) -> None:
    assert client.post("/login", json=body).status_code == 400
    assert client.post("/login", json={"key": "wrong"}).status_code == 401
    client.set_cookie("tokenyard_session", "made-up")
    assert client.get("/me").status_code == 401


def test_a_login_from_another_site_is_refused(client: FlaskClient) -> None:
    headers = {"Origin": "https://evil.example"}
    assert client.post("/login", data={"key": "sesame"}, headers=headers).status_code == 403


def test_without_any_key_a_page_on_this_machine_needs_none(tmp_path: Path, broker: Broker) -> None:
    kernel = kernel_of(settings_of(tmp_path, broker.url))
    client = create_app(kernel=kernel).test_client()
    assert client.get("/me").get_json() == {
        "name": "", "role": "operator", "csrf": None,
        "limits": {
            "requests_per_minute": None, "max_running": None, "max_queued": None, "files_quota": 10_000_000_000,
            "top_priority": 0, "models": [],
        },
    }  # fmt: skip
    assert client.post("/jobs", json=BODY).status_code == 202
    assert client.post("/jobs", json=BODY, headers=bearer("whatever")).status_code == 202
    kernel.close()


MESSAGES = {key: BODY[key] for key in ("model", "messages")}


@pytest.mark.parametrize(
    ("path", "body", "how"),
    [
        ("/chat", BODY | {"stream": True}, "revoked"),
        ("/chat", BODY | {"stream": True}, "expired"),
        ("/chat", BODY | {"stream": True}, "logged out"),
        ("/v1/chat/completions", MESSAGES | {"stream": True}, "revoked"),
        ("/v1/completions", {"model": "scripted", "prompt": ["a", "b"], "stream": True}, "revoked"),
        ("/v1/responses", {"model": "scripted", "input": "Hi", "stream": True}, "expired"),
        ("/api/chat", MESSAGES, "revoked"),
        ("/api/generate", {"model": "scripted", "prompt": "Hi"}, "expired"),
        ("/jobs/{}/stream", None, "revoked"),
        ("/groups/nightly/stream", None, "logged out"),
    ],
)
def test_a_stream_ends_with_its_key_and_its_job_goes_on(
    app: Flask, kernel: Kernel, worker: Worker, monkeypatch: pytest.MonkeyPatch, path: str, body: Any, how: str
) -> None:
    for module in (stream, groups):
        monkeypatch.setattr(module, "BEAT", 0.02)
    abandoned: list[str] = []
    for module in (held, completions):
        monkeypatch.setattr(module, "abandon", lambda site, job_id: abandoned.append(job_id))
    key = kernel.api_keys.create("alice", Role.USER, expires_in=3600)
    client, headers = app.test_client(), bearer(key)
    if how == "logged out":
        csrf = client.post("/login", json={"key": key}).get_json()["csrf"]
        headers = {"X-CSRF-Token": csrf}
    if body is None:
        lines = {"data": json.dumps(BODY), "content_type": "application/x-ndjson"}
        client.post("/jobs?group=nightly", headers=headers, **lines)
    tokens: list[Token] = []

    def begin() -> None:
        job_id = worker.next_job()
        tokens.extend(worker.tokens(job_id, worker.claim(job_id), 1, 2))

    if body is None:
        job_id = worker.next_job()
        begin()
        response = client.get(path.format(job_id), headers=headers, buffered=False)
        told = response.iter_encoded()
    else:
        with meanwhile(begin):
            response = client.post(path, json=body, headers=headers, buffered=False)
            told = response.iter_encoded()
    assert response.status_code == 200
    read = next(told)
    if how == "revoked":
        kernel.api_keys.revoke("alice")
    elif how == "expired":
        with kernel.database.write() as session:
            session.execute(sa.update(ApiKey).values(expires_at=1.0))
    else:
        other = app.test_client()
        other.set_cookie("tokenyard_session", client.get_cookie("tokenyard_session").value)
        assert other.post("/logout", headers=headers).status_code == 200
    read += b"".join(told)
    last = json.loads(read.decode().strip().split("\n")[-1].removeprefix("data: "))
    error = last["error"]
    if path.startswith("/api"):
        assert "was ended" in error
    else:
        assert error["code"] == ("invalid_api_key" if path.startswith("/v1") else "unauthorized")
    assert read.count(b"was ended") - read.count(b'"detail"') == 1
    response.close()
    # Its jobs are the tenant's: none is taken for one whose client hung up.
    assert not abandoned
    assert {detail.job.status for detail in kernel.store.page()} <= {"running", "queued"}
    assert not any(detail.job.end_requested for detail in kernel.store.page())


def test_a_whole_answer_s_key_that_ends_is_told_by_the_status(
    client: FlaskClient, kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "BEAT", 0.02)
    key = bearer(kernel.api_keys.create("alice", Role.USER))
    with meanwhile(lambda: until(lambda: kernel.store.page()) or kernel.api_keys.revoke("alice")):
        response = client.post("/chat", json=BODY | {"stream": False}, headers=key)
    assert (response.status_code, response.get_json()["error"]["code"]) == (401, "unauthorized")
