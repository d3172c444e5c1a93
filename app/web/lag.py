"""How long events take from the broker to who follows them, measured on the very path of tokens.

A process publishes an event of no job each second while it has followers, and waits for it in its own subscription.
What stands before it in the broker, on the way or in line for the event loop delays it as it delays tokens; and as one
clock sees it leave and arrive, no clocks are compared.
"""

import time
import uuid

from prometheus_client import Histogram

from app.bus import Bus
from app.errors import UnavailableError
from app.events import Progress
from app.web.observed import REGISTRY

LAG = Histogram(
    "tokenyard_relay_lag_seconds",
    "From the publication of an event to its arrival in the same web process; measured once a second.",
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10),
    registry=REGISTRY,
)
NODE = "web"


class Probe:
    """Sends, and is given by the hub what it sent, under an id of its own."""

    def __init__(self, bus: Bus) -> None:
        self.id = uuid.uuid4().hex
        self._bus = bus
        self._sent: float | None = None

    def send(self) -> None:
        """Sends one. The one before, if it is still under way, is as late as that."""
        self.give()
        self._sent = time.monotonic()
        try:
            self._bus.publish(NODE, self.id, Progress("probe"))
        except UnavailableError:
            self._sent = None  # `tokenyard_up` says so

    def give(self) -> None:
        """It has come back."""
        if self._sent is not None:
            LAG.observe(time.monotonic() - self._sent)
        self._sent = None
