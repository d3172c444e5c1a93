"""A real database for unit tests: SQLite in a temporary folder."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from app.catalog import Catalog
from app.database import Database
from app.jobs import DEFAULT_PRIORITY, Kind, new_id
from app.lives import Lives
from app.models import Base, Job
from app.store import Store

MakeJob = Callable[..., Job]


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    """Empty tables."""
    database = Database(f"sqlite:///{tmp_path / 'jobs.db'}")
    Base.metadata.create_all(database.engine)
    yield database
    database.close()


@pytest.fixture
def store(database: Database) -> Store:
    """The jobs."""
    return Store(database)


@pytest.fixture
def lives(database: Database, store: Store) -> Lives:
    """The leases."""
    return Lives(database, store)


@pytest.fixture
def catalog(database: Database) -> Catalog:
    """The models."""
    return Catalog(database)


@pytest.fixture
def life(lives: Lives) -> str:
    """A worker that lives."""
    return lives.begin("cpu.0@here", "here", pid=1, pid_started=0.0)[0]


def make_job(**values: Any) -> Job:
    """A detached generation, unless told otherwise."""
    now = time.time()
    defaults: dict[str, Any] = {
        "id": new_id(),
        "kind": Kind.GENERATE,
        "model": "m",
        "priority": DEFAULT_PRIORITY,
        "tenant": "",
        "held": False,
        "timeout": 120.0,
        "expires_at": now + 3600,
        "created_at": now,
        "request": {"messages": [], "sampling": {}},
    }
    return Job(**(defaults | values))
