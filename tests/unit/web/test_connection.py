"""One WebSocket's outgoing side."""

import json
import socket
from collections.abc import Iterator
from typing import Any

import pytest
from flask import Flask

from app.web.connection import Socket
from app.web.current import Site

from .conftest import until


class Connection:
    """What simple-websocket hands over, without a wire."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock, self.input_buffer, self.sent = sock, [], []

    def send(self, text: str) -> None:
        self.sent.append(json.loads(text))


def test_a_fault_of_ours_ends_a_follower_with_an_error_and_not_in_silence(
    app: Flask, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any, **__: Any) -> Iterator[None]:
        yield None
        raise ValueError("read of closed file")

    monkeypatch.setattr("app.web.connection.follow", broken)
    with socket.socket() as sock, app.test_request_context("/ws"):
        connection = Connection(sock)
        ours = Socket(site, connection)
        ours.follow("r", "a-job", 0, 1.0)
        until(lambda: connection.sent)
        ours.close()
    (frame,) = connection.sent
    assert (frame["type"], frame["ref"], frame["job_id"]) == ("error", "r", "a-job")
    assert frame["error"]["code"] == "internal"
    assert "seq" not in frame  # the job goes on: who follows again finds it
