"""Rows about an earlier state of the code: the same stack, out of the repository's history, beside today's."""

import statistics
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path

import httpx

from bench.durability import of_streams
from bench.engines import starters
from bench.results import Row, ratio, say
from bench.yard import yard
from inference.remote import ENVIRONMENT
from tests.stack import ROOT

#: How an engine's threads wait, on both sides: at one stream it makes three times as many tokens a second.
SPINS = ENVIRONMENT["GOMP_SPINCOUNT"]
#: The last commit before the work on what the fault suite holds.
BEFORE_DURABILITY = "b07bb9b"


def durability(quick: bool) -> list[Row]:
    """llama.cpp's streams through both stacks, in turns. A model is loaded in each; only one of them computes."""
    pairs = 3 if quick else 5
    with _code(BEFORE_DURABILITY) as root, _stack(ROOT) as ours, _stack(root) as earlier:
        return [_compared(ours, earlier, streams, pairs) for streams in (1, 8)]


def _compared(ours: httpx.Client, earlier: httpx.Client, streams: int, pairs: int) -> Row:
    sides = {"ours": ours, "earlier": earlier}
    rates: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(pairs + 1):
        for name in sorted(sides, reverse=bool(turn % 2)):
            rate = of_streams(sides[name], streams)
            if turn:  # the first one loads, and warms up
                rates[name].append(round(rate, 1))
                say(f"{name}, {streams} at a time: {rate:.1f} tokens/s")
    return Row(
        f"earlier-{streams}",
        f"llama.cpp as streams, against the code before durability, {streams} at a time",
        "ratio",
        ratio(rates["ours"], rates["earlier"]),
        0.97,
        sides=rates,
        note="Tokens/s: {:.0f} and {:.0f}.".format(*(statistics.median(rates[name]) for name in sides)),
    )


@contextmanager
def _stack(root: Path) -> Iterator[httpx.Client]:
    with (
        yard(root=root, STARTER_GGUF=starters()["STARTER_GGUF"], GOMP_SPINCOUNT=SPINS) as stack,
        httpx.Client(base_url=stack.url, timeout=300) as client,
    ):
        yield client


@contextmanager
def _code(commit: str) -> Iterator[Path]:
    """Its files. Raises CalledProcessError where the repository's history is not here."""
    packed = subprocess.run(["git", "archive", commit], cwd=ROOT, check=True, capture_output=True).stdout
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        with tarfile.open(fileobj=BytesIO(packed)) as archive:
            archive.extractall(folder, filter="data")
        yield Path(folder)
