"""What must be read and written of a claim, whatever the database does."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import tenacity

from app.errors import UnavailableError
from app.kernel import Kernel

#: Between attempts to write what must be written, in seconds.
PAUSE = 0.5

T = TypeVar("T")


def surely(write: Callable[[], T]) -> T:
    """Writes until it is written. A database that stays away ends this process with its lease, and that is that."""
    while True:
        try:
            return write()
        except UnavailableError:
            time.sleep(PAUSE)


def patiently(call: Callable[[], T], seconds: float) -> T:
    """Asks again where the database is away for a moment; after so many seconds, raises UnavailableError."""
    retrying = tenacity.Retrying(
        retry=tenacity.retry_if_exception_type(UnavailableError),
        stop=tenacity.stop_after_delay(seconds),
        wait=tenacity.wait_fixed(PAUSE),
        reraise=True,
    )
    return retrying(call)


@contextmanager
def undone_unless(runs_here: Callable[[], bool], kernel: Kernel, job_id: str, life: str) -> Iterator[None]:
    """Around a claim: it may stand although it raised UnavailableError, where only the answer to its commit was lost.

    Nobody looks for the jobs of a life that goes on, so it is undone. A second message for a job that runs here must
    not take it away, though.
    """
    try:
        yield
    except UnavailableError:
        if not runs_here():
            kernel.dispatcher.close_streams(surely(lambda: kernel.store.unclaim(job_id, life)))
        raise
