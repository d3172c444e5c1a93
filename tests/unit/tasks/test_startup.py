"""A signal may interrupt the handler of the one before it, anywhere, and must not wait for what that one holds."""

import threading
from collections.abc import Iterator
from typing import Any

import pytest

from tasks import startup


class Receivers(list[Any]):
    """Celery reads its receivers under the signal's lock: there, a second SIGTERM comes."""

    interrupted = False

    def __iter__(self) -> Iterator[Any]:
        if not self.interrupted:
            self.interrupted = True
            ask_to_stop()
        return super().__iter__()


class Part:
    """Stands for a worker, and is interrupted while it stops."""

    stopped = 0

    def stop(self) -> None:
        self.stopped += 1
        ask_to_stop()


def ask_to_stop() -> None:
    startup.shutting_down.send(sender="cpu.0@test", sig="SIGTERM", how="Warm", exitcode=0)


def test_a_second_signal_within_the_handler_of_the_first_neither_waits_nor_stops_anything_twice(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    part = Part()
    monkeypatch.setattr(startup.process, "worker", part)
    monkeypatch.setattr(startup.process, "stopping", False)
    monkeypatch.setattr(startup.shutting_down, "receivers", Receivers(startup.shutting_down.receivers))
    handler = threading.Thread(target=ask_to_stop, daemon=True)
    handler.start()
    handler.join(10)
    assert not handler.is_alive()
    assert part.stopped == 1
