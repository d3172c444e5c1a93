"""Which calls run among the readers."""

import inspect
import re
from collections.abc import Callable
from typing import Any

import pytest

from app.aliases import Aliases
from app.apikeys import ApiKeys
from app.batches import Batches
from app.catalog import Catalog
from app.drains import Drains
from app.files import Files
from app.sessions import Sessions
from app.store import Store
from app.web.offload import READS

KINDS = [Store, Batches, Files, Aliases, Sessions, Catalog, ApiKeys, Drains]


@pytest.mark.parametrize("kind", KINDS)
def test_no_call_that_writes_runs_among_the_readers(kind: type) -> None:
    asking = {name for name in READS if hasattr(kind, name)}
    assert asking
    assert {name for name in asking if _writes(kind, name)} == set()


@pytest.mark.parametrize("kind", KINDS)
def test_no_call_that_only_asks_takes_a_writer_s_thread(kind: type) -> None:
    calls = {name for name in dir(kind) if not name.startswith("_") and not _is_step(getattr(kind, name))}
    assert {name for name in calls - READS if not _writes(kind, name)} == set()


def _is_step(method: Callable[..., Any]) -> bool:
    """Whether it runs within a transaction of somebody else's."""
    return "session" in inspect.signature(method).parameters


def _writes(kind: type, name: str) -> bool:
    """Whether a method takes the write lock, by itself or through another method of its own."""
    source = inspect.getsource(getattr(kind, name))
    others = {other for other in re.findall(r"self\.(\w+)\(", source) if other != name}
    return ".write(" in source or any(_writes(kind, other) for other in others if hasattr(kind, other))


def test_what_submits_does_not() -> None:
    assert _writes(Store, "submit")
    assert _writes(Batches, "cancel")
    assert "submit" not in READS
