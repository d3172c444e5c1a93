"""Totals that only grow, whatever retention forgets."""

import pytest

from app import totals
from app.clock import Clock
from app.database import Database
from app.jobs import State
from app.models import Result
from app.retention import Retention
from app.store import Store
from app.totals import Ending
from tests.unit.conftest import make_job


def ended(database: Database, status: State, *, code: str | None = None, tokens: int = 0, losses: int = 0) -> str:
    job = make_job(status=status, created_at=1.0, finished_at=2.0, error_code=code, attempt=1 + losses, losses=losses)
    result = Result(job_id=job.id, done_reason="stop", prompt_tokens=3, completion_tokens=tokens, text="", log=b"")
    for name in ("total_ns", "load_ns", "prompt_ns", "completion_ns"):
        setattr(result, name, 0)
    with database.write() as session:
        session.add(job)
        session.flush()
        if tokens:
            session.add(result)
    return job.id


def test_what_is_forgotten_still_counts(database: Database, store: Store) -> None:
    for number in range(3):
        ended(database, State.SUCCEEDED, tokens=10 + number)
    removed = ended(database, State.SUCCEEDED, tokens=20, losses=1)
    ended(database, State.FAILED, code="worker_lost", losses=2)
    store.submit(make_job())  # an open one is none of them

    before = store.totals()
    assert before.endings == [
        Ending("generate", "m", "failed", "worker_lost", 1, 3, 2),
        Ending("generate", "m", "succeeded", "", 4, 5, 1),
    ]
    assert (before.prompt_tokens, before.completion_tokens) == (12, 53)

    store.remove(removed)
    assert store.totals() == before
    assert Retention(database, Clock(), days=30, jobs=1).prune() == 3
    assert store.totals() == before
    ended(database, State.SUCCEEDED, tokens=1)
    assert Retention(database, Clock(), days=30, jobs=0).prune() == 2
    after = store.totals()
    assert [ending.jobs for ending in after.endings] == [1, 5]
    assert after.completion_tokens == before.completion_tokens + 1


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)  # its way to tell a plan
def test_counting_reads_the_index_alone(database: Database) -> None:
    with database.read() as session:
        query = str(totals.KEPT.compile(dialect=session.get_bind().dialect, compile_kwargs={"literal_binds": True}))
        plan = session.connection().exec_driver_sql(f"EXPLAIN QUERY PLAN {query}")
        assert any("COVERING INDEX ix_jobs_ended" in row[-1] for row in plan)
    assert totals.Totals([], 0, 0, 0) == Store(database).totals()
