"""Faults of workers and their engines."""

import signal

import pytest

from tests.faults.ledger import Ledger
from tests.faults.yard import Yard


def test_a_worker_killed_before_the_first_token(yard: Yard, ledger: Ledger) -> None:
    job_id = ledger.submit(max_tokens=3, scripted_tokens_per_second=0.5)
    with ledger.flowing():
        yard.kill(yard.owner(job_id))
    ledger.hold()
    assert yard.job(job_id)["losses"] == 1


def test_a_worker_killed_in_mid_stream(yard: Yard, ledger: Ledger) -> None:
    jobs = [ledger.submit(max_tokens=60, scripted_tokens_per_second=20) for _ in range(4)]
    for job_id in jobs:
        ledger.emitted(job_id, 10)
    with ledger.flowing():
        yard.kill(yard.owner(jobs[0]))
    ledger.hold()
    assert {yard.job(job_id)["status"] for job_id in jobs} == {"succeeded"}
    assert sum(yard.job(job_id)["losses"] for job_id in jobs) >= 1


def test_an_engine_killed_in_mid_stream(yard: Yard, ledger: Ledger) -> None:
    job_id = ledger.submit(max_tokens=60, scripted_tokens_per_second=20)
    ledger.emitted(job_id, 10)
    owner = yard.owner(job_id)
    worker = yard.processes[owner].pid
    with ledger.flowing():
        for engine in yard.engines(owner):
            engine.kill()
    ledger.hold()
    assert yard.job(job_id)["status"] == "succeeded"
    assert yard.processes[owner].pid == worker


@pytest.mark.parametrize("times", [1, 2])
def test_a_worker_asked_to_end_hands_its_jobs_over(yard: Yard, ledger: Ledger, times: int) -> None:
    job_id = ledger.submit(max_tokens=60, scripted_tokens_per_second=20)
    ledger.emitted(job_id, 10)
    owner = yard.owner(job_id)
    with ledger.flowing():
        for _ in range(times):
            yard.signal(owner, signal.SIGTERM)
    ledger.hold()
    assert yard.job(job_id)["status"] == "succeeded"
