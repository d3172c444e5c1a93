"""A job on its way through workers that live, die, freeze and stop."""

import threading
import time
from collections.abc import Callable
from copy import copy
from unittest.mock import Mock

import pytest
import structlog

from app.bus import PREFIX, Entry
from app.errors import UnavailableError
from app.events import Ended, Token
from app.jobs import MAX_LOSSES, State
from app.kernel import Kernel
from tasks import claims, meters
from tasks import runner as runners
from tasks.run import Way
from tasks.sweep import sweep

from .conftest import MODEL, Desk, Worker, eventually, said, words

MakeWorker = Callable[..., Worker]


def test_an_answer_is_the_same_in_the_row_and_on_the_stream(desk: Desk, worker: Worker) -> None:
    job_id = desk.submit(20)
    worker.take(job_id)
    detail = desk.ended(job_id)
    events = desk.whole_stream(job_id)

    assert detail.result is not None
    assert detail.result.text == said(events) == words(20)
    assert [event.seq for event in events] == list(range(1, 22))


@pytest.mark.parametrize("switched_on", [False, True])
def test_a_prompt_is_logged_only_where_that_is_switched_on(desk: Desk, kernel: Kernel, switched_on: bool) -> None:
    kernel = copy(kernel)
    kernel.settings = kernel.settings.model_copy(update={"audit_prompts": switched_on})
    worker = Worker(kernel, "cpu.0@test")
    job_id = desk.submit(2)
    with structlog.testing.capture_logs() as logs:
        worker.take(job_id).join(30)
    worker.close()
    [line] = [line for line in logs if line["event"] == "ended"]
    assert (line["job"], line["tokens_out"]) == (job_id, 2)
    assert ("one two" in str(logs)) == switched_on


def measured(name: str, **labels: str) -> float:
    return meters.REGISTRY.get_sample_value(f"tokenyard_{name}", labels) or 0.0


def test_an_answer_is_measured_once_however_many_tokens_it_has(desk: Desk, make_worker: MakeWorker) -> None:
    waits = {"model": MODEL, "priority": "5"}
    counts = {
        "queue_wait_seconds_count": waits,
        "time_to_first_token_seconds_count": {"model": MODEL},
        "inter_token_seconds_count": {"model": ""},  # the pump of these tests has no model's name
        "inter_token_seconds_sum": {"model": ""},
        "engine_batch_requests_count": {"model": ""},
    }
    before = {name: measured(name, **labels) for name, labels in counts.items()}
    first, second = make_worker(), make_worker("cpu.1@test")
    job_id = desk.submit(20, pace=100)
    first.take(job_id)
    run = first.run(job_id)
    assert first.garage.bays()[0].pump.tokens() >= run.prompt_tokens + 1
    first.die()
    second.take(job_id)
    desk.ended(job_id)
    first.close()

    grown = {name: measured(name, **labels) - before[name] for name, labels in counts.items()}
    assert grown["queue_wait_seconds_count"] == grown["time_to_first_token_seconds_count"] == 1
    # Each attempt's first token follows on none; those that the first one made in vain are measured too.
    assert grown["inter_token_seconds_count"] >= 18
    assert grown["inter_token_seconds_sum"] > 0.1  # at 100 a second
    assert grown["engine_batch_requests_count"] > 1


def test_a_second_message_for_a_job_changes_nothing(desk: Desk, worker: Worker) -> None:
    job_id = desk.submit(30, pace=100)
    worker.take(job_id)
    worker.run(job_id)
    worker.take(job_id).join(30)
    worker.runner.ask_end(job_id, State.CANCELLED)

    assert desk.ended(job_id).job.status == State.CANCELLED
    worker.take(job_id).join(30)
    assert desk.job(job_id).attempt == 1


