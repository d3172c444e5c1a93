"""How many may wait, what is forgotten, and what is told of the wait."""

import time
from collections import Counter

import pytest
import sqlalchemy as sa

from app import limits, retention
from app.errors import IdempotencyConflictError, QueueFullError
from app.jobs import State
from app.kernel import Kernel
from app.keys import Key
from app.limits import Limits
from app.models import Batch, Idempotency, Job, Life, Result
from app.retention import Retention
from app.store import Outcome
from tests.unit.conftest import make_job

from .conftest import Desk, Worker


def a_key(**values: str) -> Key:
    return Key(**({"tenant": "", "key": "k", "digest": "d"} | values))


def test_held_requests_are_counted_by_model_and_all_others_together(kernel: Kernel) -> None:
    counted = Limits(kernel.store, held=2, detached=3)
    for _ in range(2):
        counted.take("a", "", held=True)
    counted.take("b", "", held=True)
    counted.take("a", "", held=False, jobs=2)
    counted.take("b", "", held=False)
    with pytest.raises(QueueFullError, match="2 requests wait for 'a' already"):
        counted.take("a", "", held=True)
    with pytest.raises(QueueFullError, match="3 jobs are in the queue already"):
        counted.take("c", "", held=False)


def test_who_fills_the_queue_leaves_room_for_everybody_else(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "FRESH", 60.0)
    for held in (False, True):
        counted = Limits(kernel.store, held=64, detached=64)

        def taken(tenant: str, limits: Limits = counted, held: bool = held) -> int:
            for count in range(100):
                try:
                    limits.take("m", tenant, held=held)
                except QueueFullError:
                    return count
            return 100

        assert [taken(tenant) for tenant in ("first", "second", "third", "fourth")] == [48, 12, 3, 1]
        assert taken("") == 0


def test_the_rows_of_each_tenant_count_as_its_own(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "FRESH_WHERE_FULL", 0.0)
    counted = Limits(kernel.store, held=8, detached=8)
    for _ in range(6):
        kernel.store.submit(make_job(tenant="many"))
    with pytest.raises(QueueFullError, match="Too many jobs are in the queue"):
        counted.take("m", "many", held=False)
    counted.take("m", "few", held=False)
    counted.take("m", "", held=False)


def test_what_others_accepted_counts_and_what_ran_counts_no_more(
    kernel: Kernel, desk: Desk, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "FRESH_WHERE_FULL", 0.0)
    counted = Limits(kernel.store, held=9, detached=1)
    job_id = desk.submit()
    with pytest.raises(QueueFullError):
        counted.take("scripted", "", held=False)
    kernel.store.claim(job_id, worker.life, worker.node)
    counted.take("scripted", "", held=False)


