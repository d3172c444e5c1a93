"""The bus: what it writes goes by itself."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from app.broker import CONNECTIONS
from app.bus import Entry
from app.errors import UnavailableError
from app.events import Ended, Token
from app.jobs import new_id
from app.kernel import Kernel


def test_a_stream_whose_owner_dies_after_its_first_event_goes_by_itself(kernel: Kernel) -> None:
    job_id = new_id()
    kernel.bus.install(job_id, 1, 100)
    kernel.bus.append("cpu.0@test", [Entry(job_id, 1, Token(1, "a"))])
    keys = list(kernel.bus.redis.scan_iter(f"*{job_id}"))
    assert len(keys) == 2
    assert all(100 <= kernel.bus.redis.ttl(key) <= 100 + kernel.settings.stream_ttl_seconds for key in keys)


def test_an_end_lets_its_stream_go_and_a_late_one_shortens_no_successors(kernel: Kernel) -> None:
    job_id, kept = new_id(), kernel.settings.stream_ttl_seconds
    kernel.bus.install(job_id, 1, 1000)
    kernel.bus.append("cpu.0@test", [Entry(job_id, 1, Token(1, "a"))])
    kernel.bus.install(job_id, 2, 1000)
    keys = list(kernel.bus.redis.scan_iter(f"*{job_id}"))
    late, own = (Entry(job_id, attempt, Ended(2, state="succeeded")) for attempt in (1, 2))
    assert kernel.bus.finish("cpu.0@test", late) == [late]
    assert all(kernel.bus.redis.ttl(key) > kept for key in keys)
    assert kernel.bus.finish("cpu.0@test", own) == []
    assert all(0 < kernel.bus.redis.ttl(key) <= kept for key in keys)


def test_an_owner_that_freezes_while_it_writes_its_stream_anew_deletes_nothing_of_the_next_one(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id, install = new_id(), kernel.bus.install
    mine, others = (Entry(job_id, attempt, Token(1, "a")) for attempt in (1, 2))

    def frozen(*args: Any, **values: Any) -> int | None:
        installed = install(*args, **values)
        assert install(job_id, 2, 100) == 0
        assert kernel.bus.append("cpu.1@test", [others]) == []
        return installed

    monkeypatch.setattr(kernel.bus, "install", frozen)
    with pytest.raises(UnavailableError):
        kernel.bus.restore("cpu.0@test", job_id, 1, 100, [mine])
    assert kernel.bus.replay(job_id) == [others.event]


def test_a_thousand_callers_at_once_share_a_few_connections(kernel: Kernel) -> None:
    before = kernel.bus.redis.info("clients")["connected_clients"]
    with ThreadPoolExecutor(150) as pool:  # each waits its turn, and none is refused
        list(pool.map(lambda _: kernel.bus.redis.eval("for n = 1, 20000 do end return 1", 0), range(1000)))
    assert kernel.bus.redis.info("clients")["connected_clients"] - before < CONNECTIONS
