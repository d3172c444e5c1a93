"""The keeper's scans: one at a time, and none is forgotten."""

import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from app.errors import UnavailableError
from app.kernel import Kernel
from app.scan import Report
from tasks import scan as module
from tasks.scan import Scanner
from tests.stack import eventually


class Board:
    """What a scan would tell."""

    def __init__(self) -> None:
        self.states: list[str] = []

    def tell(self, report: Report) -> None:
        self.states.append(report.state)


class Slow:
    """A scan that ends when the test says so."""

    runs: list[bool]
    go: threading.Event
    fails: Exception | None = None

    def __init__(self, *_: Any) -> None:
        pass

    def run(self, *, unhide: bool) -> Report:
        self.runs.append(unhide)
        assert self.go.wait(30)
        if self.fails is not None:
            raise self.fails
        return Report("done", 0.0, 1.0)


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> type[Slow]:
    made = type("Made", (Slow,), {"runs": [], "go": threading.Event()})
    monkeypatch.setattr(module, "Scan", made)
    return made


def scanner_of(board: Board) -> Scanner:
    kernel = SimpleNamespace(scans=board, settings=None, catalog=None, store=None)
    return Scanner(cast(Kernel, kernel))


def test_scans_asked_for_while_one_runs_are_one_more(slow: type[Slow]) -> None:
    board = Board()
    scanner = scanner_of(board)
    scanner.start()
    eventually(lambda: slow.runs == [False])
    for unhide in (False, True, False):
        scanner.start(unhide=unhide)

    slow.go.set()

    eventually(lambda: board.states == ["running", "done"] * 2)
    assert slow.runs == [False, True]
    scanner.start()
    eventually(lambda: board.states == ["running", "done"] * 3)
    assert slow.runs == [False, True, False]


@pytest.mark.parametrize(
    "error", [UnavailableError("database_unavailable", "away"), OSError(5, "I/O", str(Path("/x")))]
)
def test_a_scan_that_fails_says_so_and_the_next_one_runs(slow: type[Slow], error: Exception) -> None:
    board = Board()
    scanner = scanner_of(board)
    slow.go.set()
    slow.fails = error
    scanner.start()
    eventually(lambda: board.states == ["running", "failed"])
    slow.fails = None
    scanner.start()
    eventually(lambda: board.states[2:] == ["running", "done"])
