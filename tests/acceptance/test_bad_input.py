"""Bad input by hand (tests/badinput.py), against the running site: told at once, in its shape, and harmless."""

import contextlib
import json
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from websocket import WebSocket, WebSocketConnectionClosedException, create_connection

from app.secrets import kept
from tests import badinput
from tests.badinput import BROKEN, CASES, FRAMES, GOOD, RAW, Case
from tests.stack import Stack

#: Seconds until the whole of an answer must be there.
AT_ONCE = 2.0
#: Whoever is late may try again where a good request as long took more seconds than this: the machine is busy.
BUSY = 0.5


@pytest.fixture(scope="module")
def http(stack: Stack) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=stack.url, timeout=60, trust_env=False) as client:
        yield client


def still_serves(http: httpx.Client) -> None:
    answer = http.post("/chat", json=GOOD)
    assert answer.status_code == 200, answer.text
    assert answer.json()["message"]["content"] == "t0 t1"


def sent(http: httpx.Client, case: Case) -> httpx.Response:
    request = http.build_request(case.method, case.path, content=case.body or None, headers=case.headers)
    for _ in range(3):
        answer, took = timed(http, request)
        if took < AT_ONCE:
            return answer
        good = json.dumps(GOOD).encode().ljust(min(len(case.body), badinput.LIMIT))
        control = http.build_request("POST", "/chat", content=good, headers={"Content-Type": badinput.JSON})
        _, usual = timed(http, control)
        assert usual > BUSY, f"{took:.1f} s, where a good request took {usual:.1f} s"
    pytest.fail(f"never within {AT_ONCE} s")


def timed(http: httpx.Client, request: httpx.Request) -> tuple[httpx.Response, float]:
    began = time.monotonic()
    return http.send(request), time.monotonic() - began


def test_there_are_enough_cases() -> None:
    assert len(CASES) + len(FRAMES) + len(BROKEN) + len(RAW) > 400


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.path[:30]}: {case.name}")
def test_a_bad_request(http: httpx.Client, stack: Stack, case: Case) -> None:
    response = sent(http, case)
    assert badinput.faults_of(case, response) == [], response.text[:500]
    assert str(stack.folder) not in response.text
    still_serves(http)


@pytest.fixture
def wire(stack: Stack) -> Iterator[WebSocket]:
    wire = create_connection(stack.url.replace("http", "ws") + "/ws", timeout=AT_ONCE * 2)
    yield wire
    wire.close()


def heard(wire: WebSocket) -> dict[str, Any]:
    frame: dict[str, Any] = json.loads(wire.recv())
    return frame


@pytest.mark.parametrize("name", FRAMES)
def test_a_bad_frame(wire: WebSocket, stack: Stack, name: str) -> None:
    raw, code = FRAMES[name]
    (wire.send_binary if name.startswith("as bytes") else wire.send)(raw)
    answer = heard(wire)
    assert (answer["type"], answer["error"]["code"]) == ("error", code)
    assert set(answer["error"]) == {"code", "message", "param"}
    assert not any(word in json.dumps(answer) for word in (*badinput.INSIDES, str(stack.folder)))
    assert len(json.dumps(answer)) < 4096
    wire.send(json.dumps({"type": "ping", "ref": 1}))
    assert heard(wire) == {"type": "pong", "ref": 1, "job_id": None}


@pytest.mark.parametrize("name", BROKEN)
def test_bytes_that_are_no_frames_close_the_socket(wire: WebSocket, http: httpx.Client, name: str) -> None:
    raw, codes = BROKEN[name]
    wire.sock.sendall(raw)
    began = time.monotonic()
    try:
        while (frame := wire.recv_frame()).opcode != 0x8:
            assert time.monotonic() - began < AT_ONCE * 2
        assert int.from_bytes(frame.data[:2], "big") in codes
    except (WebSocketConnectionClosedException, ConnectionError):
        pytest.fail("closed without a word")
    still_serves(http)


opcodes = st.sampled_from([0x0, 0x1, 0x2, 0x8, 0x9, 0xA, 0x3])
payloads = st.binary(max_size=140) | st.sampled_from([raw for raw, _ in FRAMES.values() if isinstance(raw, bytes)])
whole = st.sampled_from([True, True, True, False])
frames = st.builds(badinput.frame, opcodes, payloads, end=whole, masked=whole)


@settings(derandomize=True, database=None, max_examples=60, deadline=None)
@given(st.lists(frames | st.binary(max_size=20), min_size=1, max_size=5))
def test_random_frames_end_in_errors_or_a_close(stack: Stack, http: httpx.Client, sent: list[bytes]) -> None:
    wire = create_connection(stack.url.replace("http", "ws") + "/ws", timeout=AT_ONCE * 2)
    with contextlib.closing(wire.sock) as sock, contextlib.suppress(ConnectionError):
        sock.sendall(b"".join(sent) + badinput.frame(0x8, b""))
        heard = b""
        while piece := sock.recv(65536):
            heard += piece
        assert b"internal" not in heard
    still_serves(http)


@pytest.mark.parametrize("name", RAW)
def test_bytes_that_are_no_request(stack: Stack, http: httpx.Client, name: str) -> None:
    raw, wanted = RAW[name]
    status, answer = badinput.exchange(stack.url, raw)
    assert status == wanted, answer
    assert badinput.shape_of(answer) == ("openai" if b"/v1/" in raw else "native")
    assert not any(word in json.dumps(answer) for word in badinput.INSIDES)
    still_serves(http)


def test_nothing_is_compressed_on_a_socket(stack: Stack) -> None:
    url = stack.url.replace("http", "ws") + "/ws"
    wire = create_connection(url, timeout=5, header=["Sec-WebSocket-Extensions: permessage-deflate"])
    assert "sec-websocket-extensions" not in wire.getheaders()
    wire.close()


def test_a_large_file_goes_to_the_disk_as_it_comes(stack: Stack) -> None:
    def memory() -> int:
        return sum(process.memory_full_info().uss for process in stack.family("web"))

    size, before, peak = 120 * 2**20, memory(), 0

    def lines() -> Iterator[bytes]:
        nonlocal peak
        yield b'--b\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n'
        yield b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.jsonl"\r\n\r\n'
        for number in range(120):
            if number % 30 == 29:
                peak = max(peak, memory())
            yield b"x" * 2**20
        yield b"\r\n--b--\r\n"

    headers = {"Content-Type": "multipart/form-data; boundary=b"}
    with httpx.Client(base_url=stack.url, timeout=60, trust_env=False) as client:
        answer = client.post("/v1/files", content=lines(), headers=headers)
        assert (answer.status_code, answer.json()["bytes"]) == (200, size)
        assert peak - before < size // 3
        assert client.delete(f"/v1/files/{answer.json()['id']}").status_code == 200


def test_nothing_of_it_reached_the_logs_as_a_crash(stack: Stack) -> None:
    text = (stack.folder / "web.log").read_text()
    assert "Traceback" not in text
    assert "request_failed" not in text
    assert "frame_failed" not in text


def test_the_stacks_secrets_show_in_no_log_and_no_command_line(stack: Stack) -> None:
    password = str(kept(stack.folder / "secrets" / "broker"))
    for log in stack.folder.rglob("*.log"):
        assert password not in log.read_text(errors="replace"), log.name
    for name in stack.processes:
        for process in stack.family(name):
            assert not any(password in word for word in process.cmdline()), name
