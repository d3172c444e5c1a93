"""Counts, which are the same on every machine, and on a busy one."""

import sys
from collections.abc import Callable
from typing import Any


def calls(work: Callable[[], None]) -> int:
    """How many functions it calls, in this thread."""
    count = 0

    def note(frame: Any, event: str, argument: Any) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(note)
    try:
        work()
    finally:
        sys.setprofile(None)
    return count
