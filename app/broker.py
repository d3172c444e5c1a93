"""The connection to the broker: every call ends, and a broker that hangs costs one caller its patience, not all."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import redis
import structlog
from redis.connection import parse_url

from app.errors import UnavailableError

log = structlog.get_logger(__name__)

#: Seconds without trying, after a call that got no answer.
REST = 1.0
#: How many connections a process may have open. A call that finds all of them at work waits its turn: a thousand
#: followers that come at once must cost the broker neither a thousand connections nor anybody an error.
CONNECTIONS = 16


class _Rest:
    """Whether a broker that hung may be asked again. One caller tries; until it knows, the others fail at once."""

    def __init__(self, timeout: float) -> None:
        self._timeout = timeout
        self._until: float | None = None  # None: it answers
        self._trying: object = None

    def check(self, connection: object) -> None:
        """Raises redis.TimeoutError while the broker rests."""
        if self._until is None or self._trying is connection:
            return
        now = time.monotonic()
        if now < self._until:
            raise redis.TimeoutError("it did not answer a moment ago")
        self._trying, self._until = connection, now + self._timeout

    def hung(self) -> None:
        """A call got no answer in time."""
        self._trying, self._until = None, time.monotonic() + REST

    def answered(self) -> None:
        """A call got its answer."""
        if self._until is not None:
            self._trying, self._until = None, None


def _resting(base: type, rest: _Rest) -> type:
    class Connection(base):  # type: ignore[misc]  # TCP, TLS or a Unix socket: the URL decides
        def connect(self) -> None:
            rest.check(self)
            with _noting(rest):
                super().connect()

        def send_packed_command(self, command: Any, check_health: bool = True) -> None:
            rest.check(self)
            with _noting(rest):
                super().send_packed_command(command, check_health)

        def read_response(self, *args: Any, **kwargs: Any) -> Any:
            if "timeout" in kwargs:  # a subscription, for which silence is no fault
                return super().read_response(*args, **kwargs)
            with _noting(rest):
                response = super().read_response(*args, **kwargs)
            rest.answered()
            return response

    return Connection


@contextmanager
def _noting(rest: _Rest) -> Iterator[None]:
    try:
        yield
    except redis.TimeoutError:
        rest.hung()
        raise


def connect(url: str, *, timeout: float = 5.0) -> "redis.Redis":
    """A client whose every call ends: no call hangs on a broker that is gone."""
    base = parse_url(url).get("connection_class", redis.Connection)  # type: ignore[no-untyped-call]
    pool = redis.BlockingConnectionPool.from_url(
        url,
        max_connections=CONNECTIONS,
        timeout=timeout,
        connection_class=_resting(base, _Rest(timeout)),
        socket_timeout=timeout,
        socket_connect_timeout=timeout,
        socket_keepalive=True,
        health_check_interval=30,
    )
    return redis.Redis.from_pool(pool)


@contextmanager
def available() -> Iterator[None]:
    """Turns the broker's absence into UnavailableError."""
    try:
        yield
    except redis.OutOfMemoryError as error:
        log.warning("broker_full", reason=str(error))
        raise UnavailableError(
            "broker_unavailable",
            "The broker's memory is full. Try again later; what was accepted is kept.",
            answered=True,
        ) from error
    except redis.RedisError as error:
        log.warning("broker_unavailable", reason=str(error))
        raise UnavailableError(
            "broker_unavailable", "The broker does not answer. Try again in a few seconds; what was accepted is kept."
        ) from error
