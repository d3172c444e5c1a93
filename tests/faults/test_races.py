"""Races: whoever comes first, there is one end, and everyone is told the same."""

import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.faults.ledger import Ledger
from tests.faults.yard import Yard

BODY = {"model": "scripted", "messages": [{"role": "user", "content": "one two"}], "max_tokens": 2}


@pytest.mark.parametrize("times", [60, pytest.param(1000, marks=pytest.mark.faults)])
def test_cancel_against_finish(yard: Yard, ledger: Ledger, times: int) -> None:
    def race(number: int) -> None:
        job_id = ledger.submit(max_tokens=2 + number % 5, scripted_tokens_per_second=100, follow=number % 2)
        yard.http.delete(f"/jobs/{job_id}")

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(race, range(times)))
    ledger.hold()
    assert {yard.job(job_id)["status"] for job_id in ledger.accepted} <= {"succeeded", "cancelled"}


def test_cancel_against_a_worker_s_death(yard: Yard, ledger: Ledger) -> None:
    job_id = ledger.submit(max_tokens=500, scripted_tokens_per_second=20)
    ledger.emitted(job_id, 5)
    owner = yard.owner(job_id)
    yard.http.delete(f"/jobs/{job_id}")
    yard.kill(owner)
    ledger.hold()
    assert yard.job(job_id)["status"] == "cancelled"


@pytest.mark.faults
def test_a_flood_of_jobs(yard: Yard, ledger: Ledger) -> None:
    def submit(_: int) -> str:
        """A client that asks again where the database took nothing for ten seconds, as it was told to."""
        while (answer := yard.http.post("/jobs", json=BODY)).status_code == 503:
            time.sleep(float(answer.headers["Retry-After"]))
        assert answer.status_code == 202, answer.text
        ledger.accepted[job_id := str(answer.json()["id"])] = BODY
        return job_id

    with ThreadPoolExecutor(16) as pool:
        jobs = list(pool.map(submit, range(10_000)))
    with ledger.flowing():
        pass
    last = ledger.follow(jobs[-1])
    last.ended(900)
    ledger.hold()
    assert yard.rows("SELECT DISTINCT status FROM jobs WHERE id >= :first", first=min(jobs)) == [("succeeded",)]
