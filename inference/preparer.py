"""Where requests are made ready, beside an engine's loop: one at a time, in order, as that is Python for the most part.

A schema is checked before that, which may take seconds: those who bring one wait for it and for each other's, tenants
in turns, and nobody else does.
"""

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, Protocol, TypeVar

import structlog

from inference import schema
from inference.errors import RefusedError
from inference.protocol import Failure, Request

log = structlog.get_logger()

#: How many schemas are checked at once, each by a process of its own.
CHECKERS = 2


class Answer(Protocol):
    """A request on its way."""

    request: Request
    prompt_tokens: int
    over: bool  #: nobody waits for it any more


Item = TypeVar("Item", bound=Answer)


class Preparer(Generic[Item]):
    """Calls `prepare` for each answer, or `refuse` where it cannot be prepared."""

    def __init__(self, prepare: Callable[[Item], None], refuse: Callable[[Item, Failure], None]) -> None:
        self._prepare = prepare
        self._refuse = refuse
        self._checkers = ThreadPoolExecutor(CHECKERS, "check")
        self._unchecked: dict[str, deque[Item]] = {}  # by tenant, whose turn it is first
        self._lock = threading.Lock()
        self._desk = ThreadPoolExecutor(1, "prepare")

    def take(self, answer: Item) -> None:
        """Returns at once."""
        if answer.request.sampling.schema is None:
            self._desk.submit(self._do, self._prepare, answer)
        else:
            with self._lock:
                self._unchecked.setdefault(answer.request.salt, deque()).append(answer)
            self._checkers.submit(self._check_next)

    def close(self) -> None:
        """Whatever has not begun never does."""
        self._checkers.shutdown(wait=False, cancel_futures=True)
        self._desk.shutdown(cancel_futures=True)

    def _check_next(self) -> None:
        with self._lock:
            tenant = next(iter(self._unchecked))
            theirs = self._unchecked.pop(tenant)
            answer = theirs.popleft()
            if theirs:
                self._unchecked[tenant] = theirs  # behind the others
        self._do(self._check, answer)

    def _check(self, answer: Item) -> None:
        if (fault := schema.fault(str(answer.request.sampling.schema))) is not None:
            raise RefusedError(fault.code, fault.message)
        self._desk.submit(self._do, self._prepare, answer)

    def _do(self, work: Callable[[Item], None], answer: Item) -> None:
        if answer.over:
            return
        try:
            work(answer)
        except RefusedError as error:
            answer.prompt_tokens = error.prompt_tokens
            self._refuse(answer, error.failure)
        except Exception:
            log.exception("engine.prepare_failed", request=answer.request.id)
            failure = Failure(Failure.ENGINE_FAILED, "The prompt could not be prepared; the worker's log says why.")
            self._refuse(answer, failure)
