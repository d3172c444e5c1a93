"""A real web process: gunicorn with gevent, WebSockets, and a database that is locked."""

import contextlib
import json
import os
import select
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from simple_websocket import Client, ConnectionClosed

from app.apikeys import Role
from app.bus import Entry
from app.events import Token
from app.kernel import Kernel

from .conftest import NODE, Broker, Worker, free_port, kernel_of, settings_of, until
from .test_chat import BODY

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def address(kernel: Kernel, broker: Broker, tmp_path: Path) -> Iterator[str]:
    with serving(broker, tmp_path) as (url, _):
        yield url


@contextlib.contextmanager
def serving(
    broker: Broker, tmp_path: Path, config: Path | str = "app/web/gunicorn.py", **settings: str
) -> Iterator[tuple[str, psutil.Process]]:
    """A site's address, and gunicorn."""
    port = free_port()
    env = {
        **os.environ,
        "ROLE": "web",
        "HOST": "127.0.0.1",
        "PORT": str(port),
        "DATA_DIR": str(tmp_path),
        "REDIS_URL": broker.url,
        "ENABLE_SCRIPTED_ENGINE": "1",
        **settings,
    }
    command = [sys.executable, "-m", "gunicorn", "--config", str(config), "app.web:create_app()"]
    with (tmp_path / "web.log").open("wb") as log:
        process = subprocess.Popen(command, cwd=ROOT, env=env, stdout=log, stderr=log)
    url = f"http://127.0.0.1:{port}"
    try:
        until(lambda: _is_live(url), 90)
        yield url, psutil.Process(process.pid)
    finally:
        process.send_signal(signal.SIGQUIT)
        process.wait(timeout=20)
        assert "Traceback" not in (tmp_path / "web.log").read_text()


def _is_live(url: str) -> bool:
    with contextlib.suppress(httpx.TransportError):
        return httpx.get(f"{url}/health/live", trust_env=False).status_code == 200
    return False


@pytest.fixture
def http(address: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=address, timeout=30, trust_env=False) as client:
        yield client


class Wire:
    """A WebSocket's client."""

    def __init__(self, address: str, headers: dict[str, str] | None = None) -> None:
        self.socket = Client(address.replace("http", "ws") + "/ws", headers=headers)

    def say(self, **fields: Any) -> None:
        self.socket.send(json.dumps(fields))

    def hear(self) -> dict[str, Any]:
        """The next frame that is no progress."""
        while True:
            raw = self.socket.receive(timeout=15)
            assert raw is not None
            frame: dict[str, Any] = json.loads(raw)
            if frame["type"] != "progress":
                return frame

    def close(self) -> None:
        with contextlib.suppress(ConnectionClosed):
            self.socket.close()
        self.socket.thread.join(timeout=5)
        self.socket.sock.close()  # the library leaves it open where the server closed first


@pytest.fixture
def wire(address: str) -> Iterator[Wire]:
    wire = Wire(address)
    yield wire
    wire.close()


CHAT = {key: BODY[key] for key in ("model", "messages")}


