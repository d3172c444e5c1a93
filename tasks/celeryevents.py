"""Celery's events about tasks, which Flower shows: several jobs' at a time.

A worker's loop would publish those of each job by themselves, which took a fifth of all that a job costs it.
"""

import threading
from collections.abc import Callable
from typing import Any, ClassVar

from celery.app import events
from celery.events.dispatcher import EventDispatcher
from kombu.asynchronous import get_event_loop

#: How long an event waits for others, in seconds.
DELAY = 0.25
#: How many do not wait any longer.
MOST = 256


class Gathering(EventDispatcher):
    """Sends what has gathered."""

    #: The one of this process's loop.
    latest: ClassVar["Gathering | None"] = None

    def __init__(self, *args: Any, on_send_buffered: Callable[[], None] | None = None, **kwargs: Any) -> None:
        """`on_send_buffered` is the loop's: it has the events sent as soon as it can."""
        self._soon = on_send_buffered
        self._waiting = False
        kwargs |= {"buffer_limit": MOST, "on_send_buffered": self._later if on_send_buffered else None}
        super().__init__(*args, **kwargs)
        if on_send_buffered:
            Gathering.latest = self

    def extend_buffer(self, other: EventDispatcher) -> None:
        """After the connection broke: also of what the one before had gathered, which Celery would forget."""
        super().extend_buffer(other)
        for group, waiting in other._group_buffer.items():
            self._group_buffer[group] += waiting

    def _later(self) -> None:
        loop = get_event_loop()
        if not self._waiting and loop is not None:
            self._waiting = True
            loop.call_later(DELAY, self._send)  # type: ignore[no-untyped-call]

    def _send(self) -> None:
        self._waiting = False
        if self._soon is not None:
            self._soon()


class Events(events.Events):
    """What the app takes instead of its own."""

    dispatcher_cls = "tasks.celeryevents:Gathering"


def send_gathered() -> None:
    """Sends at once what waits: the loop is about to end. Nobody waits for a broker that hangs."""
    if Gathering.latest is not None:
        threading.Thread(target=Gathering.latest.flush, name="events", daemon=True).start()
