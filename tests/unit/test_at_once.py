"""Several processes at the same rows: SQLite lets one write at a time, PostgreSQL all of them."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import Any

import pytest

from app.catalog import Catalog
from app.clock import Clock
from app.database import Database
from app.errors import Failure, InvalidRequestError
from app.jobs import State, new_id
from app.keys import Key
from app.lives import Lives
from app.retention import Retention
from app.sessions import Sessions
from app.store import Outcome, Store
from tests.unit.conftest import make_job
from tests.unit.test_store import a_result

#: How often each race is run: enough to be lost, without what prevents it, in nearly every run of the tests.
ROUNDS = 25


def at_once(*work: Callable[[], Any]) -> list[Any]:
    """What each gives; they begin at the same moment."""
    barrier = Barrier(len(work))

    def begin(one: Callable[[], Any]) -> Any:
        barrier.wait(10)
        return one()

    with ThreadPoolExecutor(len(work)) as pool:
        return [future.result(60) for future in [pool.submit(begin, one) for one in work]]


def submitted(store: Store, count: int, **values: Any) -> list[str]:
    jobs = [make_job(**values) for _ in range(count)]
    for job in jobs:
        store.submit(job)
    return [job.id for job in jobs]


def running(store: Store, lives: Lives) -> tuple[str, str]:
    """A job, and the life that runs it."""
    life = new_life(lives)
    (job_id,) = submitted(store, 1)
    assert store.claim(job_id, life, "cpu.0@here") is not None
    return job_id, life


def new_life(lives: Lives) -> str:
    return lives.begin(new_id(), "here", pid=1, pid_started=0.0)[0]


def test_those_who_submit_at_once_fill_the_window_and_no_more(store: Store) -> None:
    given = at_once(*(lambda: store.submit(make_job(), slots=4).hints for _ in range(12)))

    assert len({hint.id for hints in given for hint in hints}) == sum(map(len, given)) == 5


def test_each_job_is_released_to_one_of_those_who_release_at_once(store: Store) -> None:
    for _ in range(ROUNDS):
        ids = submitted(store, 8, model=(model := new_id()))

        given = at_once(*(lambda model=model: store.release(model, 16) for _ in range(4)))

        assert sorted(hint.id for hints in given for hint in hints) == sorted(ids)


def test_a_job_claimed_while_its_life_is_buried_is_not_left_with_the_dead(store: Store, lives: Lives) -> None:
    for _ in range(ROUNDS):
        life = new_life(lives)
        ids = submitted(store, 4)

        at_once(
            lambda life=life: lives.bury(life),
            *(lambda job=job, life=life: store.claim(job, life, "cpu.0@here") for job in ids),
        )

        assert {store.get(job_id).job.status for job_id in ids} == {State.QUEUED}


def test_a_job_cancelled_while_it_is_handed_back_is_cancelled(store: Store, lives: Lives) -> None:
    for _ in range(ROUNDS):
        job_id, life = running(store, lives)

        at_once(lambda life=life: lives.leave(life, {}), lambda job=job_id: store.end(job, State.CANCELLED))

        assert store.get(job_id).job.status == State.CANCELLED


def test_of_a_finish_and_a_death_at_once_one_counts(store: Store, lives: Lives) -> None:
    for _ in range(ROUNDS):
        job_id, life = running(store, lives)
        outcome = Outcome(job_id, 1, State.SUCCEEDED)

        finished, _ = at_once(
            lambda one=outcome: store.finish(one, a_result(one.id)), lambda life=life: lives.bury(life)
        )

        detail = store.get(job_id)
        assert (finished is not None) == (detail.job.status == State.SUCCEEDED) == (detail.result is not None)
        assert detail.job.losses == (finished is None)


def test_a_key_used_at_once_stands_for_one_job(store: Store) -> None:
    for _ in range(ROUNDS):
        key = Key("", new_id(), "digest")

        accepted = at_once(*(lambda key=key: store.submit(make_job(), slots=1, key=key) for _ in range(4)))

        assert len({one.job.id for one in accepted}) == 1
        assert [one.fresh for one in accepted].count(True) == 1


def test_who_change_many_jobs_at_once_do_not_wait_for_each_other_for_ever(store: Store, lives: Lives) -> None:
    for _ in range(ROUNDS):
        life = new_life(lives)
        ids = submitted(store, 30, model=(model := new_id()))
        for job_id in ids[::2]:
            store.claim(job_id, life, "cpu.0@here")

        at_once(
            lambda life=life, ids=ids: lives.renew(life, {job_id: 7 for job_id in reversed(ids)}),
            lambda ids=ids: store.touch_released(reversed(ids)),
            lambda life=life: lives.bury(life),
            lambda model=model: store.fail_waiting(model, Failure("engine_failed", "It does not start.")),
            lambda model=model: store.release(model, 16),
        )

        assert {store.get(job_id).job.status for job_id in ids} <= {State.QUEUED, State.FAILED}


def test_turns_of_one_conversation_that_end_at_once_are_both_remembered(database: Database, store: Store) -> None:
    sessions = Sessions(database, ttl=60, turns=20)
    lives = Lives(database)
    for _ in range(ROUNDS):
        note, life = sessions.note(new_id(), None), new_life(lives)
        jobs = [
            make_job(request={"messages": [{"role": "user", "content": text}], "session": note}) for text in ("a", "b")
        ]
        at_once(*(lambda job=job: store.submit(job) for job in jobs))
        for job in jobs:
            store.claim(job.id, life, "cpu.0@here")

        at_once(*(lambda job=job: store.finish(Outcome(job.id, 1, State.SUCCEEDED), a_result(job.id)) for job in jobs))

        said = [turn["content"] for turn in sessions.get(note["id"], "").history["messages"]]
        assert sorted(said) == ["Paris.", "Paris.", "a", "b"]


def test_what_is_forgotten_at_once_is_counted_once(database: Database, store: Store, lives: Lives) -> None:
    for _ in range(40):
        job_id, _ = running(store, lives)
        store.finish(Outcome(job_id, 1, State.SUCCEEDED), a_result(job_id))
    retention = Retention(database, Clock(), days=30, jobs=0)

    at_once(*(retention.prune for _ in range(3)))

    totals = store.totals()
    assert [ending.jobs for ending in totals.endings] == [40]
    assert (totals.prompt_tokens, totals.completion_tokens) == (280, 80)
    assert {type(value) for value in (*totals.endings[0][4:], *totals[1:])} == {int}


def test_what_is_listed_at_once_is_listed_once(catalog: Catalog, tmp_path: Path) -> None:
    for _ in range(ROUNDS):
        name = new_id()
        add = lambda name=name: catalog.add(name, tmp_path, format="gguf", size_bytes=1, source="pull")  # noqa: E731

        at_once(add, add, add)

        assert catalog.get(name).name == name


def test_a_text_may_have_a_character_that_the_database_has_not(store: Store, lives: Lives) -> None:
    job_id, _ = running(store, lives)
    result = a_result(job_id)
    result.text = "a\0b\x10c\x100"

    store.finish(Outcome(job_id, 1, State.SUCCEEDED), result)

    kept = store.get(job_id).result
    assert kept is not None
    assert kept.text == "a\0b\x10c\x100"


@pytest.mark.parametrize("text", ["\0", "x" * 5000])
def test_a_question_that_no_row_can_answer_is_no_fault_of_the_database(store: Store, text: str) -> None:
    try:
        found = store.page(model=text)
    except InvalidRequestError:
        found = []  # PostgreSQL does not even look
    assert found == []