def test_a_socket_needs_the_key_where_there_is_one(kernel: Kernel, broker: Broker, tmp_path: Path) -> None:
    with serving(broker, tmp_path, API_KEY="sesame") as (url, _):
        upgrade = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13"}
        upgrade["Sec-WebSocket-Key"] = "dGhlIHNhbXBsZSBub25jZQ=="
        for headers in ({}, upgrade | {"Authorization": "Bearer wrong"}, upgrade | {"Authorization": ""}):
            assert httpx.get(f"{url}/ws", headers=headers, trust_env=False).status_code == 401
        wire = Wire(url, headers={"Authorization": "Bearer sesame"})
        wire.say(type="ping", ref=1)
        assert wire.hear()["type"] == "pong"
        wire.close()

        key = kernel.api_keys.create("alice", Role.USER)
        until(lambda: httpx.get(f"{url}/me", headers={"Authorization": f"Bearer {key}"}, trust_env=False).is_success)
        login = httpx.post(f"{url}/login", json={"key": key}, trust_env=False)
        wire = Wire(url, headers={"Cookie": f"tokenyard_session={login.cookies['tokenyard_session']}"})
        wire.say(type="ping", ref=1)
        assert wire.hear()["type"] == "pong"
        # A page of another port may upgrade, and has the cookie with it; it is nobody until it sends a key.
        elsewhere = {
            "Cookie": f"tokenyard_session={login.cookies['tokenyard_session']}",
            "Origin": "http://localhost:1",
        }
        wire_of_page = Wire(url, headers=elsewhere)
        wire_of_page.say(type="ping", ref=1)
        assert wire_of_page.hear()["error"]["code"] == "unauthorized"
        wire_of_page.close()
        later = Wire(url, headers={"Cookie": f"tokenyard_session={login.cookies['tokenyard_session']}"})
        out = {"X-CSRF-Token": login.json()["csrf"]}
        assert httpx.post(f"{url}/logout", headers=out, cookies=login.cookies, trust_env=False).status_code == 200
        _is_shown_out(later, type="ping")
        wire.close()
        again = httpx.post(f"{url}/login", json={"key": key}, trust_env=False)
        wire = Wire(url, headers={"Cookie": f"tokenyard_session={again.cookies['tokenyard_session']}"})
        wire.say(type="auth", key="sesame")  # from here on it is the operator's
        assert wire.hear()["role"] == "operator"
        wire.say(type="generate", **CHAT)
        assert kernel.store.get(wire.hear()["job_id"]).job.tenant == ""
        wire.close()
        wire = Wire(url, headers={"Authorization": f"Bearer {key}"})
        kernel.api_keys.revoke("alice")
        until(lambda: httpx.get(f"{url}/me", headers={"Authorization": f"Bearer {key}"}, trust_env=False).is_error)
        _is_shown_out(wire, type="ping", ref=2)


def test_what_is_open_ends_with_its_key(kernel: Kernel, broker: Broker, tmp_path: Path, worker: Worker) -> None:
    with serving(broker, tmp_path, API_KEY="sesame") as (url, _), httpx.Client(base_url=url, trust_env=False) as http:
        key = kernel.api_keys.create("alice", Role.USER)
        login = http.post("/login", json={"key": key})
        cookie = {"Cookie": f"tokenyard_session={login.cookies['tokenyard_session']}"}
        silent, shown, stays = Wire(url, _bearer(key)), Wire(url, cookie), Wire(url, _bearer("sesame"))
        noisy = Wire(url, _bearer(key))
        silent.say(type="generate", ref=1, **CHAT)
        job_id = silent.hear()["job_id"]
        worker.tokens(job_id, worker.claim(job_id), 1, 2)
        assert [silent.hear()["seq"] for _ in range(2)] == [1, 2]
        with http.stream("GET", f"/jobs/{job_id}/stream", headers=_bearer(key)) as response:
            lines = response.iter_lines()
            assert next(lines) == "id: 1"
            kernel.api_keys.revoke("alice")
            began = time.monotonic()
            with pytest.raises(ConnectionClosed) as closed:
                until(lambda: noisy.say() or noisy.hear() is None)  # it is never silent, and never asks for anything
            assert closed.value.reason == 1008
            *_, last = (line for line in lines if line.startswith("data: "))
        assert json.loads(last.removeprefix("data: "))["error"]["code"] == "unauthorized"
        for wire in (silent, shown):
            assert wire.hear()["error"]["code"] == "unauthorized"
            with pytest.raises(ConnectionClosed) as closed:
                wire.hear()
            assert closed.value.reason == 1008
            wire.close()
        noisy.close()
        assert time.monotonic() - began < 10  # five on a machine that is idle
        stays.say(type="ping", ref=1)
        assert stays.hear()["type"] == "pong"
        stays.close()
        assert kernel.store.get(job_id).job.status == "running"


def test_a_socket_may_say_first_who_it_is(kernel: Kernel, broker: Broker, tmp_path: Path) -> None:
    with serving(broker, tmp_path, API_KEY="sesame") as (url, _):
        wire = Wire(url)
        wire.say(type="auth", ref=1, key="sesame")
        assert wire.hear() == {"type": "authenticated", "ref": 1, "job_id": None, "name": "", "role": "operator"}
        wire.say(type="generate", ref=2, **CHAT)
        assert wire.hear()["type"] == "accepted"
        other = kernel.api_keys.create("alice", Role.USER)
        wire.say(type="auth", ref=3, key=other)  # what it follows must end with the key that it was asked with
        refused = wire.hear()
        assert (refused["type"], refused["error"]["code"]) == ("error", "invalid_request")
        wire.say(type="ping", ref=4)
        assert wire.hear()["type"] == "pong"
        wire.close()
        monitor = kernel.api_keys.create("grafana", Role.MONITOR)
        for frame in (
            {"type": "generate", **CHAT},
            {"type": "ping"},
            {"type": "follow", "job_id": "x"},
            {"type": "auth", "key": "wrong"},
            {"type": "auth", "key": monitor},
            {"type": "auth"},
            {},
        ):
            _is_shown_out(Wire(url), **frame)
        began = time.monotonic()
        silent = Wire(url)
        with pytest.raises(ConnectionClosed):
            silent.hear()
        silent.close()
        assert time.monotonic() - began > 4


