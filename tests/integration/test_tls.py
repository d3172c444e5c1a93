"""The broker over TLS, verified by a CA of one's own: Celery, the bus and the registry."""

import contextlib
import shutil
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.stack import Stack, broker, eventually


class Terminator:
    """Speaks TLS to the outside, and plainly to the broker: the wheel's server was built without TLS."""

    def __init__(self, target: int, folder: Path) -> None:
        self._target = target
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(folder / "server.pem", folder / "server.key")
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self.handshakes = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(near,), daemon=True).start()

    def _serve(self, near: socket.socket) -> None:
        with contextlib.suppress(OSError), self._context.wrap_socket(near, server_side=True) as inside:
            self.handshakes += 1
            with socket.create_connection(("127.0.0.1", self._target)) as far:
                threading.Thread(target=_copy, args=(far, inside), daemon=True).start()
                _copy(inside, far)


def _copy(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            sink.sendall(data)
    with contextlib.suppress(OSError):
        sink.shutdown(socket.SHUT_RDWR)


def certificates(folder: Path) -> None:
    """A CA, and a certificate of its for 127.0.0.1."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not on the PATH; it makes the test's certificates")

    def openssl(*words: str) -> None:
        subprocess.run(["openssl", *words], cwd=folder, check=True, capture_output=True)

    new = ("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1")
    openssl(*new, "-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=a CA of ours")
    signed = ("-CA", "ca.pem", "-CAkey", "ca.key", "-addext", "subjectAltName=IP:127.0.0.1")
    openssl(*new, "-keyout", "server.key", "-out", "server.pem", "-subj", "/CN=broker", *signed)


@pytest.fixture
def secured(tmp_path: Path) -> Iterator[tuple[Stack, Terminator]]:
    certificates(tmp_path)
    with broker(tmp_path) as url, contextlib.closing(Terminator(int(urlsplit(url).port or 0), tmp_path)) as door:
        plain = urlsplit(url)
        inside = plain._replace(
            scheme="rediss", netloc=plain.netloc.replace(f":{plain.port}", f":{door.port}")
        ).geturl()
        stack = Stack(tmp_path, inside, REDIS_CA_FILE=str(tmp_path / "ca.pem"))
        stack.run("migrate")
        try:
            yield stack, door
        finally:
            stack.close()


def test_a_stack_over_tls_answers_and_one_that_does_not_know_the_ca_stays_away(
    secured: tuple[Stack, Terminator],
) -> None:
    stack, door = secured
    stack.start("web", "cpu.0", "keeper", "beat")
    stack.ready()
    body = {"model": "scripted", "messages": [{"role": "user", "content": "x"}], "max_tokens": 5}
    assert stack.http.post("/chat", json=body).json()["message"]["content"] == "t0 t1 t2 t3 t4"
    assert door.handshakes > 4

    del stack.env["REDIS_CA_FILE"]
    stack.kill("web")
    stack.start("web")
    refused = eventually(
        lambda: answer if (answer := stack.http.get("/health/ready")).status_code == 503 else None, what="no broker"
    )
    assert "CERTIFICATE_VERIFY_FAILED" not in refused.text
