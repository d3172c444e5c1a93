"""Deploys while jobs run: parts that are asked to end, one or all, and a new version with a new table layout."""

import re
import shutil
from pathlib import Path

import psutil
import pytest

from tests.faults.ledger import Ledger
from tests.faults.yard import PARTS, Yard
from tests.stack import ROOT, eventually

pytestmark = pytest.mark.faults

#: What a release may do to a table while processes of the version before it still run.
MIGRATION = """
import sqlalchemy as sa
from alembic import op

revision, down_revision, branch_labels, depends_on = "9999", "{head}", None, None


def upgrade() -> None:
    op.add_column("jobs", sa.Column("fault_mark", sa.Integer(), nullable=False, server_default="7"))
    op.create_index("ix_fault_mark", "jobs", ["fault_mark", "status"])
"""


@pytest.mark.parametrize("name", ["keeper", "beat", "puller", "web"])
@pytest.mark.parametrize("times", [1, 2])
def test_any_part_asked_to_end(yard: Yard, ledger: Ledger, name: str, times: int) -> None:
    job_id = ledger.submit(max_tokens=60, scripted_tokens_per_second=20)
    ledger.emitted(job_id, 5)
    yard.end(name, times)
    ledger.hold()
    assert (yard.job(job_id)["status"], yard.job(job_id)["losses"]) == ("succeeded", 0)


def restart_all(yard: Yard) -> None:
    """Each part in its turn, as a rolling deploy does it."""
    for name in PARTS:
        yard.end(name, 1)
        eventually(lambda name=name: yard.alive(name), what=f"the next {name}")
        yard.ready()


def test_a_rolling_restart_of_all(yard: Yard, ledger: Ledger) -> None:
    jobs = [ledger.submit(max_tokens=150, scripted_tokens_per_second=10) for _ in range(3)]
    for job_id in jobs:
        ledger.emitted(job_id, 5)
    restart_all(yard)
    ledger.hold()
    assert {(job["status"], job["losses"]) for job in map(yard.job, jobs)} == {("succeeded", 0)}


def next_version(folder: Path) -> Path:
    """A copy of the code that is one migration ahead."""
    for name in ("app", "tasks", "inference", "migrations"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("Procfile", "alembic.ini", "celeryconfig.py"):
        shutil.copy(ROOT / name, folder / name)
    versions = folder / "migrations" / "versions"
    head = max(found[1] for path in versions.glob("*.py") if (found := re.match(r"(\d+)_", path.name)))
    (versions / "9999_a_column_and_an_index.py").write_text(MIGRATION.format(head=head))
    return folder


def test_an_upgrade_with_a_migration_while_jobs_run(yard: Yard, ledger: Ledger) -> None:
    jobs = [ledger.submit(max_tokens=300, scripted_tokens_per_second=10) for _ in range(3)]
    for job_id in jobs:
        ledger.emitted(job_id, 5)
    yard.root = next_version(yard.folder / "next")
    with ledger.flowing():  # over the old processes and the new tables
        yard.run("migrate")
    restart_all(yard)
    with ledger.flowing():
        pass
    assert [psutil.Process(yard.processes[name].pid).cwd() for name in PARTS] == [str(yard.root)] * len(PARTS)
    ledger.hold()
    assert {(job["status"], job["losses"]) for job in map(yard.job, jobs)} == {("succeeded", 0)}
    assert yard.rows("SELECT DISTINCT fault_mark FROM jobs") == [(7,)]
    assert list((yard.folder / "backups").glob("jobs-*.db"))
