"""The hub: one subscription of this process to all events, handed on to whoever follows a job.

It never waits for a reader. A follower that is too slow, or that may have missed something because the subscription
broke, is marked `lost`; it replays from the stored stream. One that takes nothing at all is cut off.
"""

import queue
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import structlog

from app import events
from app.bus import ASKS, EVENTS, Bus, Heard
from app.errors import UnavailableError
from app.events import BadEventError, Event, Progress
from app.web.lag import Probe

log = structlog.get_logger(__name__)

#: Events that wait for one reader. Beyond it, a replay is cheaper than memory.
BACKLOG = 256
#: Seconds that a reader may take for one event; then its connection is cut, as it is gone or as good as.
STALL = 30.0
#: Seconds between attempts to subscribe: the first, and the longest.
BACK_OFF = (0.1, 2.0)


class Follower:
    """One reader's queue of one job's live events."""

    def __init__(self, backlog: int = BACKLOG, cut: Callable[[], None] = lambda: None) -> None:
        self._queue: queue.SimpleQueue[Event | None] = queue.SimpleQueue()
        self._backlog = backlog
        self._lost = False
        self._cut = cut
        #: Since when its reader is at one event, by time.monotonic(); None while it waits for us.
        self.busy_since: float | None = None

    def give(self, event: Event) -> None:
        """Hands over an event, or notes that it was missed: then there is nothing to keep for the reader."""
        if self._lost and not isinstance(event, Progress):
            return
        if self._queue.qsize() < self._backlog:
            self._queue.put(event)
        else:
            self.lose()

    def lose(self) -> None:
        """Notes that events may have been missed, lets go of those that wait, and wakes the reader."""
        self._lost = True
        self._drain()
        self._queue.put(None)

    def take(self, timeout: float) -> list[Event]:
        """All events that are here, or the next one. Empty: there was none in time, or it is time to `recover`."""
        try:
            first = self._queue.get(timeout=max(0.0, timeout))
        except queue.Empty:
            return []
        if self._queue.empty():
            return [] if first is None else [first]
        return [event for event in (first, *self._drain()) if event is not None]

    def recover(self) -> bool:
        """Whether something may have been missed since the last call. The caller replays then."""
        lost, self._lost = self._lost, False
        return lost

    def check(self, now: float) -> None:
        """Cuts a connection that takes nothing; what waits to send on it wakes then."""
        if self.busy_since is not None and now - self.busy_since > STALL:
            self.busy_since = None
            self._cut()

    def _drain(self) -> list[Event | None]:
        found = []
        with suppress(queue.Empty):
            while not self._queue.empty():
                found.append(self._queue.get_nowait())
        return found


class Hub:
    """Followers by job, and the thread that feeds them. It starts with the first follower, after any fork."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._lock = threading.Lock()
        self._followers: dict[str, tuple[Follower, ...]] = {}
        self._thread: threading.Thread | None = None
        self._closing = threading.Event()
        self._probe = Probe(bus)

    @contextmanager
    def following(self, job_id: str, cut: Callable[[], None] = lambda: None) -> Iterator[Follower]:
        """A follower of one job, for as long as the block lasts. `cut` ends the connection of a reader that hangs."""
        follower = Follower(cut=cut)
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

    def is_followed(self, job_id: str) -> bool:
        """Whether anybody follows a job here."""
        return job_id in self._followers

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
                self._check_all()
                self._closing.wait(wait)
                wait = min(wait * 2, longest)

    def _subscribed(self) -> Iterator[Heard | None]:
        fresh = True
        checked = time.monotonic()
        for message in self._bus.listen(EVENTS, ASKS):
            if self._closing.is_set():
                return
            if fresh:  # what was published while nobody listened is in the streams
                self._lose_all()
                fresh = False
            if time.monotonic() - checked > 1.0:
                checked = time.monotonic()
                self._check_all()
                if self._followers:
                    self._probe.send()
            yield message

    def _hand_on(self, message: Heard) -> None:
        if message.channel == ASKS:
            self._tell_followed(message.data.decode("ascii", "replace"))
            return
        try:
            for job_id, body in events.frames(message.data):
                followers = self._followers.get(job_id)
                if followers:
                    event = events.decode(body)
                    for follower in followers:
                        follower.give(event)
                elif job_id == self._probe.id:
                    self._probe.give()
        except BadEventError as error:
            log.warning("bad_event", reason=str(error))

    def _tell_followed(self, job_id: str) -> None:
        if self.is_followed(job_id):
            self._bus.say_followed(job_id)

    def _check_all(self) -> None:
        now = time.monotonic()
        for follower in self._all():
            follower.check(now)

    def _lose_all(self) -> None:
        for follower in self._all():
            follower.lose()

    def _all(self) -> list[Follower]:
        with self._lock:
            return [follower for some in self._followers.values() for follower in some]
