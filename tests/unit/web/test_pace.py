"""Readers that are slow, hang, or hang up."""

import threading
from collections.abc import Iterator

import pytest

from app.errors import SlowConsumerError
from app.events import Ended, Event, Progress, Token
from app.jobs import State
from app.web import held, hub, pace
from app.web.client import Client
from app.web.current import Site
from app.web.held import abandon, events_of
from app.web.hub import Follower
from app.web.pace import merged, paced
from app.web.stream import follow

from .conftest import Worker, submitted, until


class Clock:
    """Time that passes as the test says."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, module: object) -> None:
        self.now = 100.0
        monkeypatch.setattr(module, "time", self)

    def monotonic(self) -> float:
        return self.now


def tokens(first: int, last: int, choice: int = 0) -> list[Event | None]:
    return [Token(n, f"t{n} ", 1, ids=(n,), choice=choice) for n in range(first, last + 1)]


def text(events: list[Event | None]) -> str:
    return "".join(event.text for event in events if isinstance(event, Token))


def test_tokens_that_follow_on_each_other_become_one_with_the_last_number() -> None:
    assert merged(tokens(1, 3)) == [Token(3, "t1 t2 t3 ", 3, ids=(1, 2, 3))]


def test_choices_ends_and_progress_are_not_merged() -> None:
    stop = Token(3, "x", choice=1, finish="stop")
    events = [
        *tokens(1, 2),
        stop,
        *tokens(4, 4, choice=1),
        Progress("queued"),
        None,
        *tokens(5, 6),
        Ended(7, "succeeded"),
    ]
    result = merged(events)

    assert [getattr(event, "seq", None) for event in result] == [2, 3, 4, None, None, 6, 7]
    assert text(result) == text(events)


def test_a_reader_that_keeps_up_gets_each_event() -> None:
    batches = [tokens(1, 3), tokens(4, 4), [None], [Ended(5, "succeeded")]]
    assert list(paced(batches, Follower(), Client())) == [event for batch in batches for event in batch]


def test_a_slow_reader_gets_the_rest_as_one_until_it_keeps_up_again(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch, pace)
    events = paced([tokens(1, 5), tokens(6, 9), tokens(10, 11)], Follower(), Client())
    seen = [next(events)]
    clock.now += 2
    seen.append(next(events))
    seen.append(next(events))
    rest = list(events)

    assert [event.seq for event in seen if event] == [1, 5, 9]
    assert [event.seq for event in rest if event] == [10, 11]
    assert text([*seen, *rest]) == text(tokens(1, 11))


def test_whoever_counts_events_gets_each_one_however_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch, pace)
    events = paced([tokens(1, 5)], Follower(), Client(), merge=False)
    next(events)
    clock.now += 2
    assert list(events) == tokens(2, 5)


def test_a_reader_that_is_too_slow_is_told_so_and_can_resume(
    site: Site, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock(monkeypatch, pace)
    job = submitted(site.kernel)
    attempt = worker.claim(job.id)
    made = worker.tokens(job.id, attempt, 1, 3)
    events = follow(site.kernel, site.hub, job.id)
    first = next(events)
    clock.now += 16
    with pytest.raises(SlowConsumerError):
        next(events)
    assert site.hub.followers() == 0
    worker.finish(job.id, attempt, made)

    assert first == made[0]
    assert [event for event in follow(site.kernel, site.hub, job.id, 1) if event][:2] == made[1:]


def test_a_reader_that_takes_nothing_is_cut_off_and_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    cuts: list[bool] = []
    follower = Follower(cut=lambda: cuts.append(True))
    clock = Clock(monkeypatch, pace)
    events = paced([tokens(1, 2)], follower, Client())
    next(events)
    follower.check(clock.now + hub.STALL - 1)
    assert cuts == []
    follower.check(clock.now + hub.STALL + 1)
    follower.check(clock.now + hub.STALL + 2)
    assert cuts == [True]


def test_what_waits_for_one_reader_is_bounded() -> None:
    follower = Follower()
    for event in tokens(1, 10_000):
        assert event is not None
        follower.give(event)
    assert follower._queue.qsize() == 1
    assert follower.recover()


class Gone(Client):
    """A client that hangs up."""

    def __init__(self) -> None:
        super().__init__()
        self.left = threading.Event()

    def is_gone(self) -> bool:
        return self.left.is_set()


@pytest.fixture
def gone(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gone]:
    client = Gone()
    monkeypatch.setattr(held, "of_request", lambda: client)
    monkeypatch.setattr("app.web.stream.BEAT", 0.05)
    monkeypatch.setattr(held, "LINGER", 0.2)
    monkeypatch.setattr(held, "ANSWER", 0.1)
    yield client
    until(lambda: not [t for t in threading.enumerate() if isinstance(t, threading.Timer)])


def test_a_client_that_hangs_up_on_a_silent_job_cancels_it(site: Site, worker: Worker, gone: Gone) -> None:
    job = submitted(site.kernel, held=True)
    reader = threading.Thread(target=lambda: list(events_of(site, job)))
    reader.start()
    until(lambda: site.hub.is_followed(job.id))
    gone.left.set()
    reader.join(5)

    until(lambda: site.kernel.store.get(job.id).job.status == State.CANCELLED)


def test_a_stream_that_is_closed_early_cancels_its_job(site: Site, worker: Worker, gone: Gone) -> None:
    job = submitted(site.kernel, held=True)
    worker.tokens(job.id, worker.claim(job.id), 1, 1)
    events = events_of(site, job)
    next(events)
    events.close()

    until(lambda: site.kernel.store.get(job.id).job.end_requested == State.CANCELLED)


@pytest.mark.parametrize("where", ["here", "in another process"])
def test_a_job_that_somebody_follows_survives_its_client(site: Site, worker: Worker, gone: Gone, where: str) -> None:
    job = submitted(site.kernel, held=True)
    other = site if where == "here" else Site(site.kernel, hub.Hub(site.kernel.bus))
    with other.hub.following(job.id):
        until(lambda: site.kernel.bus.redis.pubsub_numpat() > 0)
        abandon(site, job.id)
        until(lambda: not [t for t in threading.enumerate() if isinstance(t, threading.Timer)])
    if other is not site:
        other.hub.close()

    assert site.kernel.store.get(job.id).job.end_requested is None
    assert site.kernel.store.get(job.id).job.status == State.QUEUED


def test_an_answer_that_ended_is_not_abandoned(site: Site, worker: Worker, gone: Gone) -> None:
    job = submitted(site.kernel, held=True)
    worker.answer(job.id)
    list(events_of(site, job))
    assert not [t for t in threading.enumerate() if isinstance(t, threading.Timer)]


def test_a_detached_job_outlives_its_client(site: Site, worker: Worker, gone: Gone) -> None:
    job = submitted(site.kernel)
    worker.tokens(job.id, worker.claim(job.id), 1, 1)
    events = events_of(site, job)
    next(events)
    events.close()
    assert not [t for t in threading.enumerate() if isinstance(t, threading.Timer)]
