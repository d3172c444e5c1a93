"""The hub: one subscription of this process to all events, handed on to whoever follows a job.

It never waits for a reader. A follower that is too slow, or that may have missed something because the subscription
broke, is marked `lost`; it replays from the stored stream.
"""

import queue
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import structlog

from app import events
from app.bus import EVENTS, Bus
from app.errors import UnavailableError
from app.events import BadEventError, Event

log = structlog.get_logger(__name__)

#: Events that wait for one reader. Beyond it, a replay is cheaper than memory.
BACKLOG = 1000
#: Seconds between attempts to subscribe: the first, and the longest.
BACK_OFF = (0.1, 2.0)


class Follower:
    """One reader's queue of one job's live events."""

    def __init__(self, backlog: int = BACKLOG) -> None:
        self._queue: queue.Queue[Event | None] = queue.Queue(backlog)
        self._lost = False

    def give(self, event: Event) -> None:
        """Hands over an event, or notes that it was missed."""
        try:
            self._queue.put_nowait(event)
        except queue.Full:
            self._lost = True

    def lose(self) -> None:
        """Notes that events may have been missed, and wakes the reader."""
        self._lost = True
        try:
            self._queue.put_nowait(None)
        except queue.Full:
            return  # it has enough to wake up for

    def take(self, timeout: float) -> Event | None:
        """The next event; None when there was none in time, or to look at `recover`."""
        try:
            return self._queue.get(timeout=max(0.0, timeout))
        except queue.Empty:
            return None

    def recover(self) -> bool:
        """Whether something may have been missed since the last call. The caller replays then."""
        lost, self._lost = self._lost, False
        return lost


class Hub:
    """Followers by job, and the thread that feeds them. It starts with the first follower, after any fork."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._lock = threading.Lock()
        self._followers: dict[str, tuple[Follower, ...]] = {}
        self._thread: threading.Thread | None = None
        self._closing = threading.Event()

    @contextmanager
    def following(self, job_id: str, backlog: int = BACKLOG) -> Iterator[Follower]:
        """A follower of one job, for as long as the block lasts."""
        follower = Follower(backlog)
        with self._lock:
            self._followers[job_id] = (*self._followers.get(job_id, ()), follower)
            self._start()
        try:
            yield follower
        finally:
            with self._lock:
                self._forget(job_id, follower)

    def followers(self) -> int:
        """How many readers there are."""
        with self._lock:
            return sum(len(some) for some in self._followers.values())

    def close(self) -> None:
        """Ends the subscription."""
        self._closing.set()
        if self._thread is not None:
            self._thread.join(timeout=5)

    def _forget(self, job_id: str, follower: Follower) -> None:
        rest = tuple(other for other in self._followers[job_id] if other is not follower)
        if rest:
            self._followers[job_id] = rest
        else:
            del self._followers[job_id]

    def _start(self) -> None:
        if self._thread is None or not self._thread.is_alive():
            self._thread = threading.Thread(target=self._run, name="hub", daemon=True)
            self._thread.start()

    def _run(self) -> None:
        wait, longest = BACK_OFF
        while not self._closing.is_set():
            try:
                for message in self._subscribed():
                    wait = BACK_OFF[0]
                    if message is not None:
                        self._hand_on(message)
            except UnavailableError as error:
                log.warning("hub_unsubscribed", reason=str(error), retry_in=wait)
                self._closing.wait(wait)
                wait = min(wait * 2, longest)

    def _subscribed(self) -> Iterator[bytes | None]:
        fresh = True
        for message in self._bus.listen(EVENTS):
            if self._closing.is_set():
                return
            if fresh:  # what was published while nobody listened is in the streams
                self._lose_all()
                fresh = False
            yield message

    def _hand_on(self, message: bytes) -> None:
        try:
            for job_id, body in events.frames(message):
                followers = self._followers.get(job_id)
                if followers:
                    event = events.decode(body)
                    for follower in followers:
                        follower.give(event)
        except BadEventError as error:
            log.warning("bad_event", reason=str(error))

    def _lose_all(self) -> None:
        with self._lock:
            followers = [follower for some in self._followers.values() for follower in some]
        for follower in followers:
            follower.lose()
