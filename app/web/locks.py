"""gevent's locks, mended for the native threads that make the database's calls.

Where several threads of the operating system wait for the same lock, gevent 26.9 loses the word that it is free: ten
that share one hang within a second, each with the request that waits for it. SQLAlchemy's pool, its first queries and
the log have such locks. So a native thread asks for a lock until it gets it, and the log's own lock, for which the
event loop waits too, is the operating system's: nobody holds it for longer than a line.
"""

import logging
import time
from typing import Any

from gevent import monkey
from gevent.lock import BoundedSemaphore
from gevent.thread import LockType

#: Seconds between two questions for a lock: the first, and the longest.
PAUSES = (0.0001, 0.005)

_sleep = monkey.get_original("time", "sleep")
_thread = monkey.get_original("_thread", "get_ident")


def mend() -> None:
    """Called once on the event loop's thread, after the patches and after the log was set up."""
    loop, waiting = _thread(), LockType.acquire

    def acquire(self: Any, blocking: bool = True, timeout: float | None = -1) -> bool:
        if not blocking or _thread() == loop:
            return bool(waiting(self, blocking, timeout))
        return _ask(self, timeout)

    LockType.acquire = acquire
    native = monkey.get_original("_thread", "RLock")
    logging._lock = native()  # type: ignore[attr-defined]
    for handler in logging.getLogger().handlers:
        handler.lock = native()


def _ask(lock: Any, timeout: float | None) -> bool:
    deadline = None if timeout is None or timeout < 0 else time.monotonic() + timeout
    pause, longest = PAUSES
    while not BoundedSemaphore.acquire(lock, blocking=False):
        if deadline is not None and time.monotonic() >= deadline:
            return False
        _sleep(pause)
        pause = min(2 * pause, longest)
    return True