def test_the_queue_is_counted_once_a_second_however_many_come(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    waits = kernel.store.waits
    monkeypatch.setattr(kernel.store, "waits", lambda: asked.append(1) or waits())
    monkeypatch.setattr(limits, "FRESH", 60.0)
    counted = Limits(kernel.store, held=10_000, detached=1)
    for _ in range(1000):
        counted.take("m", "", held=True)
    assert len(asked) == 1


def test_the_same_key_and_request_are_the_same_job(kernel: Kernel) -> None:
    first, second, other = make_job(), make_job(), make_job()
    assert kernel.store.submit(first, key=a_key()).fresh
    again = kernel.store.submit(second, key=a_key())

    assert (again.fresh, again.job.id, again.hints) == (False, first.id, [])
    assert kernel.store.submit(other, key=a_key(tenant="t")).fresh
    assert kernel.store.submit(make_job(), key=None).fresh
    with pytest.raises(IdempotencyConflictError):
        kernel.store.submit(make_job(), key=a_key(digest="another"))
    assert len(kernel.store.page()) == 3


def finished(kernel: Kernel, count: int, finished_at: float, tenant: str = "", **values: str) -> list[str]:
    jobs = [make_job(created_at=finished_at - 1, tenant=tenant, **values) for _ in range(count)]
    for job in jobs:
        job.id = f"{int(finished_at * 1000) - 1000:012x}{job.id[12:]}"
        job.status, job.finished_at = State.SUCCEEDED, finished_at
    with kernel.database.write() as session:
        session.add_all(jobs)
        session.flush()
        for job in jobs:
            session.add(Idempotency(tenant="", key=job.id, digest="", job_id=job.id, created_at=time.time()))
            session.add(
                Result(
                    job_id=job.id, done_reason="stop", prompt_tokens=1, completion_tokens=1, total_ns=1, load_ns=0,
                    prompt_ns=0, completion_ns=0, text="x", log=b"",
                )
            )  # fmt: skip
    return [job.id for job in jobs]


def make_batch(tenant: str, now: float) -> Batch:
    return Batch(
        id="batch", tenant=tenant, endpoint="/v1/chat/completions", input_file_id="f", completion_window="24h",
        status="completed", total=0, created_at=now, expires_at=now + 60, completed_at=now,
    )  # fmt: skip


def rows(kernel: Kernel, table: type) -> int:
    with kernel.database.read() as session:
        return session.scalar(sa.select(sa.func.count()).select_from(table)) or 0


def test_old_jobs_go_with_all_that_is_theirs_and_open_stay(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "STEP", 3)
    now = time.time()
    old, new = finished(kernel, 10, now - 5 * 86_400), finished(kernel, 4, now - 86_400)
    waiting = make_job(created_at=now - 9 * 86_400)
    kernel.store.submit(waiting)
    keeper = Retention(kernel.database, kernel.clock, days=3, jobs=1000)

    assert keeper.prune() == 10
    assert keeper.prune() == 0
    kept = {detail.job.id for detail in kernel.store.page()}
    assert kept == {*new, waiting.id}
    assert not kept & set(old)
    assert rows(kernel, Result) == rows(kernel, Idempotency) == 4


def test_only_so_many_finished_jobs_are_kept(kernel: Kernel) -> None:
    now = time.time()
    older, newer = finished(kernel, 5, now - 100), finished(kernel, 3, now - 50)
    keeper = Retention(kernel.database, kernel.clock, days=30, jobs=3)
    keeper.prune()
    assert {detail.job.id for detail in kernel.store.page()} == set(newer)
    assert len(older) == 5


def test_whoever_has_the_most_finished_jobs_loses_them_and_nobody_else(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "STEP", 2)
    now = time.time()
    few = finished(kernel, 2, now - 900, "few")
    for tenant in ("much", "more"):
        finished(kernel, 9, now - 100, tenant)
    # A batch's lines stay as long as it does, and nobody else's jobs go for them.
    with kernel.database.write() as session:
        session.add(make_batch("lines", now))
    finished(kernel, 20, now - 500, "lines", group_id="batch")
    keeper = Retention(kernel.database, kernel.clock, days=30, jobs=14)
    keeper.prune()
    kept = [detail.job for detail in kernel.store.page(limit=100)]
    assert {job.id for job in kept if job.tenant == "few"} == set(few)
    assert Counter(job.tenant for job in kept) == {"few": 2, "much": 4, "more": 4, "lines": 20}


def test_keys_and_ended_lives_are_forgotten_after_a_day(kernel: Kernel) -> None:
    job = make_job()
    kernel.store.submit(job, key=a_key())
    now = time.time()
    with kernel.database.write() as session:
        session.merge(Idempotency(tenant="", key="k", digest="d", job_id=job.id, created_at=now - 90_000))
        for name, ended_at in (("old", now - 90_000), ("late", now - 5), ("living", None)):
            session.add(Life(id=name, node="n", host="h", pid=1, pid_started=0.0, started_at=now, ended_at=ended_at))
    kernel.retention.prune()

    assert kernel.store.accepted(a_key()) is None
    assert rows(kernel, Life) == 2
    assert kernel.store.get(job.id).job.status == State.QUEUED


def test_a_run_of_the_pruning_ends_in_time_and_the_next_goes_on(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "STEP", 2)
    monkeypatch.setattr(retention, "BUDGET", 0.05)
    monkeypatch.setattr(retention, "PAUSE", 0.03)
    finished(kernel, 20, time.time() - 50 * 86_400)
    counts = []
    while rows(kernel, Job):
        counts.append(kernel.retention.prune())
    assert len(counts) > 2
    assert sum(counts) == 20


def test_a_place_in_the_queue_counts_who_goes_first(kernel: Kernel, desk: Desk, worker: Worker) -> None:
    middle = [desk.submit() for _ in range(3)]
    late, urgent = desk.submit(priority=8), desk.submit(priority=1)
    places = {job_id: kernel.store.position(desk.job(job_id)) for job_id in (*middle, late, urgent)}
    assert places == {urgent: 1, middle[0]: 2, middle[1]: 3, middle[2]: 4, late: 5}

    kernel.store.release("scripted", 1)
    assert kernel.store.position(desk.job(urgent)) == 1
    assert kernel.store.position(desk.job(late)) == 5


def test_the_wait_is_estimated_by_what_the_latest_answers_took(
    kernel: Kernel, desk: Desk, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.estimates.FRESH", 0.0)
    job_id = desk.submit()
    first = kernel.estimates.of(desk.job(job_id))
    assert first is not None
    assert (first.position, first.seconds) == (1, None)
    for _ in range(3):
        done = desk.submit()
        claimed = kernel.store.claim(done, worker.life, worker.node)
        assert claimed is not None
        kernel.store.finish(Outcome(done, 1, State.SUCCEEDED))
        with kernel.database.write() as session:
            row = session.merge(desk.job(done))
            row.claimed_at = row.finished_at - 8  # type: ignore[operator]
    soon = kernel.estimates.of(desk.job(job_id))
    rest = [desk.submit() for _ in range(24)]
    later = kernel.estimates.of(desk.job(rest[-1]))

    assert soon is not None
    assert later is not None
    assert soon.seconds == 0.0  # eight slots are free
    assert later.position == 25
    assert later.seconds == pytest.approx(17.0)  # 17 more than there are slots, at a slot's eighth of 8 s
