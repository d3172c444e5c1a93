"""Rows that need another server beside ours: the same model, prompts and lengths, in turns within one run."""

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import httpx
import psutil

from bench import alone, theirs
from bench.asked import Asked
from bench.load import Client, Load, Told
from bench.results import ROOT, Row, ratio, say, turns
from bench.yard import Cost, holders, yard
from tests.stack import BIN, Stack, eventually

CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "tokenyard" / "bench"


def starters() -> dict[str, str]:
    """The starter model in both its forms, made once a machine: the settings by which a stack finds them."""
    names = ("STARTER_GGUF", "STARTER_BF16")
    if all(name in os.environ for name in names):
        return {name: os.environ[name] for name in names}
    CACHE.mkdir(parents=True, exist_ok=True)
    for verb in ("migrate", "starter"):
        env = {**os.environ, "DATA_DIR": str(CACHE), "PATH": f"{BIN}:{os.environ['PATH']}"}
        subprocess.run([sys.executable, "-m", "app.cli", verb], check=True, env=env, cwd=ROOT)
    return {
        "STARTER_GGUF": str(next((CACHE / "models" / "smollm2").glob("*.gguf"))),
        "STARTER_BF16": str(CACHE / "models" / "smollm2-bf16"),
    }


class Side:
    """One server under load."""

    def __init__(
        self, client: Client, url: str, model: str, tokenizer: str, *, strict: bool = False, anew: bool = False
    ) -> None:
        self._client = client
        self._name = f"{model} at {url}"
        self._load = partial(Load, url, model, tokenizer, strict=strict, anew=anew)
        self.told: dict[int, list[Told]] = {}

    def go(self, concurrency: int, prompts: int, seed: int) -> Told:
        """One run; the seed decides the prompts, so that those of a pair are the same, and no two pairs' are."""
        told = self._client.run(self._load(concurrency, prompts, seed=seed))
        say(f"{self._name}, {concurrency} at a time: {told.rate:.1f} tokens/s, the first after {told.first:.0f} ms")
        self.told.setdefault(concurrency, []).append(told)
        return told

    def rates(self, concurrency: int) -> list[float]:
        return [round(told.rate, 1) for told in self.told[concurrency]]

    def firsts(self, concurrency: int) -> list[float]:
        return [round(told.first, 1) for told in self.told[concurrency]]


def _pairs(ours: Side, other: Side, plan: dict[int, int], pairs: int) -> None:
    """In turns, who begins too; first each warms up."""
    for side in (ours, other):
        side.go(4, 4, 999)
        side.told.clear()
    for pair in range(pairs):
        for concurrency, prompts in plan.items():
            for side in turns((ours, other), pair):
                side.go(concurrency, prompts, pair * 100 + concurrency)


def _beside(
    name: str,
    title: str,
    ours: Sequence[float],
    theirs: Sequence[float],
    bar: float,
    note: str,
    *,
    at_least: bool = True,
) -> Row:
    """A row of what each side has, pair by pair."""
    sides = {"ours": list(ours), "theirs": list(theirs)}
    return Row(name, title, "ratio", ratio(ours, theirs), bar, at_least=at_least, sides=sides, note=note)


def _medians(unit: str, ours: list[float], theirs: list[float]) -> str:
    return f"{unit}: ours {statistics.median(ours):.0f}, theirs {statistics.median(theirs):.0f}."


def _rate(name: str, what: str, mine: list[float], its: list[float], bar: float) -> Row:
    return _beside(name, what, mine, its, bar, _medians("Output tokens/s", mine, its))


def _rates(name: str, what: str, ours: Side, other: Side, bars: dict[int, float]) -> list[Row]:
    """A row for each number of requests at a time, with its bar."""
    return [
        _rate(f"{name}-{at}", f"{what}, {at} at a time", ours.rates(at), other.rates(at), bar)
        for at, bar in bars.items()
    ]


