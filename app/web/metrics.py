"""GET /metrics, in Prometheus' form.

What all processes share is read from the database and the registry when it is asked for, so it is right whichever web
process answers, and after any crash. What only a web process knows, its requests, comes from all of them.
"""

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from flask import Response, jsonify
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Metric, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from app.errors import UnavailableError
from app.jobs import Kind
from app.kernel import Kernel
from app.reads import Depth, Lane
from app.registry import Card, Report
from app.totals import Totals
from app.web.access import Access, needs
from app.web.answers import blueprint
from app.web.current import here
from app.web.fleet_answers import DevicesAnswer
from app.web.observed import REGISTRY
from app.web.residence import worker

metrics = needs(Access.MONITORS)(blueprint("metrics", "health", "How the machine is."))
TEXT: dict[str | int, Any] = {200: {"content": {"text/plain": {"schema": {"type": "string"}}}}}


@metrics.get("/metrics", summary="Metrics for Prometheus", responses=TEXT)
def show_metrics() -> Response:
    """Queues, outcomes, workers, and requests of every web process on this host."""
    shared = CollectorRegistry(auto_describe=False)
    shared.register(Shared(here().kernel))
    return Response(generate_latest(_requests()) + generate_latest(shared), content_type=CONTENT_TYPE_LATEST)


@metrics.get("/metrics/gpu", summary="Devices just now", responses={200: DevicesAnswer})
def show_devices() -> Response:
    """The device of each living worker: memory, load and heat. `null`: it does not tell."""
    names = ("device", "memory_total", "memory_free", "utilization", "temperature")
    entries = [worker(card, ()) for card in here().kernel.registry.workers()]
    return jsonify({"devices": [{"worker": entry["node"], **{n: entry[n] for n in names}} for entry in entries]})


def _requests() -> CollectorRegistry:
    registry = CollectorRegistry()
    try:
        MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    except ValueError:  # one process alone, without the folder that several share
        return REGISTRY
    return registry


class Shared(Collector):
    """What the database and the registry say just now. What does not answer is left out, and `tokenyard_up` says so."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel

    def collect(self) -> Iterator[Metric]:
        """Every family."""
        up = GaugeMetricFamily("tokenyard_up", "Whether a part answers.", labels=["part"])
        store = self._kernel.store
        try:
            found = [*_queues(store.lanes(), store.depths()), *_totals(store.totals()), *_downloads(store.downloads())]
            up.add_metric(["database"], 1)
        except UnavailableError:
            found = []
            up.add_metric(["database"], 0)
        try:
            found += _workers(self._kernel.registry.workers())
            found += _reported(self._kernel.registry.reports())
            up.add_metric(["broker"], 1)
        except UnavailableError:
            up.add_metric(["broker"], 0)
        yield up
        yield from found


def _reported(reports: Mapping[str, Report]) -> Iterator[Metric]:
    """What workers measure, and what engines' libraries do: one family a name, a sample for each worker and model."""
    families: dict[str, Metric] = {}
    for node, report in reports.items():
        for model, text in report:
            told = {"worker": node} | ({"model_name": model} if model else {})  # vLLM knows it by its path
            for family in text_string_to_metric_families(text):
                whole = families.setdefault(family.name, Metric(family.name, family.documentation, family.type))
                whole.samples += [sample._replace(labels=sample.labels | told) for sample in family.samples]
    yield from families.values()


def _gauge(name: str, text: str, labels: Sequence[str], rows: Iterable[tuple[Sequence[str], float]]) -> Metric:
    family = GaugeMetricFamily(f"tokenyard_{name}", text, labels=labels)
    for values, value in rows:
        family.add_metric(values, value)
    return family


def _counter(name: str, text: str, labels: Sequence[str], rows: Iterable[tuple[Sequence[str], float]]) -> Metric:
    family = CounterMetricFamily(f"tokenyard_{name}", text, labels=labels)
    for values, value in rows:
        family.add_metric(values, value)
    return family


