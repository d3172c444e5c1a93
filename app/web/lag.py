"""How long events take from the broker to who follows them, measured on the very path of tokens.

A process publishes an event of no job each second while it has followers, and follows it itself. What stands before it
in the broker, in the subscription or in line for the event loop delays it as it delays tokens; and as one clock sees
it leave and arrive, no clocks are compared.
"""

import threading
import time
import uuid
from collections.abc import Callable

from prometheus_client import Histogram

from app.bus import Bus
from app.errors import UnavailableError
from app.events import Progress
from app.web.observed import REGISTRY

LAG = Histogram(
    "tokenyard_relay_lag_seconds",
    "From the publication of an event to its arrival at a follower in the same web process; once a second.",
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10),
    registry=REGISTRY,
)
#: Between two events, and how long one is awaited, in seconds.
PAUSE, PATIENCE = 1.0, 10.0
NODE = "web"


class Probe:
    """Sends, and is given by the hub what it sent, under an id of its own."""

    def __init__(self, bus: Bus, is_wanted: Callable[[], bool]) -> None:
        self.id = uuid.uuid4().hex
        self._bus = bus
        self._is_wanted = is_wanted
        self._arrived = threading.Event()

    def give(self) -> None:
        """The event has come back."""
        self._arrived.set()

    def run(self, closing: threading.Event) -> None:
        """Measures until the hub closes."""
        while not closing.wait(PAUSE):
            if self._is_wanted():
                self._measure()

    def _measure(self) -> None:
        self._arrived.clear()
        sent = time.monotonic()
        try:
            self._bus.publish(NODE, self.id, Progress("probe"))
        except UnavailableError:
            return  # `tokenyard_up` says so
        self._arrived.wait(PATIENCE)
        LAG.observe(time.monotonic() - sent)
