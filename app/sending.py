"""How we send by Celery: over one of its few connections, for which nobody waits without an end, and once.

Celery's own `broadcast` holds a connection while it waits for another one of the same pool, and tries again for as long
as the broker is away; `send_task` waits for a connection without an end. A request must not: what is not sent now is
sent by the next sweep.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import redis
from celery import Celery
from kombu.exceptions import LimitExceeded, OperationalError
from kombu.messaging import Producer

from app.errors import UnavailableError

#: Seconds to wait for a connection: a broker that hangs may have them all.
PATIENCE = 5.0


@contextmanager
def producer(celery: Celery) -> Iterator[Producer]:
    """Sends messages. Raises UnavailableError."""
    try:
        with celery.pool.acquire(block=True, timeout=PATIENCE) as connection:
            yield celery.amqp.Producer(connection)
    except (OSError, OperationalError, LimitExceeded, redis.RedisError) as error:
        raise UnavailableError(
            "broker_unavailable", "The broker does not answer. Try again in a few seconds; nothing was changed."
        ) from error


def tell(celery: Celery, verb: str, nodes: Sequence[str], **arguments: object) -> None:
    """Sends nodes a control command, in the form of kombu's mailbox. Raises UnavailableError."""
    mailbox = celery.control.mailbox
    with producer(celery) as sender:
        sender.publish(  # type: ignore[no-untyped-call]
            {"method": verb, "arguments": arguments, "destination": list(nodes), "pattern": None, "matcher": None},
            exchange=mailbox.exchange.name,
            declare=[mailbox.exchange],
            headers={"clock": mailbox.clock.forward(), "expires": 0},
            serializer="json",
        )
