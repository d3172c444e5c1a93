"""Celery's events about tasks, on their way to Flower: none stays behind where a connection or a worker ends."""

from collections.abc import Iterator
from typing import Any

import pytest
from celery import Celery
from kombu import Connection

from tasks import celeryevents
from tasks.celeryevents import Gathering, send_gathered
from tests.unit.web.conftest import until

Sent = list[tuple[str, Any]]


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> Iterator[Sent]:
    """What left: routing keys, and the events that went together."""
    sent: Sent = []
    monkeypatch.setattr(
        Gathering, "_publish", lambda self, event, producer, routing_key, **_: sent.append((routing_key, event))
    )
    monkeypatch.setattr(celeryevents, "get_event_loop", lambda: None)  # it stands still, as in a break and at the end
    yield sent
    Gathering.latest = None


def gathering() -> Gathering:
    """As Celery's worker makes one at each connection."""
    made: Gathering = Gathering(
        Connection("memory://"), app=Celery(), buffer_group=["task"], on_send_buffered=lambda: None
    )
    return made


def uuids(sent: Sent) -> list[tuple[str, list[str]]]:
    return [(key, [event["uuid"] for event in events]) for key, events in sent]


def test_what_had_gathered_when_the_connection_broke_is_sent_over_the_next(sent: Sent) -> None:
    before = gathering()
    before.send("task-started", uuid="a")
    before.send("task-succeeded", uuid="a")
    before.disable()
    after = gathering()
    after.extend_buffer(before)
    after.flush()
    assert uuids(sent) == [("task.multi", ["a", "a"])]


def test_what_has_gathered_is_sent_when_the_worker_leaves(sent: Sent) -> None:
    send_gathered()  # a process that has no loop yet
    gathering().send("task-succeeded", uuid="a")
    assert not sent
    send_gathered()
    until(lambda: sent)
    assert uuids(sent) == [("task.multi", ["a"])]