@pytest.mark.parametrize("n", [1, 3])
def test_the_next_worker_goes_on_where_the_dead_one_was(desk: Desk, make_worker: MakeWorker, n: int) -> None:
    first, second = make_worker(), make_worker("cpu.1@test")
    job_id = desk.submit(40, pace=100, n=n)
    first.take(job_id)
    first.run(job_id)
    first.die()
    second.take(job_id)
    detail = desk.ended(job_id)
    events = desk.whole_stream(job_id)

    assert (detail.job.losses, detail.job.attempt) == (1, 2)
    for choice in range(n):
        assert said(events, choice) == words(40)
    assert [event.seq for event in events] == list(range(1, len(events) + 1))
    assert detail.result is not None
    assert detail.result.completion_tokens == 40 * n


def test_the_claim_after_one_that_a_power_cut_undid_goes_on_with_what_it_emitted(
    desk: Desk, kernel: Kernel, make_worker: MakeWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = make_worker(), make_worker("cpu.1@test")
    job_id = desk.submit(40, pace=100)
    first.take(job_id)
    first.run(job_id)
    first.close()
    before = desk.stream(job_id)
    with kernel.database.write() as session:
        job = session.merge(desk.job(job_id))
        job.status, job.attempt, job.last_seq = State.QUEUED, 0, 0
        job.owner = job.worker = job.started_at = job.claimed_at = None
    submit, given = second.garage.engine.submit, []
    monkeypatch.setattr(second.garage.engine, "submit", lambda asked: given.append(asked.emitted.text) or submit(asked))
    second.take(job_id)
    detail = desk.ended(job_id)

    assert detail.job.attempt == 1
    assert given == [said(before)] != [""]
    assert said(desk.whole_stream(job_id)) == words(40)


def test_a_worker_that_lost_a_job_changes_nothing_more_and_ends_its_attempt(
    desk: Desk, make_worker: MakeWorker
) -> None:
    frozen, second = make_worker(), make_worker("cpu.1@test")
    job_id = desk.submit(60, pace=30)
    thread = frozen.take(job_id)
    run = frozen.run(job_id)
    frozen.die()  # it goes on, as a partitioned one does
    second.take(job_id)
    thread.join(30)

    assert run.end is not None
    assert run.end.way is Way.FENCED
    assert desk.ended(job_id).job.owner == second.life
    assert said(desk.whole_stream(job_id)) == words(60)


def test_the_death_of_an_engine_is_a_loss_and_a_pause(desk: Desk, worker: Worker) -> None:
    job_id = desk.submit(40, pace=30)
    worker.take(job_id)
    worker.run(job_id)
    dead = worker.garage.engine
    worker.garage.load()
    dead.die()
    eventually(lambda: desk.job(job_id).losses == 1 and desk.job(job_id).status == State.QUEUED)
    worker.take(job_id)

    assert desk.ended(job_id).job.status == State.SUCCEEDED
    assert said(desk.whole_stream(job_id)) == words(40)


def test_a_worker_that_stops_hands_its_jobs_back_at_once_without_a_loss(
    desk: Desk, kernel: Kernel, make_worker: MakeWorker
) -> None:
    first, second = make_worker(), make_worker("cpu.1@test")
    job_ids = [desk.submit(40, pace=30) for _ in range(3)]
    for job_id in job_ids:
        first.take(job_id)
        first.run(job_id)
    sent = first.runner.hand_back_all()
    first.runner.hand_back_all()  # a second signal
    kernel.lives.leave(first.life, sent)

    for job_id in job_ids:
        job = desk.job(job_id)
        assert (job.status, job.losses, job.released_at) == (State.QUEUED, 0, None)
        assert 0 < job.last_seq == len(desk.stream(job_id))
        second.take(job_id)
    for job_id in job_ids:
        assert desk.ended(job_id).job.losses == 0
        assert said(desk.whole_stream(job_id)) == words(40)


def test_a_stopping_worker_takes_nothing(desk: Desk, kernel: Kernel, worker: Worker) -> None:
    job_id = desk.submit()
    worker.runner.hand_back_all()
    worker.take(job_id).join(30)
    assert desk.job(job_id).status == State.QUEUED

    kernel.lives.leave(worker.life, {})
    kernel.store.release("scripted", 8)  # its message comes here while Celery still listens
    worker.take(job_id).join(30)
    assert desk.job(job_id).attempt == 1
    assert kernel.bus.queue_length("model.scripted") == 1  # another one, for whoever stays: it waits for no sweep


@pytest.mark.parametrize("why", ["the model leaves", "a later attempt has the fence"])
def test_a_job_that_cannot_begin_here_is_sent_at_once_to_who_holds_its_model(
    desk: Desk, kernel: Kernel, make_worker: MakeWorker, monkeypatch: pytest.MonkeyPatch, why: str
) -> None:
    leaving, _ = make_worker(), make_worker("cpu.1@test")
    monkeypatch.setattr(leaving.garage, "enter", lambda *_: None if why == "the model leaves" else leaving.garage._bay)
    job_id = desk.submit()
    kernel.bus.install(job_id, 1 if why == "the model leaves" else 2, 60)
    leaving.take(job_id).join(30)
    job = desk.job(job_id)

    assert (job.status, job.attempt, job.losses) == (State.QUEUED, 1, 0)
    assert job.released_at is not None
    assert kernel.bus.queue_length("model.scripted") == 1


def test_a_job_that_was_cancelled_while_its_worker_stopped_ends(desk: Desk, kernel: Kernel, worker: Worker) -> None:
    job_id = desk.submit(40, pace=20)
    worker.take(job_id)
    worker.run(job_id)
    kernel.store.end(job_id, State.CANCELLED)  # the signal of it got lost
    sent = worker.runner.hand_back_all()
    kernel.dispatcher.close_streams(kernel.lives.leave(worker.life, sent))
    told = said(desk.whole_stream(job_id))
    detail = kernel.store.get(job_id)

    assert detail.job.status == State.CANCELLED
    assert detail.result is not None
    assert detail.result.text == told != ""


@pytest.mark.parametrize("how", ["cancelled", "with its group"])
def test_what_a_job_said_is_kept_where_the_broker_was_away_when_it_ended(
    desk: Desk, kernel: Kernel, worker: Worker, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    job_id = desk.submit(40, pace=20, group_id="mine")
    worker.take(job_id)
    worker.run(job_id)
    kernel.lives.leave(worker.life, worker.runner.hand_back_all())
    before = desk.stream(job_id)

    with monkeypatch.context() as away:
        away.setattr(kernel.bus, "install", Mock(side_effect=UnavailableError("broker_unavailable", "away")))
        if how == "cancelled":
            kernel.dispatcher.end(job_id, State.CANCELLED)
        else:
            ended, running = kernel.batches.end_jobs("mine", "")
            assert ([outcome.id for outcome in ended], running) == ([job_id], [])
            kernel.dispatcher.close_streams(ended)
        sweep(kernel)
    assert desk.stream(job_id) == before
    sweep(kernel)

    detail, events = kernel.store.get(job_id), desk.stream(job_id)
    assert detail.job.status == State.CANCELLED
    assert detail.result is not None
    assert detail.result.text == said(before) != ""
    assert events[:-1] == before
    assert isinstance(events[-1], Ended)
    assert kernel.bus.redis.ttl(f"{PREFIX}stream:{job_id}") <= kernel.settings.stream_ttl_seconds


def test_a_stream_that_is_gone_is_looked_for_once(desk: Desk, kernel: Kernel, worker: Worker) -> None:
    job_id, never_begun = desk.submit(40, pace=20), desk.submit()
    worker.take(job_id)
    worker.run(job_id)
    kernel.lives.leave(worker.life, worker.runner.hand_back_all())
    for each in (job_id, never_begun):
        assert kernel.store.end(each, State.CANCELLED) is not None  # and whoever did so died
    kernel.bus.redis.flushall()
    assert [outcome.id for outcome in kernel.store.unclosed()] == [job_id]
    sweep(kernel)

    assert kernel.store.unclosed() == []
    assert kernel.store.get(never_begun).result is None


def test_the_sweep_closes_no_stream_that_an_owner_ended(desk: Desk, kernel: Kernel, worker: Worker) -> None:
    job_id = desk.submit(40, pace=20)
    worker.take(job_id)
    worker.run(job_id)
    kernel.dispatcher.end(job_id, State.CANCELLED)
    desk.whole_stream(job_id)

    assert desk.job(job_id).status == State.CANCELLED
    assert kernel.store.unclosed() == []


def test_after_the_broker_lost_its_memory_the_owner_writes_the_stream_anew(
    desk: Desk, kernel: Kernel, worker: Worker
) -> None:
    job_id = desk.submit(40, pace=30, n=2)
    worker.take(job_id)
    worker.run(job_id)
    kernel.bus.redis.flushall()
    detail = desk.ended(job_id)
    events = desk.whole_stream(job_id)

    assert (detail.job.attempt, detail.job.losses) == (1, 0)
    assert [event.seq for event in events] == list(range(1, len(events) + 1))
    assert said(events, 0) == said(events, 1) == words(40)


def test_the_last_event_survives_a_broker_that_forgot_all_but_now(
    desk: Desk, kernel: Kernel, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = desk.submit(5)
    finish = kernel.store.finish

    def forgetful(*args: object, **values: object) -> object:
        kernel.bus.redis.flushall()
        return finish(*args, **values)  # type: ignore[arg-type]

    monkeypatch.setattr(kernel.store, "finish", forgetful)
    worker.take(job_id)

    assert said(desk.whole_stream(job_id)) == words(5)


def test_a_stream_that_lost_its_end_is_written_anew_and_has_no_gap(desk: Desk, kernel: Kernel, worker: Worker) -> None:
    job_id = desk.submit(40, pace=30)
    worker.take(job_id)
    eventually(lambda: len(desk.stream(job_id)) > 5)
    last = kernel.bus.redis.xrevrange(f"tokenyard:stream:{job_id}", count=2)
    kernel.bus.redis.xdel(f"tokenyard:stream:{job_id}", *[entry for entry, _ in last])
    desk.ended(job_id)

    assert [event.seq for event in desk.whole_stream(job_id)] == list(range(1, 42))


def test_a_frozen_worker_does_not_take_a_loss_of_memory_for_its_turn(
    desk: Desk, kernel: Kernel, make_worker: MakeWorker
) -> None:
    frozen = make_worker()
    job_id = desk.submit(60, pace=30)
    thread = frozen.take(job_id)
    run = frozen.run(job_id)
    frozen.die()
    kernel.bus.redis.flushall()
    thread.join(30)

    assert run.end is not None
    assert run.end.way is Way.FENCED
    assert desk.stream(job_id) == []


@pytest.mark.parametrize("told", [True, False], ids=["followers saw tokens", "nobody saw anything"])
def test_a_job_whose_worker_and_stream_are_lost_together_restarts_only_where_nothing_was_told(
    desk: Desk, kernel: Kernel, make_worker: MakeWorker, told: bool
) -> None:
    first, second = make_worker(), make_worker("cpu.1@test")
    job_id = desk.submit(30, pace=20 if told else 0.5)
    renewed: list[bool] = []
    first.runner.on_first = lambda: renewed.append(True)
    first.take(job_id)
    if told:
        first.run(job_id)
        assert renewed
        kernel.lives.renew(first.life, first.runner.progress())
    else:
        eventually(lambda: desk.job(job_id).status == State.RUNNING)
    first.die()
    kernel.bus.redis.flushall()
    first.runner.hand_back_all()
    with kernel.database.write() as session:  # at full speed
        job = session.merge(desk.job(job_id))
        job.request = job.request | {"scripted_tokens_per_second": None}
    second.take(job_id)
    job = desk.ended(job_id).job

    assert (job.status, job.error_code) == ((State.FAILED, "worker_lost") if told else (State.SUCCEEDED, None))


@pytest.mark.parametrize("sampling", [{"presence_penalty": 0.5}, {"schema": "{}"}], ids=["penalty", "form"])
def test_what_an_engine_cannot_go_on_with_fails_once_it_was_begun(
    desk: Desk, make_worker: MakeWorker, sampling: dict[str, object]
) -> None:
    first, second = make_worker(engine="vllm"), make_worker("cpu.1@test", engine="vllm")
    begun, fresh = (desk.submit(20, pace=15, sampling=sampling) for _ in range(2))
    first.take(begun)
    first.run(begun)
    first.die()
    for job_id in (begun, fresh):
        second.take(job_id)

    assert desk.ended(begun).job.error_code == "worker_lost"
    assert desk.ended(fresh).job.status == State.SUCCEEDED


@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize(
    "sampling", [{"stop": [" t3"]}, {"presence_penalty": 0.5}, {"schema": "{}"}], ids=["stop", "penalty", "form"]
)
def test_an_answer_that_was_whole_when_its_worker_died_is_not_continued(
    desk: Desk,
    kernel: Kernel,
    make_worker: MakeWorker,
    monkeypatch: pytest.MonkeyPatch,
    sampling: dict[str, object],
    n: int,
) -> None:
    first, second = make_worker(engine="vllm"), make_worker("cpu.1@test", engine="vllm")
    undisturbed = desk.submit(12, n=n, sampling=sampling)
    second.take(undisturbed)
    expected = desk.ended(undisturbed).result
    job_id = desk.submit(12, n=n, sampling=sampling)
    finish, reached, dead = kernel.store.finish, threading.Event(), threading.Event()

    def late(*args: object, **values: object) -> object:
        reached.set()
        assert dead.wait(30)
        return finish(*args, **values)  # type: ignore[arg-type]

    monkeypatch.setattr(kernel.store, "finish", late)
    first.take(job_id)
    assert reached.wait(30)
    first.die()
    dead.set()
    second.take(job_id)
    detail = desk.ended(job_id)

    assert (detail.job.status, detail.job.error_code, detail.job.attempt) == (State.SUCCEEDED, None, 2)
    assert detail.result is not None
    assert expected is not None
    for told in ("text", "done_reason", "prompt_tokens", "completion_tokens"):
        assert getattr(detail.result, told) == getattr(expected, told)
    # What followers are told of it is as ever: of a single choice, the end tells the reason.
    tokens = [event for event in desk.whole_stream(job_id) if isinstance(event, Token)]
    assert any(token.finish for token in tokens) == (n > 1)


def test_a_job_with_two_losses_runs_alone_and_the_others_lose_nothing(
    desk: Desk, kernel: Kernel, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runners, "DRAIN", 0.2)
    # On a busy machine, too, the first still runs when the second comes, and the second when the third does.
    beside, suspect, later = desk.submit(120, pace=40), desk.submit(80, pace=40, losses=MAX_LOSSES), desk.submit(3)
    worker.take(beside)
    worker.run(beside)
    worker.take(suspect)
    eventually(lambda: desk.job(suspect).status == State.RUNNING)
    job = desk.job(beside)
    assert (job.status, job.losses) == (State.QUEUED, 0)

    worker.take(later).join(30)
    assert desk.job(later).status == State.QUEUED
    assert desk.job(later).released_at is None

    assert desk.ended(suspect).job.status == State.SUCCEEDED
    for job_id in (beside, later):
        eventually(lambda job_id=job_id: desk.job(job_id).released_at is not None)
        worker.take(job_id)
        assert desk.ended(job_id).job.losses == 0
    assert said(desk.whole_stream(beside)) == words(120)


def test_a_job_that_must_run_alone_moves_a_neighbour_of_which_nobody_saw_anything(
    desk: Desk, make_worker: MakeWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runners, "DRAIN", 0.2)
    worker = make_worker(engine="vllm")
    late = desk.submit(5, pace=0.01, sampling={"presence_penalty": 0.5})
    suspect = desk.submit(5, losses=MAX_LOSSES)
    worker.take(late)
    eventually(lambda: worker.runner._running())
    worker.take(suspect)

    assert desk.ended(suspect).job.status == State.SUCCEEDED
    assert (desk.job(late).status, desk.job(late).losses) == (State.QUEUED, 0)


def test_a_job_that_must_run_alone_waits_for_a_neighbour_that_cannot_be_moved_and_stops_nobody(
    desk: Desk, make_worker: MakeWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runners, "DRAIN", 0.2)
    worker = make_worker(engine="vllm")
    fixed = desk.submit(500, pace=10, sampling={"presence_penalty": 0.5})
    beside, later = desk.submit(500, pace=10), desk.submit(3)
    suspect = desk.submit(5, losses=MAX_LOSSES)
    for job_id in (fixed, beside):
        worker.take(job_id)
        worker.run(job_id)
    worker.take(suspect).join(30)
    job = desk.job(suspect)
    assert (job.status, job.attempt, job.released_at) == (State.QUEUED, 0, None)

    worker.take(later).join(30)  # its end releases others
    assert desk.ended(later).job.status == State.SUCCEEDED
    assert {desk.job(job_id).status for job_id in (fixed, beside)} == {State.RUNNING}

    changed: list[None] = []
    worker.runner.on_change = lambda: changed.append(None)
    worker.take(suspect).join(30)  # soon after, it does not even try
    assert (desk.job(suspect).released_at, changed) == (None, [])

    worker.runner.ask_end(fixed, State.CANCELLED)
    desk.ended(fixed)
    monkeypatch.setattr(worker.runner, "_crowded_until", 0.0)
    worker.take(suspect)
    assert desk.ended(suspect).job.status == State.SUCCEEDED
    assert desk.job(beside).losses == 0


@pytest.mark.parametrize("whose", ["worker", "engine"])
def test_a_death_while_alone_makes_a_job_poisoned(desk: Desk, kernel: Kernel, worker: Worker, whose: str) -> None:
    job_id = desk.submit(60, pace=40, losses=MAX_LOSSES)
    worker.take(job_id)
    worker.run(job_id)
    if whose == "worker":
        worker.die()
    else:
        worker.garage.engine.die()
    job = desk.ended(job_id).job
    told = said(desk.whole_stream(job_id))
    result = kernel.store.get(job_id).result

    assert (job.status, job.error_code) == (State.FAILED, "poisoned")
    assert result is not None
    assert result.text == told != ""


def test_a_cancel_ends_a_job_before_its_first_token(desk: Desk, kernel: Kernel, worker: Worker) -> None:
    job_id = desk.submit(5, pace=0.01)
    worker.take(job_id)
    eventually(lambda: desk.job(job_id).status == State.RUNNING)
    assert kernel.store.end(job_id, State.CANCELLED) is None
    worker.runner.ask_end(job_id, State.CANCELLED)

    assert desk.ended(job_id).job.status == State.CANCELLED
    eventually(lambda: not worker.garage.engine._answers)


def test_who_was_asked_to_end_a_job_that_is_just_being_finished_ends_it_so(
    desk: Desk, kernel: Kernel, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = desk.submit(5)
    finish = kernel.store.finish

    def late(*args: object, **values: object) -> object:
        kernel.store.end(job_id, State.CANCELLED)
        return finish(*args, **values)  # type: ignore[arg-type]

    monkeypatch.setattr(kernel.store, "finish", late)
    worker.take(job_id)
    detail = desk.ended(job_id)

    assert detail.job.status == State.CANCELLED
    assert desk.whole_stream(job_id)[-1].state == State.CANCELLED  # type: ignore[union-attr]
    assert detail.result is not None
    assert detail.result.text == words(5)


def test_a_database_that_is_away_at_the_end_gets_the_result_later(
    desk: Desk, kernel: Kernel, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claims, "PAUSE", 0.01)
    job_id = desk.submit(5)
    finish, tries = kernel.store.finish, []

    def away(*args: object, **values: object) -> object:
        tries.append(1)
        if len(tries) < 4:
            raise UnavailableError("database_unavailable", "locked")
        return finish(*args, **values)  # type: ignore[arg-type]

    monkeypatch.setattr(kernel.store, "finish", away)
    worker.take(job_id)

    assert desk.ended(job_id).job.status == State.SUCCEEDED
    assert len(tries) == 4


def test_a_claim_that_was_committed_unheard_is_undone(
    desk: Desk, kernel: Kernel, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The connection broke between the commit and its answer."""
    claim = kernel.store.claim

    def unheard(*args: object, **options: object) -> None:
        claim(*args, **options)  # type: ignore[arg-type]
        raise UnavailableError("database_unavailable", "gone")

    job_id = desk.submit()
    monkeypatch.setattr(kernel.store, "claim", unheard)
    worker.take(job_id).join(30)
    job = desk.job(job_id)
    assert (job.status, job.attempt, job.losses) == (State.QUEUED, 1, 0)
    monkeypatch.undo()
    worker.take(job_id)
    assert desk.ended(job_id).job.status == State.SUCCEEDED


def test_a_second_message_whose_claim_fails_takes_nothing_away(
    desk: Desk, kernel: Kernel, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: object, **__: object) -> None:
        raise UnavailableError("database_unavailable", "gone")

    job_id = desk.submit(20, 20)
    worker.take(job_id)
    worker.run(job_id)
    monkeypatch.setattr(kernel.store, "claim", away)
    worker.take(job_id).join(30)
    detail = desk.ended(job_id)
    assert (detail.job.status, detail.job.attempt) == (State.SUCCEEDED, 1)


def test_a_row_that_no_engine_can_be_asked_fails_and_harms_nobody(desk: Desk, worker: Worker) -> None:
    broken = desk.submit(request={"messages": [{"rôle": 1}], "sampling": {}})
    worker.take(broken).join(30)
    whole = desk.submit(3)
    worker.take(whole)

    job = desk.ended(broken).job
    assert (job.status, job.error_code) == (State.FAILED, "internal")
    assert job.traceback is not None
    assert "TypeError" in job.traceback
    assert desk.ended(whole).job.status == State.SUCCEEDED
    assert worker.garage._bay.pump.runs == {}


def test_running_time_counts_over_all_attempts(desk: Desk, kernel: Kernel, make_worker: MakeWorker) -> None:
    first, second = make_worker(), make_worker("cpu.1@test")
    job_id = desk.submit(1000, pace=10, timeout=1.0, expires_at=time.time() + 0.5)
    first.take(job_id)
    first.run(job_id)
    with kernel.database.write() as session:
        session.merge(desk.job(job_id)).claimed_at = time.time() - 0.9
    first.die()
    first.runner.hand_back_all()
    job = desk.job(job_id)
    assert 0.8 < job.ran < 60
    assert job.expires_at > time.time() + 0.6  # it may wait again, though its time to wait was short

    second.take(job_id)
    assert desk.ended(job_id).job.status == State.TIMED_OUT


def test_a_message_for_nothing_is_dropped(desk: Desk, worker: Worker) -> None:
    for junk in ("nothing", "", "x" * 10_000):
        worker.take(junk).join(30)
    job_id = desk.submit(2)
    worker.take(job_id)
    assert desk.ended(job_id).job.status == State.SUCCEEDED


def test_an_event_behind_a_gap_is_refused(kernel: Kernel, desk: Desk) -> None:
    job_id = desk.submit()
    kernel.bus.install(job_id, 1, 60)
    gap = Entry(job_id, 1, Token(2, "late"))

    assert kernel.bus.append("n", [gap]) == [gap]
    assert kernel.bus.append("n", [Entry(job_id, 1, Token(1, "a")), gap]) == []
    assert kernel.bus.append("n", [gap]) == [gap]


def test_an_engine_is_told_whose_request_it_is(desk: Desk, worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    salts: list[str] = []
    submit = worker.garage.engine.submit
    monkeypatch.setattr(worker.garage.engine, "submit", lambda request: salts.append(request.salt) or submit(request))
    for tenant in ("alice", ""):
        job_id = desk.submit(2, tenant=tenant)
        worker.take(job_id)
        desk.ended(job_id)

    assert salts == ["alice", ""]


@pytest.mark.parametrize("job_id", ["junk", "f" * 32])
def test_junk_at_a_closed_gate_is_dropped_without_a_word(worker: Worker, job_id: str) -> None:
    assert worker.runner.gate.close()
    with structlog.testing.capture_logs() as logs:
        worker.runner.run(job_id)
    worker.runner.gate.open()
    assert logs == []
