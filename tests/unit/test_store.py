"""The life of a job in the database."""

import time

import pytest

from app.errors import Failure, JobNotFoundError
from app.events import Log, Token
from app.jobs import MAX_LOSSES, State
from app.lives import Lives
from app.models import Result
from app.store import Outcome, Store
from tests.unit.conftest import make_job


def a_result(job_id: str) -> Result:
    log = Log.of([Token(1, "Paris"), Token(2, ".")])
    return Result(
        job_id=job_id,
        done_reason="stop",
        prompt_tokens=7,
        completion_tokens=2,
        total_ns=5,
        load_ns=0,
        prompt_ns=2,
        completion_ns=3,
        text="Paris.",
        log=log.encode(),
    )


def test_a_submitted_job_is_released_where_a_holder_has_slots(store: Store) -> None:
    job = make_job()

    hints = store.submit(job, slots=4).hints

    assert [hint.id for hint in hints] == [job.id]
    assert store.get(job.id).job.status == State.QUEUED
    assert store.get(job.id).job.released_at is not None


def test_a_submitted_job_waits_where_nobody_holds_its_model(store: Store) -> None:
    job = make_job()

    assert store.submit(job, slots=0).hints == []
    assert store.get(job.id).job.released_at is None
    assert store.waiting_models() == ["m"]


def test_a_job_is_claimed_once(store: Store, life: str) -> None:
    job = make_job()
    store.submit(job, slots=1)

    first = store.claim(job.id, life, "cpu.0@here")
    second = store.claim(job.id, life, "cpu.0@here")

    assert first is not None
    assert (first.status, first.attempt, first.owner) == (State.RUNNING, 1, life)
    assert second is None


def test_a_dead_life_claims_nothing(store: Store, lives: Lives, life: str) -> None:
    job = make_job()
    store.submit(job, slots=1)
    lives.bury(life)

    assert store.claim(job.id, life, "cpu.0@here") is None


def test_an_expired_job_is_not_claimed_but_ended(store: Store, life: str) -> None:
    job = make_job(expires_at=time.time() - 1)
    store.submit(job, slots=1)

    assert store.claim(job.id, life, "cpu.0@here") is None
    assert [(o.id, o.state) for o in store.expire()] == [(job.id, State.TIMED_OUT)]
    assert store.expire() == []


def test_a_result_is_kept_with_the_end_of_its_job(store: Store, life: str) -> None:
    job = make_job()
    store.submit(job, slots=1)
    store.claim(job.id, life, "cpu.0@here")

    assert store.finish(Outcome(job.id, 1, State.SUCCEEDED), a_result(job.id))

    detail = store.get(job.id)
    assert detail.job.status == State.SUCCEEDED
    assert detail.job.finished_at is not None
    assert detail.result is not None
    assert detail.result.text == "Paris."
    tokens = list(Log.decode(detail.result.log).tokens(detail.result.text, after=1))
    assert [(t.seq, t.text) for t in tokens] == [(2, ".")]


def test_a_terminal_state_never_changes(store: Store, life: str) -> None:
    job = make_job()
    store.submit(job, slots=1)
    store.claim(job.id, life, "cpu.0@here")
    store.finish(Outcome(job.id, 1, State.SUCCEEDED))

    assert not store.finish(Outcome(job.id, 1, State.FAILED, Failure("x", "y")))
    assert store.end(job.id, State.CANCELLED) is None
    assert store.get(job.id).job.status == State.SUCCEEDED


def test_a_worker_that_lost_a_job_can_change_nothing_of_it(store: Store, lives: Lives, life: str) -> None:
    job = make_job()
    store.submit(job, slots=1)
    store.claim(job.id, life, "cpu.0@here")
    lives.bury(life)
    other, _ = lives.begin("cpu.1@here", "here", pid=2, pid_started=0.0)
    claimed = store.claim(job.id, other, "cpu.1@here")

    assert claimed is not None
    assert (claimed.attempt, claimed.losses) == (2, 1)
    assert not store.finish(Outcome(job.id, 1, State.SUCCEEDED), a_result(job.id))
    assert not store.hand_back(job.id, 1, 0)
    assert store.get(job.id).result is None


def test_a_worker_that_takes_a_device_declares_the_earlier_life_dead(store: Store, lives: Lives, life: str) -> None:
    job = make_job()
    store.submit(job, slots=1)
    store.claim(job.id, life, "cpu.0@here")

    lives.begin("cpu.0@here", "here", pid=2, pid_started=0.0)

    assert store.get(job.id).job.status == State.QUEUED
    assert lives.renew(life, {}) is None


def test_a_job_that_loses_every_worker_is_poisoned(store: Store, lives: Lives) -> None:
    job = make_job()
    store.submit(job, slots=1)
    for number in range(MAX_LOSSES + 1):
        life, _ = lives.begin("cpu.0@here", "here", pid=number, pid_started=0.0)
        assert store.claim(job.id, life, "cpu.0@here") is not None
        outcomes = lives.bury(life)

    assert [(o.id, o.state) for o in outcomes] == [(job.id, State.FAILED)]
    assert store.get(job.id).job.error_code == "poisoned"


def test_a_hand_back_is_no_loss(store: Store, life: str) -> None:
    job = make_job()
    store.submit(job, slots=1)
    store.claim(job.id, life, "cpu.0@here")

    assert store.hand_back(job.id, 1, 5) == []

    row = store.get(job.id).job
    assert (row.status, row.losses, row.last_seq, row.released_at) == (State.QUEUED, 0, 5, None)


def test_a_queued_job_is_cancelled_at_once_under_a_new_attempt(store: Store, life: str) -> None:
    job = make_job()
    store.submit(job, slots=1)

    outcome = store.end(job.id, State.CANCELLED)

    assert outcome == Outcome(job.id, 1, State.CANCELLED, begun=False)
    assert store.claim(job.id, life, "cpu.0@here") is None


def test_a_running_job_is_ended_by_its_owner(store: Store, lives: Lives, life: str) -> None:
    job = make_job()
    store.submit(job, slots=1)
    store.claim(job.id, life, "cpu.0@here")

    assert store.end(job.id, State.CANCELLED) is None

    renewal = lives.renew(life, {job.id: 3})
    assert renewal is not None
    assert renewal == {job.id: State.CANCELLED}
    assert store.get(job.id).job.last_seq == 3


def test_a_cancelled_job_whose_worker_dies_ends_as_cancelled(store: Store, lives: Lives, life: str) -> None:
    job = make_job()
    store.submit(job, slots=1)
    store.claim(job.id, life, "cpu.0@here")
    store.end(job.id, State.CANCELLED)

    assert [(o.id, o.state) for o in lives.bury(life)] == [(job.id, State.CANCELLED)]


def test_an_unknown_job_is_not_found(store: Store) -> None:
    with pytest.raises(JobNotFoundError):
        store.get("nothing")
    with pytest.raises(JobNotFoundError):
        store.end("nothing", State.CANCELLED)


def test_pages_of_jobs_come_newest_first_and_go_on_where_the_last_ended(store: Store) -> None:
    jobs = [make_job(model=f"m{n % 2}") for n in range(5)]
    for job in jobs:
        store.submit(job)
    newest_first = sorted((job.id for job in jobs), reverse=True)

    page = [detail.job.id for detail in store.page(limit=3)]
    rest = [detail.job.id for detail in store.page(limit=3, before=page[-1])]

    assert page + rest == newest_first
    assert {d.job.model for d in store.page(model="m1")} == {"m1"}
    assert store.page(status=State.RUNNING) == []
