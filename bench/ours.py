"""Rows that need no other server: the queue and the web process, with the scripted engine."""

import json
import statistics
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import datetime
from functools import partial
from typing import Any

import httpx
import psutil

from bench.engines import starters
from bench.results import Row, part, ratio, say, turns
from bench.streams import Ask, run, whole
from bench.yard import holders, yard
from tests.stack import Stack, eventually

#: Rows of /health: what it is asked beside.
HEALTHS = {
    "health": "under full load: 100 streams as fast as two cores relay them",
    "health-engine": "beside 16 streams of llama.cpp",
}
#: Lines of one body, and jobs that are submitted one by one.
BODY, SINGLES = 10_000, 200
CHAT = {"model": "scripted", "messages": [{"role": "user", "content": "go"}]}


def submit(quick: bool) -> list[Row]:
    """From a request to the engine, on an idle machine."""
    seen, reached = [], []
    with yard() as stack, httpx.Client(base_url=stack.url, trust_env=False) as client:
        client.post("/chat", json={**CHAT, "max_tokens": 1}).raise_for_status()  # loads the model
        for _ in range(100 if quick else 300):
            began, sent = time.monotonic(), time.time()
            with client.stream("POST", "/chat", json={**CHAT, "stream": True, "max_tokens": 1}) as answer:
                lines = answer.iter_lines()
                next(line for line in lines if line.startswith("data:"))
                seen.append((time.monotonic() - began) * 1000)
                list(lines)
            reached.append(_reached(sent, stack.job(answer.headers["X-Job-Id"])))
            time.sleep(0.02)
    note = (
        "From the request's first byte until its one token is asked of the engine's process, by the clocks of client, "
        f"row and worker. To the first event at the client: p50 {part(seen, 50):.1f} ms, p99 {part(seen, 99):.1f} ms."
    )
    return [
        Row(
            f"submit-p{percent}",
            f"submit to engine, idle, p{percent}",
            "ms",
            round(part(reached, percent), 1),
            bar,
            at_least=False,
            sides={"ours": [part(reached, percent)]},
            note=note,
        )
        for percent, bar in ((50, 4), (99, 15))
    ]


def _reached(sent: float, job: dict[str, Any]) -> float:
    """Milliseconds until the engine was asked: the job's length until its one token was here, without the token's own.

    The worker's way from that token to the end of its count is in it, so this is at most too much.
    """
    since = float(job["total_duration"] - job["prompt_eval_duration"])
    return (datetime.fromisoformat(job["created_at"]).timestamp() - sent) * 1000 + since / 1e6


def batch(quick: bool) -> list[Row]:
    """A large batch, from its upload until all its lines are jobs."""
    count = 5_000 if quick else 50_000
    line = {"method": "POST", "url": "/v1/chat/completions", "body": {**CHAT, "max_tokens": 1}}
    text = "\n".join(json.dumps({"custom_id": str(number), **line}) for number in range(count))
    with yard("web", "keeper", "beat") as stack, httpx.Client(base_url=stack.url, timeout=120) as client:
        began = time.monotonic()
        file = client.post("/v1/files", files={"file": ("b.jsonl", text)}, data={"purpose": "batch"}).json()["id"]
        asked = {"input_file_id": file, "endpoint": "/v1/chat/completions", "completion_window": "24h"}
        created = client.post("/v1/batches", json=asked).json()["id"]

        def accepted() -> bool:
            shown = client.get(f"/v1/batches/{created}").json()
            return bool(shown["status"] == "in_progress" and shown["request_counts"]["total"] == count)

        eventually(accepted, seconds=120, what="the batch")
        took = time.monotonic() - began
    return [
        Row(
            "batch",
            f"a batch of {count:,} lines, from its upload until it is accepted",
            "s",
            round(took, 1),
            20,
            at_least=False,
            sides={"ours": [took]},
        )
    ]


def queue(quick: bool) -> list[Row]:
    """Submitting behind a short and a long queue, in turns; no worker takes of either."""
    few, many = (1_000, 10_000) if quick else (1_000, 100_000)
    parts, settings = ("web", "keeper", "beat"), {"MAX_QUEUED_JOBS": "200000"}
    with yard(*parts, **settings) as short, yard(*parts, **settings) as long:
        web = psutil.Process(long.processes["web"].pid)
        for stack in (short, long):
            for group in _fill(stack, BODY):  # or the room that one such body takes would look like the queue's
                stack.http.delete(f"/groups/{group}", timeout=120).raise_for_status()
            _fill(stack, few)
        before = [_submit(long) for _ in range(SINGLES)]
        memory = _memory(web)
        say(f"behind {few:,}: {statistics.median(before):.1f} ms, {memory:.0f} MB")
        _fill(long, many - few)
        times: dict[Stack, list[float]] = {short: [], long: []}
        for pair in range(SINGLES):
            for stack in turns((short, long), pair):
                times[stack].append(_submit(stack))
        grown = _memory(web)
    at_few, at_many = statistics.median(times[short]), statistics.median(times[long])
    behind = f"behind {many:,} queued jobs, against {few:,}"
    return [
        Row(
            "queue",
            f"submit time {behind}",
            "ratio",
            round(at_many / at_few, 2),
            1.2,
            at_least=False,
            sides={"few": [at_few], "many": [at_many]},
            note=f"Milliseconds: {at_few:.1f}, {at_many:.1f}.",
        ),
        Row(
            "queue-memory",
            f"memory of the web process {behind}",
            "ratio",
            round(grown / memory, 3),
            1.1,
            at_least=False,
            sides={"few": [memory], "many": [grown]},
            note=f"MB: {memory:.0f}, then {grown:.0f}. A body of {BODY:,} lines and {SINGLES} jobs came before both.",
        ),
    ]


