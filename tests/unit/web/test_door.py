"""Hosts, origins, and what answers carry for browsers."""

import re
from pathlib import Path

import pytest
from flask.testing import FlaskClient

from app import keyring
from app.apikeys import Role
from app.kernel import Kernel
from app.web import create_app

from .conftest import Broker, kernel_of, settings_of
from .test_chat import BODY

LOOPBACK = ["http://localhost:3000", "http://127.0.0.1:1", "https://[::1]:8443", "http://127.8.9.10"]
FOREIGN = [
    "null",
    "https://evil.example",
    "http://localhost.evil.example",
    "http://127.0.0.1.evil.example",
    "http://evil.example#localhost",
    "http://localhost@evil.example",
    "http://[::1",
    "http://0x7f.1",
    "file://",
]


@pytest.mark.parametrize("origin", LOOPBACK)
def test_pages_of_this_machine_may_ask_while_nobody_else_can(client: FlaskClient, origin: str) -> None:
    asked = client.options("/jobs", headers={"Origin": origin, "Access-Control-Request-Method": "POST"})
    assert (asked.status_code, asked.headers["Access-Control-Allow-Origin"]) == (200, origin)
    assert client.post("/jobs", json=BODY, headers={"Origin": origin}).status_code == 202
    assert "Access-Control-Allow-Credentials" not in asked.headers


@pytest.mark.parametrize("header", ["X-Forwarded-For", "Forwarded", "X-Real-IP"])
def test_without_a_key_nothing_comes_through_a_proxy(
    client: FlaskClient, kernel: Kernel, header: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keyring, "FRESH", 0.0)
    through = {header: "for=203.0.113.9"}
    upgrade = {"Upgrade": "websocket", "Connection": "Upgrade"}
    for path, more in {"/diag": {}, "/jobs": {}, "/nothing": {}, "/ws": upgrade}.items():
        refused = client.get(path, headers=through | more)
        assert refused.status_code == 401, path
        assert "tokenyard keys create" in refused.get_json()["error"]["message"]
    assert client.get("/diag").status_code == 200
    assert client.get("/health/live", headers=through).status_code == 200
    key = kernel.api_keys.create("ops", Role.OPERATOR)
    assert client.get("/jobs", headers=through | {"Authorization": f"Bearer {key}"}).status_code == 200


@pytest.mark.parametrize("origin", FOREIGN)
@pytest.mark.parametrize(
    "path", ["/jobs", "/chat", "/v1/chat/completions", "/api/chat", "/v1/files", "/models/x/unload", "/nothing"]
)
def test_pages_from_elsewhere_may_not(client: FlaskClient, origin: str, path: str) -> None:
    refused = client.post(path, data=b"{}", content_type="text/plain", headers={"Origin": origin})
    assert refused.status_code == 403
    assert "Access-Control-Allow-Origin" not in refused.headers
    assert "Access-Control-Allow-Origin" not in client.get("/jobs", headers={"Origin": origin}).headers


def test_beyond_loopback_only_listed_origins_and_the_sites_own_may(tmp_path: Path, broker: Broker) -> None:
    kernel = kernel_of(settings_of(tmp_path, broker.url, api_key="key", host="0.0.0.0", cors_origins="https://ui.one"))
    client = create_app(kernel=kernel).test_client()
    for origin, status in {
        "https://ui.one": 202,
        "http://192.0.2.7:8005": 202,
        "http://192.0.2.7:81": 403,
        "http://localhost": 403,
    }.items():
        headers = {"Origin": origin, "Host": "192.0.2.7:8005", "Authorization": "Bearer key"}
        assert client.post("/jobs", json=BODY, headers=headers).status_code == status, origin
    kernel.close()


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1:8005", 200),
        ("localhost", 200),
        ("[::1]:8005", 200),
        ("LOCALHOST:1", 200),
        ("evil.example", 403),
        ("localhost.evil.example", 403),
        ("127.0.0.1.evil.example", 403),
        ("192.0.2.7", 403),  # bound to loopback, nobody reaches it under that address
        ("evil.example@localhost", 403),
        ("[::1", 403),
        ("", 403),
        ("a b", 403),
    ],
)
def test_a_name_that_somebody_points_here_is_not_served(client: FlaskClient, host: str, status: int) -> None:
    for path in ("/health/live", "/models", "/ws", "/v1/models"):
        answer = client.get(path, headers={"Host": host})
        if path != "/ws" or status == 403:
            assert answer.status_code == status, path


@pytest.mark.parametrize("path", ["/", "/models", "/nothing", "/docs", "/openapi.json", "/v1/models", "/metrics"])
def test_every_answer_can_do_nothing_in_a_browser(client: FlaskClient, path: str) -> None:
    headers = client.get(path).headers
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["X-Frame-Options"] == "DENY"
    assert headers["Referrer-Policy"] == "no-referrer"
    assert "default-src 'none'" in headers["Content-Security-Policy"]
    assert "frame-ancestors 'none'" in headers["Content-Security-Policy"]


def test_pages_run_their_own_scripts_alone(client: FlaskClient) -> None:
    with client.get("/", headers={"Accept": "text/html"}) as console:
        assert "unsafe" not in console.headers["Content-Security-Policy"]
        assert not re.search(r"<script(?![^>]*src=)|style=|<style|\son\w+=", console.get_data(as_text=True))
    nonces = set()
    for _ in range(2):
        page = client.get("/docs/swagger")
        nonce = re.findall(r"'nonce-([^']+)'", page.headers["Content-Security-Policy"])[0]
        assert re.findall(r"<script([^>]*)>\s", page.get_data(as_text=True)) == [f' nonce="{nonce}"']
        nonces.add(nonce)
    assert len(nonces) == 2
