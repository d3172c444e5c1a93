"""Faults of a whole node, among two over one PostgreSQL and one Valkey."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.followers import Follower, SocketFollower, SseFollower
from tests.faults.ledger import GRACE, Ledger, vitals_of, warm_up
from tests.faults.nodes import Cluster
from tests.faults.test_pauses import ELSEWHERE, judge, pause_of
from tests.hub import FakeHub
from tests.postgres import create
from tests.stack import BIN, eventually

REPO = "owner/tiny-GGUF"
MODEL = f"{REPO}:Q4_1"


@pytest.fixture(scope="module")
def cluster(
    tmp_path_factory: pytest.TempPathFactory, starters: dict[str, str], starter_gguf: Path, postgres: str
) -> Iterator[Cluster]:
    folder = tmp_path_factory.mktemp("nodes")
    url = create(postgres, "nodes")
    with FakeHub({REPO: {"tiny.Q4_1.gguf": starter_gguf.read_bytes()}}) as hub:
        pulls = {"HF_ENDPOINT": hub.url, "HF_TOKEN": "", "NO_PROXY": "*", "PULL_DISK_RESERVE": "0"}
        cluster = Cluster(folder, url, **starters, **pulls)
        try:
            warm_up(cluster)
            warm_up_b(cluster)
            yield cluster
        finally:
            cluster.close()


def warm_up_b(cluster: Cluster) -> None:
    """What `warm_up` is to the first web process."""
    ledger = Ledger(cluster)
    jobs = [ledger.submit(max_tokens=20, scripted_tokens_per_second=20, follow=0) for _ in range(24)]
    followers = [kind(cluster.url_b, job_id, 0) for job_id in jobs for kind in (SseFollower, SocketFollower)]
    for follower in followers:
        follower.ended()
    cluster.usual["web.b"] = vitals_of(cluster, "web.b")


@pytest.fixture
def ledger(cluster: Cluster) -> Iterator[Ledger]:
    ledger = Ledger(cluster)
    yield ledger
    for follower in ledger.followers:
        follower.leave()


def loaded(cluster: Cluster, ledger: Ledger) -> list[str]:
    """Jobs on both nodes, followed through both, in the middle of their answers."""
    jobs: list[str] = []

    def spread() -> bool:
        """One more job: on a busy machine, the first ten may all find their way to one node."""
        jobs.append(ledger.submit(max_tokens=240, scripted_tokens_per_second=20))
        return len(jobs) >= 10 and {cluster.job(job_id)["worker"] for job_id in jobs} >= {"cpu.0@a", "cpu.1@b"}

    eventually(spread, what="jobs on both nodes")
    for number, job_id in enumerate(jobs):
        kind = SocketFollower if number % 2 else SseFollower
        ledger.follow(job_id, kind, url=cluster.url_b)
    for job_id in jobs:
        ledger.emitted(job_id, 10)
    return jobs


def follow_both(cluster: Cluster, ledger: Ledger, job_id: str, after: int = 0) -> list[Follower]:
    """Four more clients: over either transport, at either web process."""
    urls, kinds = (cluster.url, cluster.url_b), (SseFollower, SocketFollower)
    return [ledger.follow(job_id, kind, after, url) for url in urls for kind in kinds]


def test_whoever_follows_at_either_web_process_is_told_the_same(cluster: Cluster, ledger: Ledger) -> None:
    job_id = ledger.submit(max_tokens=60, scripted_tokens_per_second=20, follow=0)
    early = follow_both(cluster, ledger, job_id)
    ledger.emitted(job_id, 20)
    late = follow_both(cluster, ledger, job_id)
    behind = follow_both(cluster, ledger, job_id, after=10)
    early[0].ended()
    afterwards = follow_both(cluster, ledger, job_id)
    behind += follow_both(cluster, ledger, job_id, after=30)
    ledger.hold()
    job = cluster.job(job_id)
    assert job["status"] == "succeeded"
    assert {follower.text for follower in early + late + afterwards} == {job["text"]}
    assert all(follower.text and job["text"].endswith(follower.text) for follower in behind)


def test_whoever_followed_at_a_web_process_that_was_killed_goes_on_at_the_other(
    cluster: Cluster, ledger: Ledger
) -> None:
    job_id = ledger.submit(max_tokens=120, scripted_tokens_per_second=20, follow=0)
    followers = follow_both(cluster, ledger, job_id)
    ledger.emitted(job_id, 10)
    with cluster.holding("web.b"), ledger.flowing():
        for follower in followers:
            follower.url = cluster.url  # where a balancer sends whoever comes again
        cluster.kill("web.b")
        for follower in followers:
            follower.ended()
    ledger.hold()
    assert cluster.job(job_id)["status"] == "succeeded"
    assert all(follower.connections > 1 for follower in followers[2:])


def test_a_node_killed_under_load(cluster: Cluster, ledger: Ledger) -> None:
    jobs = loaded(cluster, ledger)
    with ledger.flowing(), cluster.without_b():
        for job_id in jobs:
            cluster.finished(job_id, seconds=GRACE)
    ledger.hold()
    assert {cluster.job(job_id)["status"] for job_id in jobs} == {"succeeded"}
    lost = {job_id for job_id in jobs if cluster.job(job_id)["losses"]}
    assert lost
    # Of more jobs than one worker has slots, so that some may wait for those of node a to end.
    judge(pause_of(ledger, lost), ELSEWHERE, pause_of(ledger, set(jobs) - lost))


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


def command(cluster: Cluster, *words: str) -> str:
    """`tokenyard`, as an operator types it."""
    env = cluster.env | {"TOKENYARD_URL": cluster.url_b}
    done = subprocess.run([BIN / "tokenyard", *words], env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_drained_node_finishes_what_it_runs_and_gets_nothing_more(cluster: Cluster, ledger: Ledger) -> None:
    jobs = loaded(cluster, ledger)

    assert "b is empty" in command(cluster, "drain", "b")

    with ledger.flowing():
        later = [ledger.submit(max_tokens=3) for _ in range(10)]
        assert {cluster.finished(job_id)["worker"] for job_id in later} == {"cpu.0@a"}
    assert {cluster.job(job_id)["losses"] for job_id in jobs} == {0}
    held = cluster.http.get("/workers").json()["workers"]
    assert {worker["host"]: len(worker["models"]) for worker in held} == {"a": 1, "b": 0}
    command(cluster, "drain", "b", "--undo")
    ledger.hold()


def test_what_a_worker_is_to_load_is_pulled_to_its_node_first(cluster: Cluster) -> None:
    question = {
        "model": MODEL,
        "messages": [{"role": "user", "content": "What is the capital of France? Answer briefly."}],
    }
    pulled = cluster.http.post("/pull", json={"model": MODEL}).json()["job_id"]
    assert cluster.finished(pulled)["status"] == "succeeded", cluster.job(pulled)

    for device in ("cpu.0", "cpu.1"):
        cluster.http.put(f"/models/{MODEL}/devices", json={"devices": [device]})
        answer = cluster.http.post("/chat", json=question | {"max_tokens": 32, "temperature": 0}).json()
        assert "Paris" in answer["message"]["content"]

    files = [list((cluster.folder / place).rglob("*.gguf")) for place in ("hf", "b/hf")]
    assert [len(found) for found in files] == [1, 1]
    cluster.http.delete(f"/models/{MODEL}", params={"force": True})
    eventually(lambda: not any(path.exists() for found in files for path in found), what="the files to go")
