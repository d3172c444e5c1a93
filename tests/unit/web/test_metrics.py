"""What deploy/ asks of /metrics is there, and a broker that is gone takes nothing else with it."""

import json
import re
from pathlib import Path
from typing import Any

from flask.testing import FlaskClient
from prometheus_client.parser import text_string_to_metric_families

from app.jobs import State
from app.kernel import Kernel
from app.registry import Card, Holding
from app.web import create_app
from app.web.hub import Hub
from app.web.observed import REGISTRY
from inference.protocol import Info
from tasks import meters
from tests.stack import ROOT, eventually
from tests.unit.web.conftest import Broker, kernel_of, settings_of, submitted

NAME = re.compile(r"\btokenyard_\w+")


def samples(client: FlaskClient) -> dict[str, float]:
    families = text_string_to_metric_families(client.get("/metrics").get_data(as_text=True))
    return {sample.name + str(sample.labels): sample.value for family in families for sample in family.samples}


VLLM = """# HELP vllm:kv_cache_usage_perc Used.
# TYPE vllm:kv_cache_usage_perc gauge
vllm:kv_cache_usage_perc{engine="0",model_name="/srv/models/m"} 0.25
"""


def measured() -> str:
    """What a worker publishes that has done everything once."""
    meters.WAIT.labels("m", "5").observe(2)
    meters.FIRST.labels("m").observe(3)
    meters.LOADS.labels("m", "loaded").inc()
    meters.LOAD_SECONDS.labels("m", "vllm").observe(1)
    meters.EVICTIONS.labels("m").inc()
    meters.GAP.add("m", {0.004: 3, 7.0: 1})
    meters.BATCH.add("m", {2: 1})
    info = Info("vllm", 1, 4, 4096, cache_tokens=1000)
    return meters.text([("m", info, 250)])


def card(node: str, **fields: Any) -> Card:
    return Card(node, node.partition("@")[0], "h", 1, "life", **fields)


def test_every_metric_of_the_dashboard_and_the_alerts_exists(client: FlaskClient, kernel: Kernel) -> None:
    holding = Holding(model="m", backend="vllm", slots=4, running=1, bytes=10)
    device = {"memory_total": 100, "memory_free": 5, "utilization": 0.5, "temperature": 61.0}
    kernel.registry.announce(card("gpu.0@h", holdings=(holding,), **device))
    kernel.registry.publish("gpu.0@h", [("", measured()), ("m", VLLM)])
    kernel.store.end(submitted(kernel).id, State.CANCELLED)
    submitted(kernel)
    client.get("/jobs").close()

    given = {name.partition("{")[0] for name in samples(client)}
    for file in ("grafana.json", "alerts.yml"):
        asked = set(NAME.findall((ROOT / "deploy" / file).read_text()))
        assert len(asked) > 8
        assert asked - given == set()
    told = set(re.findall(r"`(\w+)`", (ROOT / "docs" / "operations.md").read_text()))
    ours = {re.sub(r"^tokenyard_|_(bucket|count|sum)$", "", name) for name in given if name.startswith("tokenyard_")}
    assert ours - told == set()


def test_what_workers_measure_is_told_for_each_of_them(client: FlaskClient, kernel: Kernel) -> None:
    text = measured()
    for node in ("gpu.0@h", "gpu.1@h"):
        kernel.registry.announce(card(node))
        kernel.registry.publish(node, [("", text), ("m", VLLM)])
    kernel.registry.publish("gpu.2@h", [("", text)])  # of one that is dead

    given = samples(client)

    gaps = {name: value for name, value in given.items() if name.startswith("tokenyard_inter_token_seconds")}
    for node in ("gpu.0@h", "gpu.1@h"):
        labels = {"model": "m", "worker": node}
        count = gaps[f"tokenyard_inter_token_seconds_count{labels}"]
        fast = gaps["tokenyard_inter_token_seconds_bucket" + str({"le": "0.005", **labels})]
        assert count % 4 == 0
        assert fast == count * 3 / 4
        assert given["vllm:kv_cache_usage_perc" + str({"engine": "0", "model_name": "m", "worker": node})] == 0.25
        cache = {"engine": "vllm", **labels}
        assert given[f"tokenyard_engine_cache_tokens{cache}"] == 250
        assert given[f"tokenyard_engine_cache_size_tokens{cache}"] == 1000
    assert not any("gpu.2@h" in name or "/srv" in name for name in given)
    names = [line.split()[2] for line in client.get("/metrics").text.splitlines() if line.startswith("# TYPE")]
    assert len(names) == len(set(names))


def test_devices_are_told_as_json(client: FlaskClient, kernel: Kernel) -> None:
    kernel.registry.announce(card("gpu.0@h", memory_total=100, memory_free=5, temperature=61.0))
    known = {"worker": "gpu.0@h", "device": "gpu.0", "memory_total": 100, "memory_free": 5, "temperature": 61.0}
    assert client.get("/metrics/gpu").get_json() == {"devices": [{**known, "utilization": None}]}


def test_the_relay_measures_itself_while_somebody_follows(kernel: Kernel) -> None:
    count = REGISTRY.get_sample_value
    before = count("tokenyard_relay_lag_seconds_count") or 0
    hub = Hub(kernel.bus)
    with hub.following(submitted(kernel).id):
        eventually(lambda: (count("tokenyard_relay_lag_seconds_count") or 0) > before, what="a measurement")
        assert hub.followers() == 1
    hub.close()
    assert count("tokenyard_relay_lag_seconds_bucket", {"le": "2.5"})


def test_the_dashboard_can_be_read() -> None:
    board = json.loads((ROOT / "deploy" / "grafana.json").read_text())
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"]) > 8


def test_without_the_broker_the_database_still_tells(own_broker: Broker, tmp_path: Path) -> None:
    kernel = kernel_of(settings_of(tmp_path, own_broker.url))
    submitted(kernel)
    own_broker.stop()

    given = samples(create_app(kernel=kernel).test_client())

    assert given["tokenyard_jobs_queued{'model': 'scripted', 'priority': '5'}"] == 1
    assert (given["tokenyard_up{'part': 'broker'}"], given["tokenyard_up{'part': 'database'}"]) == (0, 1)
    kernel.close()
