"""Scans from outside: how one is asked for, and what the last one said."""

import msgspec
import redis
from celery import Celery

from app.broker import available
from app.bus import PREFIX
from app.jobs import MAINTENANCE_QUEUE, SCAN_TASK
from app.scan import Report
from app.sending import producer

_KEY = PREFIX + "scan"
#: How long a report stays, in seconds.
KEPT = 7 * 86_400

_encode = msgspec.json.Encoder().encode
_decoder = msgspec.json.Decoder(Report)


class Scans:
    """The keeper scans; whoever wants it done sends it a task, and reads what it reported."""

    def __init__(self, client: "redis.Redis", celery: Celery) -> None:
        self._redis = client
        self._celery = celery

    def ask(self, *, unhide: bool = False) -> None:
        """Has the keeper scan. Raises UnavailableError."""
        with producer(self._celery) as sender:
            self._celery.send_task(
                SCAN_TASK, kwargs={"unhide": unhide}, queue=MAINTENANCE_QUEUE, retry=False, producer=sender
            )

    def tell(self, report: Report) -> None:
        """Keeps a report. Raises UnavailableError."""
        with available():
            self._redis.set(_KEY, _encode(report), ex=KEPT)

    def last(self) -> Report | None:
        """The report of the one that runs, or ran last. Raises UnavailableError."""
        with available():
            raw: bytes | None = self._redis.get(_KEY)  # type: ignore[assignment]
        return None if raw is None else _decoder.decode(raw)
