"""What a worker reads off its device: memory, use, heat."""

import structlog

from app import devices
from inference.memory import available
from tasks.budget import Memory

log = structlog.get_logger(__name__)

#: The part of a device's memory beyond which the log warns.
FULL = 0.8


class Gauge:
    """A device's latest reading."""

    def __init__(self, device: devices.Device) -> None:
        self._device = device
        self._is_full = False
        self.reading = devices.Reading(0, 0)

    def memory(self) -> Memory:
        """Reads anew. Nothing is free where the device does not answer."""
        reading = devices.read(self._device)
        if reading is None:
            return Memory(0, 0)
        self.reading = reading
        return Memory(reading.total, reading.free if self._device.is_gpu else min(reading.free, available()))

    def warn_when_full(self) -> None:
        """Once each time that the device's memory fills up, whoever filled it."""
        total, free = self.reading.total, self.reading.free
        was, self._is_full = self._is_full, total - free > FULL * total
        if self._is_full and not was:
            log.warning(
                "memory_nearly_full",
                device=self._device.name,
                used=round(1 - free / total, 2),
                free_bytes=free,
                remedy="unload models, lower MAX_CACHE_MODELS, or take smaller quantizations",
            )
