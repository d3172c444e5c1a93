"""Rows that need no other server: the relay, the queue, and the web process, with the scripted engine."""

import json
import statistics
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import datetime
from functools import partial

import httpx
import psutil

from bench.engines import starters
from bench.results import Row, part, ratio
from bench.streams import Ask, Told, run
from bench.yard import Cost, yard
from tests.stack import Stack, eventually

#: What stands on the way of a token, beside the engine.
SIDE = ("web", "cpu.0", "broker")
CHAT = {"model": "scripted", "messages": [{"role": "user", "content": "go"}]}


def relay(quick: bool) -> list[Row]:
    """Events a second, and what one costs."""
    rates, costs = [], []
    with yard(WORKER_SLOTS="128") as stack:
        run(Ask(stack.url, 8, 50))
        for _ in range(2 if quick else 5):
            told = _whole(Ask(stack.url, 100, 1000))
            rates.append(told.events / told.seconds)
            cost = Cost(stack)
            told = _whole(Ask(stack.url, 32, 2000))
            costs.append(cost.per(told.tokens, *SIDE))
    return [
        Row(
            "relay",
            "events a second at 100 streams, on two cores that the client shares",
            "events/s",
            round(statistics.median(rates)),
            20_000,
            sides={"ours": rates},
        ),
        Row(
            "relay-cost",
            "processor time of web, broker and worker a relayed token at 32 streams",
            "µs",
            round(statistics.median(costs), 1),
            60,
            at_least=False,
            sides={"ours": costs},
            note="Answers of 2,000 tokens; what a job costs beside its tokens is in it.",
        ),
    ]


def _whole(ask: Ask) -> Told:
    told = run(ask)
    if told.complete != ask.streams:
        raise RuntimeError(f"{told.complete} of {ask.streams} streams were complete")
    return told


def thousand(quick: bool) -> list[Row]:
    """A thousand streams at the pace of a reader."""
    streams, tokens = (1000, 300) if quick else (1000, 600)
    with yard(WORKER_SLOTS=str(streams), MAX_CACHE_MODELS="1") as stack:
        run(Ask(stack.url, 8, 50))
        told = run(Ask(stack.url, streams, tokens, 20.0))
    late = part(told.late, 99) * 1000 + (0 if told.complete == streams else 1e6)
    note = f"{told.complete} of {streams} complete, {tokens} tokens each; median {part(told.late, 50) * 1000:.0f} ms."
    return [
        Row(
            "thousand",
            "1,000 streams at 20 tokens/s each: added delay, 99th percentile",
            "ms",
            round(late),
            250,
            at_least=False,
            note=note,
        )
    ]


def submit(quick: bool) -> list[Row]:
    """From a request to the engine, on an idle machine: what a client sees, so the way back is in it."""
    times, claimed = [], []
    with yard() as stack, httpx.Client(base_url=stack.url, trust_env=False) as client:
        client.post("/chat", json={**CHAT, "max_tokens": 1}).raise_for_status()  # loads the model
        for _ in range(100 if quick else 300):
            began = time.monotonic()
            with client.stream("POST", "/chat", json={**CHAT, "stream": True, "max_tokens": 1}) as answer:
                lines = answer.iter_lines()
                next(line for line in lines if line.startswith("data:"))
                times.append((time.monotonic() - began) * 1000)
                list(lines)
            job = stack.job(answer.headers["X-Job-Id"])
            claimed.append(_between(job["created_at"], job["started_at"]))
            time.sleep(0.02)
    note = (
        f"To the first event at the client, the way back included. From the row to its claim by the worker: "
        f"p50 {part(claimed, 50):.1f} ms, p99 {part(claimed, 99):.1f} ms."
    )
    return [
        Row(
            f"submit-p{percent}",
            f"submit to engine, idle, p{percent}",
            "ms",
            round(part(times, percent), 1),
            bar,
            at_least=False,
            sides={"ours": [part(times, percent)]},
            note=note,
        )
        for percent, bar in ((50, 4), (99, 15))
    ]


def _between(start: str, end: str) -> float:
    return (datetime.fromisoformat(end) - datetime.fromisoformat(start)).total_seconds() * 1000


