"""What a key allows its tenant to have in the queue and in the engines; and that nobody waits for all of another's."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import sqlalchemy as sa

from app.apikeys import ApiKeys, Proof, Role
from app.batches import Batches
from app.clock import Clock
from app.database import Database
from app.errors import NotAllowedError, QueueFullError
from app.jobs import State
from app.keyring import Keyring
from app.models import Batch
from app.settings import Settings
from app.store import Outcome, Store
from tests.stack import eventually
from tests.unit.conftest import make_job


def released(store: Store, slots: int = 64, model: str = "m") -> list[str]:
    return [hint.id for hint in store.release(model, slots)]


def test_no_more_wait_than_a_key_allows_however_many_come_at_once(store: Store, database: Database) -> None:
    def submit(_: int) -> bool:
        try:
            store.submit(make_job(tenant="alice"), most=3)
        except QueueFullError:
            return False
        return True

    with ThreadPoolExecutor(16) as pool:
        accepted = list(pool.map(submit, range(32)))
    assert sum(accepted) == 3
    store.submit(make_job(tenant="bob"), most=3)
    store.submit(make_job(tenant="alice"))  # a key without the limit, for the same tenant
    batches = Batches(database)
    with pytest.raises(QueueFullError, match=r"[34] wait"):
        batches.add([make_job(tenant="alice", group_id="g")], most=3)
    fields = {"endpoint": "", "input_file_id": "", "completion_window": "", "status": "validating", "created_at": 0.0}
    with pytest.raises(QueueFullError):
        batches.create(Batch(id="batch_1", tenant="alice", expires_at=0.0, **fields), 1, 3)
    assert batches.page() == []
    batches.create(Batch(id="batch_2", tenant="carol", expires_at=0.0, **fields), 2, 2)
    store.submit(make_job(tenant="carol"), most=2)  # between the batch's first look and its lines
    lines = [make_job(tenant="carol", group_id="batch_2") for _ in range(2)]
    with pytest.raises(QueueFullError):
        batches.fill("batch_2", lines, most=2)
    assert batches.counts("batch_2", "carol").total == 0


def test_what_runs_waits_no_longer(store: Store, life: str) -> None:
    first = make_job(tenant="alice")
    store.submit(first, most=1)
    released(store)
    assert store.claim(first.id, life, "cpu.0@here") is not None
    store.submit(make_job(tenant="alice"), most=1)
    with pytest.raises(QueueFullError):
        store.submit(make_job(tenant="alice"), most=1)


def test_no_more_run_at_once_than_a_key_allows(store: Store, database: Database, life: str) -> None:
    keys = ApiKeys(database, Clock())
    keys.create("alice", Role.USER, max_running=2)
    keys.create("alice", Role.USER, again=True, max_running=1, expires_in=-1.0)  # what has ended limits nothing
    ours = [make_job(tenant="alice") for _ in range(4)] + [make_job(tenant="alice", model="n")]
    for job in ours:
        store.submit(job, slots=64)
    theirs = make_job(tenant="bob")
    store.submit(theirs, slots=64)

    out = {job.id for job in ours if store.get(job.id).job.released_at}
    assert out == {ours[0].id, ours[1].id}
    assert store.get(theirs.id).job.released_at is not None
    assert (released(store), released(store, model="n")) == ([], [])
    claimed = store.claim(ours[0].id, life, "cpu.0@here")
    assert claimed is not None
    assert released(store) == []
    store.finish(Outcome(claimed.id, claimed.attempt, State.SUCCEEDED))
    assert released(store) == [ours[2].id]
    ApiKeys(database, Clock()).revoke("alice")
    assert released(store) == [ours[3].id]


@pytest.mark.parametrize("database", ["postgresql"], indirect=True)  # SQLite has one writer at a time
def test_two_models_do_not_give_the_last_place_of_a_key_to_both_at_once(store: Store, database: Database) -> None:
    ApiKeys(database, Clock()).create("alice", Role.USER, max_running=1)
    jobs = [make_job(tenant="alice", model=model) for model in ("m", "n")]
    for job in jobs:
        store.submit(job)
    waits = sa.text("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted")

    def is_waiting() -> bool:
        with database.read() as session:
            return bool(session.scalar(waits))

    with ThreadPoolExecutor(1) as pool:
        with database.write() as session:
            first = store._release(session, "m", 4)
            second = pool.submit(released, store, 4, "n")
            eventually(is_waiting, what="the other model's release")
        assert [hint.id for hint in first] == [jobs[0].id]
        assert second.result() == []


def test_a_thousand_jobs_of_one_tenant_leave_another_s_first_one_its_turn(
    store: Store, database: Database, life: str
) -> None:
    keys = ApiKeys(database, Clock())
    many = Keyring(keys.all, Settings(_env_file=None), Clock()).identify(Proof.of(keys.create("many", Role.USER)))
    assert many is not None
    with pytest.raises(NotAllowedError, match="priority 5 at best"):
        many.priority(0, said=True)
    priority = many.priority(0, said=False)  # the most urgent that it gets
    with store._db.write() as session:
        session.add_all(make_job(tenant="many", priority=priority) for _ in range(1000))
    out = released(store, slots=4)
    assert len(out) == 5
    late = make_job(tenant="few")
    store.submit(late, slots=4)
    # It is the next one out, as soon as one slot is free.
    claimed = store.claim(out[0], life, "cpu.0@here")
    assert claimed is not None
    store.finish(Outcome(claimed.id, claimed.attempt, State.SUCCEEDED))
    assert released(store, slots=4) == [late.id]
