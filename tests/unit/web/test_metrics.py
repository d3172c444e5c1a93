"""What deploy/ asks of /metrics is there, and a broker that is gone takes nothing else with it."""

import json
import re
from pathlib import Path

from flask.testing import FlaskClient
from prometheus_client.parser import text_string_to_metric_families

from app.kernel import Kernel
from app.registry import Card, Holding
from app.web import create_app
from tests.stack import ROOT
from tests.unit.web.conftest import Broker, kernel_of, settings_of, submitted

NAME = re.compile(r"\btokenyard_\w+")


def samples(client: FlaskClient) -> dict[str, float]:
    families = text_string_to_metric_families(client.get("/metrics").get_data(as_text=True))
    return {sample.name + str(sample.labels): sample.value for family in families for sample in family.samples}


def test_every_metric_of_the_dashboard_and_the_alerts_exists(client: FlaskClient, kernel: Kernel) -> None:
    holding = Holding(model="m", backend="llamacpp", slots=4, running=1, bytes=10)
    card = Card("gpu.0@h", "gpu.0", "h", 1, "life", (holding,), memory_total=100, memory_free=5, utilization=0.5)
    kernel.registry.announce(card)
    submitted(kernel)
    client.get("/jobs").close()

    given = {name.partition("{")[0] for name in samples(client)}
    for file in ("grafana.json", "alerts.yml"):
        asked = set(NAME.findall((ROOT / "deploy" / file).read_text()))
        # Of a counter without a job that ended there is a name and no sample.
        told = given | {"tokenyard_jobs_ended_total", "tokenyard_job_losses_total"}
        assert len(asked) > 5
        assert asked - told == set()


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
