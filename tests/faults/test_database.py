"""Faults of the database."""

import resource
import time

import httpx
import psutil
import pytest

from tests.faults.ledger import Ledger
from tests.faults.yard import Yard
from tests.stack import eventually

BODY = {"model": "scripted", "messages": [{"role": "user", "content": "x"}], "max_tokens": 5}


@pytest.mark.parametrize(
    "seconds", [3, pytest.param(8, marks=pytest.mark.faults), pytest.param(60, marks=pytest.mark.faults)]
)
def test_a_database_that_is_locked(yard: Yard, ledger: Ledger, seconds: int) -> None:
    ending = ledger.submit(max_tokens=20, scripted_tokens_per_second=20)
    longer = ledger.submit(max_tokens=100, scripted_tokens_per_second=20)
    ledger.emitted(longer, 5)
    with yard.database_locked():
        time.sleep(seconds)  # the length of the fault
        assert yard.http.get("/health/live").status_code == 200
    ledger.hold()
    assert {yard.job(job_id)["status"] for job_id in (ending, longer)} == {"succeeded"}


@pytest.mark.faults
def test_a_submit_to_a_locked_database_is_refused_and_leaves_nothing(yard: Yard, ledger: Ledger) -> None:
    with yard.database_locked():
        refused = yard.http.post("/jobs", json=BODY)
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "database_unavailable")
    ledger.hold()


def test_a_disk_that_is_full_at_the_database(yard: Yard, ledger: Ledger) -> None:
    """No process may make a file longer: what a full disk is to whoever writes to it."""
    running = ledger.submit(max_tokens=100, scripted_tokens_per_second=20)
    ledger.emitted(running, 10)
    web = yard.family("web")
    for process in web:
        process.rlimit(psutil.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
    try:
        refused = eventually(
            lambda: answer if (answer := _submit(yard)).status_code != 202 else None, what="a refused submit"
        )
    finally:
        for process in web:
            process.rlimit(psutil.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "database_unavailable")
    ledger.hold()
    assert yard.job(running)["status"] == "succeeded"


def _submit(yard: Yard) -> httpx.Response:
    return yard.http.post("/jobs", json=BODY)
