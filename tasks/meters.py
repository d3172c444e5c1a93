"""What a worker counts and measures while it works. Its lease publishes it as text, which /metrics hands on.

It begins anew with each life, as counters may; what must survive a crash is counted from the rows (app/totals.py).
Nothing is measured a token that can be measured a step.
"""

import threading
from bisect import bisect_left
from collections import Counter as Tally
from collections.abc import Iterable, Iterator, Mapping

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Metric,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import HistogramMetricFamily
from prometheus_client.registry import Collector

from inference.protocol import Info

disable_created_metrics()  # type: ignore[no-untyped-call]
REGISTRY = CollectorRegistry()
#: Seconds: a queue may be empty or hold a night's work.
_WAITS = (0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800, 7200)
_GAPS = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1, 2.5)
_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)

WAIT = Histogram(
    "tokenyard_queue_wait_seconds",
    "From a generation's acceptance to its first claim.",
    ("model", "priority"),
    buckets=_WAITS,
    registry=REGISTRY,
)
FIRST = Histogram(
    "tokenyard_time_to_first_token_seconds",
    "From a generation's acceptance to its first event, with queueing and loading.",
    ("model",),
    buckets=_WAITS,
    registry=REGISTRY,
)
LOADS = Counter("tokenyard_loads", "Loads that ended, by outcome.", ("model", "outcome"), registry=REGISTRY)
LOAD_SECONDS = Histogram(
    "tokenyard_load_seconds",
    "How long loads took that succeeded.",
    ("model", "engine"),
    buckets=_WAITS,
    registry=REGISTRY,
)
EVICTIONS = Counter(
    "tokenyard_evictions", "Models that left memory, for whatever reason.", ("model",), registry=REGISTRY
)
_HELD = ("model", "engine")
CACHE = Gauge(
    "tokenyard_engine_cache_tokens", "Tokens of running requests, prompts and answers.", _HELD, registry=REGISTRY
)
CACHE_SIZE = Gauge(
    "tokenyard_engine_cache_size_tokens", "Tokens that an engine has room for.", _HELD, registry=REGISTRY
)


class Steps(Collector):
    """A histogram by model whose values count several times: one call a step, however many requests are in it."""

    def __init__(self, name: str, text: str, bounds: Iterable[float]) -> None:
        self._name, self._text, self._bounds = name, text, tuple(bounds)
        self._lock = threading.Lock()
        self._counts: dict[str, list[int]] = {}
        self._sums: Tally[str] = Tally()
        REGISTRY.register(self)

    def add(self, model: str, values: Mapping[float, int]) -> None:
        """Each value, and how often it came."""
        with self._lock:
            counts = self._counts.setdefault(model, [0] * (len(self._bounds) + 1))
            for value, times in values.items():
                counts[bisect_left(self._bounds, value)] += times
                self._sums[model] += value * times  # type: ignore[assignment]

    def collect(self) -> Iterator[Metric]:
        """The one family."""
        family = HistogramMetricFamily(self._name, self._text, labels=("model",))
        with self._lock:
            for model, counts in self._counts.items():
                bounds = [*map(str, map(float, self._bounds)), "+Inf"]
                below = [(bound, sum(counts[: place + 1])) for place, bound in enumerate(bounds)]
                family.add_metric((model,), below, self._sums[model])
        yield family


GAP = Steps("tokenyard_inter_token_seconds", "Between the tokens of an answer, as the engine gives them.", _GAPS)
BATCH = Steps("tokenyard_engine_batch_requests", "Requests that got tokens in one step of an engine.", _SIZES)


def text(held: Iterable[tuple[str, Info, int]]) -> str:
    """All of it, in Prometheus' form. `held`: each model in memory, what was loaded, and its requests' tokens."""
    CACHE.clear()
    CACHE_SIZE.clear()
    for model, info, tokens in held:
        CACHE.labels(model, info.engine).set(tokens)
        if info.cache_tokens:
            CACHE_SIZE.labels(model, info.engine).set(info.cache_tokens)
    return generate_latest(REGISTRY).decode()