def test_a_socket_neither_follows_nor_ends_what_is_another_s(kernel: Kernel, broker: Broker, tmp_path: Path) -> None:
    with serving(broker, tmp_path, API_KEY="sesame") as (url, _):
        alice, bob = (Wire(url, _bearer(kernel.api_keys.create(name, Role.USER))) for name in ("alice", "bob"))
        alice.say(type="generate", ref=1, **CHAT)
        job_id = alice.hear()["job_id"]
        unknown = job_id[:-1] + ("0" if job_id[-1] != "0" else "1")
        for kind in ("follow", "cancel"):
            for wanted in (job_id, unknown):
                bob.say(type=kind, ref=wanted, job_id=wanted)
            theirs, nobodys = bob.hear(), bob.hear()
            assert theirs["error"]["code"] == "job_not_found"
            assert json.dumps(theirs).replace(job_id, "…") == json.dumps(nobodys).replace(unknown, "…")
        assert kernel.store.get(job_id).job.status == "queued"
        alice.say(type="cancel", ref=2, job_id=job_id)
        assert alice.hear()["type"] in ("accepted", "error")
        until(lambda: kernel.store.get(job_id).job.status == "cancelled")
        alice.close()
        bob.close()


def _bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def _is_shown_out(wire: Wire, **frame: Any) -> None:
    wire.say(**frame)
    assert wire.hear()["type"] == "error"
    with pytest.raises(ConnectionClosed) as closed:
        wire.hear()
    assert closed.value.reason == 1008
    wire.close()


HOST = b" HTTP/1.1\r\nHost: localhost\r\n"
JSON = HOST + b"Content-Type: application/json\r\n"
SIZED = b"Content-Length: 2000\r\n\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n\r\n1\r\n{\r\n"
FORM = HOST + b"Content-Type: multipart/form-data; boundary=x\r\n" + SIZED + b"--x\r\nContent-Disposition: form-data; "


@pytest.mark.parametrize(
    ("begun", "then", "told"),
    [
        (b"GET /health/live HT", b"T", b" 408 "),
        (b"GET /health/live" + HOST, b"a: b\r\n", b" 408 "),
        (b"POST /chat" + JSON + SIZED + b"{", b" ", b'"slow_request"'),
        (b"POST /v1/chat/completions" + JSON + CHUNKED, b"1\r\n \r\n", b'"slow_request"'),
        (b"POST /v1/files" + FORM, b"a", b'"slow_request"'),
        (b"GET /health/live" + HOST + b"\r\nPOST /api/chat" + JSON + SIZED, b" ", b"too slowly"),
        # Answered before anybody reads its body, which is what follows then.
        (b"POST /nothing" + JSON + SIZED, b" ", b" 404 "),
    ],
    ids=["a line", "headers", "a body", "chunks", "a file", "behind another request", "a body that nobody wants"],
)
def test_a_request_that_dribbles_in_is_ended(hasty: str, begun: bytes, then: bytes, told: bytes) -> None:
    host, port = hasty.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=20) as sock:
        sock.sendall(begun)
        answer, sent, ended = b"", 0, False
        while not ended:
            assert sent < 200, "it would go on for ever"
            with contextlib.suppress(OSError):
                sock.sendall(then)
            sent += 1
            assert httpx.get(f"{hasty}/health/live", trust_env=False).is_success  # others are served
            ready, _, _ = select.select([sock], [], [], 0.1)
            if ready:
                try:
                    data = sock.recv(65536)
                except ConnectionResetError:
                    data = b""
                answer += data
                ended = not data
    assert told in answer
    assert b" 500 " not in answer


