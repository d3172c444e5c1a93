"""Faults of the broker."""

import time
from typing import Any

import httpx
import pytest

from tests.faults.ledger import Ledger
from tests.faults.yard import Yard
from tests.stack import eventually

BODY = {"model": "scripted", "messages": [{"role": "user", "content": "x"}], "max_tokens": 5}
#: What "at once" may take where others have the processor, in seconds.
BUSY = 5.0


def in_time(yard: Yard, method: str, path: str, *, seconds: float = BUSY, **asked: Any) -> httpx.Response:
    """An answer, which must not be held up by the broker."""
    began = time.monotonic()
    answer = yard.http.request(method, path, **asked)
    assert time.monotonic() - began < seconds, f"{method} {path} hung"
    return answer


@pytest.mark.parametrize("memory", ["its file", "nothing"])
def test_the_broker_restarted_in_mid_stream(yard: Yard, ledger: Ledger, memory: str) -> None:
    jobs = [ledger.submit(max_tokens=80, scripted_tokens_per_second=20) for _ in range(3)]
    for job_id in jobs:
        ledger.emitted(job_id, 10)
    yard.broker.kill()
    if memory == "nothing":
        yard.broker.forget()
    yard.broker.start()
    ledger.hold()
    assert {yard.job(job_id)["status"] for job_id in jobs} == {"succeeded"}


@pytest.mark.parametrize("seconds", [4, pytest.param(120, marks=pytest.mark.faults)])
def test_the_broker_stopped_for_a_while(yard: Yard, ledger: Ledger, seconds: int) -> None:
    running = ledger.submit(max_tokens=80, scripted_tokens_per_second=20)
    ledger.emitted(running, 10)
    yard.broker.kill()
    try:
        eventually(lambda: yard.http.get("/health/ready").status_code == 503, what="G8: not ready")
        refused = in_time(yard, "POST", "/chat", json=BODY)
        accepted = ledger.submit(max_tokens=5, follow=0)
        time.sleep(seconds)  # the length of the fault
    finally:
        yard.broker.start()
    ledger.follow(accepted)
    ledger.hold()
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "broker_unavailable")
    assert "Retry-After" in refused.headers
    assert {yard.job(job_id)["status"] for job_id in (running, accepted)} == {"succeeded"}


@pytest.mark.parametrize(
    "seconds", [pytest.param(4, marks=pytest.mark.faults), pytest.param(60, marks=pytest.mark.faults)]
)
def test_a_frozen_broker(yard: Yard, ledger: Ledger, seconds: int) -> None:
    running = ledger.submit(max_tokens=80, scripted_tokens_per_second=20)
    ledger.emitted(running, 10)
    yard.broker.process.send_signal(19)
    try:
        # The first one asks the broker, for five seconds; the next are told what it found, or ask in their turn.
        answers = [in_time(yard, "POST", "/chat", json=BODY, seconds=5.0 + BUSY) for _ in range(2)]
        assert [answer.status_code for answer in answers] == [503, 503]
        assert in_time(yard, "GET", "/health/live").status_code == 200
        if seconds > 10:
            eventually(lambda: yard.http.get("/health/ready").status_code == 503, what="G8: not ready")
        time.sleep(seconds)  # the length of the fault
    finally:
        yard.broker.process.send_signal(18)
    ledger.hold()
    assert yard.job(running)["status"] == "succeeded"


def test_a_broker_whose_memory_is_full(yard: Yard, ledger: Ledger) -> None:
    running = ledger.submit(max_tokens=60, scripted_tokens_per_second=20)
    ledger.emitted(running, 10)
    with yard.broker.client() as broker:
        broker.config_set("maxmemory", "1mb")
        try:
            answer = in_time(yard, "POST", "/chat", json=BODY)
            accepted = ledger.submit(max_tokens=5, follow=0)
            time.sleep(1.0)  # the length of the fault
        finally:
            broker.config_set("maxmemory", "0")
    ledger.follow(accepted)
    ledger.hold()
    assert answer.status_code == 503
    assert {yard.job(job_id)["status"] for job_id in (running, accepted)} == {"succeeded"}


@pytest.mark.faults
def test_a_broker_that_comes_and_goes(yard: Yard, ledger: Ledger) -> None:
    jobs = [ledger.submit(max_tokens=200, scripted_tokens_per_second=20) for _ in range(8)]
    for job_id in jobs:
        ledger.emitted(job_id, 5)
    for number in range(5):
        yard.broker.kill()
        if number % 2:
            yard.broker.forget()
        yard.broker.start()
        time.sleep(1.0)  # between two faults
    ledger.hold()
    assert {yard.job(job_id)["status"] for job_id in jobs} == {"succeeded"}


def test_the_web_s_way_to_the_broker_breaks(yard: Yard, ledger: Ledger) -> None:
    job_id = ledger.submit(max_tokens=80, scripted_tokens_per_second=20)
    ledger.emitted(job_id, 10)
    yard.roads["web"].cut()
    time.sleep(1.0)  # the length of the fault
    assert in_time(yard, "POST", "/chat", json=BODY).status_code == 503
    yard.roads["web"].heal()
    ledger.hold()
    assert yard.job(job_id)["status"] == "succeeded"
