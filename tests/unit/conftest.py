"""A real database for unit tests: SQLite in a temporary folder, and PostgreSQL where it is installed."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from app.catalog import Catalog
from app.cli.migrate import migrate
from app.database import Database
from app.jobs import DEFAULT_PRIORITY, Kind, new_id
from app.lives import Lives
from app.models import Job
from app.settings import Settings
from app.store import Store
from app.tables import Base
from tests.postgres import create

MakeJob = Callable[..., Job]


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    """Empty tables."""
    if request.param == "postgresql":
        database = request.getfixturevalue("postgresql")
        with database.write() as session:
            session.execute(sa.text(f"TRUNCATE {', '.join(Base.metadata.tables)}"))
        yield database
        return
    database = Database(f"sqlite:///{tmp_path / 'jobs.db'}")
    Base.metadata.create_all(database.engine)
    yield database
    database.close()


@pytest.fixture(scope="session")
def postgresql(postgres: str) -> Iterator[Database]:
    """A database that the migrations made."""
    url = create(postgres, "unit")
    migrate(Settings(database_url=url, _env_file=None))
    database = Database(url)
    yield database
    database.close()


@pytest.fixture
def store(database: Database) -> Store:
    """The jobs."""
    return Store(database)


@pytest.fixture
def lives(database: Database, store: Store) -> Lives:
    """The leases."""
    return Lives(database)


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
