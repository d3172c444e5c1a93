"""Database calls in a gevent process: each runs in gevent's pool of native threads.

SQLite and libpq block the thread that calls them. A lock held for three seconds would freeze every stream of the
process; in the pool it keeps nobody waiting but its own request.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, ParamSpec, TypeVar, cast

import gevent
from gevent import monkey

from app.dispatch import Dispatcher
from app.estimates import Estimates
from app.kernel import Kernel, limits_of, open_kernel, sender
from app.orders import Orders
from app.settings import Settings

P = ParamSpec("P")
T = TypeVar("T")


#: Which threads of the operating system are the pool's own: what they call further is where it may block already.
_threads = monkey.get_original("threading", "local")()


def offload(fn: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Calls a function where it may block: in the thread pool under gevent, else right here."""
    if not monkey.is_module_patched("threading") or getattr(_threads, "pool", False):
        return fn(*args, **kwargs)
    value, error = gevent.get_hub().threadpool.apply(_caught, (fn, args, kwargs))
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


class Offloaded:
    """Stands in front of a store: every method of it runs in the pool.

    Only what talks to the database is wrapped. The broker's connections belong to the event loop of the thread that
    opened them, so they are never used from the pool.
    """

    def __init__(self, target: object) -> None:
        self._target = target

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._target, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            return offload(method, *args, **kwargs)

        return call


def open_offloaded(settings: Settings) -> Kernel:
    """The kernel of a web process."""
    celery = sender()
    kernel = open_kernel(settings, celery)
    kernel.database.begin()
    store, catalog = cast(Any, Offloaded(kernel.store)), cast(Any, Offloaded(kernel.catalog))
    loads = kernel.loads.over(catalog)
    return replace(
        kernel,
        store=store,
        batches=cast(Any, Offloaded(kernel.batches)),
        files=cast(Any, Offloaded(kernel.files)),
        aliases=cast(Any, Offloaded(kernel.aliases)),
        sessions=cast(Any, Offloaded(kernel.sessions)),
        catalog=catalog,
        loads=loads,
        orders=Orders(kernel.registry, loads),
        dispatcher=Dispatcher(store, kernel.bus, kernel.registry, loads, celery),
        estimates=Estimates(store, kernel.registry),
        limits=limits_of(settings, store),
    )
