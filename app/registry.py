"""The registry: which workers are alive, which models they hold, and what their devices look like.

It lives in Redis and forgets by itself: a card that its worker does not renew is gone after a lease. After Redis lost
its memory every worker writes its card again within one renewal.
"""

import threading
import time

import msgspec
import redis

from app.bus import PREFIX, available

_NODES = PREFIX + "nodes"
#: How long a process trusts what it read, in seconds. A stale answer costs a job a moment's wait, never its end.
FRESH = 0.5


class Holding(msgspec.Struct, frozen=True):
    """A model in a worker's memory."""

    model: str
    backend: str
    slots: int
    running: int = 0
    load_ns: int = 0
    context: int | None = None


class Card(msgspec.Struct, frozen=True):
    """What a worker tells about itself."""

    node: str
    device: str
    host: str
    pid: int
    life: str
    holdings: tuple[Holding, ...] = ()
    loading: tuple[str, ...] = ()
    failures: dict[str, str] = {}
    cache_limit: int = 1
    torch_version: str = ""
    cuda_available: bool = False
    gpu_memory_allocated_mb: float = 0.0
    gpu_memory_reserved_mb: float = 0.0

    def holds(self, model: str) -> bool:
        """Whether the model is in memory here."""
        return any(holding.model == model for holding in self.holdings)


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Card)


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

    def retire(self, node: str) -> None:
        """Takes a worker's card away, because it ended or was declared dead. Raises UnavailableError."""
        with available(), self._redis.pipeline(transaction=False) as pipe:
            pipe.srem(_NODES, node)
            pipe.delete(_key(node))
            pipe.execute()
        self.forget()

    def workers(self) -> tuple[Card, ...]:
        """The cards of the living, at most FRESH seconds old. Raises UnavailableError."""
        now = time.monotonic()
        with self._lock:
            if now - self._read_at < FRESH:
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
        return sum(h.slots for card in self.workers() for h in card.holdings if h.model == model)

    def reserve(self, model: str, seconds: float) -> bool:
        """Keeps the placing of a model to one process, until its worker shows it as loading."""
        with available():
            return bool(self._redis.set(f"{PREFIX}place:{model}", b"1", nx=True, px=int(seconds * 1000)))

    def _read(self) -> tuple[Card, ...]:
        with available():
            members: set[bytes] = self._redis.smembers(_NODES)  # type: ignore[assignment]
            keys = [_key(node.decode()) for node in sorted(members)]
            cards: list[bytes | None] = self._redis.mget(keys) if keys else []  # type: ignore[assignment]
        return tuple(_decoder.decode(card) for card in cards if card is not None)


def _key(node: str) -> str:
    return f"{PREFIX}worker:{node}"