def test_a_proxy_on_this_machine_says_whether_it_speaks_tls_and_moves_no_path(hasty: str) -> None:
    told = {"X-Forwarded-Proto": "https", "SCRIPT_NAME": "/health", "PATH_INFO": "/health/live"}
    assert httpx.get(f"{hasty}/health/live", headers=told, trust_env=False).status_code == 200
    assert httpx.get(f"{hasty}/nothing", headers=told, trust_env=False).status_code == 404
    cookies = [
        httpx.post(f"{hasty}/login", json={"key": "x"}, headers=headers, trust_env=False).headers["Set-Cookie"]
        for headers in (told, {})
    ]
    assert ["Secure" in cookie for cookie in cookies] == [True, False]


def test_a_request_may_take_its_time_that_gets_on_and_so_may_a_silent_connection(hasty: str) -> None:
    body = b'{"model": "scripted", "messages": [{"role": "user", "content": "' + b"x" * 30_000 + b'"}]}'

    def slowly() -> Iterator[bytes]:
        for start in range(0, len(body), 3_000):
            time.sleep(0.3)  # a slow line is what is tested
            yield body[start : start + 3_000]

    with httpx.Client(base_url=hasty, trust_env=False) as client:
        assert client.get("/health/live").is_success
        sent = client.post("/jobs", content=slowly(), headers={"Content-Type": "application/json"})
        assert sent.status_code == 202, sent.text
        time.sleep(1.5)  # longer than a request may pause
        reused = client.get("/health/live")
        assert reused.is_success


