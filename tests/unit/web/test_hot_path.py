"""What a token costs the web process, in counts: they are the same on every machine, and on a busy one."""

from typing import Any

import msgspec
import pytest
from flask.testing import FlaskClient

from app.web import sse
from app.web.chat import frames
from app.web.current import Site
from app.web.hub import Follower
from app.web.stream import follow
from tests.counting import calls

from .conftest import Worker, submitted, until

TOKENS = 200
#: Calls of functions, C's included, for each token that a follower gets live; measured 24.
MOST_CALLS = 30


class Counted:
    """An encoder that counts."""

    def __init__(self) -> None:
        self.count = 0
        self._encoder = msgspec.json.Encoder()

    def encode(self, value: Any) -> bytes:
        self.count += 1
        return self._encoder.encode(value)


def follower(site: Site, job_id: str) -> Follower:
    """The one that follows a job."""
    return site.hub._followers[job_id][0]


def test_a_live_token_is_a_frame_and_little_else(site: Site, worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    counted = Counted()
    monkeypatch.setattr(sse, "_encoder", counted)
    job = submitted(site.kernel)
    attempt = worker.claim(job.id)
    events = follow(site.kernel, site.hub, job.id)
    told = frames(events, 60, "r")
    next(told)  # a heartbeat: it is live
    worker.tokens(job.id, attempt, 1, TOKENS)
    until(lambda: follower(site, job.id)._queue.qsize() == TOKENS)
    monkeypatch.setattr(site.kernel.bus, "page", None)  # neither the broker
    monkeypatch.setattr(site.kernel.store, "get", None)  # nor the database is asked

    def take() -> None:
        for _ in range(TOKENS):
            next(told)

    assert calls(take) / TOKENS <= MOST_CALLS
    assert counted.count == TOKENS
    events.close()


def test_what_is_at_hand_together_is_written_together(client: FlaskClient, site: Site, worker: Worker) -> None:
    job = submitted(site.kernel)
    attempt = worker.claim(job.id)
    worker.finish(job.id, attempt, worker.tokens(job.id, attempt, 1, TOKENS))
    writes = list(client.get(f"/jobs/{job.id}/stream").response)

    assert len(writes) <= 2
    assert b"".join(part if isinstance(part, bytes) else part.encode() for part in writes).count(b"id: ") == TOKENS + 1
