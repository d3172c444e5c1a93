"""A limit in seconds on Python code that was written elsewhere: a model's chat template is a program of a stranger.

The code runs in the caller's thread, as a process or a thread a render would cost more than the render; a thread that
sleeps between looks raises OutOfPatienceError there (PyThreadState_SetAsyncExc), which the next instruction sees.
"""

import ctypes
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

#: How often the watching thread looks, in seconds.
LOOK = 0.5


class OutOfPatienceError(Exception):
    """The code took too long."""


class Patience:
    """Watches one piece of code at a time in each thread. A process needs one: `patience()`."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: dict[int, float] = {}  # a thread's identity, and when its time is over (monotonic)
        self._overdue: set[int] = set()
        threading.Thread(target=self._watch, name="patience", daemon=True).start()

    @contextmanager
    def limit(self, seconds: float) -> Iterator[None]:
        """Raises OutOfPatienceError in the block, or at its end."""
        thread = threading.get_ident()
        with self._lock:
            self._overdue.discard(thread)  # it may have been raised while the last block was being left
            self._running[thread] = time.monotonic() + seconds
        try:
            yield
        finally:
            with self._lock:
                self._running.pop(thread, None)
                overdue = thread in self._overdue
                self._overdue.discard(thread)
            if overdue:
                self._settle()

    def _settle(self) -> None:
        """What was raised may not have arrived yet: it does so here, and not in what comes after."""
        try:
            for _ in range(100):
                time.sleep(0)
        except OutOfPatienceError:
            pass
        raise OutOfPatienceError

    def _watch(self) -> None:
        while True:
            time.sleep(LOOK)
            with self._lock:
                now = time.monotonic()
                for thread in [thread for thread, end in self._running.items() if end < now]:
                    del self._running[thread]
                    self._overdue.add(thread)
                    ctypes.pythonapi.PyThreadState_SetAsyncExc(
                        ctypes.c_ulong(thread), ctypes.py_object(OutOfPatienceError)
                    )


@cache
def patience() -> Patience:
    """This process's own."""
    return Patience()
