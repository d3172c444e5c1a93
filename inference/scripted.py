"""The scripted engine, for tests and load: it answers `t0 t1 t2 …`, so that every gap and repeat shows.

Its requests are real in all but the model: they hold slots, wait by priority, stop at stop strings, go on after what
was emitted, and come out in steps.
"""

import os
import threading
import time
from collections.abc import Iterator

from inference.errors import EngineDiedError
from inference.protocol import Chunk, Finish, Info, OnProgress, Request, Spec
from inference.slots import WaitingRoom
from inference.text import Piece, Seam

#: Tokens due within this many seconds leave in one step, as those of a real engine's batch do, which takes as long.
TICK = 0.005


class _Answer:
    """A request and how far its answer is."""

    def __init__(self, request: Request) -> None:
        self.request = request
        texts = [request.prompt] if request.prompt is not None else [message.content for message in request.messages]
        self.prompt_tokens = sum(len(text.split()) for text in texts)
        self.next = request.emitted.count
        self.due = 0.0
        self._pause = 1.0 / request.tokens_per_second if request.tokens_per_second else 0.0
        self._seam = Seam(request.sampling.stop)

    def begin(self, now: float) -> None:
        """It has a slot: its first token comes one pause from now."""
        self.due = now + self._pause

    def chunk(self) -> Chunk | None:
        """The next token, or the end; None when the token's text is held back."""
        if self.request.remaining <= 0:
            return self._last(Piece(), "length")
        token = self.next
        self.next += 1
        self.due += self._pause
        piece = self._seam.feed(f" t{token}" if token else "t0", (token,), 1)
        if self._seam.stopped:
            return self._last(piece, "stop")
        if self.next >= self.request.sampling.max_tokens:
            return self._last(piece + self._seam.flush(), "length")
        if not piece.count:
            return None
        return piece.chunk(self.request.id, self.prompt_tokens)

    def _last(self, piece: Piece, finish: Finish) -> Chunk:
        return piece.chunk(self.request.id, self.prompt_tokens, finish)


class ScriptedEngine:
    """One word a token, at each request's own pace; unpaced, one token of each active request a step."""

    def __init__(self, spec: Spec, on_progress: OnProgress) -> None:
        on_progress(1.0)
        self.info = Info(spec.engine, os.getpid(), spec.slots, spec.context)
        self._room: WaitingRoom[_Answer] = WaitingRoom(spec.slots)
        self._answers: dict[str, _Answer] = {}
        self._active: list[_Answer] = []
        self._changed = threading.Condition()
        self._closed = False

    def submit(self, request: Request) -> None:
        """Queue a request. Raises EngineDiedError when closed."""
        with self._changed:
            if self._closed:
                raise EngineDiedError("The engine is closed.")
            answer = self._answers[request.id] = _Answer(request)
            if request.remaining > 0:
                self._room.enter(answer, priority=request.priority)
            else:  # it ends at once, and needs no slot for that
                self._active.append(answer)
            self._changed.notify()

    def abort(self, request_id: str) -> None:
        """Drop a request, running or waiting."""
        with self._changed:
            self._leave(request_id)
            self._changed.notify()

    def close(self) -> None:
        """End `steps`."""
        with self._changed:
            self._closed = True
            self._changed.notify()

    def steps(self) -> Iterator[list[Chunk]]:
        """Each step's chunks, until closed."""
        while True:
            with self._changed:
                due = self._wait_due()
                if self._closed:
                    return
                chunks = [chunk for answer in due if (chunk := answer.chunk()) is not None]
                for chunk in chunks:
                    if chunk.finish is not None:
                        self._leave(chunk.id)
            if chunks:
                yield chunks

    def _wait_due(self) -> list[_Answer]:
        """Admit, then wait until a token is due (or a change, or the end)."""
        while True:
            now = time.monotonic()
            for answer in self._room.admit():
                answer.begin(now)
                self._active.append(answer)
            due = [answer for answer in self._active if answer.due <= now + TICK]
            if due or self._closed:
                return due
            soonest = min((answer.due for answer in self._active), default=None)
            self._changed.wait(None if soonest is None else soonest - now)

    def _leave(self, request_id: str) -> None:
        answer = self._answers.pop(request_id, None)
        if answer is not None:
            self._room.leave(answer)
            self._active = [other for other in self._active if other is not answer]