def _fill(stack: Stack, count: int) -> list[str]:
    """The groups, one a body."""
    line = json.dumps({**CHAT, "max_tokens": 1})
    groups = []
    for start in range(0, count, BODY):
        body = "\n".join([line] * min(BODY, count - start))
        answer = stack.http.post("/jobs", content=body, headers={"Content-Type": "application/x-ndjson"}, timeout=120)
        groups.append(str(answer.raise_for_status().json()["group"]))
    return groups


def _submit(stack: Stack) -> float:
    """Milliseconds of one."""
    began = time.monotonic()
    stack.http.post("/jobs", json=CHAT).raise_for_status()
    return (time.monotonic() - began) * 1000


def _memory(process: psutil.Process) -> float:
    """MB resident, of the one process that serves."""
    family = [process, *process.children(recursive=True)]
    return float(max(one.memory_info().rss for one in family)) / 1e6


def workers(quick: bool) -> list[Row]:
    """Three workers against one, at an engine's pace."""
    rates: dict[int, list[float]] = {1: [], 3: []}
    for pair in range(1 if quick else 3):
        for size in turns((1, 3), pair):
            parts = ("web", *(f"cpu.{number}" for number in range(size)), "keeper", "beat")
            with yard(*parts, WORKER_SLOTS="4") as stack:
                eventually(partial(_held, stack, size), seconds=60, what="the holders")
                told = whole(Ask(stack.url, 24, 100, 20.0))
                rates[size].append(told.tokens / told.seconds)
                say(f"{size}: {rates[size][-1]:.0f} tokens/s")
    return [
        Row(
            "workers",
            "three workers against one, four slots each at 20 tokens/s",
            "of 3 times",
            round(ratio(rates[3], rates[1]) / 3, 3),
            0.95,
            sides={"three": rates[3], "one": rates[1]},
        )
    ]


def _held(stack: Stack, size: int) -> bool:
    """Keeps jobs waiting, which is what brings the model to more workers, until all hold it."""
    if len(holders(stack)) < size:
        run(Ask(stack.url, 8 * size, 100, 40.0))
    return len(holders(stack)) >= size


def web(quick: bool) -> list[Row]:
    """The web process: how soon it answers, how large it is, and /health under load."""
    starts: list[float] = []
    times: dict[str, list[float]] = {}
    with yard(STARTER_GGUF=starters()["STARTER_GGUF"], WORKER_SLOTS="128") as stack:
        own = {"engine_options": {"slots": 16}}  # or llama.cpp would get the scripted engine's 128
        stack.http.put("/models/smollm2/engine_options", json=own).raise_for_status()
        for _ in range(2 if quick else 5):
            stack.kill("web")
            began = time.monotonic()
            stack.start("web")
            eventually(lambda: stack.http.get("/health").status_code == 200, what="/health")
            starts.append(time.monotonic() - began)
        run(Ask(stack.url, 32, 100))
        memory = _memory(psutil.Process(stack.processes["web"].pid))
        loads = {"health": Ask(stack.url, 100, 3000), "health-engine": Ask(stack.url, 16, 256, model="smollm2")}
        for name, ask in loads.items():
            with _load(ask):
                times[name] = _ask(stack.url, 200 if quick else 1000)
            say(f"{name}: p99 {part(times[name], 99) * 1000:.1f} ms")
    return [
        Row(
            "web-start",
            "web process: start to its first answer",
            "s",
            round(statistics.median(starts), 2),
            2,
            at_least=False,
            sides={"ours": starts},
        ),
        Row("web-memory", "web process: resident memory", "MB", round(memory), 120, at_least=False),
        *(_health(name, beside, times[name]) for name, beside in HEALTHS.items()),
    ]


def _health(name: str, beside: str, times: list[float]) -> Row:
    p50, p99 = (round(part(times, percent) * 1000, 1) for percent in (50, 99))
    note = f"Asked 50 times a second: p50 {p50} ms."
    return Row(name, f"`/health` {beside}, p99", "ms", p99, 50, at_least=False, note=note)


@contextmanager
def _load(ask: Ask) -> Iterator[None]:
    """Streams, all the while."""
    over = False

    def go_on() -> None:
        while not over:
            run(ask)

    with ThreadPoolExecutor(1) as pool:
        done = pool.submit(go_on)
        try:
            yield
        finally:
            over = True
            done.result()


def _ask(url: str, count: int) -> list[float]:
    """Each answer is timed from the moment at which it was due: a pause is not hidden by what it held up."""
    times = []
    with httpx.Client(base_url=url, timeout=60, trust_env=False) as client:
        due = time.monotonic()
        for _ in range(count):
            due += 0.02
            time.sleep(max(0.0, due - time.monotonic()))
            client.get("/health").raise_for_status()
            times.append(time.monotonic() - due)
    return times
