"""The bus: a job's events in Redis, stored as a stream and published on the channel of its worker.

Only the owner of a job's latest attempt writes to its stream. The fence is a key that holds that attempt; one Lua
script checks it, appends and publishes, so that a worker that lost a job can change nothing of it.
"""

import struct
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import redis

from app import events
from app.broker import available
from app.clock import Clock
from app.errors import UnavailableError
from app.events import Event, Stored
from app.jobs import PRIORITIES

PREFIX = "tokenyard:"
#: All the channels that events travel on.
EVENTS = PREFIX + "events:*"
#: Ids of jobs that somebody asked to end, with the state: a hint that spares their owner the wait for its renewal.
ENDS = PREFIX + "ends"

#: Which web processes still follow a job that its client hung up on? They answer with a key.
ASKS = PREFIX + "asks"
#: What shows that the broker takes writes too.
_PROBE = PREFIX + "probe"
#: Events that one script writes at most: it blocks the broker meanwhile.
PAGE = 500

# ARGV: the channel, then all events as one string, each its attempt, its seq and its frame: a step is one argument
# however many events it has. So the keys are not declared, as no key of a cluster's could be anyway.
# An event must be the next one of its stream: a number that was used before is refused, and so is one behind a gap,
# which is what a broker that came back without its last second shows.
# With ARGV[3], the last event is its job's end: the stream and its fence live so many seconds more.
# Returns the 1-based places of the events that were refused. ~4 microseconds an event.
_APPEND = """
local events, at, place = ARGV[2], 1, 0
local accepted, refused = {}, {}
while at <= #events do
  local attempt, seq, job, length = struct.unpack('>I4I4c32I4', events, at)
  local fence, stream = PREFIX .. 'fence:' .. job, PREFIX .. 'stream:' .. job
  local frame = string.sub(events, at + 8, at + 43 + length)
  place, at = place + 1, at + 44 + length
  if redis.call('GET', fence) == tostring(attempt)
     and redis.call('XLEN', stream) == seq - 1
     and type(redis.pcall('XADD', stream, seq .. '-0', 'e', frame)) == 'string' then
    -- A stream lives as long as its fence from its first event on: its owner may die before it can say otherwise.
    if seq == 1 then redis.call('EXPIRE', stream, redis.call('TTL', fence)) end
    accepted[#accepted + 1] = frame
    if ARGV[3] and at > #events then
      redis.call('EXPIRE', stream, ARGV[3])
      redis.call('EXPIRE', fence, ARGV[3])
    end
  else
    refused[#refused + 1] = place
  end
end
if #accepted > 0 then redis.call('PUBLISH', ARGV[1], table.concat(accepted)) end
return refused
""".replace("PREFIX", f"'{PREFIX}'")
#: What stands before a frame there: attempt and seq.
_NUMBERS = struct.Struct(">II")

# A fence only rises. Returns how many events the stream has, now that it stands at this attempt; with ARGV[3], the
# stream begins anew then.
_INSTALL = """
local current = tonumber(redis.call('GET', KEYS[1]) or '0')
if current > tonumber(ARGV[1]) then return nil end
redis.call('SET', KEYS[1], ARGV[1], 'EX', ARGV[2])
if ARGV[3] then redis.call('DEL', KEYS[2]) else redis.call('EXPIRE', KEYS[2], ARGV[2]) end
return redis.call('XLEN', KEYS[2])
"""


class Entry(NamedTuple):
    """An event on its way to the bus, under the attempt that made it."""

    job_id: str
    attempt: int
    event: Stored


class Heard(NamedTuple):
    """A message of a channel."""

    channel: str
    data: bytes


