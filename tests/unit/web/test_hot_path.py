"""What a token costs the web process, in counts: they are the same on every machine, and on a busy one."""

from typing import Any

import msgspec
import pytest
from flask.testing import FlaskClient

from app import events as wire
from app.bus import Heard, channel
from app.events import Token
from app.jobs import new_id
from app.web import sse
from app.web.chat import frames
from app.web.current import Site
from app.web.hub import Follower, Hub
from app.web.stream import follow
from tests.counting import blocks, calls, commits

from .conftest import NODE, Worker, submitted, until

TOKENS = 200
#: Calls of functions, C's included, for each token that a follower gets live; measured 24.
MOST_CALLS = 30
STREAMS = 32
#: And for the hub to hand on one of a step of 32, by how many follow its job; measured 7.2, 12.2 and 33.2.
MOST_CALLS_OF_THE_HUB = {0: 7.9, 1: 13.0, 8: 36.0}
#: Blocks of memory that a token leaves behind once it was written; measured 0.3 and less, and an event has three.
MOST_BLOCKS = 0.5


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
    monkeypatch.setattr(sse, "encode", counted.encode)
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


def test_a_token_that_was_written_leaves_nothing_in_memory(site: Site, worker: Worker) -> None:
    job = submitted(site.kernel)
    attempt = worker.claim(job.id)
    events = follow(site.kernel, site.hub, job.id)
    told = frames(events, 60, "r")
    next(told)

    def relay(first: int) -> None:
        worker.tokens(job.id, attempt, first, first + TOKENS - 1)
        for _ in range(TOKENS):
            next(told)

    relay(1)
    left = [blocks(lambda at=at: relay(at)) for at in range(1 + TOKENS, 1 + 4 * TOKENS, TOKENS)]  # type: ignore[misc]
    assert min(left) / TOKENS <= MOST_BLOCKS
    events.close()


@pytest.mark.parametrize(("followers", "most"), MOST_CALLS_OF_THE_HUB.items())
def test_a_step_is_handed_on_in_few_calls(site: Site, followers: int, most: float) -> None:
    hub = Hub(site.kernel.bus)
    jobs = [new_id() for _ in range(STREAMS)]
    hub._followers = {job: tuple(Follower() for _ in range(followers)) for job in jobs}
    step = Heard(channel(NODE), b"".join(wire.encode(job, Token(1, " word", 1, (7,))) for job in jobs))
    assert calls(lambda: hub._hand_on(step)) / STREAMS <= most


def test_a_job_is_one_commit_of_the_web_process_however_it_is_read(
    client: FlaskClient, site: Site, worker: Worker
) -> None:
    body = {"model": "scripted", "messages": [{"role": "user", "content": "one"}], "max_tokens": 3}
    assert commits(site.kernel.database, lambda: client.post("/jobs", json=body)) == 1

    job = worker.next_job()
    worker.answer(job)
    assert commits(site.kernel.database, lambda: client.get(f"/jobs/{job}/stream").data) == 0


def test_what_is_at_hand_together_is_written_together(client: FlaskClient, site: Site, worker: Worker) -> None:
    job = submitted(site.kernel)
    attempt = worker.claim(job.id)
    worker.finish(job.id, attempt, worker.tokens(job.id, attempt, 1, TOKENS))
    writes = list(client.get(f"/jobs/{job.id}/stream").response)

    assert len(writes) <= 2
    assert b"".join(part if isinstance(part, bytes) else part.encode() for part in writes).count(b"id: ") == TOKENS + 1
