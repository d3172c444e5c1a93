"""`make bench`, or `.venv/bin/python -m bench [--quick] [ROW…]`: measures, keeps the figures, writes the page."""

import argparse
import sys
import time
from collections.abc import Callable

import msgspec

from bench import arrivals, durability, earlier, engines, ours, relay, report
from bench.results import Row, failure, keep, kept, machine, say
from tests.stack import take_sigterm_for_ctrl_c

Measure = Callable[[bool], list[Row]]
#: By name, in the page's order.
MEASURES: dict[str, Measure] = {
    "vllm": engines.vllm,
    "offline": engines.offline,
    "plain": engines.plain,
    "llamacpp": engines.llamacpp,
    "transformers": engines.transformers,
    "cost": durability.cost,
    "earlier": earlier.durability,
    "keyed": earlier.security,
    "turn": durability.turn,
    "relay": relay.relay,
    "thousand": relay.thousand,
    "submit": ours.submit,
    "followers": relay.followers,
    "batch": ours.batch,
    "queue": ours.queue,
    "workers": ours.workers,
    "web": ours.web,
    "up": arrivals.up,
    "pull": arrivals.pull,
}
#: What the quick form measures where no rows are named: as much as five minutes hold on two idle cores.
QUICK = ("vllm", "relay", "submit", "batch", "queue")


def main() -> None:
    """Runs what was asked for; what fails is said, and the rest goes on."""
    take_sigterm_for_ctrl_c()
    parser = argparse.ArgumentParser(prog="bench", description=__doc__)
    parser.add_argument("rows", nargs="*", metavar="ROW", help=f"of {', '.join(MEASURES)}; all of them")
    parser.add_argument("--quick", action="store_true", help=f"five minutes: fewer runs, and of {', '.join(QUICK)}")
    parser.add_argument("--page", action="store_true", help="write the page anew, of what was measured before")
    given = parser.parse_args()
    if unknown := set(given.rows) - MEASURES.keys():
        parser.error(f"there is no {', '.join(sorted(unknown))}; there are {', '.join(MEASURES)}")
    names = given.rows or list(QUICK if given.quick else MEASURES)
    failed = [] if given.page else [name for name in names if not _measure(name, quick=given.quick)]
    report.write(kept())
    sys.exit(f"failed: {', '.join(failed)}" if failed else 0)


def _measure(name: str, *, quick: bool) -> bool:
    began, where = time.monotonic(), machine() | {"form": "quick" if quick else "full"}
    print(f"{name} …", flush=True)
    try:
        rows = MEASURES[name](quick)
    except Exception as error:  # noqa: BLE001 - a server that does not start must not cost the other rows
        why = f"{type(error).__name__}: {error}"
        say(f"failed: {why}")
        said = " ".join(why.split())[:300].replace("|", "/")
        keep(name, [msgspec.structs.replace(failure(name, said), machine=where)])
        return False
    keep(name, [msgspec.structs.replace(row, machine=where) for row in rows])
    for row in rows:
        sign = "≥" if row.at_least else "≤"
        say(f"{row.what}: {row.value} {row.unit} (bar {sign} {row.bar}: {'met' if row.met else 'missed'})")
    say(f"{time.monotonic() - began:.0f} s")
    return True


if __name__ == "__main__":
    main()
