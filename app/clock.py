"""The clock that all processes share: the broker's. A host whose own is wrong would end jobs early, or never."""

import time

#: Seconds between two clocks that are not worth a correction: what NTP and a slow answer leave.
TOLERANCE = 1.0


class Clock:
    """This host's wall clock, corrected where it differs from the broker's."""

    def __init__(self) -> None:
        self._offset = 0.0

    def now(self) -> float:
        """Seconds since the epoch."""
        return time.time() + self._offset

    def compare(self, truth: float) -> float:
        """Corrects this clock by what the broker's said just now. Returns by how much, in seconds."""
        offset = truth - time.time()
        self._offset = offset if abs(offset) > TOLERANCE else 0.0
        return self._offset
