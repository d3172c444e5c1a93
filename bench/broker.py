"""What the broker and its readers bear: steps of so many streams, events that nobody follows, cards of so many workers.

.venv/bin/python -m bench.broker --streams 32 64 256 --workers 10 300 1000
"""

import argparse
import json
import statistics
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from app.broker import connect
from app.bus import EVENTS, Bus, Entry, Heard, channel
from app.events import Token, encode
from app.jobs import new_id
from app.registry import Card, Holding, Registry
from app.web.hub import Hub
from tests.stack import broker

NODE = "cpu.0@bench"
#: Processes that hear every event, as those of two web machines do.
LISTENERS = 2
ROUNDS, STEPS = 5, 200


def listen(bus: Bus, over: threading.Event) -> None:
    """Hears all; at the end it is told at the next second without an event."""
    for _ in bus.listen(EVENTS):
        if over.is_set():
            return


def worked(bus: Bus) -> float:
    """Seconds of processor time of the broker's one thread."""
    told: Any = bus.redis.info("cpu")
    return float(told["used_cpu_user_main_thread"]) + float(told["used_cpu_sys_main_thread"])


def step(bus: Bus, streams: int) -> tuple[float, float]:
    """The broker's processor time for an event, and how long a whole step was under way; both in microseconds."""
    bus.redis.flushdb()
    jobs = [new_id() for _ in range(streams)]
    for job in jobs:
        bus.install(job, 1, 600)
    before, began = worked(bus), time.perf_counter()
    for seq in range(1, STEPS + 1):
        refused = bus.append(NODE, [Entry(job, 1, Token(seq, " word", 1, (7,))) for job in jobs])
        if refused:
            raise RuntimeError(f"{len(refused)} events were refused")
    took, script = time.perf_counter() - began, worked(bus) - before
    return script / STEPS / streams * 1e6, took / STEPS * 1e6


def steps(bus: Bus, streams: int) -> dict[str, Any]:
    """The medians of some rounds."""
    broker_us, step_us = (
        statistics.median(of) for of in zip(*(step(bus, streams) for _ in range(ROUNDS)), strict=True)
    )
    return {
        "what": "steps",
        "streams": streams,
        "broker_us_an_event": round(broker_us, 2),
        "events_a_second_of_one_core": round(1e6 / broker_us),
        "step_us": round(step_us),
    }


def unfollowed(bus: Bus) -> dict[str, Any]:
    """What an event costs a web process where nobody follows its job."""
    frames = [encode(new_id(), Token(100, " word", 1, (7,))) for _ in range(64)]
    hub, heard = Hub(bus), Heard(channel(NODE), b"".join(frames))
    took = []
    for _ in range(500):
        began = time.thread_time()
        hub._hand_on(heard)
        took.append((time.thread_time() - began) / len(frames))
    us = statistics.median(took) * 1e6
    return {"what": "unfollowed", "us_an_event": round(us, 2), "bytes_an_event": len(heard.data) // len(frames)}


def cards(bus: Bus, workers: int) -> dict[str, Any]:
    """One look of one process at the cards of so many workers, with two models each."""
    bus.redis.flushdb()
    registry = Registry(bus.redis, lease=600)
    names = ("meta-llama/Llama-3.1-8B-Instruct", "Qwen/Qwen2.5-32B-Instruct-AWQ")
    held = tuple(Holding(name, "vllm", 64, 12, 10**10, 8192, dtype="bfloat16", bytes=10**10) for name in names)
    for number in range(workers):
        node = f"gpu.{number % 8}@host-{number // 8}"
        registry.announce(Card(node, "gpu.0", f"host-{number // 8}", 4711, new_id(), held, (), 2, 8 * 10**10, 10**9))
    asked, before, took = 20, worked(bus), []
    for _ in range(asked):
        began = time.thread_time()
        registry.workers(fresh=0)
        took.append(time.thread_time() - began)
    size = bus.redis.strlen(f"tokenyard:worker:{node}")
    return {
        "what": "cards",
        "workers": workers,
        "bytes_a_card": size,
        "reader_us_a_card": round(statistics.median(took) / workers * 1e6, 1),
        "broker_us_a_card": round((worked(bus) - before) / asked / workers * 1e6, 1),
    }


def main() -> None:
    """Prints a line of JSON for each; the broker is one of its own, on loopback."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--streams", type=int, nargs="+", default=[32, 64, 256])
    parser.add_argument("--workers", type=int, nargs="+", default=[10, 300, 1000])
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, broker(Path(folder)) as url, connect(url) as client:
        bus = Bus(client, stream_ttl=600)
        over = threading.Event()
        listeners = [threading.Thread(target=listen, args=(bus, over)) for _ in range(LISTENERS)]
        for listener in listeners:
            listener.start()
        for streams in given.streams:
            print(json.dumps(steps(bus, streams)), flush=True)
        print(json.dumps(unfollowed(bus)), flush=True)
        for workers in given.workers:
            print(json.dumps(cards(bus, workers)), flush=True)
        over.set()
        for listener in listeners:
            listener.join()


if __name__ == "__main__":
    main()
