"""Nodes that get no further work."""

import pytest

from app.clock import Clock
from app.database import Database
from app.drains import Drains, Node
from app.errors import InvalidRequestError
from app.lives import Lives
from app.store import Store
from tests.unit.conftest import make_job


def test_a_node_is_drained_until_that_is_undone(database: Database, store: Store, lives: Lives) -> None:
    drains = Drains(database, Clock())
    life, _ = lives.begin("cpu.0@b", "b/4026531836", pid=1, pid_started=0.0)
    lives.begin("cpu.0@a", "a", pid=1, pid_started=0.0)
    job = make_job()
    store.submit(job)
    store.claim(job.id, life, "cpu.0@b")
    assert drains.nodes() == [Node("a", None, 0), Node("b", None, 1)]

    drains.begin("b")
    drains.begin("b")

    assert drains.all() == {"b"}
    lives.leave(life, {})
    (b,) = [node for node in drains.nodes() if node.name == "b"]  # it is drained still when it is gone
    assert (b.running, b.since is not None) == (0, True)
    assert (drains.end("b"), drains.end("b"), drains.all()) == (True, False, frozenset())
    with pytest.raises(InvalidRequestError, match="There are: a"):
        drains.begin("c")
