"""Which calls run among the readers."""

import inspect
import re

import pytest

from app.aliases import Aliases
from app.apikeys import ApiKeys
from app.batches import Batches
from app.catalog import Catalog
from app.files import Files
from app.sessions import Sessions
from app.store import Store
from app.web.offload import READS


@pytest.mark.parametrize("kind", [Store, Batches, Files, Aliases, Sessions, Catalog, ApiKeys])
def test_no_call_that_writes_runs_among_the_readers(kind: type) -> None:
    asking = {name for name in READS if hasattr(kind, name)}
    assert asking
    assert {name for name in asking if _writes(kind, name)} == set()


def _writes(kind: type, name: str) -> bool:
    """Whether a method takes the write lock, by itself or through another method of its own."""
    source = inspect.getsource(getattr(kind, name))
    others = {other for other in re.findall(r"self\.(\w+)\(", source) if other != name}
    return ".write()" in source or any(_writes(kind, other) for other in others if hasattr(kind, other))


def test_what_submits_does_not() -> None:
    assert _writes(Store, "submit")
    assert _writes(Batches, "cancel")
    assert "submit" not in READS
