"""Following a job: late, early, after the end, across gaps and breaks."""

import threading
import time
from contextlib import closing

import pytest

from app.bus import Entry
from app.errors import JobNotFoundError
from app.events import Ended, Event, Progress, Token
from app.jobs import State
from app.kernel import Kernel
from app.web import stream
from app.web.current import Site
from app.web.hub import Follower, Hub
from app.web.stream import follow

from .conftest import NODE, USAGE, Broker, Worker, kernel_of, settings_of, submitted, until


def events(site: Site, job_id: str, after: int = 0) -> list[Event]:
    return [event for event in follow(site.kernel, site.hub, job_id, after) if event is not None]


def stored(found: list[Event]) -> list[Event]:
    return [event for event in found if not isinstance(event, Progress)]


class Reader:
    """Follows a job in a thread."""

    def __init__(self, site: Site, job_id: str, after: int = 0) -> None:
        self.seen: list[Event] = []
        self._thread = threading.Thread(target=self._read, args=(site, job_id, after))
        self._thread.start()

    def _read(self, site: Site, job_id: str, after: int) -> None:
        for event in follow(site.kernel, site.hub, job_id, after):
            if event is not None:
                self.seen.append(event)

    def all(self) -> list[Event]:
        self._thread.join(timeout=20)
        assert not self._thread.is_alive()
        return stored(self.seen)


def test_a_follower_from_the_start_sees_each_event_once_and_in_order(site: Site, worker: Worker) -> None:
    job = submitted(site.kernel)
    reader = Reader(site, job.id)
    attempt = worker.claim(job.id)
    tokens = [token for n in range(1, 30) for token in worker.tokens(job.id, attempt, n, n)]
    worker.finish(job.id, attempt, tokens)
    assert reader.all() == [*tokens, Ended(30, State.SUCCEEDED, "stop", USAGE)]


def test_a_late_follower_replays_and_then_goes_live(site: Site, worker: Worker) -> None:
    job = submitted(site.kernel)
    attempt = worker.claim(job.id)
    tokens = worker.tokens(job.id, attempt, 1, 5)
    reader = Reader(site, job.id, after=2)
    until(lambda: len(reader.seen) == 3)
    tokens += worker.tokens(job.id, attempt, 6, 8)
    worker.finish(job.id, attempt, tokens)
    assert [event.seq for event in reader.all()] == [3, 4, 5, 6, 7, 8, 9]


@pytest.mark.parametrize("forgotten", [False, True], ids=["stream kept", "stream gone"])
@pytest.mark.parametrize("after", [0, 2, 3, 4, 99])
def test_after_the_end_the_same_is_told_with_and_without_the_stream(
    site: Site, worker: Worker, forgotten: bool, after: int
) -> None:
    job = submitted(site.kernel)
    worker.answer(job.id)
    if forgotten:
        site.kernel.bus.redis.flushall()
    expected = [Token(n, f"t{n} ") for n in range(after + 1, 4)]
    assert events(site, job.id, after) == [*expected, Ended(4, State.SUCCEEDED, "stop", USAGE)]


@pytest.mark.parametrize(("after", "end"), [(0, 14), (5, 14), (14, 15)])
def test_the_end_of_an_answer_that_was_lost_has_a_number_behind_those_that_were_seen(
    site: Site, worker: Worker, after: int, end: int
) -> None:
    job = submitted(site.kernel)
    attempt = worker.claim(job.id)
    site.kernel.lives.renew(worker.life, {job.id: 13})
    worker.commit(job.id, attempt, [])  # 13 tokens were renewed, a 14th was seen, and all of them are lost
    assert [event.seq for event in events(site, job.id, after)] == [end]


def test_a_missed_message_is_fetched(site: Site, worker: Worker) -> None:
    job = submitted(site.kernel)
    attempt = worker.claim(job.id)
    reader = Reader(site, job.id)
    until(lambda: site.hub.followers() == 1)
    silent = worker.kernel.bus
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("app.bus.channel", lambda node: "elsewhere")
        worker.tokens(job.id, attempt, 1, 4)
    tokens = [Token(n, f"t{n} ") for n in range(1, 5)] + worker.tokens(job.id, attempt, 5, 5)
    worker.finish(job.id, attempt, tokens)
    assert [event.seq for event in reader.all()] == [1, 2, 3, 4, 5, 6]
    assert silent is site.kernel.bus