def llamacpp(quick: bool) -> list[Row]:
    """llama.cpp behind our queue, and behind its own server."""
    given = starters()
    gguf, folder = given["STARTER_GGUF"], given["STARTER_BF16"]
    with yard(STARTER_GGUF=gguf) as stack, theirs.server(theirs.llamacpp(gguf)) as server, Client() as client:
        ours = Side(client, stack.url, "smollm2", folder, anew=True)
        other = Side(client, server.url, "model", folder, anew=True)
        _pairs(ours, other, {1: 6, 16: 48} if quick else {1: 12, 16: 96}, 1 if quick else 3)
    what = "llama.cpp engine, against its own server"
    return _rates("llamacpp", what, ours, other, {1: 0.97, 16: 0.97})


def transformers(quick: bool) -> list[Row]:
    """transformers' engine, and its own server with its batching manager."""
    given = starters()
    folder = given["STARTER_BF16"]
    with (
        yard(ENGINE="transformers", WORKER_SLOTS="32", **given) as stack,
        theirs.server(theirs.transformers(folder)) as server,
        Client() as client,
    ):
        ours = Side(client, stack.url, "smollm2-bf16", folder, strict=True)
        other = Side(client, server.url, folder, folder, strict=True)
        _pairs(ours, other, {8: 8, 32: 32} if quick else {8: 24, 32: 64}, 1 if quick else 3)
    what = "transformers engine, against `transformers serve --continuous-batching`"
    return _rates("transformers", what, ours, other, {8: 1.0, 32: 1.0})


def vllm(quick: bool) -> list[Row]:
    """vLLM behind our queue, and behind its own server."""
    given = starters()
    folder = given["STARTER_BF16"]
    mine: list[float] = []
    its: list[float] = []
    with yard(ENGINE="vllm", MAX_CPU_MEMORY="3GB", **given) as stack, Client() as client:
        mine.append(_until_first(stack.url, "smollm2-bf16"))
        with _vllm_server(folder, its) as server:
            ours, other = Side(client, stack.url, "smollm2-bf16", folder), Side(client, server.url, "model", folder)
            plan = {1: 3, 8: 16, 32: 64} if quick else {1: 6, 8: 24, 32: 96}
            _pairs(ours, other, plan, 1 if quick else 3)
            # They are one more pair of those at 32, or two.
            costs = [_costs(stack, server.process, ours, other, turn) for turn in range(1 if quick else 2)]
        if not quick:  # and now the other one begins
            with _vllm_server(folder, its):
                pass
            mine.append(_reloaded(stack, "smollm2-bf16"))
    return [*_vllm_rows(ours, other, plan), _start_row(mine, its), _cost_row(*zip(*costs, strict=True))]


@contextmanager
def _vllm_server(folder: str, took: list[float]) -> Iterator[theirs.Server]:
    """vLLM's own, and how many seconds it took to its first token."""
    began = time.monotonic()
    with theirs.server(theirs.vllm(folder)) as server:
        _ask_once(server.url, "model")
        took.append(time.monotonic() - began)
        say(f"vLLM's server, to its first token: {took[-1]:.1f} s")
        yield server


def _reloaded(stack: Stack, model: str) -> float:
    stack.http.post(f"/models/{model}/unload", json={}).raise_for_status()
    eventually(lambda: not holders(stack), what="the model to go")
    return _until_first(stack.url, model)


def offline(quick: bool) -> list[Row]:
    """vLLM behind our queue, and its offline engine."""
    return _alone("offline", 64, 128, "against vLLM's offline engine", 0.85, quick)


def plain(quick: bool) -> list[Row]:
    """vLLM behind our queue, and transformers, one request at a time."""
    return _alone("plain", 32, 64, "against plain transformers, one at a time", 8, quick)


def _alone(kind: str, concurrency: int, prompts: int, what: str, bar: float, quick: bool) -> list[Row]:
    given = starters()
    folder = given["STARTER_BF16"]
    with yard(ENGINE="vllm", MAX_CPU_MEMORY="3GB", **given) as stack, Client() as client:
        ours = Side(client, stack.url, "smollm2-bf16", folder)
        ours.go(4, 4, 999)
        return [_against(ours, kind, folder, concurrency, prompts, 1 if quick else 3, what, bar)]


