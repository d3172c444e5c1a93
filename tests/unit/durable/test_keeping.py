"""Lives: how they are kept, how they are lost, and who notices."""

import os
import subprocess
import threading
import time
from types import SimpleNamespace
from unittest.mock import Mock

import psutil
import pytest

from app import sending, store
from app.bus import ENDS
from app.errors import Failure, UnavailableError
from app.jobs import State
from app.kernel import Kernel
from app.models import Life
from app.place import place_of
from app.registry import SWEEPER
from tasks import lease as leases
from tasks import watchdog
from tasks.ears import Ears
from tasks.gate import Gate
from tasks.lease import LOST, Lease
from tasks.life import Departure
from tasks.sweep import Watch, bury_dead, sweep
from tasks.watchdog import Watchdog
from tests.unit.web.conftest import Broker, kernel_of, settings_of

from .conftest import Desk, Worker, eventually


class Exit:
    """What ends a process, recorded."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.status: int | None = None
        monkeypatch.setattr(os, "_exit", self._note)

    def _note(self, status: int) -> None:
        self.status = status
        raise SystemExit(status)


@pytest.fixture
def exit(monkeypatch: pytest.MonkeyPatch) -> Exit:
    return Exit(monkeypatch)


def a_life(kernel: Kernel, **values: object) -> Life:
    process = psutil.Process()
    fields = {"id": "life", "node": "cpu.0@here", "host": "here", "pid": process.pid, "counter": 0}
    life = Life(**(fields | {"pid_started": process.create_time(), "started_at": time.time()} | values))
    with kernel.database.write() as session:
        session.add(life)
    return life


def a_lease(kernel: Kernel, **calls: object) -> Lease:
    values = {"progress": dict, "ask_end": lambda *_: None, "announce": lambda: None}
    return Lease(kernel, "life", **(values | calls))  # type: ignore[arg-type]


def test_a_life_whose_process_is_gone_from_this_host_is_dead_at_once(kernel: Kernel) -> None:
    here = a_life(kernel)
    gone = a_life(kernel, id="gone", pid=2**22 + 1)
    elsewhere = a_life(kernel, id="elsewhere", host="there", pid=2**22 + 1)
    dead = Watch().dead([here, gone, elsewhere], host="here", lease=15)

    assert [life.id for life in dead] == ["gone"]


def test_a_life_whose_process_dies_unreaped_is_dead_at_once(kernel: Kernel) -> None:
    with subprocess.Popen(["sleep", "60"]) as child:
        process = psutil.Process(child.pid)
        watch, life = Watch(), a_life(kernel, pid=child.pid, pid_started=process.create_time())
        assert watch.dead([life], host="here", lease=15) == []
        child.kill()
        eventually(lambda: process.status() == psutil.STATUS_ZOMBIE)
        assert watch.dead([life], host="here", lease=15) == [life]


def test_no_life_ends_because_somebody_sets_the_clock(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    """When a process began is told by the wall clock, anew each time it is asked."""
    watch, known, unknown = Watch(), a_life(kernel), a_life(kernel, id="unknown")
    assert watch.dead([known], host="here", lease=15) == []
    began = psutil.Process.create_time
    monkeypatch.setattr(psutil.Process, "create_time", lambda process: began(process) + 3600)

    assert watch.dead([known, unknown], host="here", lease=15) == []


def test_a_life_whose_number_another_process_has_is_dead_after_a_lease(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    watch, reused = Watch(), a_life(kernel, pid_started=psutil.Process().create_time() - 100)

    assert watch.dead([reused], host="here", lease=15) == []
    now += 16
    assert watch.dead([reused], host="here", lease=15) == [reused]


def test_a_counter_that_stands_still_for_a_lease_is_a_death(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    watch, life = Watch(), a_life(kernel, host="there")

    assert watch.dead([life], host="here", lease=15) == []
    now += 14
    life.counter += 1
    assert watch.dead([life], host="here", lease=15) == []
    now += 14
    assert watch.dead([life], host="here", lease=15) == []
    now += 2
    assert watch.dead([life], host="here", lease=15) == [life]


def test_the_jobs_of_a_dead_life_go_to_a_warm_peer_at_once(kernel: Kernel, desk: Desk, worker: Worker) -> None:
    a_life(kernel, host=place_of(kernel.settings.node), pid=2**22 + 1)
    job_id = desk.submit()
    kernel.store.claim(job_id, "life", "cpu.0@here")
    bury_dead(kernel, Watch())
    job = desk.job(job_id)

    assert (job.status, job.losses) == (State.QUEUED, 1)
    assert job.released_at is not None
    assert kernel.bus.queue_length("model.scripted") == 1


def test_a_sweep_ends_what_expired_and_what_its_owner_forgot(kernel: Kernel, desk: Desk, worker: Worker) -> None:
    expired = [desk.submit(expires_at=time.time() - 1) for _ in range(3)]
    forgotten = desk.submit(timeout=5)
    fresh = desk.submit()
    for job_id in (forgotten, fresh):
        kernel.store.claim(job_id, worker.life, worker.node)
    with kernel.database.write() as session:
        session.merge(desk.job(forgotten)).claimed_at = time.time() - 60
    sweep(kernel)

    for job_id in (*expired, forgotten):
        assert desk.ended(job_id).job.status == State.TIMED_OUT
        assert len(desk.whole_stream(job_id)) == 1
    assert desk.job(fresh).status == State.RUNNING
    assert kernel.registry.is_filled(SWEEPER)


def test_all_that_wait_for_a_model_that_cannot_be_loaded_hear_of_it(
    kernel: Kernel, desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In steps, each of which asks the broker as often for one job as for hundreds."""
    monkeypatch.setattr(store, "BATCH", 3)
    asked: list[str] = []
    pipelines, append = kernel.bus.redis.pipeline, kernel.bus.append
    monkeypatch.setattr(kernel.bus.redis, "pipeline", lambda **how: asked.append("fences") or pipelines(**how))
    monkeypatch.setattr(kernel.bus, "append", lambda *given: asked.append("ends") or append(*given))
    jobs = [desk.submit() for _ in range(8)]
    kernel.dispatcher.fail_waiting("scripted", Failure("engine_failed", "It does not start."))

    assert asked == ["fences", "ends"] * 3
    for job_id in jobs:
        assert desk.job(job_id).status == State.FAILED
        (end,) = kernel.bus.replay(job_id)
        assert (end.seq, end.state, end.code) == (1, "failed", "engine_failed")
        assert 0 < kernel.bus.redis.ttl(f"tokenyard:stream:{job_id}") <= kernel.settings.stream_ttl_seconds


