"""What SQLite gives by having one writer at a time, and PostgreSQL must be asked for. Steps within a transaction.

PostgreSQL runs at READ COMMITTED: each statement sees what was committed when it began, and an UPDATE that waited for a
row looks at its conditions again. So one conditional UPDATE is safe by itself; what reads first and then writes is not.
Rows are locked in the order life, job, session, and jobs by id, so that no two transactions wait for each other.
"""

from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from app.models import Job

#: The first half of an advisory lock's key; other software on the same database takes other numbers, or none.
OURS = 0x746F6B


def is_postgresql(session: Session) -> bool:
    """Whether several may write at once."""
    return session.get_bind().dialect.name == "postgresql"


def is_writing(session: Session) -> bool:
    """Whether the transaction is one of `Database.write()`."""
    return session.get_bind().get_execution_options().get("begin") == "IMMEDIATE"


def alone(session: Session, what: str) -> None:
    """From here to the end of the transaction, nobody else is in a step of this name."""
    if is_postgresql(session):
        session.execute(sa.select(sa.func.pg_advisory_xact_lock(OURS, sa.func.hashtext(what))))


def hold(session: Session, *where: sa.ColumnElement[bool]) -> None:
    """From here to the end of the transaction, nobody else changes the jobs that match."""
    if is_postgresql(session):
        session.execute(sa.select(Job.id).where(*where).order_by(Job.id).with_for_update())


def insert(session: Session, table: type) -> Any:
    """An INSERT that may say what becomes of a row that is there already."""
    return (postgresql if is_postgresql(session) else sqlite).insert(table)