class Bus:
    """Appends, publishes and replays events."""

    def __init__(self, client: "redis.Redis", *, stream_ttl: int, clock: Clock | None = None) -> None:
        self.redis = client
        self._ttl = stream_ttl
        self._clock = clock or Clock()
        self._append = client.register_script(_APPEND)
        self._install = client.register_script(_INSTALL)

    def install(self, job_id: str, attempt: int, seconds: float, *, anew: bool = False) -> int | None:
        """Raises the fence of a job to this attempt; it and the stream live that long. None: a later one stands.

        Returns how many events the stream has. `anew`: what it had is gone.
        """
        ttl = max(0, int(seconds)) + self._ttl
        with available():
            events: int | None = self._install(keys=_keys(job_id), args=[attempt, ttl, *(["anew"] if anew else [])])
            return events

    def open_and_close(self, node: str, last: Sequence[Entry]) -> None:
        """For PAGE jobs at most that emitted nothing: streams of a terminal event alone, which go after a while."""
        with available(), self.redis.pipeline(transaction=False) as pipe:
            for job_id, attempt, _ in last:
                self._install(keys=_keys(job_id), args=[attempt, self._ttl], client=pipe)
            pipe.execute()
        self.append(node, last)

    def append(self, node: str, entries: Sequence[Entry], *ttl: int) -> list[Entry]:
        """Stores and publishes the events of one engine step, in one round trip. Returns those that were refused."""
        with available():
            refused = self._append(args=[channel(node), b"".join(map(_numbered, entries)), *ttl])
        return [entries[place - 1] for place in refused]

    def finish(self, node: str, *entries: Entry) -> list[Entry]:
        """Appends a job's last events and lets its stream go after a while. Returns those that were refused."""
        return self.append(node, entries, self._ttl)

    def publish(self, node: str, job_id: str, event: Event) -> None:
        """Tells followers something that is not stored."""
        with available():
            self.redis.publish(channel(node), events.encode(job_id, event))

    def page(self, job_id: str, after: int = 0) -> list[Stored]:
        """The next PAGE stored events behind a number, in order. Empty where there are none, or the stream is gone."""
        with available():
            rows: list[tuple[bytes, dict[bytes, bytes]]] = self.redis.xrange(  # type: ignore[assignment]
                _stream(job_id), min=f"({after}-0" if after else "-", count=PAGE
            )
        found = (_stored(fields[b"e"]) for _, fields in rows)
        return [event for event in found if event is not None]

    def replay(self, job_id: str) -> list[Stored]:
        """All stored events."""
        found: list[Stored] = []
        while page := self.page(job_id, found[-1].seq if found else 0):
            found += page
            if len(page) < PAGE:
                break
        return found

    def restore(self, node: str, job_id: str, attempt: int, seconds: float, entries: list[Entry]) -> bool:
        """Writes a job's stream anew from its owner's buffer, after Redis lost its memory. False: a later attempt."""
        if self.install(job_id, attempt, seconds, anew=True) is None:
            return False
        for start in range(0, len(entries), PAGE):
            if self.append(node, entries[start : start + PAGE]):
                raise UnavailableError("broker_unavailable", "The broker lost a stream while it was written anew.")
        return self.install(job_id, attempt, seconds) is not None

    def ping(self) -> None:
        """Asks whether the broker answers and takes writes, and what time it is. Raises UnavailableError."""
        with available(), self.redis.pipeline(transaction=False) as pipe:
            pipe.set(_PROBE, b"1", ex=60)
            pipe.time()
            seconds, microseconds = pipe.execute()[1]
        self._clock.compare(seconds + microseconds / 1e6)

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

    def ask_followed(self, job_id: str) -> None:
        """Asks every process whether somebody follows a job there; `is_followed` tells a moment later."""
        with available():
            self.redis.delete(_followed(job_id))
            self.redis.publish(ASKS, job_id)

    def say_followed(self, job_id: str) -> None:
        """Answers that somebody does."""
        with available():
            self.redis.set(_followed(job_id), b"1", ex=60)

    def is_followed(self, job_id: str) -> bool:
        """Whether a process said so since it was asked."""
        with available():
            return bool(self.redis.exists(_followed(job_id)))

    def listen(self, *patterns: str) -> Iterator[Heard | None]:
        """Messages of the channels that match, for ever; None each second without one, and at each (re)connection.

        A reader that sees the first None after a break may have missed messages. Raises UnavailableError on a break.
        """
        with available(), self.redis.pubsub(ignore_subscribe_messages=True) as subscription:  # type: ignore[no-untyped-call]
            subscription.psubscribe(*patterns)
            while True:
                message = subscription.get_message(timeout=1.0)
                yield Heard(message["channel"].decode("ascii", "replace"), message["data"]) if message else None


def _numbered(entry: Entry) -> bytes:
    return _NUMBERS.pack(entry.attempt, entry.event.seq) + events.encode(entry.job_id, entry.event)


def channel(node: str) -> str:
    """Where a process's events are published."""
    return f"{PREFIX}events:{node}"


def _stored(frame: bytes) -> Stored | None:
    for _, body in events.frames(frame):
        event = events.decode(body)
        return event if isinstance(event, Stored) else None
    return None


def _keys(job_id: str) -> list[str]:
    """A job's fence, and its stream."""
    return [f"{PREFIX}fence:{job_id}", _stream(job_id)]


def _stream(job_id: str) -> str:
    return f"{PREFIX}stream:{job_id}"


def _followed(job_id: str) -> str:
    return f"{PREFIX}followed:{job_id}"


def contiguous(stored: Iterable[Stored], after: int) -> Iterator[Stored]:
    """The events that follow on a number without a gap; stops before the first gap."""
    for event in stored:
        if event.seq <= after:
            continue
        if event.seq != after + 1:
            return
        after = event.seq
        yield event