def followers(quick: bool) -> list[Row]:
    """Many readers of one stream, and its writer with and without them."""
    many, tokens = (200, 100) if quick else (1000, 200)
    alone, watched, complete = [], [], []
    with yard() as stack:
        for _ in range(2 if quick else 3):
            alone.append(_written(stack, tokens, lambda _: None))

            def watch(job: str) -> None:
                complete.append(run(Ask(stack.url, many, tokens, 20.0, job=job)).complete)

            watched.append(_written(stack, tokens, watch))
    slower = round(ratio(watched, alone), 3)
    return [
        Row(
            "followers",
            f"{many:,} followers of one stream: the writer's time, against none",
            "ratio",
            slower if all(count == many for count in complete) else 1e6,
            1.02,
            at_least=False,
            sides={"with": watched, "without": alone},
            note=f"Complete: {min(complete)} of {many}.",
        )
    ]


def _written(stack: Stack, tokens: int, meanwhile: Callable[[str], None]) -> float:
    """Seconds that a paced answer took its writer."""
    body = {**CHAT, "max_tokens": tokens, "scripted_tokens_per_second": 20}
    job = stack.http.post("/jobs", json=body).json()["id"]
    meanwhile(job)
    done = stack.finished(job, seconds=120)
    return _between(done["started_at"], done["finished_at"]) / 1000


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
        _fill(short, few)
        _fill(long, few)
        web = psutil.Process(long.processes["web"].pid)
        memory = _memory(web)
        _fill(long, many - few)
        times: dict[str, list[float]] = {"few": [], "many": []}
        for _ in range(200):
            times["few"].append(_submit(short))
            times["many"].append(_submit(long))
        grown = _memory(web)
    before, after = statistics.median(times["few"]), statistics.median(times["many"])
    note = f"Milliseconds: {before:.1f}, {after:.1f}. Memory of the web process: {memory:.0f} MB, then {grown:.0f} MB."
    return [
        Row(
            "queue",
            f"submit time behind {many:,} queued jobs, against {few:,}",
            "ratio",
            round(after / before, 2),
            1.2,
            at_least=False,
            sides={"few": [before], "many": [after]},
            note=note,
        )
    ]


def _fill(stack: Stack, count: int) -> None:
    line = json.dumps({**CHAT, "max_tokens": 1})
    for start in range(0, count, 10_000):
        body = "\n".join([line] * min(10_000, count - start))
        answer = stack.http.post("/jobs", content=body, headers={"Content-Type": "application/x-ndjson"}, timeout=120)
        answer.raise_for_status()


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
    count = 24 if quick else 48
    rates: dict[int, list[float]] = {1: [], 3: []}
    for _ in range(1 if quick else 3):
        for size in rates:
            parts = ("web", *(f"cpu.{number}" for number in range(size)), "keeper", "beat")
            with yard(*parts, WORKER_SLOTS="4") as stack:
                eventually(partial(_holders, stack, size), seconds=60, what="the holders")
                told = _whole(Ask(stack.url, count, 100, 20.0))
                rates[size].append(told.tokens / told.seconds)
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


def _holders(stack: Stack, size: int) -> bool:
    """Keeps jobs waiting, which is what brings the model to more workers, until all hold it."""
    holding = [card for card in stack.http.get("/workers").json()["workers"] if card["models"]]
    if len(holding) < size:
        run(Ask(stack.url, 8 * size, 100, 40.0))
    return len(holding) >= size


def web(quick: bool) -> list[Row]:
    """The web process: how soon it answers, how large it is, and /health under load."""
    starts = []
    with yard(STARTER_GGUF=starters()["STARTER_GGUF"]) as stack:
        for _ in range(2 if quick else 5):
            stack.kill("web")
            began = time.monotonic()
            stack.start("web")
            eventually(lambda: stack.http.get("/health").status_code == 200, what="/health")
            starts.append(time.monotonic() - began)
        run(Ask(stack.url, 32, 100))
        memory = _memory(psutil.Process(stack.processes["web"].pid))
        with _load(stack):
            times = sorted(_ask(stack.url, 200 if quick else 1000))
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
        Row(
            "health",
            "`/health` under full load, p99",
            "ms",
            round(part(times, 99) * 1000, 1),
            50,
            at_least=False,
            note=f"Beside 16 streams of llama.cpp, asked 50 times a second: p50 {part(times, 50) * 1000:.1f} ms.",
        ),
    ]


@contextmanager
def _load(stack: Stack) -> Iterator[None]:
    """Streams, all the while."""
    over = False

    def go_on() -> None:
        while not over:
            run(Ask(stack.url, 16, 256, model="smollm2"))

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
