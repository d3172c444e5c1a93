"""One attempt at one generation: its numbered events, and how it ended."""

import threading
import time
from collections.abc import Callable
from enum import StrEnum
from typing import NamedTuple

import msgspec

from app.bus import Entry
from app.errors import Failure
from app.events import Closing, Logprob, Token, Usage
from app.jobs import State
from app.models import Job, Result
from app.results import result_of
from app.store import Outcome
from inference import protocol


class Way(StrEnum):
    """How an attempt ended."""

    DONE = "done"  #: the engine said its last word: a result, or a failure of this request
    ASKED = "asked"  #: cancelled, or its deadline passed
    ENGINE_DIED = "engine_died"  #: the engine's process is gone; the job is not to blame by itself
    HANDED_BACK = "handed_back"  #: this worker stops; another goes on
    FENCED = "fenced"  #: the job is somebody else's by now: nothing of it may be written


class End(NamedTuple):
    """The end of an attempt."""

    way: Way
    state: State = State.QUEUED
    reason: str = ""
    failure: Failure | None = None


class Ties(NamedTuple):
    """What an attempt asks and tells beyond the bus."""

    #: Whether the job is still this attempt's. Raises UnavailableError.
    owned: Callable[[], bool]
    #: Told when its first event was sent: from now on, followers may have seen something.
    began: Callable[[], None]
    #: The time, in seconds since the epoch.
    now: Callable[[], float]


class Run:
    """What the engine's pump and the job's thread share. The pump numbers and sends; the thread waits for the end.

    A job of several choices is one run, and one request to the engine for each choice that has not finished.
    `lock` belongs to the engine's pump: whoever holds it knows that no event is between its number and the bus.
    """

    def __init__(self, job: Job, earlier: list[Token], lock: threading.Lock, ties: Ties) -> None:
        self.job = job
        self.ties = ties
        self.choices: int = job.request.get("n", 1)
        self.tokens = earlier
        self.sent = len(earlier)
        self.lock = lock
        self.end: End | None = None
        self.submitted = time.monotonic_ns()
        self.first = 0
        self.last = 0
        closings = {token.choice: token.closing for token in earlier if token.closing}
        self.prompt_tokens = max((closing.prompt_tokens for closing in closings.values()), default=0)
        self._reasons = {choice: closing.reason for choice, closing in closings.items()}
        self._over = threading.Event()
        self._finish_if_all_have()

    @property
    def unfinished(self) -> list[int]:
        """The choices that an engine has to go on with."""
        return [choice for choice in range(self.choices) if choice not in self._reasons]

    def emitted(self, choice: int) -> protocol.Emitted:
        """What an engine has to go on from."""
        tokens = [token for token in self.tokens if token.choice == choice]
        return protocol.Emitted(
            text="".join(token.text for token in tokens),
            ids=tuple(i for token in tokens for i in token.ids),
            count=sum(token.count for token in tokens),
        )

    def take(self, chunk: protocol.Chunk, choice: int, now: int) -> None:
        """Numbers a chunk of a step at `now` (monotonic ns), under `lock`. What comes after the end is dropped."""
        if self.end is not None:
            return
        self.last = now
        self.first = self.first or self.last
        self.prompt_tokens = chunk.prompt_tokens or self.prompt_tokens
        reason = chunk.finish if chunk.finish and self.choices > 1 else ""
        # An end without an event has its limit's last token before it: an engine that goes on there ends at once.
        if chunk.text or chunk.count or reason:
            self.tokens.append(
                Token(
                    len(self.tokens) + 1,
                    chunk.text,
                    chunk.count,
                    ids=chunk.ids,
                    choice=choice,
                    finish=reason,
                    logprobs=_told(chunk.logprobs),
                    closing=Closing(chunk.finish, self.prompt_tokens) if chunk.finish else None,
                )
            )
        if chunk.error is not None:
            failure = Failure(chunk.error.code, chunk.error.message)
            self.finish(End(Way.DONE, State.FAILED, failure=failure))
        elif chunk.finish:
            self._reasons[choice] = chunk.finish
            self._finish_if_all_have()

    def _finish_if_all_have(self) -> None:
        if not self.unfinished:
            self.finish(End(Way.DONE, State.SUCCEEDED, reason=self._reasons[0]))

    def finish(self, end: End) -> None:
        """Ends the attempt, under `lock`. The first end stands."""
        if self.end is None:
            self.end = end
            self._over.set()

    def stop(self, end: End) -> None:
        """Ends the attempt from any thread but the pump's."""
        with self.lock:
            self.finish(end)

    def wait(self, seconds: float) -> End:
        """Waits for the end; when the time is over, that is the end."""
        if not self._over.wait(max(0.0, seconds)):
            self.stop(End(Way.ASKED, State.TIMED_OUT))
        assert self.end is not None  # noqa: S101 - the event is set after it
        return self.end

    def entries(self, after: int = 0) -> list[Entry]:
        """The events behind a number, for the bus."""
        return [Entry(self.job.id, self.job.attempt, token) for token in self.tokens[after:]]

    def unsent(self) -> list[Entry]:
        """The events that the bus does not have yet."""
        return self.entries(self.sent)

    def was_sent(self) -> None:
        """The bus has all events."""
        first = not self.sent
        self.sent = len(self.tokens)
        if first and self.sent:
            self.ties.began()

    def usage(self, load_ns: int) -> Usage:
        """Counts and times; what did not happen took 0 ns."""
        now = time.monotonic_ns()
        return Usage(
            prompt_tokens=self.prompt_tokens,
            completion_tokens=sum(token.count for token in self.tokens),
            total_ns=max(0, int((self.ties.now() - self.job.created_at) * 1e9)),
            load_ns=load_ns,
            prompt_ns=(self.first or now) - self.submitted,
            completion_ns=self.last - self.first if self.first else 0,
        )

    def result(self, reason: str, usage: Usage) -> Result:
        """The row that keeps the answer and its compact log."""
        return result_of(self.job.id, self.tokens, reason, usage)

    def last_entry(self, outcome: Outcome, reason: str, usage: Usage) -> Entry:
        """The terminal event, of what the row says."""
        return Entry(self.job.id, self.job.attempt, outcome.event(len(self.tokens) + 1, usage, reason))


def _told(logprobs: tuple[protocol.Logprob, ...]) -> tuple[Logprob, ...]:
    """An engine's words in the bus's: the same arrays, which few requests ask for."""
    if not logprobs:
        return ()
    return msgspec.convert(msgspec.to_builtins(logprobs), tuple[Logprob, ...])
