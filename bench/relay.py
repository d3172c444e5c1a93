"""Rows about the way of a token from the worker to its readers, with the scripted engine."""

import statistics
import time

from bench.results import Row, part, ratio, say, turns
from bench.streams import Ask, run, whole
from bench.yard import Cost, busy, yard
from tests.stack import Stack

#: What stands on the way of a token, beside the engine.
SIDE = ("web", "cpu.0", "broker")
#: Tokens a second of each of 32 streams, as an engine on two cores makes them; and of a reader's stream.
PACE, READER = 12.0, 20.0
#: Seconds over which a stack at rest is looked at.
REST = 10.0


def relay(quick: bool) -> list[Row]:
    """Events a second, and what one costs, at full speed and at an engine's pace."""
    rates, costs, paced = [], [], []
    length = 400 if quick else 1000
    with yard(WORKER_SLOTS="128") as stack:
        run(Ask(stack.url, 8, 50))
        for _ in range(2 if quick else 3):
            told = whole(Ask(stack.url, 100, 1000))
            rates.append(told.events / told.seconds)
            costs.append(_cost(stack, Ask(stack.url, 32, 2000)))
            say(f"{rates[-1]:.0f} events/s, {costs[-1]:.1f} µs a token")
        rest = _cost_of_rest(stack)
        for _ in range(1 if quick else 2):
            paced.append(_cost(stack, Ask(stack.url, 32, length, PACE)))
            say(f"{paced[-1]:.1f} µs a token at {PACE:g} tokens/s")
    what = "processor time of web, broker and worker a relayed token at 32 streams"
    note = (
        f"Answers of {length:,} tokens, a token or two a step; what a job costs beside its tokens is in it, and what "
        f"the three cost at rest, {rest / (32 * PACE):.0f} µs a token of this pace."
    )
    return [
        Row(
            "relay",
            "events a second at 100 streams, on two cores that the client shares",
            "events/s",
            round(statistics.median(rates)),
            20_000,
            sides={"ours": rates},
        ),
        _cost_row("relay-cost", what, costs, "Answers of 2,000 tokens; what a job costs beside its tokens is in it."),
        _cost_row("relay-cost-paced", f"{what}, {PACE:g} tokens/s each", paced, note),
    ]


def _cost(stack: Stack, ask: Ask) -> float:
    cost = Cost(stack)
    return cost.per(whole(ask).tokens, *SIDE)


def _cost_of_rest(stack: Stack) -> float:
    """Microseconds of processor time a second without any work."""
    cost = Cost(stack)
    time.sleep(REST)
    return cost.per(1, *SIDE) / REST


def _cost_row(name: str, what: str, costs: list[float], note: str) -> Row:
    value = round(statistics.median(costs), 1)
    return Row(name, what, "µs", value, 60, at_least=False, sides={"ours": costs}, note=note)


def thousand(quick: bool) -> list[Row]:
    """A thousand streams at the pace of a reader."""
    streams, tokens = (1000, 300) if quick else (1000, 600)
    with yard(WORKER_SLOTS=str(streams), MAX_CACHE_MODELS="1") as stack:
        run(Ask(stack.url, 8, 50))
        told = run(Ask(stack.url, streams, tokens, READER))
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


def followers(quick: bool) -> list[Row]:
    """Many readers of one stream: its writer's processor time, beside another's that nobody reads.

    Two stacks write at a reader's pace at the same time, and are followed in turns: both share the cores with the same
    readers, and neither's pace hides what a token costs.
    """
    many, tokens, pairs = (200, 100, 1) if quick else (1000, 400, 3)
    followed, alone, complete = [], [], []
    with yard() as one, yard() as two:
        for stack in (one, two):
            run(Ask(stack.url, 8, 50))
        for turn in range(2 * pairs):
            sides = turns((one, two), turn)
            before = [_writer(stack) for stack in sides]
            complete.append(_written(*sides, tokens, many))
            spent = [_writer(stack) - start for stack, start in zip(sides, before, strict=True)]
            followed.append(spent[0])
            alone.append(spent[1])
            say(f"{complete[-1]} of {many} complete; seconds {spent[0]:.3f} followed, {spent[1]:.3f} alone")
    slower = ratio(followed, alone)
    return [
        Row(
            "followers",
            f"{many:,} followers of one stream: its writer's processor time, against one that nobody follows",
            "ratio",
            slower if all(count == many for count in complete) else 1e6,
            1.02,
            at_least=False,
            sides={"followed": followed, "alone": alone},
            note=f"Complete: {min(complete)} of {many}. Answers of {tokens} tokens at {READER:g} a second.",
        )
    ]


def _writer(stack: Stack) -> float:
    return busy(stack.processes["cpu.0"].pid)


def _written(followed: Stack, alone: Stack, tokens: int, many: int) -> int:
    """An answer of each. Returns how many followers had all of it."""
    chat = {"model": "scripted", "messages": [{"role": "user", "content": "go"}], "max_tokens": tokens}
    body = chat | {"scripted_tokens_per_second": READER}
    stacks = (followed, alone)
    jobs = [str(stack.http.post("/jobs", json=body).json()["id"]) for stack in stacks]
    complete = run(Ask(followed.url, many, tokens, READER, job=jobs[0])).complete
    for stack, job in zip(stacks, jobs, strict=True):
        stack.finished(job, seconds=120)
    return complete