def _queues(lanes: Sequence[Lane], depths: Sequence[Depth]) -> Iterator[Metric]:
    lane = ("model", "priority")
    keys = [(lane.model, str(lane.priority)) for lane in lanes]
    told = {
        "jobs_queued": ("Generations that wait, in the database's whole queue.", [lane.queued for lane in lanes]),
        "jobs_released": ("Those of them that the broker has; Flower sees these.", [lane.released for lane in lanes]),
        "jobs_running": ("Generations that run.", [lane.running for lane in lanes]),
    }
    for name, (text, values) in told.items():
        yield _gauge(name, text, lane, zip(keys, values, strict=True))
    now = time.time()
    waits = [max(0.0, now - lane.oldest) if lane.oldest is not None else 0.0 for lane in lanes]
    text = "How long the oldest one that waits has waited."
    yield _gauge("queue_oldest_wait_seconds", text, lane, zip(keys, waits, strict=True))
    pulls = {"queued": 0, "running": 0}
    for depth in depths:
        if depth.kind == Kind.PULL:
            pulls[depth.status] += depth.jobs
    yield _gauge("pulls", "Downloads.", ("state",), (((state,), count) for state, count in pulls.items()))


def _totals(totals: Totals) -> Iterator[Metric]:
    of_all = ("kind", "model", "outcome", "code")
    keys = [(ending.kind, ending.model, ending.status, ending.code) for ending in totals.endings]
    told = {
        "jobs_ended": ("Jobs that ended, by outcome and error.", [ending.jobs for ending in totals.endings]),
        "job_attempts": ("Attempts at the jobs that ended.", [ending.attempts for ending in totals.endings]),
        "job_losses": ("Workers that died under the jobs that ended.", [ending.losses for ending in totals.endings]),
    }
    for name, (text, values) in told.items():
        yield _counter(name, text, of_all, zip(keys, values, strict=True))
    tokens = (("in",), totals.prompt_tokens), (("out",), totals.completion_tokens)
    yield _counter("tokens", "Tokens of finished generations.", ("direction",), tokens)
    yield _counter("pulled_bytes", "Bytes of downloads that ended.", (), [((), totals.pulled_bytes)])


def _downloads(running: tuple[int, int, float]) -> Iterator[Metric]:
    told = {
        "pulls_downloaded_bytes": "Of downloads that run: bytes that are here.",
        "pulls_expected_bytes": "Of downloads that run: bytes in all, as far as known.",
        "pulls_bytes_per_second": "Of downloads that run: how fast they are.",
    }
    for (name, text), value in zip(told.items(), running, strict=True):
        yield _gauge(name, text, (), [((), value)])


def _workers(cards: Sequence[Card]) -> Iterator[Metric]:
    node, held = ("worker", "device"), ("worker", "model", "engine")
    yield _gauge("worker_up", "Workers that are alive.", node, (((card.node, card.device), 1) for card in cards))
    known = [card for card in cards if card.memory_total]
    memory = "Memory of a worker's device that engines may take, and what is free of it."
    rows = [((c.node, c.device), c.memory_total) for c in known], [((c.node, c.device), c.memory_free) for c in known]
    yield _gauge("device_memory_bytes", memory, node, rows[0])
    yield _gauge("device_memory_free_bytes", memory, node, rows[1])
    busy = [((c.node, c.device), c.utilization) for c in cards if c.utilization is not None]
    yield _gauge("device_utilization", "How busy a worker's device is, 0 to 1.", node, busy)
    heat = [((c.node, c.device), c.temperature) for c in cards if c.temperature is not None]
    yield _gauge("device_temperature_celsius", "How hot a worker's device is.", node, heat)
    holdings = [((card.node, h.model, h.backend), h) for card in cards for h in card.holdings]
    yield _gauge("engine_slots", "Requests that an engine runs at once.", held, ((key, h.slots) for key, h in holdings))
    yield _gauge("engine_running", "Requests that an engine runs.", held, ((key, h.running) for key, h in holdings))
    yield _gauge("engine_bytes", "Memory of weights and cache.", held, ((key, h.bytes) for key, h in holdings))
    loading = [((card.node, load.model), load.fraction) for card in cards for load in card.loading]
    yield _gauge("load_progress", "Models on their way into memory, 0 to 1.", ("worker", "model"), loading)
