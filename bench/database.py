"""What a database bears: whole lives of jobs a second, by so many processes at once, with so many in the queue.

.venv/bin/python -m bench.database --queued 100000
.venv/bin/python -m bench.database postgresql://user@host/empty_database
"""

import argparse
import contextlib
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import Any

from app.clock import Clock
from app.database import Database
from app.jobs import Kind, State, new_id
from app.lives import Lives
from app.models import Job, Result
from app.store import Outcome, Store
from app.tables import Base
from tests import postgres

TEXT = "word " * 64


def a_job(model: str) -> Job:
    """A detached generation with a short prompt."""
    now = time.time()
    request = {"messages": [{"role": "user", "content": TEXT}], "sampling": {"max_tokens": 64}}
    return Job(
        id=new_id(), kind=Kind.GENERATE, model=model, priority=5, tenant="", held=False, timeout=60.0,
        expires_at=now + 86_400, created_at=now, request=request,
    )  # fmt: skip


def live(url: str, number: int, seconds: float) -> dict[str, list[float]]:
    """One process: submits, claims and finishes jobs of a model of its own.

    Milliseconds of each step, and of the processor's time for a job in this process.
    """
    database = Database(url)
    store = Store(database, Clock())
    life, _ = Lives(database).begin(f"bench.{number}@{new_id()}", "bench", 1, 0.0)
    took: dict[str, list[float]] = {"submit": [], "claim": [], "finish": [], "cpu": []}

    def timed(step: str, work: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
        began = time.perf_counter()
        work(*args, **kwargs)
        took[step].append((time.perf_counter() - began) * 1e3)

    until = time.monotonic() + seconds
    while time.monotonic() < until:
        worked = time.process_time()
        job = a_job(f"m{number}")
        result = Result(
            job_id=job.id, done_reason="stop", prompt_tokens=64, completion_tokens=64, total_ns=1, load_ns=0,
            prompt_ns=0, completion_ns=1, text=TEXT, log=b"x" * 300,
        )  # fmt: skip
        timed("submit", store.submit, job, slots=64)
        timed("claim", store.claim, job.id, life, "bench")
        timed("finish", store.finish, Outcome(job.id, 1, State.SUCCEEDED), result)
        took["cpu"].append((time.process_time() - worked) * 1e3)
    database.close()
    return took


def measure(url: str, processes: int, queued: int, seconds: float) -> dict[str, Any]:
    """Figures of one database."""
    database = Database(url)
    Base.metadata.create_all(database.engine)
    for at in range(0, queued, 500):
        with database.write() as session:
            session.add_all(a_job("waiting") for _ in range(min(500, queued - at)))
    database.close()
    with ProcessPoolExecutor(processes) as pool:
        found = list(pool.map(live, [url] * processes, range(processes), [seconds] * processes))
    steps = {step: sorted(ms for one in found for ms in one[step]) for step in found[0]}
    return {
        "database": url.partition(":")[0],
        "processes": processes,
        "queued": queued,
        "jobs_per_second": round(len(steps["finish"]) / seconds, 1),
        **{f"{step}_ms_p50": round(statistics.median(took), 2) for step, took in steps.items()},
        **{f"{step}_ms_p99": round(took[int(len(took) * 0.99)], 2) for step, took in steps.items()},
    }


def new(stack: contextlib.ExitStack, told: dict[str, str]) -> list[str]:
    """The URLs of databases that are gone with the stack; PostgreSQL, where it is installed, waits for its disk."""
    urls = [f"sqlite:///{stack.enter_context(tempfile.TemporaryDirectory())}/jobs.db"]
    if postgres.programs():
        urls.insert(0, postgres.create(stack.enter_context(postgres.server(told=told)), "bench"))
    return urls


def main() -> None:
    """Prints a line of JSON for each database and number of processes."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "urls", nargs="*", help="of empty databases; else of a new PostgreSQL and a new SQLite, on this disk"
    )
    parser.add_argument("--set", nargs="*", default=[], metavar="NAME=VALUE", help="what that new PostgreSQL is told")
    parser.add_argument("--queued", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 4, 16])
    given = parser.parse_args()
    with contextlib.ExitStack() as stack:
        for url in given.urls or new(stack, dict(word.split("=", 1) for word in given.set)):
            for processes in given.processes:
                queued = given.queued if processes == given.processes[0] else 0
                print(json.dumps(measure(url, processes, queued, given.seconds)), flush=True)


if __name__ == "__main__":
    main()