def test_a_lost_message_is_sent_again_though_later_ones_stand_in_the_queue(
    kernel: Kernel, desk: Desk, worker: Worker
) -> None:
    lost = desk.submit()
    kernel.store.release("scripted", 8)  # and whoever should send it dies
    with kernel.database.write() as session:
        session.merge(desk.job(lost)).released_at = time.time() - 60
    desk.submit()
    kernel.dispatcher.release("scripted")
    before = kernel.bus.queue_length("model.scripted")
    kernel.dispatcher.resend(30)

    assert (before, kernel.bus.queue_length("model.scripted")) == (1, 2)
    kernel.dispatcher.resend(30)
    assert kernel.bus.queue_length("model.scripted") == 2


def test_nobody_waits_for_long_for_a_broker_that_hangs_and_has_every_connection_that_sends(
    kernel: Kernel, desk: Desk, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sending, "PATIENCE", 0.01)
    pool = kernel.dispatcher._celery.pool
    taken = [pool.acquire(block=True) for _ in range(pool.limit)]
    job_id = desk.submit()
    ears = Ears(kernel.dispatcher._celery, worker.node)

    def ask() -> None:
        with pytest.raises(UnavailableError):
            kernel.loads.ask("load", "scripted", [worker.node])
        with pytest.raises(UnavailableError):
            kernel.scans.ask()

    sending_all = [
        threading.Thread(target=send, args=args, daemon=True)
        for send, *args in ((kernel.dispatcher.release, "scripted"), (ears.consume, "model.scripted"), (ask,))
    ]
    for thread in sending_all:
        thread.start()
    for thread in sending_all:
        thread.join(30)
    held = [thread for thread in sending_all if thread.is_alive()]
    for connection in taken:
        connection.release()

    assert not held
    assert desk.job(job_id).released_at is None  # the next sweep sends it
    kernel.dispatcher.release("scripted")
    assert kernel.bus.queue_length("model.scripted") == 1


