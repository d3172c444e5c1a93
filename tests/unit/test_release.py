"""What `release()` lets go to the broker."""

from app.database import Database
from app.jobs import State
from app.store import Store
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
