"""Faults of workers and their engines."""

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from celery import Celery

from app.jobs import model_queue
from tasks.watchdog import DEAF, STATUS
from tests.faults.disk import full, small_disk
from tests.faults.ledger import GRACE, Ledger
from tests.faults.yard import WORKERS, Paced, Yard
from tests.stack import eventually


def test_a_worker_killed_before_the_first_token(yard: Yard, model: Paced, ledger: Ledger) -> None:
    job_id = ledger.submit(**model.late)
    owner = yard.owner(job_id)
    with ledger.flowing():
        yard.kill(owner)
        assert [follower.last for follower in ledger.of(job_id)] == [0, 0]
    ledger.hold()
    assert (yard.job(job_id)["status"], yard.job(job_id)["losses"]) == ("succeeded", 1)


def test_a_worker_killed_in_mid_stream(yard: Yard, model: Paced, ledger: Ledger) -> None:
    jobs = [ledger.submit(**model.long) for _ in range(4)]
    for job_id in jobs:
        ledger.emitted(job_id, 10)
    with ledger.flowing():
        yard.kill(yard.owner(jobs[-1]))  # the one with the most before it
    ledger.hold()
    assert {yard.job(job_id)["status"] for job_id in jobs} == {"succeeded"}
    assert sum(yard.job(job_id)["losses"] for job_id in jobs) >= 1


def test_a_worker_killed_at_the_commit_of_the_result(yard: Yard, ledger: Ledger) -> None:
    job_id = ledger.submit(max_tokens=20, scripted_tokens_per_second=20)
    owner = yard.owner(job_id)
    ledger.emitted(job_id, 15)
    with yard.database_locked():
        ledger.emitted(job_id, 20)  # the last token is out, and the result waits for the lock
        yard.kill(owner)
    ledger.hold()
    assert yard.job(job_id)["status"] == "succeeded"


def test_a_whole_answer_is_not_continued_when_its_worker_is_killed_at_the_commit(yard: Yard, ledger: Ledger) -> None:
    """A stop string ended it, short of its limit: an engine that was asked to go on behind that would do so."""
    job_id = ledger.submit(max_tokens=20, stop=[" t9"], scripted_tokens_per_second=20)
    owner = yard.owner(job_id)
    ledger.emitted(job_id, 5)
    with yard.database_locked():
        ledger.emitted(job_id, 10)  # t0 to t8, and the token that was the stop string
        yard.kill(owner)
    ledger.hold()
    job = yard.job(job_id)
    assert (job["status"], job["done_reason"], job["attempt"]) == ("succeeded", "stop", 2)


def test_an_engine_killed_in_mid_stream(yard: Yard, model: Paced, ledger: Ledger) -> None:
    job_id = ledger.submit(**model.long)
    ledger.emitted(job_id, 10)
    owner = yard.owner(job_id)
    worker = yard.processes[owner].pid
    with ledger.flowing():
        for engine in yard.engines(owner):
            engine.kill()
    ledger.hold()
    assert (yard.job(job_id)["status"], yard.job(job_id)["losses"]) == ("succeeded", 1)
    assert yard.processes[owner].pid == worker


@pytest.mark.parametrize("times", [1, 2])
def test_a_worker_asked_to_end_hands_its_jobs_over(yard: Yard, model: Paced, ledger: Ledger, times: int) -> None:
    job_id = ledger.submit(**model.long)
    ledger.emitted(job_id, 10)
    owner = yard.owner(job_id)
    with ledger.flowing():
        yard.end(owner, times)
    ledger.hold()
    job = yard.job(job_id)
    assert (job["status"], job["attempt"]) == ("succeeded", 2)
    assert times > 1 or job["losses"] == 0


@pytest.mark.parametrize("seconds", [0, pytest.param(90, marks=pytest.mark.faults)])
def test_a_worker_cut_off_from_the_broker_stops_and_another_goes_on(yard: Yard, ledger: Ledger, seconds: int) -> None:
    """`seconds`: how long the network stays silent at least. What was on its way arrives when it is well again."""
    until = time.monotonic() + seconds
    job_id = ledger.submit(max_tokens=max(200, 40 * seconds), scripted_tokens_per_second=20, timeout=300)
    ledger.emitted(job_id, 10)
    owner = yard.owner(job_id)
    lost = yard.processes[owner]
    yard.roads[owner].silence()
    try:
        with ledger.flowing():
            eventually(lambda: yard.job(job_id)["attempt"] == 2, seconds=GRACE, what="another attempt")
        assert lost.wait(GRACE) != 0  # it can renew its lease no more, so it ends by itself
        time.sleep(max(0.0, until - time.monotonic()))  # the length of the fault
        assert yard.owner(job_id) != owner
    finally:
        yard.roads[owner].heal()
    ledger.hold()
    assert yard.job(job_id)["status"] == "succeeded"