def test_ears_cease_what_only_a_leaving_model_wants(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    """The message that said so may have been lost, and each job that comes by it costs another one its time."""
    told: list[tuple[str, str]] = []
    monkeypatch.setattr("tasks.ears.tell", lambda _, verb, to, queue: told.append((verb, queue)))
    queues = SimpleNamespace(consume_from={"cpu.0": None, "model.scripted": None})
    ears = Ears(SimpleNamespace(amqp=SimpleNamespace(queues=queues)), worker.node)
    ears.mend(worker.garage)  # type: ignore[arg-type]
    assert told == []

    worker.garage.bays()[0].leaving = True
    ears.mend(worker.garage)  # type: ignore[arg-type]
    assert told == [("cancel_consumer", "model.scripted")]


def test_a_lease_that_cannot_be_renewed_ends_the_process(
    kernel: Kernel, exit: Exit, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leases, "GUARD", 0.01)
    a_life(kernel)
    lease = a_lease(kernel)
    lease._renewed = time.monotonic() - kernel.settings.lease_seconds - 1
    with pytest.raises(SystemExit):
        lease._guard()

    assert exit.status == LOST


def test_a_renewal_that_failed_is_tried_again_at_once(kernel: Kernel) -> None:
    lease = a_lease(kernel)
    lease._renew = Mock(side_effect=[False, True])  # type: ignore[method-assign]
    before = lease._renewed
    lease.wake()
    keeping = threading.Thread(target=lease._keep)
    keeping.start()
    try:
        eventually(lambda: lease._renewed > before, kernel.settings.renew_seconds / 2)
    finally:
        lease.stop()
        keeping.join()


def test_a_life_that_was_declared_dead_ends_its_process(kernel: Kernel, exit: Exit) -> None:
    a_life(kernel)
    lease = a_lease(kernel)
    assert lease._renew()
    kernel.lives.bury("life")
    with pytest.raises(SystemExit):
        lease._renew()

    assert exit.status == LOST


def test_a_life_that_left_by_itself_is_not_told_that_it_is_dead(kernel: Kernel, exit: Exit) -> None:
    a_life(kernel)
    lease = a_lease(kernel)
    lease.stop()
    kernel.lives.leave("life", {})

    assert not lease._renew()
    assert exit.status is None


def test_a_lease_needs_database_and_broker(kernel: Kernel, own_broker: Broker, tmp_path: object) -> None:
    cut_off = kernel_of(settings_of(own_broker._folder, own_broker.url))
    a_life(cut_off)
    lease = a_lease(cut_off)
    assert lease._renew()
    own_broker.stop()

    assert not lease._renew()
    cut_off.close()


def test_a_broker_that_is_full_does_not_end_workers(kernel: Kernel, desk: Desk) -> None:
    a_life(kernel)

    def announce() -> None:
        kernel.registry.mark("anything", 5)

    kernel.bus.redis.config_set("maxmemory", 1)
    try:
        with pytest.raises(UnavailableError, match="memory is full"):
            kernel.bus.ping()
        assert a_lease(kernel, announce=announce)._renew()
    finally:
        kernel.bus.redis.config_set("maxmemory", 0)


def test_a_first_token_is_noted_in_the_row_at_once(kernel: Kernel, desk: Desk, worker: Worker) -> None:
    lease = Lease(
        kernel,
        worker.life,
        progress=worker.runner.progress,
        ask_end=worker.runner.ask_end,
        announce=worker.announce,
    )
    worker.runner.on_first = lease.wake
    lease.start()
    job_id = desk.submit(400, pace=20)
    worker.take(job_id)
    worker.run(job_id)
    began = time.monotonic()
    eventually(lambda: desk.job(job_id).last_seq)
    seconds = time.monotonic() - began
    lease.stop()
    eventually(lambda: not [thread for thread in threading.enumerate() if thread.name.startswith("lease-")])

    assert seconds < kernel.settings.renew_seconds


def test_junk_on_the_channel_of_ends_is_nobody_s_wish(kernel: Kernel, worker: Worker) -> None:
    heard: list[tuple[str, str]] = []
    lease = Lease(
        kernel,
        worker.life,
        progress=dict,
        ask_end=lambda job_id, state: heard.append((job_id, state)),
        announce=worker.announce,
    )
    lease.start()
    for junk in (b"\xff\xfe", b"", b"a b c", b"job running", b"job cancelled"):
        eventually(lambda wish=junk: kernel.bus.redis.publish(ENDS, wish))
    eventually(lambda: heard)
    lease.stop()
    eventually(lambda: not [thread for thread in threading.enumerate() if thread.name.startswith("lease-")])

    assert heard == [("job", "cancelled")]


def test_a_worker_that_hears_nothing_of_its_own_work_for_a_minute_is_deaf(
    kernel: Kernel, desk: Desk, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    dog = Watchdog(kernel.bus, worker.garage, worker.runner)  # type: ignore[arg-type]
    monkeypatch.setattr(watchdog.time, "monotonic", lambda: now)  # type: ignore[attr-defined]

    def look(seconds: float) -> bool:
        nonlocal now
        now += seconds
        return dog.is_deaf()

    assert not look(0)
    assert not look(100)  # nothing waits
    desk.submit()
    kernel.dispatcher.release("scripted")
    assert not look(5)
    assert not look(50)
    worker.runner.claims += 1
    assert not look(5)
    assert not look(59)
    assert look(2)


def test_a_departure_happens_once_however_often_it_is_asked_for() -> None:
    left: list[str] = []
    departure = Departure(lambda: left.append(threading.current_thread().name))
    departure.prepare()
    for _ in range(3):
        departure.begin()
    departure.finish()

    assert left == ["departure"]


def test_a_gate_lets_many_in_or_closes_for_one() -> None:
    gate = Gate()
    assert gate.enter()
    assert gate.enter()
    assert gate.close()
    assert not gate.close()
    assert not gate.enter()
    gate.leave()
    assert not gate.wait_empty(0.01)
    gate.leave()
    assert gate.wait_empty(0.01)
    gate.open()
    assert gate.enter()
