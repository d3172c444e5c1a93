"""What durability costs: the llama.cpp engine's child alone against the whole stack around it, in turns within one run.

`.venv/bin/python -m bench.cost [URL] [PAIRS]`, beside a running stack that has `smollm2`. Each side answers the same
prompt at 1 and at 8 streams, greedily, with 192 tokens each, from the submit to the last end. The stack's rows, fences,
streams, leases and commits are in its time, its followers too: each answer is followed over SSE by this very process.
"""

import statistics
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import httpx

from inference.protocol import Message, Request, Sampling, Spec
from inference.remote import RemoteEngine

MODEL = "smollm2"
PROMPT = "Tell a long story about a lighthouse."
TOKENS = 192
STREAMS = (1, 8)


class Alone:
    """The engine's child, and the thread that reads its steps."""

    def __init__(self, path: str) -> None:
        self._engine = RemoteEngine.load(Spec("llamacpp", path, slots=16), timeout=120)
        self._open: set[str] = set()
        self._changed = threading.Condition()
        self._runs = 0
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        for step in self._engine.steps():
            ended = {chunk.id for chunk in step if chunk.finish or chunk.error}
            if ended:
                with self._changed:
                    self._open -= ended
                    self._changed.notify()

    def rate(self, streams: int) -> float:
        """Tokens a second."""
        self._runs += 1
        sampling = Sampling(max_tokens=TOKENS, temperature=0.0, ignore_eos=True)
        requests = [Request(f"{self._runs}-{n}", (Message("user", PROMPT),), sampling) for n in range(streams)]
        self._open = {request.id for request in requests}
        began = time.monotonic()
        for request in requests:
            self._engine.submit(request)
        with self._changed:
            self._changed.wait_for(lambda: not self._open)
        return streams * TOKENS / (time.monotonic() - began)

    def close(self) -> None:
        """Ends it."""
        self._engine.close()


def through(client: httpx.Client, pool: ThreadPoolExecutor, streams: int, *, followed: bool) -> float:
    """The same of the stack: as detached jobs that nobody follows, or as streams."""
    body = {"model": MODEL, "messages": [{"role": "user", "content": PROMPT}]}
    body |= {"max_tokens": TOKENS, "temperature": 0.0, "ignore_eos": True}
    began = time.monotonic()
    if followed:
        list(pool.map(lambda _: _stream(client, body | {"stream": True}), range(streams)))
        return streams * TOKENS / (time.monotonic() - began)
    ids = list(pool.map(lambda _: client.post("/jobs", json=body).raise_for_status().json()["id"], range(streams)))
    list(pool.map(lambda job: _end(client, job), ids))
    return streams * TOKENS / (time.monotonic() - began)


def _stream(client: httpx.Client, body: dict[str, object]) -> None:
    with client.stream("POST", "/chat", json=body) as answer:
        answer.raise_for_status()
        for _ in answer.iter_raw():
            pass


def _end(client: httpx.Client, job: str) -> None:
    """A follower of the end alone: it is behind every token."""
    with client.stream("GET", f"/jobs/{job}/stream", params={"after": TOKENS + 100}) as answer:
        for _ in answer.iter_raw():
            pass


def main() -> None:
    """Measures, and prints a line for each number of streams."""
    url = sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:8005"
    pairs = int(sys.argv[2]) if len(sys.argv) > 2 else 8
    with httpx.Client(base_url=url, timeout=300, trust_env=False) as client, ThreadPoolExecutor(16) as pool:
        alone = Alone(client.get(f"/models/{MODEL}").raise_for_status().json()["local_path"])
        try:
            for streams in STREAMS:
                _compare(client, pool, alone, streams, pairs)
        finally:
            alone.close()


def _compare(client: httpx.Client, pool: ThreadPoolExecutor, alone: Alone, streams: int, pairs: int) -> None:
    sides = {
        "engine": lambda: alone.rate(streams),
        "jobs": lambda: through(client, pool, streams, followed=False),
        "streams": lambda: through(client, pool, streams, followed=True),
    }
    for warm in sides.values():
        warm()
    rates: dict[str, list[float]] = {name: [] for name in sides}
    for pair in range(pairs):
        for name in list(sides)[:: 1 if pair % 2 else -1]:
            rates[name].append(sides[name]())
    shown = "; ".join(
        f"{name} {statistics.median(rates[name]):.1f} tokens/s, {100 * _cost(rates, name):+.1f} percent"
        for name in ("jobs", "streams")
    )
    print(f"{streams} at a time: engine alone {statistics.median(rates['engine']):.1f} tokens/s; {shown}")


def _cost(rates: dict[str, list[float]], name: str) -> float:
    """The median of the pairs' differences, as a share of the engine's rate."""
    return statistics.median(mine / its - 1 for mine, its in zip(rates[name], rates["engine"], strict=True))


if __name__ == "__main__":
    main()
