"""The bus: a job's events in Redis, stored as a stream and published on the channel of its worker.

Only the owner of a job's latest attempt writes to its stream. The fence is a key that holds that attempt; one Lua
script checks it, appends and publishes, so that a worker that lost a job can change nothing of it.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import redis
import structlog

from app import events
from app.errors import UnavailableError
from app.events import Event, Stored
from app.jobs import PRIORITIES

log = structlog.get_logger(__name__)

PREFIX = "tokenyard:"
#: All the channels that events travel on.
EVENTS = PREFIX + "events:*"
#: Ids of jobs that somebody asked to end, with the state: a hint that spares their owner the wait for its renewal.
ENDS = PREFIX + "ends"

# KEYS: per event its fence and its stream. ARGV: the channel, then per event attempt, seq and frame.
# A stream's ids are "<seq>-0", so Redis itself refuses a number that was used before.
# Returns the 1-based places of the events that were refused. ~9 microseconds an event.
_APPEND = """
local accepted, refused = {}, {}
for i = 1, #KEYS / 2 do
  local frame = ARGV[3 * i + 1]
  if redis.call('GET', KEYS[2 * i - 1]) == ARGV[3 * i - 1]
     and type(redis.pcall('XADD', KEYS[2 * i], ARGV[3 * i] .. '-0', 'e', frame)) == 'string' then
    accepted[#accepted + 1] = frame
  else
    refused[#refused + 1] = i
  end
end
if #accepted > 0 then redis.call('PUBLISH', ARGV[1], table.concat(accepted)) end
return refused
"""

# A fence only rises. Returns 1 where it now stands at this attempt.
_INSTALL = """
local current = tonumber(redis.call('GET', KEYS[1]) or '0')
if current > tonumber(ARGV[1]) then return 0 end
redis.call('SET', KEYS[1], ARGV[1], 'EX', ARGV[2])
redis.call('EXPIRE', KEYS[2], ARGV[2])
return 1
"""


class Entry(NamedTuple):
    """An event on its way to the bus, under the attempt that made it."""

    job_id: str
    attempt: int
    event: Stored


class Bus:
    """Appends, publishes and replays events."""

    def __init__(self, client: "redis.Redis", *, stream_ttl: int) -> None:
        self.redis = client
        self._ttl = stream_ttl
        self._append = client.register_script(_APPEND)
        self._install = client.register_script(_INSTALL)

    def install(self, job_id: str, attempt: int, seconds: float) -> bool:
        """Raises the fence of a job to this attempt; it and the stream live that long. False: a later one stands."""
        ttl = int(seconds) + self._ttl
        with available():
            return bool(self._install(keys=[_fence(job_id), _stream(job_id)], args=[attempt, ttl]))

    def append(self, node: str, entries: list[Entry]) -> list[Entry]:
        """Stores and publishes the events of one engine step, in one round trip. Returns those that were refused."""
        keys, args = [], [channel(node)]
        for entry in entries:
            keys += [_fence(entry.job_id), _stream(entry.job_id)]
            args += [entry.attempt, entry.event.seq, events.encode(entry.job_id, entry.event)]  # type: ignore[list-item]
        with available():
            return [entries[place - 1] for place in self._append(keys=keys, args=args)]

    def finish(self, node: str, entry: Entry) -> None:
        """Appends a job's terminal event and lets its stream go after a while."""
        self.append(node, [entry])
        with available():
            self.redis.expire(_stream(entry.job_id), self._ttl)
            self.redis.expire(_fence(entry.job_id), self._ttl)

    def publish(self, node: str, job_id: str, event: Event) -> None:
        """Tells followers something that is not stored."""
        with available():
            self.redis.publish(channel(node), events.encode(job_id, event))

    def replay(self, job_id: str, after: int = 0) -> list[Stored]:
        """The stored events behind a number, in order. Empty where the stream is gone."""
        with available():
            rows: list[tuple[bytes, dict[bytes, bytes]]] = self.redis.xrange(  # type: ignore[assignment]
                _stream(job_id), min=f"({after}-0" if after else "-"
            )
        found = (_stored(fields[b"e"]) for _, fields in rows)
        return [event for event in found if event is not None]

    def last_seq(self, job_id: str) -> int:
        """The number of the last stored event; 0 where there is none."""
        with available():
            rows: list[tuple[bytes, object]] = self.redis.xrevrange(_stream(job_id), count=1)  # type: ignore[assignment]
        return int(rows[0][0].split(b"-")[0]) if rows else 0

    def restore(self, node: str, job_id: str, attempt: int, seconds: float, entries: list[Entry]) -> bool:
        """Writes a job's stream anew from its owner's buffer, after Redis lost its memory. False: a later attempt."""
        if not self.install(job_id, attempt, seconds):
            return False
        with available():
            self.redis.delete(_stream(job_id))
        refused = self.append(node, entries) if entries else []
        with available():
            self.redis.expire(_stream(job_id), int(seconds) + self._ttl)
        return not refused

    def ping(self) -> None:
        """Asks whether the broker answers. Raises UnavailableError."""
        with available():
            self.redis.ping()

    def queue_length(self, queue: str) -> int:
        """How many messages a Celery queue holds: kombu keeps a list for each priority, the first without a suffix."""
        names = [queue] + [f"{queue}\x06\x16{priority}" for priority in PRIORITIES[1:]]
        with available(), self.redis.pipeline(transaction=False) as pipe:
            for name in names:
                pipe.llen(name)
            return sum(pipe.execute())

    def ask_end(self, job_id: str, state: str) -> None:
        """Wakes the owner of a job that somebody asked to end."""
        with available():
            self.redis.publish(ENDS, f"{job_id} {state}")

    def listen(self, *patterns: str) -> Iterator[bytes | None]:
        """Messages of the channels that match, for ever; None each second without one, and at each (re)connection.

        A reader that sees the first None after a break may have missed messages. Raises UnavailableError on a break.
        """
        with available(), self.redis.pubsub(ignore_subscribe_messages=True) as subscription:  # type: ignore[no-untyped-call]
            subscription.psubscribe(*patterns)
            while True:
                message = subscription.get_message(timeout=1.0)
                yield message["data"] if message else None


def channel(node: str) -> str:
    """Where a process's events are published."""
    return f"{PREFIX}events:{node}"


def connect(url: str, *, timeout: float = 5.0) -> "redis.Redis":
    """A client whose every call ends: no call hangs on a broker that is gone."""
    return redis.Redis.from_url(
        url, socket_timeout=timeout, socket_connect_timeout=timeout, socket_keepalive=True, health_check_interval=30
    )


@contextmanager
def available() -> Iterator[None]:
    """Turns the broker's absence into UnavailableError."""
    try:
        yield
    except redis.RedisError as error:
        log.warning("broker_unavailable", reason=str(error))
        raise UnavailableError(
            "broker_unavailable", "The broker does not answer. Try again in a few seconds; what was accepted is kept."
        ) from error


def _stored(frame: bytes) -> Stored | None:
    for _, body in events.frames(frame):
        event = events.decode(body)
        return event if isinstance(event, Stored) else None
    return None


def _fence(job_id: str) -> str:
    return f"{PREFIX}fence:{job_id}"


def _stream(job_id: str) -> str:
    return f"{PREFIX}stream:{job_id}"


def contiguous(stored: Iterable[Stored], after: int) -> Iterator[Stored]:
    """The events that follow on a number without a gap; stops before the first gap."""
    for event in stored:
        if event.seq <= after:
            continue
        if event.seq != after + 1:
            return
        after = event.seq
        yield event
