"""What `release()` lets go to the broker."""

from typing import Any

import pytest
import sqlalchemy as sa

from app.database import Database
from app.groups import Groups
from app.jobs import State
from app.store import Outcome, Store
from tests.unit.conftest import make_job


def submit(store: Store, count: int = 1, **values: object) -> list[str]:
    jobs = [make_job(**values) for _ in range(count)]
    for job in jobs:
        store.submit(job, slots=0)
    return [job.id for job in jobs]


def released(store: Store, slots: int) -> list[str]:
    return [hint.id for hint in store.release("m", slots)]


def test_the_broker_holds_a_quarter_more_than_the_slots(store: Store) -> None:
    ids = submit(store, 12)

    assert released(store, 8) == ids[:10]
    assert released(store, 8) == []


def test_what_runs_counts_too(store: Store, life: str) -> None:
    ids = submit(store, 6)
    first = released(store, 4)
    store.claim(first[0], life, "cpu.0@here")

    assert len(first) == 5
    assert released(store, 4) == []
    assert store.get(ids[5]).job.released_at is None


def test_the_urgent_go_before_the_old(store: Store) -> None:
    old = submit(store, 2, priority=5)
    urgent = submit(store, 1, priority=1)

    assert released(store, 2) == [*urgent, old[0]]


def test_a_job_that_outranks_all_released_ones_goes_at_once(store: Store) -> None:
    submit(store, 5, priority=8)
    released(store, 4)
    urgent = submit(store, 1, priority=2)
    submit(store, 1, priority=8)

    assert urgent == released(store, 4)[-1:]


def test_batch_lines_leave_a_quarter_of_the_slots(store: Store) -> None:
    submit(store, 20, priority=9)

    assert len(released(store, 8)) == 6
    interactive = submit(store, 1, priority=5)
    assert released(store, 8) == interactive


def test_one_slot_still_serves_a_batch_line(store: Store) -> None:
    submit(store, 3, priority=7)

    assert len(released(store, 1)) == 1


def test_tenants_take_turns(store: Store) -> None:
    many = submit(store, 4, tenant="many")
    few = submit(store, 1, tenant="few")

    assert released(store, 2) == [few[0], many[0]] or released(store, 2) == []
    assert store.get(few[0]).job.released_at is not None


def test_a_model_without_slots_gets_nothing(store: Store, database: Database) -> None:
    submit(store, 3)

    assert released(store, 0) == []
    assert store.depths() == [("generate", "m", State.QUEUED, False, 3)]


def test_a_job_that_fits_is_released_as_it_is_accepted(store: Store) -> None:
    assert [hint.priority for hint in store.submit(make_job(), slots=1).hints] == [5]
    waits = make_job()
    assert store.submit(waits, slots=1).hints == []
    assert store.submit(make_job(priority=9), slots=1).hints == []
    urgent = make_job(priority=2)
    assert [hint.id for hint in store.submit(urgent, slots=1).hints] == [urgent.id]
    assert store.get(waits.id).job.released_at is None


def test_a_batch_line_does_not_outrank_its_share(store: Store, life: str) -> None:
    lines = [make_job(priority=9) for _ in range(6)]
    for job in lines:
        store.submit(job, slots=4)
    released_ones = [job.id for job in lines if store.get(job.id).job.released_at]
    for job_id in released_ones:
        store.claim(job_id, life, "cpu.0@here")
    submit(store, 2, priority=5)
    released(store, 4)
    upper = submit(store, 1, priority=7)

    assert len(released_ones) == 3
    assert released(store, 4) == []
    assert store.get(upper[0]).job.released_at is None


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)  # its way to tell a plan
def test_no_query_of_the_queue_reads_all_of_it(store: Store, database: Database) -> None:
    submit(store, 2)
    submit(store, 1, group_id="g")
    statements: list[tuple[str, Any]] = []

    @sa.event.listens_for(database.engine, "before_cursor_execute")
    def _note(connection: Any, cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        if statement.startswith(("SELECT", "WITH", "UPDATE")):
            statements.append((statement, parameters))

    job = store.page(limit=1)[0].job
    statements.clear()
    for ask in (
        lambda: store.release("m", 1),
        store.unclaimed,
        store.expire,
        store.waiting_models,
        lambda: store.overflowing(0),
        lambda: store.position(job),
        Groups(database).groups,
    ):
        ask()
    seen = list(statements)
    with database.engine.connect() as connection:
        for statement, parameters in seen:
            plan = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters)
            steps = [step for *_, step in plan if "jobs" in step]
            assert steps, statement
            # The window's index holds what is released or runs, and nothing of the queue.
            whole = [step for step in steps if "SCAN" in step and "ix_jobs_window" not in step]
            assert not whole, (statement, steps)
            assert not any("ix_jobs_status" in step and "queued" in str(parameters) for step in steps), steps


def one_at_a_time(store: Store, life: str, slots: int) -> list[str]:
    """What is released while one slot after another becomes free; always two run."""
    order, running = [], []
    for _ in range(6):
        for hint in store.release("m", slots):
            store.claim(hint.id, life, "cpu.0@here")
            order.append(hint.id)
            running.append(hint.id)
        store.finish(Outcome(running.pop(0), 1, State.CANCELLED))
    return order


def test_groups_of_a_tenant_take_turns_with_each_other(store: Store, life: str) -> None:
    large = submit(store, 9, priority=7, group_id="large")
    small = submit(store, 3, priority=7, group_id="small")

    assert set(one_at_a_time(store, life, slots=3)[:6]) == {*large[:3], *small}


def test_tenants_take_turns_when_one_slot_is_free_at_a_time(store: Store, life: str) -> None:
    many = submit(store, 9, tenant="many")
    few = submit(store, 3, tenant="few", group_id="g")

    assert set(one_at_a_time(store, life, slots=2)[:6]) == {*many[:3], *few}


def test_the_urgent_of_many_groups_go_first(store: Store) -> None:
    for number in range(9):
        submit(store, 1, priority=7, group_id=f"group-{number}")
    urgent = submit(store, 1, priority=2, group_id="the-last")

    assert released(store, 1) == urgent


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)  # its way to tell a plan
def test_turns_are_read_out_of_an_index_in_its_order(store: Store, database: Database) -> None:
    asked: list[tuple[str, Any]] = []
    submit(store, 2, priority=7, group_id="g")
    sa.event.listen(
        database.engine, "before_cursor_execute", lambda _c, _u, said, given, *_: asked.append((said, given))
    )
    released(store, 2)
    turns = {said: given for said, given in asked if said.startswith("SELECT") and "group_id" in said}
    with database.engine.connect() as connection:
        for said, given in list(turns.items()):
            plan = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {said}", given).all()
            if "ORDER BY jobs.group_id" in said:
                assert not [row for row in plan if "TEMP B-TREE" in row[3]], plan
            assert not [row for row in plan if row[3].startswith("SCAN jobs")], plan


def test_groups_are_told_from_the_one_with_the_newest_job_on(store: Store, database: Database) -> None:
    first = make_job(tenant="bob", group_id="b")
    for job in (first, make_job(tenant="alice", group_id="b"), make_job(), make_job(tenant="alice", group_id="a")):
        store.submit(job)
    submit(store, 2, tenant="bob", group_id="b")
    groups = Groups(database)

    told = groups.groups()
    assert [(group.tenant, group.name, group.counts.open) for group in told] == [
        ("bob", "b", 3),
        ("alice", "a", 1),
        ("alice", "b", 1),
    ]
    assert told[0].at == first.created_at
    assert groups.groups(limit=2) == told[:2]
    assert groups.groups(scope="alice") == told[1:]
