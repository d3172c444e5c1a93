"""Faults of the web process, and of those that work unseen."""

import signal
import time

import httpx
import pytest

from tests.faults.ledger import GRACE, Ledger
from tests.faults.yard import Yard
from tests.stack import eventually


def test_the_web_process_killed_in_mid_stream(yard: Yard, ledger: Ledger) -> None:
    job_id = ledger.submit(max_tokens=90, scripted_tokens_per_second=20, follow=4)
    held = ledger.chat(max_tokens=90, scripted_tokens_per_second=20)
    ledger.emitted(job_id, 10)
    yard.kill("web")
    ledger.hold()
    assert yard.job(job_id)["status"] == "succeeded"
    assert all(follower.connections > 1 for follower in ledger.of(job_id))
    assert not held.end  # its connection broke; nobody told it a wrong end


def test_the_web_process_killed_between_commit_and_send(yard: Yard, ledger: Ledger) -> None:
    yard.roads["web"].silence()  # the broker is out of its reach, so the message cannot go
    began = float(yard.rows("SELECT MAX(created_at) FROM jobs")[0][0] or 0)
    body = {"model": "scripted", "messages": [{"role": "user", "content": "x"}], "max_tokens": 5}
    with pytest.raises(httpx.TransportError):  # it must not say 202 in time, for it cannot send
        httpx.post(f"{yard.url}/jobs", json=body, timeout=0.5, trust_env=False)
    rows = eventually(
        lambda: yard.rows("SELECT id FROM jobs WHERE created_at > :began", began=began),
        seconds=GRACE,
        what="the committed row",
    )
    yard.kill("web")
    yard.roads["web"].heal()
    yard.ready()
    for row in rows:
        ledger.accepted[row.id] = body
        ledger.follow(row.id)
    ledger.hold()
    assert {yard.job(row.id)["status"] for row in rows} == {"succeeded"}


@pytest.mark.parametrize("name", ["keeper", "beat"])
def test_the_keeper_or_the_beat_killed(yard: Yard, ledger: Ledger, name: str) -> None:
    job_id = ledger.submit(max_tokens=60, scripted_tokens_per_second=20)
    ledger.emitted(job_id, 5)
    with ledger.flowing():
        yard.signal(name, signal.SIGKILL)
    yard.kill(yard.owner(job_id))  # what only a keeper repairs
    ledger.hold()
    assert yard.job(job_id)["status"] == "succeeded"


def test_a_frozen_web_process_costs_a_pause(yard: Yard, ledger: Ledger) -> None:
    job_id = ledger.submit(max_tokens=60, scripted_tokens_per_second=20)
    ledger.emitted(job_id, 5)
    with yard.frozen("web"):
        time.sleep(2.0)  # the length of the fault
    ledger.hold()
    assert yard.job(job_id)["status"] == "succeeded"