def test_a_terminal_event_that_got_lost_is_read_from_the_row(
    site: Site, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "BEAT", 0.05)
    monkeypatch.setattr(stream, "SILENCE", 0.1)
    job = submitted(site.kernel)
    attempt = worker.claim(job.id)
    reader = Reader(site, job.id)
    tokens = worker.tokens(job.id, attempt, 1, 2)
    worker.commit(job.id, attempt, tokens)
    assert reader.all() == [*tokens, Ended(3, State.SUCCEEDED, "stop", USAGE)]


def test_a_queued_job_tells_that_it_waits(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "BEAT", 0.05)
    job = submitted(site.kernel)
    with closing(follow(site.kernel, site.hub, job.id)) as following:
        told = {"model": "scripted", "loading": False, "position": 1, "estimated_wait_seconds": None}
        assert Progress("queued", told) in (next(following), next(following))


def test_a_job_that_ended_while_it_waited_ends_its_followers(site: Site) -> None:
    job = submitted(site.kernel)
    reader = Reader(site, job.id)
    until(lambda: site.hub.followers() == 1)
    site.kernel.dispatcher.end(job.id, State.CANCELLED)
    assert reader.all() == [Ended(1, State.CANCELLED)]


def test_an_unknown_job_is_told(site: Site) -> None:
    with pytest.raises(JobNotFoundError):
        events(site, "0" * 32)


def test_a_reader_that_leaves_is_forgotten(site: Site, worker: Worker) -> None:
    job = submitted(site.kernel)
    worker.tokens(job.id, worker.claim(job.id), 1, 1)
    following = follow(site.kernel, site.hub, job.id)
    next(following)
    assert site.hub.followers() == 1
    following.close()
    assert site.hub.followers() == 0


def test_a_slow_reader_replays_what_its_queue_could_not_hold(site: Site, worker: Worker) -> None:
    job = submitted(site.kernel)
    attempt = worker.claim(job.id)
    first = worker.tokens(job.id, attempt, 1, 1)
    following = follow(site.kernel, site.hub, job.id)
    assert next(following) == first[0]
    tokens = first + worker.tokens(job.id, attempt, 2, 3000)
    worker.finish(job.id, attempt, tokens)
    rest = stored([event for event in following if event is not None])
    assert [event.seq for event in rest] == list(range(2, 3002))


def test_a_full_queue_marks_its_reader_lost_and_never_waits() -> None:
    follower = Follower(backlog=1)
    follower.give(Token(1, "a"))
    assert not follower.recover()
    follower.give(Token(2, "b"))
    follower.lose()
    assert follower.recover()
    assert not follower.recover()
    assert follower.take(0) == []
    follower.give(Token(4, "d"))
    assert follower.take(0) == [Token(4, "d")]


def test_bytes_that_are_no_event_are_skipped(site: Site, worker: Worker) -> None:
    job = submitted(site.kernel)
    attempt = worker.claim(job.id)
    reader = Reader(site, job.id)
    until(lambda: site.hub.followers() == 1)
    site.kernel.bus.redis.publish("tokenyard:events:x", b"broken")
    site.kernel.bus.redis.publish(b"tokenyard:events:\xff", b"broken")
    worker.finish(job.id, attempt, worker.tokens(job.id, attempt, 1, 1))
    assert len(reader.all()) == 2


def test_the_broker_may_restart_under_a_follower(tmp_path: object, own_broker: Broker) -> None:
    kernel: Kernel = kernel_of(settings_of(own_broker._folder, own_broker.url))
    site = Site(kernel, Hub(kernel.bus))
    worker = Worker(kernel)
    job = submitted(kernel)
    attempt = worker.claim(job.id)
    tokens = worker.tokens(job.id, attempt, 1, 2)
    reader = Reader(site, job.id)
    until(lambda: len(reader.seen) == 2)
    own_broker.stop()
    own_broker.start()
    tokens.append(Token(3, "t3 "))
    until(lambda: _restored(kernel, job.id, attempt, tokens))
    worker.finish(job.id, attempt, tokens)
    assert [event.seq for event in reader.all()] == [1, 2, 3, 4]
    site.hub.close()
    kernel.close()


def _restored(kernel: Kernel, job_id: str, attempt: int, tokens: list[Token]) -> bool:
    return kernel.bus.restore(NODE, job_id, attempt, 60, [Entry(job_id, attempt, token) for token in tokens])


def test_the_caller_is_asked_at_its_moment(site: Site, worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "BEAT", 60.0)
    job = submitted(site.kernel)
    worker.claim(job.id)
    begun = time.monotonic()
    with closing(follow(site.kernel, site.hub, job.id, until=begun + 0.2)) as following:
        while time.monotonic() < begun + 0.2:
            next(following)
    assert time.monotonic() < begun + 30
