"""Faults of messages: lost, repeated, late, and not ours at all."""

import json
import uuid

import pytest
from celery import Celery

from app.jobs import GENERATE_TASK, MAINTENANCE_QUEUE, PULL_QUEUE, model_queue
from tests.faults.ledger import GRACE, Ledger
from tests.faults.yard import WORKERS, Yard
from tests.stack import eventually

QUEUE = model_queue("scripted")


@pytest.fixture
def celery(yard: Yard) -> Celery:
    """A sender like ours, to the same broker."""
    with Celery(broker=yard.broker.url) as app:
        app.conf.broker_transport_options = {"priority_steps": list(range(10)), "queue_order_strategy": "priority"}
        app.conf.task_ignore_result = True
        yield app


def send(celery: Celery, job_id: str) -> None:
    celery.send_task(GENERATE_TASK, args=(job_id,), task_id=job_id, queue=QUEUE, priority=5)


def queued(yard: Yard) -> list[bytes]:
    """The keys of the lists that hold the scripted model's messages."""
    with yard.broker.client() as broker:
        return [key for key in broker.scan_iter(f"{QUEUE}*") if broker.type(key) == b"list"]


def test_a_message_that_was_popped_and_lost(yard: Yard, ledger: Ledger) -> None:
    for name in WORKERS:
        yard.processes[name].send_signal(19)  # SIGSTOP, so that nobody takes the message but us
    try:
        job_id = ledger.submit(max_tokens=10)
        eventually(lambda: queued(yard), what="the message")
        with yard.broker.client() as broker:
            for key in queued(yard):
                broker.delete(key)
    finally:
        for name in WORKERS:
            yard.processes[name].send_signal(18)
    ledger.hold()
    assert yard.job(job_id)["status"] == "succeeded"


def test_the_same_message_three_times(yard: Yard, ledger: Ledger, celery: Celery) -> None:
    job_id = ledger.submit(max_tokens=40, scripted_tokens_per_second=20)
    for _ in range(3):
        send(celery, job_id)
    ledger.emitted(job_id, 5)
    send(celery, job_id)
    ledger.hold()
    assert (yard.job(job_id)["status"], yard.job(job_id)["attempt"]) == ("succeeded", 1)


def test_a_late_duplicate_of_a_job_that_ended(yard: Yard, ledger: Ledger, celery: Celery) -> None:
    job_id = ledger.submit(max_tokens=5)
    ledger.of(job_id)[0].ended()
    before = yard.job(job_id)
    send(celery, job_id)
    with ledger.flowing():
        pass  # the message went before the other job's
    ledger.hold()
    assert yard.job(job_id) == before


JUNK = [
    b"\xff\xfe\x00junk",
    b"not json",
    b"[]",
    b"null",
    b"{}",
    json.dumps({"body": "!!!", "headers": {}, "properties": {}}).encode(),
    json.dumps({"body": "!", "properties": {"body_encoding": "base64", "delivery_tag": "1"}}).encode(),
    json.dumps({"body": "e30=", "properties": {"body_encoding": "base64", "delivery_tag": "1"}}).encode(),
    json.dumps({"body": "", "properties": {"delivery_tag": ["1"], "delivery_info": 3}}).encode(),
]


@pytest.mark.parametrize("queue", [QUEUE, PULL_QUEUE, MAINTENANCE_QUEUE])
def test_junk_on_a_queue(yard: Yard, ledger: Ledger, celery: Celery, queue: str) -> None:
    pids = {name: process.pid for name, process in yard.processes.items()}
    with yard.broker.client() as broker:
        for junk in JUNK:
            broker.lpush(queue, junk)
    celery.send_task("nobody.knows.this", args=(1,), queue=queue)
    celery.send_task(GENERATE_TASK, args=(), task_id=str(uuid.uuid4()), queue=queue)
    celery.send_task(GENERATE_TASK, args=({"a": 1},), queue=queue)
    celery.send_task(GENERATE_TASK, args=("no such job",), queue=queue)
    with ledger.flowing():
        pass
    ledger.hold()
    with yard.broker.client() as broker:
        eventually(lambda: not broker.llen(queue), seconds=GRACE, what="an empty queue")
    assert {name: process.pid for name, process in yard.processes.items()} == pids


def test_junk_on_the_channels(yard: Yard, ledger: Ledger) -> None:
    job_id = ledger.submit(max_tokens=40, scripted_tokens_per_second=20)
    ledger.emitted(job_id, 5)
    with yard.broker.client() as broker:
        channels = [channel.decode() for channel in broker.pubsub_channels("tokenyard:*")]
        for junk in (*JUNK, b"x" * 36, job_id.encode() + b"\x00\x00\x00\x01\xc1", b"\xff" * 100):
            for channel in {*channels, "tokenyard:ends", "tokenyard:events:nobody"}:
                broker.publish(channel, junk)
    ledger.hold()
    assert yard.job(job_id)["status"] == "succeeded"
    cancelled = ledger.submit(max_tokens=5000, scripted_tokens_per_second=20)
    ledger.emitted(cancelled, 1)
    yard.http.delete(f"/jobs/{cancelled}")
    ledger.hold()
    assert yard.job(cancelled)["status"] == "cancelled"
