"""Rates: how many requests a minute, counted in Redis, so that every web process knows of all.

The window slides: what counts is the last 60 seconds. https://limits.readthedocs.io
"""

import math
import time
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

import redis
import structlog

from app.broker import available
from app.bus import PREFIX
from app.errors import TooManyRequestsError, UnavailableError

if TYPE_CHECKING:
    from limits.strategies import MovingWindowRateLimiter

log = structlog.get_logger(__name__)

MINUTE = 60


class Rate(NamedTuple):
    """Where a tenant stands with its requests. `reset`: seconds until one of them counts no longer."""

    limit: int
    remaining: int
    reset: int


class Rates:
    """Counts requests."""

    def __init__(self, client: "redis.Redis") -> None:
        self._redis = client

    def spend(self, tenant: str, limit: int) -> Rate | None:
        """Counts one. None while the broker is away: jobs are accepted then too, and their number keeps its limit.

        Raises TooManyRequestsError.
        """
        from limits import RateLimitItemPerSecond

        item = RateLimitItemPerSecond(limit, MINUTE)
        try:
            with available():
                allowed = self._limiter.hit(item, tenant)
                window = self._limiter.get_window_stats(item, tenant)
        except UnavailableError as error:
            log.warning("not_counted", tenant=tenant, reason=error.message)
            return None
        reset = max(1, math.ceil(window.reset_time - time.time()))
        if not allowed:
            raise TooManyRequestsError(limit, reset)
        return Rate(limit, window.remaining, reset)

    @cached_property
    def _limiter(self) -> "MovingWindowRateLimiter":
        # Nobody without such a limit pays for the import.
        from limits.storage import RedisStorage
        from limits.strategies import MovingWindowRateLimiter

        pool = self._redis.connection_pool  # the URL only names the kind
        return MovingWindowRateLimiter(RedisStorage("redis://", connection_pool=pool, key_prefix=f"{PREFIX}rate"))