def test_a_worker_cut_off_for_a_moment_goes_on(yard: Yard, ledger: Ledger) -> None:
    job_id = ledger.submit(max_tokens=60, scripted_tokens_per_second=20)
    ledger.emitted(job_id, 10)
    owner = yard.owner(job_id)
    yard.roads[owner].silence()
    time.sleep(1.5)  # the length of the fault
    yard.roads[owner].heal()
    ledger.hold()
    assert yard.job(job_id)["status"] == "succeeded"


@pytest.mark.faults
def test_a_frozen_worker_is_declared_dead_and_can_change_nothing_when_it_wakes(yard: Yard, ledger: Ledger) -> None:
    job_id = ledger.submit(max_tokens=300, scripted_tokens_per_second=20)
    ledger.emitted(job_id, 10)
    owner = yard.owner(job_id)
    with yard.frozen(owner), ledger.flowing():
        eventually(lambda: yard.job(job_id)["attempt"] == 2, seconds=GRACE, what="another attempt")
        ledger.emitted(job_id, 60)
    ledger.hold()
    assert yard.job(job_id)["status"] == "succeeded"


@pytest.mark.faults
def test_a_job_that_kills_its_worker_each_time_is_poisoned_and_takes_no_other_with_it(
    yard: Yard, ledger: Ledger
) -> None:
    poison = ledger.submit(max_tokens=400, scripted_tokens_per_second=10)
    others = [ledger.submit(max_tokens=120, scripted_tokens_per_second=10) for _ in range(6)]
    for attempt in range(1, 10):
        job = eventually(
            lambda least=attempt: (
                found
                if (found := yard.job(poison))["status"] == "failed"
                or (found["status"] == "running" and found["attempt"] >= least)
                else None
            ),
            seconds=GRACE,
            what="the poison at work",
        )
        if job["status"] == "failed":
            break
        yard.kill(job["worker"].partition("@")[0])
    ledger.hold()
    assert yard.job(poison)["error"]["code"] == "poisoned"
    assert yard.job(poison)["losses"] == 3
    assert {yard.job(other)["status"] for other in others} == {"succeeded"}


@pytest.mark.faults
@pytest.mark.parametrize("skew", [3600, -3600])
def test_a_worker_whose_clock_is_wrong_by_an_hour(yard: Yard, ledger: Ledger, skew: int) -> None:
    for name in WORKERS:
        yard.settings[name] = {"PYTHONPATH": str(yard.skewed_clock()), "SKEW_SECONDS": str(skew)}
    try:
        for name in WORKERS:
            yard.kill(name)
        yard.ready()
        with ledger.flowing():
            detached = ledger.submit(max_tokens=30, scripted_tokens_per_second=20, timeout=60)
            held = ledger.chat(max_tokens=30, scripted_tokens_per_second=20, timeout=60)
        ledger.hold()
        assert {yard.job(job_id)["status"] for job_id in (detached, held.job_id)} == {"succeeded"}
    finally:
        yard.settings.clear()
        for name in WORKERS:
            yard.kill(name)
    ledger.hold()


@contextmanager
def alone(yard: Yard) -> Iterator[None]:
    """The second worker is away."""
    with yard.holding("cpu.1"):
        yard.kill("cpu.1")
        yield


def test_a_worker_whose_consumer_was_cancelled_listens_again(yard: Yard, ledger: Ledger) -> None:
    """As an operator can by mistake, in Flower for example."""
    with alone(yard), Celery(broker=yard.broker.url) as celery:
        node = yard.finished(ledger.submit(max_tokens=2))["worker"]
        assert celery.control.cancel_consumer(
            model_queue("scripted"), destination=[node], reply=True, timeout=30, limit=1
        )
        worker = yard.processes["cpu.0"].pid
        job_id = ledger.submit(max_tokens=5)
        yard.finished(job_id)
    ledger.hold()
    assert yard.job(job_id)["status"] == "succeeded"
    assert yard.processes["cpu.0"].pid == worker


