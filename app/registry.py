"""The registry: which workers are alive, which models they hold, and what their devices look like.

It lives in Redis and forgets by itself: a card that its worker does not renew is gone after a lease. After Redis lost
its memory every worker writes its card again within one renewal.
"""

import threading
import time

import msgspec
import redis

from app.broker import available
from app.bus import PREFIX

_NODES = PREFIX + "nodes"
#: Who else must be alive: whoever sweeps (keeper and beat), and whoever downloads.
SWEEPER = "sweeper"
PULLER = "puller"
#: How long a process trusts what it read, in seconds. A stale answer costs a job a moment's wait, never its end.
FRESH = 0.5
#: The same where a model seems to be nowhere: it may just have come, and its next job should not wait for a sweep.
FRESH_WHERE_NONE = 0.02


class Holding(msgspec.Struct, frozen=True):
    """A model in a worker's memory."""

    model: str
    backend: str
    slots: int
    running: int = 0
    load_ns: int = 0
    context: int | None = None
    why: str = ""  #: why an engine other than the first choice has it
    quantization: str = ""
    dtype: str = ""
    bytes: int = 0  #: of weights and cache
    keep_alive: float = -1.0  #: seconds without work until it goes; below 0: only another model's need ends it
    pinned: bool = False  #: somebody asked to keep it for ever: it goes last
    expires_at: float | None = None  #: since the epoch; None while it works, or stays
    leaving: bool = False  #: takes no further job; ends with those that run


class Loading(msgspec.Struct, frozen=True):
    """A model on its way into a worker's memory."""

    model: str
    backend: str = ""  #: empty while it waits for its turn or for room
    fraction: float = 0.0
    since: float = 0.0  #: seconds since the epoch


class Card(msgspec.Struct, frozen=True):
    """What a worker tells about itself."""

    node: str
    device: str
    host: str
    pid: int
    life: str
    holdings: tuple[Holding, ...] = ()
    loading: tuple[Loading, ...] = ()
    cache_limit: int = 1
    memory_total: int = 0  #: bytes of the device that engines may take; 0: unknown
    memory_free: int = 0
    utilization: float | None = None  #: of the device, 0 to 1; None: unknown
    temperature: float | None = None  #: of the device, degrees Celsius; None: unknown
    torch_version: str = ""
    cuda_available: bool = False
    gpu_memory_allocated_mb: float = 0.0
    gpu_memory_reserved_mb: float = 0.0

    def held(self, model: str) -> Holding | None:
        """The model in memory here, unless it is on its way out."""
        return next((h for h in self.holdings if h.model == model and not h.leaving), None)

    def awaited(self, model: str) -> Loading | None:
        """The model on its way in here."""
        return next((loading for loading in self.loading if loading.model == model), None)


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Card)
#: Metrics in Prometheus' text form, each with the model that they are of; "": the worker's own.
Report = list[tuple[str, str]]
_report_decoder = msgspec.msgpack.Decoder(Report)


class Registry:
    """Cards of workers, read by everyone and each written by its worker."""

    def __init__(self, client: "redis.Redis", *, lease: float) -> None:
        self._redis = client
        self._lease = max(1, int(lease))
        self._lock = threading.Lock()
        self._read_at = -FRESH
        self._cards: tuple[Card, ...] = ()

    def announce(self, card: Card) -> None:
        """Writes a worker's card. Raises UnavailableError."""
        with available(), self._redis.pipeline(transaction=False) as pipe:
            pipe.sadd(_NODES, card.node)
            pipe.set(_key(card.node), _encoder.encode(card), ex=self._lease)
            pipe.execute()

    def publish(self, node: str, report: Report) -> None:
        """Writes what a worker measures; as long as its card, it is kept. Raises UnavailableError."""
        with available():
            self._redis.set(_report_key(node), _encoder.encode(report), ex=self._lease)

    def reports(self) -> dict[str, Report]:
        """What the living measure, by node. Raises UnavailableError."""
        nodes = [card.node for card in self.workers()]
        with available():
            found: list[bytes | None] = self._redis.mget(map(_report_key, nodes)) if nodes else []  # type: ignore[assignment]
        return {node: _report_decoder.decode(text) for node, text in zip(nodes, found, strict=True) if text}

    def retire(self, node: str, life: str) -> None:
        """Takes the card of a life away that ended or was declared dead; a later life's stays.

        Raises UnavailableError.
        """
        self.forget()
        if any(card.node == node and card.life == life for card in self.workers()):
            with available(), self._redis.pipeline(transaction=False) as pipe:
                pipe.srem(_NODES, node)
                pipe.delete(_key(node), _report_key(node))
                pipe.execute()
            self.forget()

    def workers(self, fresh: float = FRESH) -> tuple[Card, ...]:
        """The cards of the living, at most so many seconds old. Raises UnavailableError."""
        now = time.monotonic()
        with self._lock:
            if now - self._read_at < fresh:
                return self._cards
        cards = self._read()
        with self._lock:
            self._read_at, self._cards = now, cards
        return cards

    def forget(self) -> None:
        """Reads afresh the next time."""
        with self._lock:
            self._read_at = -FRESH

    def slots(self, model: str) -> int:
        """How many requests of a model its holders run at once. Raises UnavailableError."""
        return _slots(self.workers(), model) or _slots(self.workers(FRESH_WHERE_NONE), model)

    def reserve(self, model: str, seconds: float) -> bool:
        """Keeps the placing of a model to one process, until its worker shows it as loading."""
        with available():
            return bool(self._redis.set(f"{PREFIX}place:{model}", b"1", nx=True, px=int(seconds * 1000)))

    def unreserve(self, model: str) -> None:
        """Lets a model be placed again: what was asked of the worker is done, or has failed."""
        with available():
            self._redis.delete(f"{PREFIX}place:{model}")

    def mark(self, role: str, seconds: float) -> None:
        """Notes that a role was filled just now. Raises UnavailableError."""
        with available():
            self._redis.set(f"{PREFIX}role:{role}", b"1", px=int(seconds * 1000))

    def is_filled(self, role: str) -> bool:
        """Whether somebody noted it lately. Raises UnavailableError."""
        with available():
            return bool(self._redis.exists(f"{PREFIX}role:{role}"))

    def _read(self) -> tuple[Card, ...]:
        with available():
            members: set[bytes] = self._redis.smembers(_NODES)  # type: ignore[assignment]
            keys = [_key(node.decode()) for node in sorted(members)]
            cards: list[bytes | None] = self._redis.mget(keys) if keys else []  # type: ignore[assignment]
        return tuple(_decoder.decode(card) for card in cards if card is not None)


def _key(node: str) -> str:
    return f"{PREFIX}worker:{node}"


def _report_key(node: str) -> str:
    return f"{PREFIX}metrics:{node}"


def _slots(cards: tuple[Card, ...], model: str) -> int:
    return sum(held.slots for card in cards if (held := card.held(model)) is not None)