@pytest.fixture(scope="module")
def hasty(shared_broker: Broker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A site that allows a request one second, and one more for each 8 KiB."""
    folder = tmp_path_factory.mktemp("hasty")
    kernel_of(settings_of(folder, shared_broker.url)).close()
    config = folder / "hasty.py"
    config.write_text("from app.web import arrival\nfrom app.web.gunicorn import *\narrival.GRACE = 1.0\n")
    with serving(shared_broker, folder, config) as (url, _):
        yield url


def test_any_web_process_tells_the_same(kernel: Kernel, broker: Broker, tmp_path: Path, worker: Worker) -> None:
    with serving(broker, tmp_path, WEB_PROCESSES="2") as (url, gunicorn), ThreadPoolExecutor(64) as pool:
        job_id = httpx.post(f"{url}/jobs", json=BODY, trust_env=False).json()["id"]
        attempt = worker.claim(job_id)
        tokens = worker.tokens(job_id, attempt, 1, 3)

        def follow(_: int) -> str:
            return httpx.get(f"{url}/jobs/{job_id}/stream", timeout=30, trust_env=False).text

        told = []
        one, other = gunicorn.children()
        try:
            # While one process stands still the other accepts, so that each has followers.
            for stopped, accepting in ((one, other), (other, one)):
                stopped.suspend()
                told += [pool.submit(follow, n) for n in range(8)]
                until(lambda accepting=accepting: _followers(accepting, url) >= 8)
                stopped.resume()
        finally:
            one.resume()
            other.resume()
            worker.finish(job_id, attempt, tokens)  # else the followers, and with them the pool, would wait for ever
        texts = {frames(future.result()) for future in told}
    assert texts == {"1 2 3 4"}


def frames(text: str) -> str:
    """The ids of a stream's events."""
    return " ".join(line[4:] for line in text.splitlines() if line.startswith("id: "))


def _followers(process: psutil.Process, url: str) -> int:
    port = int(url.rpartition(":")[2])
    held = [c for c in process.net_connections("tcp") if c.status == "ESTABLISHED"]
    return sum(connection.laddr.port == port for connection in held)


def test_one_socket_carries_many_generations(wire: Wire, worker: Worker) -> None:
    jobs = {}
    for ref in ("a", "b"):
        wire.say(type="generate", ref=ref, **CHAT)
        accepted = wire.hear()
        assert (accepted["type"], accepted["ref"]) == ("accepted", ref)
        jobs[ref] = accepted["job_id"]
    for ref in ("b", "a"):
        worker.answer(jobs[ref])
    frames = [wire.hear() for _ in range(8)]
    for ref, job_id in jobs.items():
        mine = [frame for frame in frames if frame["ref"] == ref]
        assert {frame["job_id"] for frame in mine} == {job_id}
        assert [(f["type"], f["seq"]) for f in mine] == [("token", 1), ("token", 2), ("token", 3), ("done", 4)]
        assert "".join(f.get("text", "") for f in mine) == "t1 t2 t3 "
        assert (mine[-1]["done_reason"], mine[-1]["eval_count"]) == ("stop", 2)


def test_a_socket_follows_cancels_and_answers_pings(wire: Wire, worker: Worker) -> None:
    wire.say(type="ping", ref=1)
    assert wire.hear() == {"type": "pong", "ref": 1, "job_id": None}
    wire.say(type="generate", ref=2, **CHAT)
    job_id = wire.hear()["job_id"]
    wire.say(type="cancel", ref=3, job_id=job_id)
    frames = [wire.hear(), wire.hear()]
    assert {"type": "accepted", "ref": 3, "job_id": job_id} in frames
    failed = next(frame for frame in frames if frame["type"] == "error")
    assert (failed["ref"], failed["job_id"], failed["seq"]) == (2, job_id, 1)
    assert failed["error"]["code"] == "cancelled"
    wire.say(type="generate", ref=4, **CHAT)
    job_id = wire.hear()["job_id"]
    worker.answer(job_id)
    assert [wire.hear()["type"] for _ in range(4)] == ["token", "token", "token", "done"]
    wire.say(type="follow", ref=5, job_id=job_id, after=2)
    assert [wire.hear().get("seq") for _ in range(3)] == [None, 3, 4]


def test_a_bad_frame_is_an_error_frame_and_the_socket_goes_on(wire: Wire) -> None:
    wire.socket.send("{")
    assert wire.hear()["error"]["code"] == "invalid_request"
    for raw in (b"\xff", "[]", "[" * 90_000, r'{"type": "ping", "ref": "\ud800"}'):
        wire.socket.send(raw)
        assert wire.hear()["error"]["code"] == "invalid_request"
    for ref in ("x" * 300, 1 << 80, {"a": 1}):
        wire.say(type="ping", ref=ref)
        frame = wire.hear()
        assert (frame["type"], frame["ref"]) == ("error", None)
    wire.say(type="dance", ref="r")
    frame = wire.hear()
    assert (frame["ref"], frame["error"]["param"]) == ("r", "type")
    wire.say(type="generate", ref="r", model="gpt2", messages=CHAT["messages"])
    assert wire.hear()["error"]["code"] == "model_not_downloaded"
    wire.say(type="follow", ref="r", job_id="nope")
    frame = wire.hear()
    assert (frame["job_id"], frame["error"]["code"]) == ("nope", "job_not_found")
    wire.say(type="ping")
    assert wire.hear()["type"] == "pong"


def test_a_stream_arrives_as_it_is_made(http: httpx.Client, worker: Worker) -> None:
    job_id = http.post("/jobs", json=BODY).json()["id"]
    attempt = worker.claim(job_id)
    with http.stream("GET", f"/jobs/{job_id}/stream") as response:
        lines = (line for line in response.iter_lines() if line.startswith("id"))
        tokens = []
        for n in range(1, 4):
            tokens += worker.tokens(job_id, attempt, n, n)
            assert next(lines) == f"id: {n}"
        worker.finish(job_id, attempt, tokens)
        assert next(lines) == "id: 4"
    until(lambda: http.get("/status").json()["followers"] == 0)


def test_a_client_that_hangs_up_is_forgotten(http: httpx.Client, worker: Worker) -> None:
    job_id = http.post("/jobs", json=BODY).json()["id"]
    worker.tokens(job_id, worker.claim(job_id), 1, 1)
    with http.stream("GET", f"/jobs/{job_id}/stream") as response:
        next(response.iter_lines())
    until(lambda: http.get("/status").json()["followers"] == 0)


def test_fifty_submits_at_once_are_all_kept(http: httpx.Client, kernel: Kernel) -> None:
    with ThreadPoolExecutor(50) as pool:
        answers = list(pool.map(lambda _: http.post("/jobs", json=BODY), range(50)))
    assert [answer.status_code for answer in answers] == [202] * 50
    assert len({answer.json()["id"] for answer in answers}) == len(kernel.store.page(limit=200)) == 50


def test_a_locked_database_stops_writers_alone(http: httpx.Client, kernel: Kernel, worker: Worker) -> None:
    job_id = http.post("/jobs", json=BODY).json()["id"]
    attempt = worker.claim(job_id)
    path = kernel.settings.data_dir / "jobs.db"
    with ThreadPoolExecutor(70) as pool, http.stream("GET", f"/jobs/{job_id}/stream") as response:
        lines = (line for line in response.iter_lines() if line.startswith("id"))
        worker.tokens(job_id, attempt, 1, 1)
        assert next(lines) == "id: 1"
        locked, release = threading.Event(), threading.Event()
        holder = pool.submit(_lock, path, locked, release)
        assert locked.wait(5)
        try:
            waiting = [pool.submit(http.post, "/jobs", json=BODY) for _ in range(60)]
            worst, begun, seq = 0.0, time.monotonic(), 1
            while time.monotonic() < begun + 4:
                seq += 1
                sent = time.monotonic()
                worker.tokens(job_id, attempt, seq, seq)
                assert next(lines) == f"id: {seq}"
                assert http.get("/health/live").status_code == 200
                assert http.get(f"/jobs/{job_id}").json()["status"] == "running"
                worst = max(worst, time.monotonic() - sent)
            assert http.get("/health").json()["unavailable"] == ["database_unavailable"]
            refused = http.post("/jobs", json=BODY)  # every writer has waited for longer than STUCK
            assert (refused.status_code, "Retry-After" in refused.headers) == (503, True)
            assert not any(future.done() for future in waiting)
        finally:
            release.set()
        holder.result()
        assert [future.result().status_code for future in waiting] == [202] * 60
        assert http.post("/jobs", json=BODY).status_code == 202
        assert worst < 4.0  # whatever froze would have waited for the lock, which lasted longer


def test_a_socket_that_sends_while_a_frame_waits_is_made_to_wait(wire: Wire, kernel: Kernel) -> None:
    sent: list[int] = []

    def flood() -> None:
        for ref in range(64):
            wire.say(type="ping", ref=ref, junk="x" * 1_000_000)
            sent.append(ref)

    def has_stalled() -> bool:
        before = len(sent)
        time.sleep(1)
        return 0 < before == len(sent)

    with ThreadPoolExecutor(2) as pool:
        locked, release = threading.Event(), threading.Event()
        holder = pool.submit(_lock, kernel.settings.data_dir / "jobs.db", locked, release)
        assert locked.wait(5)
        try:
            wire.say(type="generate", ref="waits", **CHAT)
            flooding = pool.submit(flood)
            until(has_stalled, 9)
            assert len(sent) < 40  # what the kernel's buffers hold, and what is taken ahead
        finally:
            release.set()
        holder.result()
        flooding.result()
    heard = [wire.hear() for _ in range(65)]
    assert (heard[0]["type"], heard[0]["ref"]) == ("accepted", "waits")
    assert [(frame["ref"], frame["error"]["param"]) for frame in heard[1:]] == [(ref, "junk") for ref in range(64)]


def _lock(path: Path, locked: threading.Event, release: threading.Event) -> None:
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("BEGIN IMMEDIATE")
    locked.set()
    release.wait(30)
    connection.execute("ROLLBACK")
    connection.close()


def test_a_reader_that_stops_for_a_while_gets_fewer_and_longer_frames_and_slows_nobody(
    http: httpx.Client, worker: Worker
) -> None:
    job_id = http.post("/jobs", json=BODY).json()["id"]
    attempt = worker.claim(job_id)
    with http.stream("GET", f"/jobs/{job_id}/stream") as slow, http.stream("GET", f"/jobs/{job_id}/stream") as quick:
        until(lambda: http.get("/status").json()["followers"] == 2)
        made = [Token(seq, f"t{seq}" + "." * 8000) for seq in range(1, 1501)]
        numbers = (int(line[3:]) for line in quick.iter_lines() if line.startswith("id:"))
        for start in range(0, len(made), 100):
            page = made[start : start + 100]
            worker.kernel.bus.append(NODE, [Entry(job_id, attempt, token) for token in page])
            assert [next(numbers) for _ in page] == [token.seq for token in page]
        time.sleep(1.5)  # the slow one reads nothing for longer than PRESSURE
        worker.finish(job_id, attempt, made)
        assert next(numbers) == 1501
        seen, said = [], []
        for line in slow.iter_lines():
            if line.startswith("id:"):
                seen.append(int(line[3:]))
            elif line.startswith("data:") and '"delta":{"content"' in line:
                said.append(json.loads(line[5:])["delta"]["content"])
    assert "".join(said) == "".join(token.text for token in made)
    assert seen == sorted(set(seen))
    assert seen[-1] == 1501
    assert len(seen) < 1400


def test_a_client_that_hangs_up_on_a_held_answer_cancels_it(http: httpx.Client, kernel: Kernel, worker: Worker) -> None:
    worker.announce()
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(f"{http.base_url}/chat", json=BODY, timeout=0.5, trust_env=False)
    job_id = worker.next_job()
    until(lambda: kernel.store.get(job_id).job.status == "cancelled", 12)