@pytest.mark.faults
def test_a_worker_that_is_deaf_ends_and_its_next_life_hears(yard: Yard, ledger: Ledger) -> None:
    """No message of its queues comes through to it any more; all else does, so that it keeps its lease."""
    with alone(yard):
        yard.finished(ledger.submit(max_tokens=2))
        deaf = yard.processes["cpu.0"]
        try:
            yard.roads["cpu.0"].withhold(b"BRPOP")
            job_id = ledger.submit(max_tokens=5)
            eventually(lambda: deaf.poll() is not None, seconds=DEAF + GRACE, what="the end of the deaf worker")
        finally:
            yard.roads["cpu.0"].heal()
        yard.finished(job_id)
    ledger.hold()
    assert deaf.returncode == STATUS
    assert (yard.job(job_id)["status"], yard.job(job_id)["losses"]) == ("succeeded", 0)


@contextmanager
def alone_on_a_small_disk(yard: Yard) -> Iterator[Path]:
    """The one worker that is left has it for its log and its temporary files."""
    log = yard.folder / "cpu.0.log"
    with small_disk(yard.folder / "small") as disk, yard.holding("cpu.1"):
        with yard.holding("cpu.0"):
            for name in WORKERS:
                yard.kill(name)
            log.rename(log.with_suffix(".before"))
            log.symlink_to(disk / log.name)
            yard.settings["cpu.0"] = {"TMPDIR": str(disk)}
        try:
            yield disk
        finally:
            with yard.holding("cpu.0"):
                yard.kill("cpu.0")
                log.unlink()
                yard.settings.clear()


@pytest.mark.faults
def test_a_disk_that_is_full_at_the_worker(yard: Yard, ledger: Ledger) -> None:
    """It streams on, and loads a model again that was here; another one it cannot load before there is room."""
    real = {"model": "smollm2", "max_tokens": 5, "ignore_eos": True}
    with alone_on_a_small_disk(yard) as disk:
        streaming = ledger.submit(max_tokens=40, scripted_tokens_per_second=20)
        longer = ledger.submit(max_tokens=160, scripted_tokens_per_second=20)
        ledger.emitted(longer, 5)
        worker = yard.processes["cpu.0"].pid
        with full(disk):
            yard.finished(streaming)
            for engine in yard.engines("cpu.0"):
                engine.kill()
            ledger.emitted(longer, ledger.of(longer)[0].last + 5)
            refused = ledger.submit(**real)
            yard.finished(refused)
        # An operator's word, who made room. For a second after the last order the model counts as on its way.
        eventually(lambda: yard.http.post("/models/smollm2/reload").status_code == 202, what="the order to load")
        later = ledger.submit(**real)
        yard.finished(later)
        yard.finished(longer)
        assert yard.processes["cpu.0"].pid == worker
    ledger.hold()
    assert {yard.job(job_id)["status"] for job_id in (streaming, longer, later)} == {"succeeded"}
    assert yard.job(refused)["error"]["code"] == "engine_failed"


@pytest.mark.faults
def test_many_jobs_over_workers_that_die_all_the_time(yard: Yard, ledger: Ledger) -> None:
    over = threading.Event()

    def havoc() -> None:
        number = 0
        while not over.wait(4.0):
            yard.end(WORKERS[number % 2], 1)  # a deploy: no losses, so that nobody is poisoned
            number += 1

    thread = threading.Thread(target=havoc)
    thread.start()
    try:
        jobs = [ledger.submit(max_tokens=40, scripted_tokens_per_second=10, follow=1) for _ in range(60)]
        for job_id in jobs:
            ledger.of(job_id)[0].ended(300)
    finally:
        over.set()
        thread.join()
    ledger.hold()
    assert {yard.job(job_id)["status"] for job_id in jobs} == {"succeeded"}


def test_an_idle_worker_s_death_costs_nothing(yard: Yard, ledger: Ledger) -> None:
    job_id = ledger.submit(max_tokens=80, scripted_tokens_per_second=20)
    idle = next(name for name in WORKERS if name != yard.owner(job_id))
    with ledger.flowing():
        yard.signal(idle, signal.SIGKILL)
    ledger.hold()
    assert yard.job(job_id)["losses"] == 0
