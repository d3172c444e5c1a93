"""The broker's transport, made deaf to junk.

kombu takes whatever a queue holds for one of its messages; what is none raises in the consumer's loop, and Celery ends
the worker: one stray LPUSH would cost each worker its engines. Here junk is dropped, with a line in the log.
"""

from base64 import b64decode
from queue import Empty
from typing import Any

import msgspec
import structlog
from kombu.transport import redis

log = structlog.get_logger(__name__)


class _Info(msgspec.Struct):
    exchange: str
    routing_key: str


class _Properties(msgspec.Struct):
    delivery_tag: str
    delivery_info: _Info
    body_encoding: str | None = None


class _Message(msgspec.Struct):
    """What kombu's code takes for granted."""

    body: str
    properties: _Properties
    headers: dict[str, Any]


class Channel(redis.Channel):
    """Reads queues."""

    _plain: Any = None

    def _create_client(self, asynchronous: bool = False) -> Any:
        """One client a pool: kombu makes one a command, which takes longer than the command."""
        if asynchronous:
            return super()._create_client(asynchronous=True)  # type: ignore[no-untyped-call]
        if self._plain is None or self._plain.connection_pool is not self.pool:
            self._plain = super()._create_client()  # type: ignore[no-untyped-call]
        return self._plain

    def _brpop_read(self, **options: Any) -> Any:
        try:
            return super()._brpop_read(**options)  # type: ignore[no-untyped-call]
        except ValueError as error:  # neither UTF-8 nor JSON
            log.warning("junk_dropped", reason=str(error))
            raise Empty from None  # as if the queue had held nothing


class Transport(redis.Transport):
    """Hands messages to their consumers."""

    Channel = Channel

    def _deliver(self, message: Any, queue: str) -> None:
        try:
            found = msgspec.convert(message, _Message)
            if found.properties.body_encoding == "base64":
                b64decode(found.body)
        except ValueError as error:  # msgspec's and base64's are
            log.warning("junk_dropped", queue=queue, reason=str(error))
            return
        super()._deliver(message, queue)  # type: ignore[no-untyped-call]
