"""Counts, which are the same on every machine, and on a busy one."""

import sys
from collections.abc import Callable
from typing import Any

from sqlalchemy import Connection, event

from app.database import Database


def calls(work: Callable[[], None]) -> int:
    """How many functions it calls, in this thread."""
    count = 0

    def note(frame: Any, event: str, argument: Any) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(note)
    try:
        work()
    finally:
        sys.setprofile(None)
    return count


def commits(database: Database, work: Callable[[], Any]) -> int:
    """How many of its transactions write; each waits for the disk, and those of all processes for one another."""
    count = 0

    def note(connection: Connection) -> None:
        nonlocal count
        count += connection.get_execution_options().get("begin") == "IMMEDIATE"

    event.listen(database.engine, "commit", note)
    try:
        work()
    finally:
        event.remove(database.engine, "commit", note)
    return count


def blocks(work: Callable[[], Any]) -> int:
    """How many blocks of memory it leaves behind."""
    before = sys.getallocatedblocks()
    work()
    return sys.getallocatedblocks() - before
