"""Database calls in a gevent process: each runs in a pool of native threads.

SQLite and libpq block the thread that calls them. A lock held for three seconds would freeze every stream of the
process; in a pool it keeps nobody waiting but its own request. Calls that write have a pool of their own: a lock stops
them alone, and would soon fill the threads that readers need.
"""

import time
from collections.abc import Callable
from functools import cache, partial
from typing import Any, ParamSpec, TypeVar, cast

import gevent
from gevent import monkey
from gevent.lock import Semaphore
from gevent.threadpool import ThreadPool

from app.errors import UnavailableError
from app.kernel import Kernel
from app.reads import Reads
from app.settings import Settings

P = ParamSpec("P")
T = TypeVar("T")

#: How many calls that write run at once; further ones wait their turn, first come, first served. SQLite takes one
#: writer at a time, and those that wait for its lock have no order.
WRITERS = 4
#: Seconds without any of them getting on after which the database counts as stuck.
STUCK = 3.0
#: Seconds that a call waits for its thread at most.
PATIENCE = 10.0
#: The calls that only ask. Whatever is not here may write.
_ASKING = (
    "accepted all counts download_name expires_at find group_of groups known lines models nodes note of_models own "
    "path resolve rows strays"
)
READS = {name for name in vars(Reads) if not name.startswith("_")} | set(_ASKING.split())

#: Which threads of the operating system are the pool's own: what they call further is where it may block already.
_threads = monkey.get_original("threading", "local")()


def offload(fn: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Calls a function where it may block: in the thread pool under gevent, else right here."""
    return _in_pool(gevent.get_hub().threadpool, fn, *args, **kwargs) if _must_not_block() else fn(*args, **kwargs)


def offload_one(fn: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """As `offload`, for what only computes: one at a time, as they share one interpreter, and readers need threads."""
    return _in_pool(_computer(), fn, *args, **kwargs) if _must_not_block() else fn(*args, **kwargs)


@cache
def _computer() -> ThreadPool:
    """A pool of one thread is a queue: nobody waits for it in a thread that readers need."""
    return ThreadPool(1)


def _must_not_block() -> bool:
    return monkey.is_module_patched("threading") and not getattr(_threads, "pool", False)


def _in_pool(pool: ThreadPool, fn: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    value, error = pool.apply(_caught, (fn, args, kwargs))
    if error is not None:
        raise error
    return cast(T, value)


def _caught(fn: Callable[..., Any], args: Any, kwargs: Any) -> tuple[Any, Exception | None]:
    """An error as a value: the pool would print each one's traceback, a missing job's too."""
    _threads.pool = True
    try:
        return fn(*args, **kwargs), None
    except Exception as error:  # noqa: BLE001 - the caller raises it
        return None, error


class Writers:
    """The threads of calls that write. While all of them are stuck, a further call is refused, not queued."""

    def __init__(self) -> None:
        self._pool = ThreadPool(WRITERS)
        self._room = Semaphore(WRITERS)
        self._moved = 0.0  # when a call last began or ended, by time.monotonic()

    def run(self, fn: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Raises UnavailableError, and whatever the call raises."""
        if not _must_not_block():
            return fn(*args, **kwargs)
        stuck = self._room.locked() and time.monotonic() - self._moved > STUCK
        if stuck or not self._room.acquire(timeout=PATIENCE):
            raise UnavailableError(
                "database_unavailable", "The database takes nothing just now. Try again in a few seconds."
            )
        self._moved = time.monotonic()
        try:
            return _in_pool(self._pool, fn, *args, **kwargs)
        finally:
            self._moved = time.monotonic()
            self._room.release()


class Offloaded:
    """Stands in front of a store: every method of it runs in a pool.

    Only what talks to the database is wrapped. The broker's connections belong to the event loop of the thread that
    opened them, so they are never used from the pool.
    """

    def __init__(self, target: object, writers: Writers) -> None:
        self._target = target
        self._writers = writers

    def __getattr__(self, name: str) -> Any:
        run = offload if name in READS else self._writers.run
        return partial(run, getattr(self._target, name))


def open_offloaded(settings: Settings) -> Kernel:
    """The kernel of a web process."""
    writers = Writers()
    kernel = Kernel(settings, front=lambda target: Offloaded(target, writers))
    kernel.database.begin()
    return kernel
