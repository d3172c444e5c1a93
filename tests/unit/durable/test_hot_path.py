"""What a token costs the worker and the broker, in counts: they are the same on every machine, and on a busy one.

A bound that is broken means that something was added to what runs for every token; see docs/benchmarks.md.
"""

import time
from typing import Any

import pytest

from app import bus as buses
from app.bus import Bus
from app.jobs import new_id
from app.store import Hint
from inference.protocol import Chunk
from tasks.pump import Pump
from tasks.run import Run, Ties
from tests.counting import blocks, calls, commits

from .conftest import MODEL, Desk, Worker

STREAMS = 32
STEPS = 50
#: Calls of functions, C's included, for each token of a step of 32; measured 33.
MOST_CALLS = 40
#: And for a step of one token, which has the round trip to itself; measured 340.
MOST_CALLS_ALONE = 400
#: And for a job beside its tokens, from its message until it has ended, in its own thread; measured 3,643.
MOST_CALLS_OF_A_JOB = 3_900
#: And to send its message; measured 458. A client of kombu's a command would make it 1,006.
MOST_CALLS_OF_A_MESSAGE = 505


class Steps:
    """A pump that serves some jobs, and the steps of their engine."""

    def __init__(self, desk: Desk, streams: int) -> None:
        bus = desk.kernel.bus
        self._pump = Pump(None, bus, "n")  # type: ignore[arg-type]  # no engine is asked anything
        self.runs = []
        for _ in range(streams):
            job = desk.job(desk.submit())
            job.attempt = 1
            bus.install(job.id, 1, 600)
            run = Run(job, [], self._pump.lock, Ties(lambda: True, lambda: None, time.time))
            self._pump.runs[job.id] = run
            self.runs.append(run)

    def take(self) -> None:
        self._pump._carry([Chunk(run.job.id, " word", (7,), 1, None, 3) for run in self.runs])


def commands(bus: Bus) -> dict[str, int]:
    """What the broker was asked so far, by its own count."""
    told: Any = bus.redis.info("commandstats")
    return {name.removeprefix("cmdstat_"): about["calls"] for name, about in told.items()}


def test_a_step_is_one_round_trip_and_one_message_however_many_streams(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = Steps(desk, STREAMS)
    steps.take()
    encoded: list[str] = []
    encode = buses.events.encode
    monkeypatch.setattr(buses.events, "encode", lambda job, event: encoded.append(job) or encode(job, event))
    before = commands(desk.kernel.bus)
    for _ in range(STEPS):
        steps.take()
    after = commands(desk.kernel.bus)

    asked = {name: after[name] - before.get(name, 0) for name in after if after[name] != before.get(name, 0)}
    asked.pop("info", None)
    assert asked == {
        "evalsha": STEPS,
        "publish": STEPS,
        "get": STEPS * STREAMS,
        "xlen": STEPS * STREAMS,
        "xadd": STEPS * STREAMS,
    }
    assert len(encoded) == STEPS * STREAMS
    assert all(run.sent == STEPS + 1 for run in steps.runs)


@pytest.mark.parametrize(("streams", "most"), [(STREAMS, MOST_CALLS), (1, MOST_CALLS_ALONE)])
def test_a_token_costs_the_worker_few_calls(desk: Desk, streams: int, most: int) -> None:
    steps = Steps(desk, streams)
    steps.take()
    assert calls(steps.take) / streams <= most


def test_a_token_leaves_little_in_the_workers_memory(desk: Desk) -> None:
    """Its event, with its text and ids; no second copy, and no frame that was sent."""
    steps = Steps(desk, STREAMS)
    steps.take()

    def take() -> None:
        for _ in range(STEPS):
            steps.take()

    assert blocks(take) / STEPS / STREAMS <= 3


def test_a_job_costs_the_worker_few_calls(desk: Desk, worker: Worker) -> None:
    jobs = [desk.submit() for _ in range(3)]
    worker.runner.run(jobs[0])
    assert min(calls(lambda job=job: worker.runner.run(job)) for job in jobs[1:]) <= MOST_CALLS_OF_A_JOB  # type: ignore[misc]


def test_a_job_is_two_commits_of_the_worker_and_one_to_release_the_next(desk: Desk, worker: Worker) -> None:
    """Its claim, and its end with the result."""
    first, last = desk.submit(), desk.submit()
    assert commits(desk.kernel.database, lambda: worker.runner.run(first)) == 3
    assert commits(desk.kernel.database, lambda: worker.runner.run(last)) == 2


def test_a_message_costs_few_calls(desk: Desk) -> None:
    def send() -> None:
        desk.kernel.dispatcher._send([Hint(new_id(), "generate", MODEL, 5, None)])

    send()
    assert calls(send) <= MOST_CALLS_OF_A_MESSAGE