def _until_first(url: str, model: str) -> float:
    began = time.monotonic()
    _ask_once(url, model)
    took = time.monotonic() - began
    say(f"{model}, to its first token: {took:.1f} s")
    return took


def _ask_once(url: str, model: str) -> None:
    body = {"model": model, "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 1, "stream": True}
    with httpx.stream("POST", f"{url}/v1/chat/completions", json=body, timeout=180, trust_env=False) as answer:
        answer.raise_for_status()
        next(line for line in answer.iter_lines() if '"choices"' in line)


def _costs(stack: Stack, process: "subprocess.Popen[bytes]", ours: Side, other: Side, turn: int) -> tuple[float, float]:
    """Microseconds of processor time a token: our web, broker, worker and child, but no core; and their frontend."""
    frontend = psutil.Process(process.pid)

    def mine() -> float:
        cost = Cost(stack)
        return cost.per(ours.go(32, 64, 700 + turn).tokens, "web", "broker", "cpu.0", "engine")

    def its() -> float:
        before = sum(frontend.cpu_times()[:2])
        tokens = other.go(32, 64, 700 + turn).tokens
        return float(sum(frontend.cpu_times()[:2]) - before) / tokens * 1e6

    found = {side: side() for side in turns((mine, its), turn)}
    return found[mine], found[its]


def _vllm_rows(ours: Side, other: Side, plan: dict[int, int]) -> list[Row]:
    bars = {1: 1.0, 8: 1.0, 32: 1.1}
    what = "vLLM engine, against vLLM's server"
    rows = _rates("vllm", what, ours, other, {at: bars[at] for at in plan})
    for at, bar in {1: 1.05, 32: 1.0}.items():
        title, firsts = f"time to first token, {what}, {at} at a time", (ours.firsts(at), other.firsts(at))
        rows.append(_beside(f"vllm-first-{at}", title, *firsts, bar, _medians("Milliseconds", *firsts), at_least=False))
    return rows


def _start_row(ours: list[float], other: list[float]) -> Row:
    title = "cold start of a vLLM model, request to first token, against vLLM's server's start"
    note = f"Seconds: ours {statistics.median(ours):.1f}, theirs {statistics.median(other):.1f}."
    return _beside("vllm-start", title, ours, other, 1.0, note, at_least=False)


def _cost_row(ours: Sequence[float], other: Sequence[float]) -> Row:
    title = "processor time a token at 32 streams, against vLLM's frontend"
    note = (
        f"Microseconds: {statistics.median(ours):.0f} for web, broker, worker and the part of the engine's process "
        f"that is no core; {statistics.median(other):.0f} for theirs. Answers of 64 tokens, so what a request costs is "
        "in it."
    )
    return _beside("vllm-cost", title, ours, other, 1.0, note, at_least=False)


def _against(
    ours: Side, kind: str, folder: str, concurrency: int, prompts: int, pairs: int, what: str, bar: float
) -> Row:
    """Against an engine without a server, which gets all prompts at once (or one by one)."""
    ours.told.pop(concurrency, None)
    run = alone.Run(prompts if kind == "offline" else prompts // 8)
    rates = []
    with Asked("bench.alone", kind, folder) as engine:

        def other(_: int) -> None:
            rates.append(round(engine.ask(run, float), 1))
            say(f"{kind}: {rates[-1]} tokens/s")

        def mine(pair: int) -> None:
            ours.go(concurrency, prompts, 1000 + pair)

        engine.ask(alone.Run(4), float)
        for pair in range(pairs):
            for side in turns((mine, other), pair):
                side(pair)
    return _rate(f"vllm-{kind}", f"vLLM engine, {what}, {concurrency} at a time", ours.rates(concurrency), rates, bar)
