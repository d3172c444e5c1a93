"""A life's beginning and its end, for processes that own jobs."""

import threading
from collections.abc import Callable

import psutil
import structlog

from app.kernel import Kernel
from app.logs import later
from app.place import place_of
from tasks.claims import patiently

log = structlog.get_logger(__name__)

#: How long a life that wants to end tries to say so to a database that does not answer, in seconds.
LEAVE = 10.0


def begin_life(kernel: Kernel, node: str) -> str:
    """Starts a life and ends the earlier ones of this node, whose jobs go back into the queue."""
    process = psutil.Process()
    life, ended = kernel.lives.begin(node, place_of(kernel.settings.node), process.pid, process.create_time())
    kernel.dispatcher.close_streams(ended)
    log.info("life_begins", node=node, life=life)
    return life


def end_life(kernel: Kernel, node: str, life: str, sent: dict[str, int]) -> None:
    """Ends a life of its own will. Its jobs are in the queue then, which is no loss to them."""
    with later("not_left", life=life):  # the keeper buries it, jobs and all
        kernel.dispatcher.close_streams(patiently(lambda: kernel.lives.leave(life, sent), LEAVE))
    with later("not_retired", node=node):  # its card runs out
        kernel.registry.retire(node, life)


class Departure:
    """What a process does when it is asked to stop: once, however often it is asked.

    It runs on a thread that waits for it from the start: a signal's handler must neither take locks nor start threads.

    The thread is no daemon, so that the interpreter waits for it also when Celery is told to stop at once.
    """

    def __init__(self, leave: Callable[[], None]) -> None:
        self._leave = leave
        self._asked = threading.Event()
        self._thread: threading.Thread | None = None

    def prepare(self) -> None:
        """From now on it can begin."""
        self._thread = threading.Thread(target=self._wait, name="departure")
        self._thread.start()

    def begin(self) -> None:
        """Asks for it, and returns at once."""
        self._asked.set()

    def finish(self) -> None:
        """Asks for it, and returns when it is done."""
        self.begin()
        if self._thread is None:
            self._leave()
        else:
            self._thread.join()

    def _wait(self) -> None:
        self._asked.wait()
        self._leave()
