"""Faults of a whole node, among two over one PostgreSQL and one Valkey."""

from collections.abc import Iterator

import pytest

from tests.faults.followers import SocketFollower, SseFollower
from tests.faults.ledger import GRACE, Ledger, warm_up
from tests.faults.nodes import Cluster
from tests.postgres import create
from tests.stack import eventually


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory, starters: dict[str, str], postgres: str) -> Iterator[Cluster]:
    folder = tmp_path_factory.mktemp("nodes")
    cluster = Cluster(folder, create(postgres, "nodes"), **starters)
    try:
        warm_up(cluster)
        yield cluster
    finally:
        cluster.close()


@pytest.fixture
def ledger(cluster: Cluster) -> Iterator[Ledger]:
    ledger = Ledger(cluster)
    yield ledger
    for follower in ledger.followers:
        follower.leave()


def loaded(cluster: Cluster, ledger: Ledger) -> list[str]:
    """Jobs on both nodes, followed through both, in the middle of their answers."""
    jobs = [ledger.submit(max_tokens=120, scripted_tokens_per_second=20) for _ in range(10)]
    for number, job_id in enumerate(jobs):
        kind = SocketFollower if number % 2 else SseFollower
        ledger.followers.append(kind(cluster.url_b, job_id, 0))
    for job_id in jobs:
        ledger.emitted(job_id, 10)
    assert {cluster.owner(job_id) for job_id in jobs} == {"cpu.0", "cpu.1"}
    return jobs


def test_a_node_killed_under_load(cluster: Cluster, ledger: Ledger) -> None:
    jobs = loaded(cluster, ledger)
    with ledger.flowing(), cluster.without_b():
        for job_id in jobs:
            cluster.finished(job_id, seconds=GRACE)
    ledger.hold()
    assert {cluster.job(job_id)["status"] for job_id in jobs} == {"succeeded"}
    assert sum(cluster.job(job_id)["losses"] for job_id in jobs) >= 1


def test_a_node_cut_off_under_load(cluster: Cluster, ledger: Ledger) -> None:
    jobs = loaded(cluster, ledger)
    worker = cluster.processes["cpu.1"]
    with ledger.flowing(), cluster.b_cut_off():
        for job_id in jobs:
            cluster.finished(job_id, seconds=GRACE)
        eventually(lambda: worker.poll() is not None, what="the worker to give up its lease")
    ledger.hold()
    assert {cluster.job(job_id)["status"] for job_id in jobs} == {"succeeded"}
    assert sum(cluster.job(job_id)["losses"] for job_id in jobs) >= 1
