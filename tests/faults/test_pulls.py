"""Faults of pulls: the puller dies, the disk is full. What was begun goes on, or leaves nothing."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.disk import full, small_disk
from tests.faults.ledger import Ledger
from tests.faults.yard import Yard
from tests.hub import FakeHub
from tests.stack import eventually

MODEL = "owner/name"
WEIGHTS = "model.safetensors"
pytestmark = pytest.mark.faults


@pytest.fixture
def slowly(yard: Yard, hub: FakeHub) -> Iterator[FakeHub]:
    """The hub over a slow line; what came from it goes at the end."""
    hub.throttle = 200_000
    yield hub
    hub.throttle = None
    yard.http.delete(f"/models/{MODEL}?force=true")


@pytest.fixture
def store(yard: Yard) -> Iterator[Path]:
    """The model store, on a disk of its own."""
    with small_disk(yard.folder / "hf" / "hub") as folder:
        yield folder


def parts(yard: Yard) -> list[Path]:
    """What unfinished downloads left."""
    return list((yard.folder / "hf").rglob("*.incomplete"))


def has_come(yard: Yard, job_id: str, size: int) -> None:
    eventually(lambda: yard.job(job_id)["downloaded_bytes"] > size, what=f"{size} bytes of the model")


def test_the_puller_killed_at_half(yard: Yard, ledger: Ledger, slowly: FakeHub) -> None:
    jobs = [ledger.pull(MODEL) for _ in range(3)]
    for job_id in jobs:
        has_come(yard, job_id, 1_000_000)
    children = yard.family("puller")[1:]
    yard.kill("puller")
    eventually(lambda: not any(child.is_running() for child in children), what="the end of its download")
    [part] = parts(yard)
    held = part.stat().st_size
    before = len(slowly.bodies(WEIGHTS))
    with ledger.flowing():
        slowly.throttle = None
    ledger.hold()
    assert {yard.job(job_id)["status"] for job_id in jobs} == {"succeeded"}
    [rest] = slowly.bodies(WEIGHTS)[before:]  # one download goes on for all three, and fetches nothing twice
    assert (rest.start, rest.sent) == (held, len(slowly.repos[MODEL][WEIGHTS]) - held)
    assert parts(yard) == []


def test_a_disk_that_is_full_at_the_model_store(yard: Yard, ledger: Ledger, store: Path, slowly: FakeHub) -> None:
    job_id = ledger.pull(MODEL)
    has_come(yard, job_id, 200_000)
    with full(store):
        with ledger.flowing():
            yard.finished(job_id)
        ledger.hold()
        assert (yard.job(job_id)["status"], yard.job(job_id)["error_code"]) == ("failed", "disk_full")
        eventually(lambda: parts(yard) == [], what="no partial file")
    again = ledger.pull(MODEL)
    ledger.hold()
    assert yard.job(again)["status"] == "succeeded"
