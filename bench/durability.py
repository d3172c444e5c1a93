"""Rows about what durability costs: the engine's child alone against all that is around it; and whose turn it is."""

import json
import statistics
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime

import httpx

from bench.engines import starters
from bench.results import Row, ratio, say
from bench.yard import Cost, yard
from inference.protocol import Message, Request, Sampling, Spec
from inference.remote import RemoteEngine
from tests.stack import Stack, eventually

PROMPT = "Tell a long story about a lighthouse."
TOKENS = 192
ASKED = {"model": "smollm2", "messages": [{"role": "user", "content": PROMPT}], "max_tokens": TOKENS}
ASKED |= {"temperature": 0.0, "ignore_eos": True}
#: Seconds for one run on the engine's process.
LIMIT = 200
NDJSON = {"Content-Type": "application/x-ndjson"}


class Alone:
    """The engine's child, and a thread that reads its steps. All rates here are tokens a second, to the last end."""

    def __init__(self, path: str) -> None:
        self.engine = RemoteEngine.load(Spec("llamacpp", path, slots=16), timeout=120)
        self._open: set[str] = set()
        self._changed = threading.Condition()
        self._asked = 0
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        for step in self.engine.steps():
            if ended := {chunk.id for chunk in step if chunk.finish or chunk.error}:
                with self._changed:
                    self._open -= ended
                    self._changed.notify()

    def rate(self, streams: int) -> float:
        """Of so many requests at once."""
        self._asked += 1
        sampling = Sampling(max_tokens=TOKENS, temperature=0.0, ignore_eos=True)
        requests = [Request(f"{self._asked}-{n}", (Message("user", PROMPT),), sampling) for n in range(streams)]
        self._open = {request.id for request in requests}
        began = time.monotonic()
        for request in requests:
            self.engine.submit(request)
        with self._changed:
            if not self._changed.wait_for(lambda: not self._open, timeout=LIMIT):
                raise RuntimeError(f"the engine's process left {len(self._open)} requests open for {LIMIT} s")
        return streams * TOKENS / (time.monotonic() - began)


def _of_jobs(client: httpx.Client, streams: int) -> float:
    """The same as jobs: row, claim, fence, stream, lease and commit, by the rows' own times. Nobody follows them."""
    body = "\n".join([json.dumps(ASKED)] * streams)
    group = client.post("/jobs", content=body, headers=NDJSON).raise_for_status().json()["group"]
    _ended(client, group)
    jobs = client.get("/jobs", params={"group": group}).json()["jobs"]
    made, ended = (
        [datetime.fromisoformat(job[name]).timestamp() for job in jobs] for name in ("created_at", "finished_at")
    )
    return len(jobs) * TOKENS / (max(ended) - min(made))


def _ended(client: httpx.Client, group: str) -> None:
    """Waits for a group's end. To be told of it once a second costs next to nothing."""
    client.get(f"/groups/{group}/stream").raise_for_status()


def of_streams(client: httpx.Client, streams: int) -> float:
    """And as held streams, each read by a client that shares the machine."""

    def read(_: int) -> None:
        with client.stream("POST", "/chat", json=ASKED | {"stream": True, "timeout": 600}) as answer:
            answer.raise_for_status()
            answer.read()

    with ThreadPoolExecutor(streams) as pool:
        began = time.monotonic()
        list(pool.map(read, range(streams)))
        return streams * TOKENS / (time.monotonic() - began)


def cost(quick: bool) -> list[Row]:
    """llama.cpp alone, as jobs, and as streams, in turns."""
    rows = []
    given = starters()
    with yard(STARTER_GGUF=given["STARTER_GGUF"]) as stack, httpx.Client(base_url=stack.url, timeout=300) as client:
        alone = Alone(client.get("/models/smollm2").raise_for_status().json()["local_path"])
        try:
            _of_jobs(client, 1)  # it is loaded from here on
            for streams in (1, 8):
                rows += _compared(stack, client, alone, streams, 2 if quick else 3)
        finally:
            alone.engine.close()
    return rows


