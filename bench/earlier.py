"""Rows about an earlier state of the code: the same stack, out of the repository's history, beside today's."""

import statistics
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from secrets import token_urlsafe

import httpx

from bench.durability import of_streams
from bench.engines import starters
from bench.results import Row, ratio, say
from bench.yard import key, yard
from inference.remote import ENVIRONMENT
from tests.stack import ROOT

#: How an engine's threads wait, on both sides: at one stream it makes three times as many tokens a second.
SPINS = ENVIRONMENT["GOMP_SPINCOUNT"]
#: The last commits before the work on what the fault suite holds, and before keys, tenants and limits.
BEFORE_DURABILITY = "b07bb9b"
BEFORE_KEYS = "688836a"
#: A user whom every limit is counted for, and who meets none.
LIMITS = ("--requests-per-minute=1000000", "--max-running=64", "--max-queued=4096")


def durability(quick: bool) -> list[Row]:
    """llama.cpp's streams through both stacks, in turns. A model is loaded in each; only one of them computes."""
    with _code(BEFORE_DURABILITY) as root, _stack(ROOT) as ours, _stack(root) as earlier:
        return _both("earlier", "the code before durability", ours, earlier, quick)


def security(quick: bool) -> list[Row]:
    """The same, with a key on today's side, and all its limits."""
    with _code(BEFORE_KEYS) as root, _stack(ROOT, limited=True) as ours, _stack(root) as earlier:
        return _both("keyed", "the code before keys and limits", ours, earlier, quick)


def _both(name: str, other: str, ours: httpx.Client, earlier: httpx.Client, quick: bool) -> list[Row]:
    pairs = 3 if quick else 5
    return [_compared(name, other, ours, earlier, streams, pairs) for streams in (1, 8)]


def _compared(name: str, other: str, ours: httpx.Client, earlier: httpx.Client, streams: int, pairs: int) -> Row:
    sides = {"ours": ours, "earlier": earlier}
    rates: dict[str, list[float]] = {side: [] for side in sides}
    for turn in range(pairs + 1):
        for side in sorted(sides, reverse=bool(turn % 2)):
            rate = of_streams(sides[side], streams)
            if turn:  # the first one loads, and warms up
                rates[side].append(round(rate, 1))
                say(f"{side}, {streams} at a time: {rate:.1f} tokens/s")
    return Row(
        f"{name}-{streams}",
        f"llama.cpp as streams, against {other}, {streams} at a time",
        "ratio",
        ratio(rates["ours"], rates["earlier"]),
        0.97 if name == "earlier" else 0.98,
        sides=rates,
        note="Tokens/s: {:.0f} and {:.0f}.".format(*(statistics.median(rates[side]) for side in sides)),
    )


@contextmanager
def _stack(root: Path, *, limited: bool = False) -> Iterator[httpx.Client]:
    settings = {"STARTER_GGUF": starters()["STARTER_GGUF"], "GOMP_SPINCOUNT": SPINS}
    if limited:
        settings |= {"API_KEY": token_urlsafe()}
    with yard(root=root, **settings) as stack, httpx.Client(base_url=stack.url, timeout=300) as client:
        if limited:
            client.headers["Authorization"] = f"Bearer {key(stack, *LIMITS)}"
        yield client


@contextmanager
def _code(commit: str) -> Iterator[Path]:
    """Its files. Raises CalledProcessError where the repository's history is not here."""
    packed = subprocess.run(["git", "archive", commit], cwd=ROOT, check=True, capture_output=True).stdout
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        with tarfile.open(fileobj=BytesIO(packed)) as archive:
            archive.extractall(folder, filter="data")
        yield Path(folder)
