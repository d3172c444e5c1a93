"""The keyring: what one process knows of the keys, and who shows one of them."""

import hmac
import threading
import time
from collections.abc import Callable
from contextlib import suppress

from app.apikeys import Identity, Proof, Role, holds
from app.clock import Clock
from app.errors import UnavailableError
from app.models import ApiKey
from app.settings import Settings

#: Seconds for which a process trusts what it read of the keys: a revoked one works no longer than that.
FRESH = 2.0
#: … and while the database does not answer. Then nobody can revoke a key either.
STALE = 600.0
#: Seconds between two looks for a key that is not known: it may have been made just now.
MISSING = 0.25


class Keyring:
    """What one process knows of the keys: read again every FRESH seconds, whoever asks and however often."""

    def __init__(self, read: Callable[[], list[ApiKey]], settings: Settings, clock: Clock) -> None:
        self._read = read
        self._clock = clock
        self._private = settings.is_private
        self._first = Proof.of(settings.api_key.get_secret_value()).digest if settings.api_key else None
        self._lock = threading.Lock()
        self._rows: dict[str, ApiKey] = {}
        #: By time.monotonic(): when they were read last, and when somebody tried to.
        self._read_at = self._tried_at = -2 * STALE

    def identify(self, proof: Proof | None) -> Identity | None:
        """Whoever shows this, or nothing. None: nobody that is known. Raises UnavailableError.

        None is needed while nobody ever made one and only this machine can ask.
        """
        if self._is_first(proof):
            return Identity()
        rows = self._known()
        if not self._is_open(rows) and proof is not None and proof.id and proof.id not in rows:
            rows = self._reread()
        return self._judged(proof, rows)

    def still(self, proof: Proof | None) -> bool:
        """Whether whoever was let in with this would be let in again. For streams: it goes by what is known and never
        waits; what is old is read again meanwhile."""
        if time.monotonic() - self._tried_at >= FRESH and self._lock.acquire(blocking=False):
            threading.Thread(target=self._refresh_aside, name="keys", daemon=True).start()
        return self._is_first(proof) or self._judged(proof, self._rows) is not None

    def _is_first(self, proof: Proof | None) -> bool:
        return self._first is not None and proof is not None and hmac.compare_digest(self._first, proof.digest)

    def _is_open(self, rows: dict[str, ApiKey]) -> bool:
        """Whether no key is needed: none was ever made, and only this machine can ask."""
        return self._private and self._first is None and not rows

    def _judged(self, proof: Proof | None, rows: dict[str, ApiKey]) -> Identity | None:
        if self._is_open(rows):
            return Identity(keyed=False)
        row = rows.get(proof.id) if proof is not None else None
        if proof is None or row is None or not hmac.compare_digest(row.digest, proof.digest):
            return None
        return _identity(row) if holds(row, self._clock.now()) else None

    def _refresh_aside(self) -> None:
        try:
            with suppress(UnavailableError):
                self._refresh()
        finally:
            self._lock.release()

    def _known(self) -> dict[str, ApiKey]:
        age = time.monotonic() - self._read_at
        # One asks; the others go by what is known meanwhile, unless that is old.
        if age >= FRESH and self._lock.acquire(blocking=age >= 2 * FRESH):
            try:
                if time.monotonic() - self._tried_at >= FRESH:
                    self._refresh()
            finally:
                self._lock.release()
        return self._rows

    def _reread(self) -> dict[str, ApiKey]:
        """For all who ask meanwhile, and so seldom that guessing keys costs the database nothing."""
        asked = time.monotonic()
        with self._lock:
            if self._tried_at < asked:
                time.sleep(max(0.0, self._tried_at + MISSING - asked))
                self._refresh()
        return self._rows

    def _refresh(self) -> None:
        began = time.monotonic()
        try:
            self._rows = {row.id: row for row in self._read()}
        except UnavailableError:
            if began - self._read_at > STALE:
                raise
        else:
            self._read_at = began
        self._tried_at = began


def _identity(row: ApiKey) -> Identity:
    return Identity(
        tenant=row.name,
        role=Role(row.role),
        requests_per_minute=row.requests_per_minute,
        max_running=row.max_running,
        max_queued=row.max_queued,
        files_quota=row.files_quota,
        top_priority=row.top_priority,
        models=tuple(row.models),
    )