def _compared(stack: Stack, client: httpx.Client, alone: Alone, streams: int, pairs: int) -> list[Row]:
    sides: dict[str, Callable[[int], float]] = {
        "alone": alone.rate,
        "jobs": lambda count: _of_jobs(client, count),
        "streams": lambda count: of_streams(client, count),
    }
    rates: dict[str, list[float]] = {name: [] for name in sides}
    spent: dict[str, Counter[str]] = {name: Counter() for name in sides}
    for turn in range(pairs + 1):
        for name in sorted(sides, reverse=bool(turn % 2)):
            meter = Cost(stack)
            rate = round(sides[name](streams), 1)
            if turn:  # the first one warms up
                say(f"{name}, {streams} at a time: {rate} tokens/s")
                rates[name].append(rate)
                spent[name].update(meter.spent())
    titles = {"jobs": "as durable jobs", "streams": "as streams, their clients on the same cores"}
    return [_row(name, title, streams, rates, spent[name]) for name, title in titles.items()]


def _row(name: str, title: str, streams: int, rates: dict[str, list[float]], spent: Counter[str]) -> Row:
    engine = spent.pop("engine")
    note = (
        f"Tokens/s: {statistics.median(rates[name]):.0f} and {statistics.median(rates['alone']):.0f}. Processor time "
        f"of all other processes of the stack: {100 * sum(spent.values()) / engine:.1f} percent of the engine's."
    )
    return Row(
        f"cost-{name}-{streams}",
        f"llama.cpp {title}, against the engine's process alone, {streams} at a time",
        "ratio",
        ratio(rates[name], rates["alone"]),
        0.97,
        sides={"ours": rates[name], "alone": rates["alone"]},
        note=note,
    )


def turn(quick: bool) -> list[Row]:
    """An interactive request's time to first token beside batch lines that hold every slot they may."""
    times = 20 if quick else 100
    with yard() as stack, httpx.Client(base_url=stack.url, timeout=120) as client:
        _first(client)
        idle, busy = [], []
        for _ in range(3):
            idle += [_first(client) for _ in range(times)]
            group, lines = _saturated(stack)
            busy += [_first(client) for _ in range(times)]
            say(f"{statistics.median(idle) * 1000:.1f} ms idle, {statistics.median(busy) * 1000:.1f} ms beside lines")
            client.delete(f"/groups/{group}")
            _ended(client, group)
    note = (
        f"Milliseconds: {statistics.median(busy) * 1000:.1f} beside {lines} running lines of the scripted engine, "
        f"{statistics.median(idle) * 1000:.1f} on an idle server: the queue's part, without an engine's arithmetic."
    )
    value = round(statistics.median(busy) / statistics.median(idle), 2)
    what = "time to first token beside saturating batch lines, against an idle server"
    sides = {"beside": [statistics.median(busy) * 1000], "idle": [statistics.median(idle) * 1000]}
    return [Row("turn", what, "ratio", value, 1.5, at_least=False, sides=sides, note=note)]


def _first(client: httpx.Client) -> float:
    body = {"model": "scripted", "messages": [{"role": "user", "content": "go"}], "max_tokens": 2, "stream": True}
    began = time.monotonic()
    with client.stream("POST", "/chat", json=body) as answer:
        lines = answer.iter_lines()
        next(line for line in lines if line.startswith("data:"))
        took = time.monotonic() - began
        for _ in lines:
            pass
    return took


def _saturated(stack: Stack) -> tuple[str, int]:
    """A group of which no further line may run, and how many of it do."""
    line = {"model": "scripted", "messages": [{"role": "user", "content": "go"}], "max_tokens": 1000}
    body = "\n".join([json.dumps(line | {"scripted_tokens_per_second": 2})] * 200)
    group = stack.http.post("/jobs", content=body, headers=NDJSON).json()["group"]

    def running() -> int:
        return len(stack.http.get("/jobs", params={"group": group, "status": "running", "limit": 200}).json()["jobs"])

    eventually(lambda: running() >= 48, what="48 lines, three quarters of the slots, to run")
    return str(group), running()
