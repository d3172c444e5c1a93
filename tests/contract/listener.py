"""Reads an engine's steps on a thread and lets a test wait for what it wants to see, with a deadline."""

import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Self

import psutil

from inference.errors import EngineDiedError
from inference.process import members
from inference.protocol import Chunk, Engine, Message, Request, Sampling
from inference.remote import RemoteEngine
from tests.stack import eventually

DEADLINE = 60.0
QUESTION = (Message("user", "What is the capital of France? Answer in one sentence."),)


def make_request(request_id: str, *, messages: tuple[Message, ...] = QUESTION, **kwargs: object) -> Request:
    """A greedy request; `max_tokens`, `stop` and `ignore_eos` go to its sampling, the rest to itself."""
    of_sampling = {key: kwargs.pop(key) for key in ("max_tokens", "stop", "ignore_eos") if key in kwargs}
    return Request(request_id, messages, Sampling(temperature=0.0, **of_sampling), **kwargs)  # type: ignore[arg-type]


class Listener:
    """Everything that an engine has said."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.chunks: list[Chunk] = []
        self.steps = 0
        self.died: EngineDiedError | None = None
        self.ended = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._listen, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.engine.close()
        self._thread.join(DEADLINE)
        assert not self._thread.is_alive()

    def of(self, request_id: str) -> list[Chunk]:
        with self._changed:
            return [chunk for chunk in self.chunks if chunk.id == request_id]

    def text(self, request_id: str) -> str:
        return "".join(chunk.text for chunk in self.of(request_id))

    def wait(self, condition: Callable[[], object], deadline: float = DEADLINE) -> None:
        with self._changed:
            assert self._changed.wait_for(condition, deadline), "the deadline passed"

    def wait_first(self, request_id: str) -> None:
        self.wait(lambda: any(chunk.id == request_id for chunk in self.chunks))

    def answer(self, *request_ids: str) -> list[Chunk]:
        """Wait until these requests have ended; the chunks of the first."""
        self.wait(lambda: set(request_ids) <= {c.id for c in self.chunks if c.finish or c.error})
        return self.of(request_ids[0])

    def ask(self, request: Request) -> list[Chunk]:
        self.engine.submit(request)
        return self.answer(request.id)

    def forget(self) -> None:
        """Begin anew, for the next test. A last answer comes after all that aborted requests may yet say."""
        self.ask(make_request("the last of a test", max_tokens=1))
        with self._changed:
            self.chunks.clear()
            self.steps = 0

    def _listen(self) -> None:
        try:
            for step in self.engine.steps():
                with self._changed:
                    self.steps += 1
                    self.chunks += step
                    self._changed.notify_all()
        except EngineDiedError as error:
            self.died = error
        with self._changed:
            self.ended = True
            self._changed.notify_all()


def part_read_after_abort(listener: Listener, times: int) -> float:
    """Which part of a long prompt is read by the time that the next request is answered, where it was aborted soon.

    By the engine's processor time, which tells nothing of how busy the machine is, against a prompt `times` shorter.
    """
    one = _spent_on(listener, lambda: listener.ask(_long("short", 1, max_tokens=1)))

    def abort_soon() -> None:
        listener.engine.submit(_long("long", times, max_tokens=100))
        before = _spent(listener)
        eventually(lambda: _spent(listener) > before + one / 4, seconds=DEADLINE, what="the work on the prompt")
        listener.engine.abort("long")
        listener.ask(make_request("next", max_tokens=1))

    part = _spent_on(listener, abort_soon) / (one * times)
    assert listener.of("long") == []
    return part


def _long(request_id: str, times: int, **kwargs: object) -> Request:
    """About 500 tokens, so many times, and no beginning that the engine could have kept of another one."""
    return make_request(request_id, messages=(Message("user", f"{request_id} {'and so on ' * 160 * times}"),), **kwargs)


def _spent_on(listener: Listener, work: Callable[[], object]) -> float:
    before = _spent(listener)
    work()
    return _spent(listener) - before


def _spent(listener: Listener) -> float:
    """Seconds of processor time that all processes of an engine have taken."""
    assert isinstance(listener.engine, RemoteEngine)
    total = 0.0
    for pid in members(listener.engine.process.pgid):
        with suppress(psutil.NoSuchProcess):
            total += sum(psutil.Process(pid).cpu_times()[:2])
    return total
