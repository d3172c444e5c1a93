"""Who may ask what: keys, roles, the console's login."""

from pathlib import Path

import pytest
from flask import Flask
from flask.testing import FlaskClient

from app import apikeys
from app.apikeys import Role
from app.kernel import Kernel
from app.web import create_app

from .conftest import Broker, kernel_of, settings_of
from .test_chat import BODY

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
    monkeypatch.setattr(apikeys, "FRESH", 0.0)


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
            "requests_per_minute": None, "max_running": None, "max_queued": None, "top_priority": 0, "models": [],
        },
    }  # fmt: skip
    assert client.post("/jobs", json=BODY).status_code == 202
    assert client.post("/jobs", json=BODY, headers=bearer("whatever")).status_code == 202
    kernel.close()
